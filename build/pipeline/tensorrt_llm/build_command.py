"""The arguments of `trtllm-build` (TensorRT-LLM 1.2.1, `tensorrt_llm/commands/build.py`), from a recipe. Pure."""

from typing import Any

from pipeline.gpu_engines import BuildFlags, TensorRtLlmEngine
from pipeline.recipe import GenerateLimits

TOOL = "trtllm-build"
# Flags that stand alone, without a value.
SWITCHES = ("gather_context_logits", "gather_generation_logits")


def engine_limits(engine: TensorRtLlmEngine, limits: GenerateLimits) -> dict[str, int]:
    """Return the four limits that an engine is built for, under the builder's names. Lengths in tokens.

    A prompt leaves room for one token of the answer at least.
    """
    return {
        "max_batch_size": limits.slots,
        "max_input_len": limits.max_tokens - 1,
        "max_seq_len": limits.max_tokens,
        "max_num_tokens": engine.build.max_num_tokens,
    }


def build_command(engine: TensorRtLlmEngine, limits: GenerateLimits, checkpoint: str, out: str) -> list[str]:
    """Return the argv that builds the engine of the TensorRT-LLM checkpoint in folder `checkpoint` into `out`."""
    flags = engine.build.model_dump(exclude_none=True, exclude={"max_num_tokens"})
    return [
        TOOL,
        f"--checkpoint_dir={checkpoint}",
        f"--output_dir={out}",
        *(f"--{name}={value}" for name, value in engine_limits(engine, limits).items()),
        *(word for name in BuildFlags.model_fields if name in flags for word in _flag(name, flags[name])),
    ]


def _flag(name: str, value: Any) -> list[str]:
    if name in SWITCHES:
        return [f"--{name}"] if value else []
    if isinstance(value, tuple):
        return [f"--{name}", *value]
    return [f"--{name}={value}"]
