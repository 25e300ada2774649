"""`model.yaml`, by which TensorRT-LLM's LLM API is started: the same recipe in its words. Pure.

Keys: `LlmArgs` of TensorRT-LLM 1.2.1 (`tensorrt_llm/llmapi/llm_args.py`); `triton_config` is read by the model itself
(`triton_backend/all_models/llmapi/tensorrt_llm/1/model.yaml`).
"""

from typing import Any

import yaml

from pipeline.gpu_engines import LlmApiEngine
from pipeline.recipe import GenerateLimits

MODEL_YAML = "model.yaml"
CHECKPOINT = "checkpoint"


def llm_arguments(engine: LlmApiEngine, limits: GenerateLimits) -> dict[str, Any]:
    """Return the arguments of `LLM`, without the checkpoint's place."""
    return {
        "backend": "pytorch",
        "dtype": engine.dtype,
        "tensor_parallel_size": engine.tp,
        "pipeline_parallel_size": engine.pp,
        "max_batch_size": limits.slots,
        "max_seq_len": limits.max_tokens,
        "max_num_tokens": engine.max_num_tokens,
        "enable_chunked_prefill": engine.enable_chunked_context,
        "kv_cache_config": {
            "enable_block_reuse": engine.enable_kv_cache_reuse,
            "free_gpu_memory_fraction": engine.kv_cache_free_gpu_mem_fraction,
        },
    }


def model_yaml(engine: LlmApiEngine, limits: GenerateLimits, version_folder: str) -> str:
    """Return the text of model.yaml; `version_folder` is the model's version folder as the server sees it."""
    document = {
        "model": f"{version_folder}/{CHECKPOINT}",
        **llm_arguments(engine, limits),
        # Said here and not in config.pbtxt, which would win over it. Behind another step a request comes with a batch
        # dimension; NVIDIA's own model takes none.
        "triton_config": {"max_batch_size": 1, "decoupled": True},
    }
    return str(yaml.safe_dump(document, sort_keys=False))
