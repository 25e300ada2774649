"""The parameters of TensorRT-LLM's model in Triton, as a recipe declares them: `engine.gpu.serving`.

Names, meanings and allowed values are those of TensorRT-LLM 1.2.1 (`triton_backend/all_models/inflight_batcher_llm/
tensorrt_llm/config.pbtxt`, read by `inflight_batcher_llm/src/model_instance_state.cc`). The backend takes its default,
with one line in its log, for a value that it cannot parse: so they are checked here. What a recipe leaves out is not
written. Where the engine lies is not the recipe's to say, and what only encoder-decoder models have is left out.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ensembles.declaration import Declared

Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[int, Field(ge=0)]
Period = Annotated[int, Field(ge=1)]

DecodingMode = Literal["top_k", "top_p", "top_k_top_p", "beam_search", "medusa", "redrafter", "lookahead", "eagle"]

# The vocabulary as xgrammar wants it, beside the engine.
TOKENIZER_INFO = "xgrammar_tokenizer_info.json"
# The recipe's name -> the parameter's key, where NVIDIA itself has two.
RENAMED = {"batching_strategy": "gpt_model_type"}


class ServingParameters(Declared):
    """How the engine batches, keeps its key-value cache, and decodes."""

    batching_strategy: Literal["inflight_fused_batching", "inflight_batching"] = "inflight_fused_batching"
    """`V1`, static batching, cannot stream and is not offered."""
    batch_scheduler_policy: Literal["guaranteed_no_evict", "max_utilization"] = "guaranteed_no_evict"
    """Start a request only if its longest answer has room, or fill the batch and pause requests when room runs out."""

    kv_cache_free_gpu_mem_fraction: Fraction = 0.9
    """Share of the GPU memory left beside the weights that the key-value cache takes."""
    max_tokens_in_paged_kv_cache: Count | None = None
    """Tokens that the cache holds at most; with the fraction, the smaller of the two counts."""
    enable_kv_cache_reuse: bool = True
    """Prompts that begin alike share the blocks of their beginning."""
    kv_cache_host_memory_bytes: Bytes | None = None
    """Host memory into which reusable blocks move before they are dropped."""
    kv_cache_onboard_blocks: bool | None = None
    """Copy blocks back from host memory before they are used."""
    max_attention_window_size: Annotated[tuple[Count, ...], Field(strict=False)] | None = None
    """Tokens that attention looks back over, one for all layers or a cycle of them."""

    enable_chunked_context: bool = True
    """Long prompts are prefilled in chunks, between which other requests decode."""
    enable_context_fmha_fp32_acc: bool | None = None
    """Accumulate prefill attention in float32."""
    multi_block_mode: bool | None = None
    """Spread one request's attention over several blocks of the GPU: better at long contexts and small batches."""
    cuda_graph_mode: bool | None = None
    """Replay decoding steps as CUDA graphs."""
    cuda_graph_cache_size: Count | None = None
    """Graphs that are kept."""
    gpu_weights_percent: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the weights kept on the GPU; the rest is streamed from the host. Needs an engine built for it."""

    decoding_mode: DecodingMode | None = None
    """How tokens are chosen; by itself: top_k_top_p, or what the engine's speculative mode asks for."""
    lookahead_window_size: Count | None = None
    """Lookahead decoding: columns of the window; with the two below."""
    lookahead_ngram_size: Count | None = None
    """Lookahead decoding: length of the n-grams."""
    lookahead_verification_set_size: Count | None = None
    """Lookahead decoding: n-grams verified a step."""
    medusa_choices: str | None = None
    """Medusa: the tree of candidates, as `{0, 0, 0}, {0, 1}`."""
    eagle_choices: str | None = None
    """EAGLE: the tree of candidates, in the same form."""
    speculative_decoding_fast_logits: bool | None = None
    """With a draft model: hand its logits over between the ranks."""
    normalize_log_probs: bool | None = None
    """Divide the cumulative log probabilities of beams by their length."""

    lora_cache_optimal_adapter_size: Count | None = None
    """LoRA rank that the adapter cache's pages are sized for."""
    lora_cache_max_adapter_size: Count | None = None
    """Largest LoRA rank that is taken."""
    lora_cache_gpu_memory_fraction: Fraction | None = None
    """Share of the GPU memory left beside weights for adapters."""
    lora_cache_host_memory_bytes: Bytes | None = None
    """Host memory for adapters."""
    lora_prefetch_dir: str | None = None
    """Folder, in the container, with adapters that are loaded at the start."""

    guided_decoding_backend: Literal["xgrammar"] | None = None
    """Answers bound to a grammar, a regular expression or a JSON schema, as the request says."""

    cancellation_check_period_ms: Period | None = None
    """How often the backend looks for cancelled requests."""
    stats_check_period_ms: Period | None = None
    """How often it publishes its statistics as metrics."""
    iter_stats_max_iterations: Annotated[int, Field(ge=0)] | None = None
    """Iterations of which statistics are kept."""
    request_stats_max_iterations: Annotated[int, Field(ge=0)] | None = None
    """Iterations of which statistics of single requests are kept."""

    gpu_device_ids: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)] | None = None
    """The GPUs of this model, one a rank; all that are seen, when left out."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        lookahead = [self.lookahead_window_size, self.lookahead_ngram_size, self.lookahead_verification_set_size]
        if any(lookahead) != (self.decoding_mode == "lookahead") or any(lookahead) != all(lookahead):
            raise ValueError(
                "decoding_mode = 'lookahead' goes with lookahead_window_size, lookahead_ngram_size and "
                "lookahead_verification_set_size"
            )
        if self.cuda_graph_cache_size and not self.cuda_graph_mode:
            raise ValueError("cuda_graph_cache_size is for cuda_graph_mode = true")
        return self


def as_parameters(serving: ServingParameters, engine: str, max_beam_width: int = 1) -> dict[str, str]:
    """Return the parameters of config.pbtxt by key, as the backend parses them.

    `engine` is the engine's folder as the server sees it, `max_beam_width` what it was built for.
    """
    given = serving.model_dump(exclude_none=True)
    guided = f"{engine}/{TOKENIZER_INFO}" if serving.guided_decoding_backend else ""
    return {
        "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
        "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
        "gpt_model_path": engine,
        "max_beam_width": str(max_beam_width),
        # Without it an answer that is not streamed begins with the prompt.
        "exclude_input_in_output": "true",
        # The backend does not load without these three, though they may be empty.
        "tokenizer_dir": "",
        "guided_decoding_backend": "",
        "xgrammar_tokenizer_info_path": guided,
        **{RENAMED.get(name, name): _text(value) for name, value in given.items()},
    }


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)
