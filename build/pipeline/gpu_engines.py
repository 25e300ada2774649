"""The engines of the profile `gpu`, as recipes declare them in `engine.gpu`: the key `kind` chooses the table. Pure."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from ensembles.declaration import Declared
from pipeline.container_image import ENGINE_RELEASE, has_engine_path
from pipeline.tensorrt_llm.serving_parameters import ServingParameters

Capability = Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")]
Parallel = Annotated[int, Field(ge=1, le=64)]
Release = Annotated[str, Field(pattern=r"^\d+\.\d+(\.\d+)?((rc|\.post)\d+)?$")]

Dtype = Literal["float16", "bfloat16"]
# w8a16 and w4a16 are plain weights in the checkpoint, which trtllm-build quantises; NVIDIA's modelopt quantises the
# others on text, before it.
Quantisation = Literal["w8a16", "w4a16", "fp8", "int8_sq", "int4_awq", "w4a8_awq"]
WEIGHT_ONLY: Mapping[str, Literal["W8A16", "W4A16"]] = {"w8a16": "W8A16", "w4a16": "W4A16"}


class OnnxEncoderEngine(Declared):
    """An encoder in ONNX under NVIDIA's onnxruntime backend."""

    kind: Literal["onnx"]
    precision: Literal["fp32", "fp16"] = "fp16"
    provider: Literal["cuda", "tensorrt"] = "cuda"
    """With `tensorrt` the server builds TensorRT engines of the graph at its first start, and keeps them."""
    instances: Annotated[int, Field(ge=2, le=16)] = 2
    """On each GPU; a bounded queue over a single one stalls."""


class TensorRtEngine(Declared):
    """An encoder as TensorRT plans, one for each compute capability; each is built on a GPU that has it."""

    kind: Literal["tensorrt"]
    precision: Literal["fp32", "fp16"] = "fp16"
    compute_capabilities: Annotated[tuple[Capability, ...], Field(min_length=1, strict=False)]
    instances: Annotated[int, Field(ge=2, le=16)] = 2
    """On each GPU; a bounded queue over a single one stalls."""


class OnnxDecoderEngine(Declared):
    """A decoder in ONNX under our own `onnx_generate`, on the CUDA provider."""

    kind: Literal["onnx"]
    precision: Literal["fp16"] = "fp16"


class BuildFlags(Declared):
    """What `trtllm-build` is told beyond the recipe's limits; names and values are those of TensorRT-LLM 1.2.1.

    What is left out is not passed, and the builder takes its own default.
    """

    max_num_tokens: Annotated[int, Field(ge=64)] = 8192
    """Tokens, of all requests together, that one step of the engine takes."""
    max_beam_width: Annotated[int, Field(ge=1)] = 1
    """Beams that callers of the decoder itself may ask for; the ensemble answers with one."""
    gemm_plugin: Literal["auto", "float16", "bfloat16", "fp8", "disable"] | None = None
    gpt_attention_plugin: Literal["auto", "float16", "bfloat16", "disable"] | None = None
    use_paged_context_fmha: Literal["enable", "disable"] | None = None
    """Chunked context and reuse of the key-value cache need it."""
    use_fp8_context_fmha: Literal["enable", "disable"] | None = None
    multiple_profiles: Literal["enable", "disable"] | None = None
    reduce_fusion: Literal["enable", "disable"] | None = None
    kv_cache_type: Literal["continuous", "paged", "disabled"] | None = None
    logits_dtype: Literal["float16", "float32"] | None = None
    gather_context_logits: bool = False
    gather_generation_logits: bool = False
    workers: Annotated[int, Field(ge=1)] | None = None
    """Ranks built at once, each on a GPU of its own."""
    speculative_decoding_mode: (
        Literal["draft_tokens_external", "medusa", "lookahead_decoding", "explicit_draft_tokens", "eagle"] | None
    ) = None
    max_draft_len: Annotated[int, Field(ge=1)] | None = None
    lora_plugin: Literal["auto", "float16", "bfloat16"] | None = None
    lora_target_modules: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    max_lora_rank: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.max_draft_len and not self.speculative_decoding_mode:
            raise ValueError("max_draft_len is for an engine with a speculative_decoding_mode")
        if (self.max_lora_rank or self.lora_target_modules) and not self.lora_plugin:
            raise ValueError("max_lora_rank and lora_target_modules are for an engine with a lora_plugin")
        return self


class TensorRtLlmEngine(Declared):
    """A decoder as a TensorRT-LLM engine: converted here, built and served in NVIDIA's container."""

    kind: Literal["tensorrt_llm"]
    release: Release = ENGINE_RELEASE
    dtype: Dtype = "bfloat16"
    quantisation: Quantisation | None = None
    kv_cache: Literal["fp8", "int8"] | None = None
    """The precision of the key-value cache; `dtype` when left out."""
    max_perplexity_increase: Annotated[float, Field(gt=0)] = 0.15
    """How far a calibrated quantisation may be from the checkpoint: 0.15 allows 15 % more perplexity."""
    tp: Parallel = 1
    """Tensor parallelism: GPUs that share each layer."""
    pp: Parallel = 1
    """Pipeline parallelism: groups of layers, each on GPUs of its own."""
    gpus: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """What it is meant for ("H100"); `yard fit` asks whether it fits there."""
    build: BuildFlags = BuildFlags()
    serving: ServingParameters = ServingParameters()

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        if not has_engine_path(self.release):
            raise ValueError(
                f"TensorRT-LLM {self.release} has dropped the engine path: trtllm-build and the C++ backend end with "
                f"{ENGINE_RELEASE}; say kind = 'llmapi' (`yard engines --migrate` shows what changes), or release = "
                f"'{ENGINE_RELEASE}'"
            )
        paged = self.build.use_paged_context_fmha != "disable"
        if not paged and (self.serving.enable_chunked_context or self.serving.enable_kv_cache_reuse):
            raise ValueError(
                "serving.enable_chunked_context and serving.enable_kv_cache_reuse need an engine with "
                "build.use_paged_context_fmha = 'enable'"
            )
        if self.kv_cache and (self.quantisation is None or self.quantisation in WEIGHT_ONLY):
            raise ValueError(
                f"kv_cache = '{self.kv_cache}' is calibrated together with the weights; say quantisation = 'fp8', "
                "'int8_sq', 'int4_awq' or 'w4a8_awq' too"
            )
        return self


class LlmApiEngine(Declared):
    """A decoder under TensorRT-LLM's LLM API: PyTorch reads the checkpoint itself, nothing is built."""

    kind: Literal["llmapi"]
    release: Release = ENGINE_RELEASE
    image: Annotated[str, Field(min_length=1)] | None = None
    """The container of a release that is not known here."""
    dtype: Literal["auto"] | Dtype = "auto"
    tp: Parallel = 1
    pp: Parallel = 1
    gpus: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """What it is meant for ("H100"); `yard fit` asks whether it fits there."""
    max_num_tokens: Annotated[int, Field(ge=64)] = 8192
    """Tokens, of all requests together, that one step takes."""
    kv_cache_free_gpu_mem_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the GPU memory left beside the weights that the key-value cache takes."""
    enable_kv_cache_reuse: bool = True
    enable_chunked_context: bool = True


EmbedGpuEngine: TypeAlias = Annotated[OnnxEncoderEngine | TensorRtEngine, Field(discriminator="kind")]
GenerateGpuEngine: TypeAlias = Annotated[
    TensorRtLlmEngine | LlmApiEngine | OnnxDecoderEngine, Field(discriminator="kind")
]
