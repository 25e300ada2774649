"""The generate ensemble around TensorRT-LLM's C++ engine: tokenizer -> decoder (backend tensorrtllm) -> detokenizer.

text_input | messages, max_tokens ─► NAME_tokenizer ─► input_ids, request_output_len ─► NAME_decoder ─► output_ids ─┐
                                          └─ opens the stream (BLS, by request id) ─► NAME_detokenizer ◄────────────┘
temperature, ... ─────────────────────────────────────────────────────► NAME_decoder      └─► text_output

The engine cannot echo a stream's context, so the tokenizer hands it to the detokenizer itself. The decoder's tensors
are those of NVIDIA's own model, all of them (TensorRT-LLM 1.2.1, `triton_backend/all_models/inflight_batcher_llm/
tensorrt_llm/config.pbtxt`): whoever calls it directly finds what its documentation says.
"""

from collections.abc import Mapping
from dataclasses import replace

from ensembles import generate
from ensembles.generate import GenerateSpec
from ensembles.model import Batching, DataType, Ensemble, Model, Step, Tensor


def _scalars(dtype: DataType, *names: str) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, dtype, (1,), optional=True, scalar=True) for name in names)


def _ragged(dtype: DataType, dims: tuple[int, ...], *names: str) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, dtype, dims, optional=True, ragged=True) for name in names)


INPUTS = (
    *_ragged("INT32", (-1,), "input_ids", "draft_input_ids", "decoder_input_ids"),
    Tensor("input_lengths", "INT32", (1,), scalar=True),
    Tensor("request_output_len", "INT32", (1,), scalar=True),
    *_scalars("INT32", "encoder_output_lengths", "num_return_sequences", "decoder_input_lengths", "end_id", "pad_id"),
    *_scalars("INT32", "beam_width", "runtime_top_k", "runtime_top_p_reset_ids", "min_tokens", "prompt_vocab_size"),
    *_scalars("FP32", "draft_acceptance_threshold", "temperature", "runtime_top_p", "runtime_top_p_min"),
    *_scalars("FP32", "runtime_top_p_decay", "len_penalty", "repetition_penalty", "beam_search_diversity_rate"),
    *_scalars("FP32", "presence_penalty", "frequency_penalty"),
    *_scalars("UINT64", "seed", "lora_task_id"),
    *_scalars("BOOL", "early_stopping", "return_log_probs", "return_context_logits", "return_generation_logits"),
    *_scalars("BOOL", "return_perf_metrics", "return_num_input_tokens", "return_num_output_tokens"),
    *_scalars("BOOL", "exclude_input_in_output", "stop", "streaming"),
    *_ragged("INT32", (2, -1), "stop_words_list", "bad_words_list"),
    *_ragged("FP32", (-1,), "embedding_bias"),
    *_ragged("FP16", (-1, -1), "encoder_input_features", "draft_logits", "prompt_embedding_table", "lora_weights"),
    *_ragged("UINT64", (-1,), "prompt_table_extra_ids"),
    *_ragged("BOOL", (-1, -1), "cross_attention_mask"),
    Tensor("mrope_rotary_cos_sin", "FP32", (-1,), optional=True),
    Tensor("mrope_position_deltas", "INT64", (1,), optional=True),
    *_ragged("INT32", (-1, 3), "lora_config"),
    *_ragged("UINT8", (-1,), "context_phase_params"),
    *_ragged("BOOL", (1,), "skip_cross_attn_blocks"),
    *_ragged("INT32", (-1,), "retention_token_range_starts", "retention_token_range_ends"),
    *_ragged("INT32", (-1,), "retention_token_range_priorities", "retention_token_range_durations_ms"),
    *_ragged("INT32", (1,), "retention_decode_priority", "retention_decode_duration_ms"),
    *_ragged("BYTES", (1,), "guided_decoding_guide_type", "guided_decoding_guide"),
    *_ragged("INT32", (1,), "lookahead_window_size", "lookahead_ngram_size", "lookahead_verification_set_size"),
)
OUTPUTS = (
    Tensor("output_ids", "INT32", (-1, -1)),
    Tensor("sequence_length", "INT32", (-1,)),
    Tensor("cum_log_probs", "FP32", (-1,)),
    Tensor("output_log_probs", "FP32", (-1, -1)),
    Tensor("context_logits", "FP16", (-1, -1)),
    Tensor("generation_logits", "FP16", (-1, -1, -1)),
    Tensor("batch_index", "INT32", (1,)),
    Tensor("sequence_index", "INT32", (1,)),
    Tensor("context_phase_params", "UINT8", (-1,)),
    Tensor("kv_cache_alloc_new_blocks", "INT32", (1,)),
    Tensor("kv_cache_reused_blocks", "INT32", (1,)),
    Tensor("kv_cache_alloc_total_blocks", "INT32", (1,)),
    Tensor("arrival_time_ns", "INT64", (1,)),
    Tensor("first_scheduled_time_ns", "INT64", (1,)),
    Tensor("first_token_time_ns", "INT64", (1,)),
    Tensor("last_token_time_ns", "INT64", (1,)),
    Tensor("acceptance_rate", "FP32", (1,)),
    Tensor("total_accepted_draft_tokens", "INT32", (1,)),
    Tensor("total_draft_tokens", "INT32", (1,)),
    Tensor("num_input_tokens", "INT32", (1,)),
    Tensor("num_output_tokens", "INT32", (1,)),
)

# What the tokenizer must know of a request beyond its text: it counts the room, and names the ends.
COUNTED = tuple(Tensor(name, "INT32", (1,), optional=True) for name in ("max_tokens", "end_id", "pad_id"))
# Ensemble input -> the decoder's own name of it. All are optional.
SETTINGS: dict[str, str] = {name: inner for name, (inner, _) in generate.SAMPLING.items()} | {
    "length_penalty": "len_penalty",
    "lora_task_id": "lora_task_id",
    "lora_weights": "lora_weights",
    "lora_config": "lora_config",
    "guided_decoding_guide_type": "guided_decoding_guide_type",
    "guided_decoding_guide": "guided_decoding_guide",
}
PASSED = {name: inner for name, inner in SETTINGS.items() if name not in {tensor.name for tensor in COUNTED}}
# The backend refuses a request that does not ask for both.
ANSWERED = ("output_ids", "sequence_length", "num_input_tokens")
# 0 until a request is finished.
LAST = Tensor("last_token_time_ns", "INT64", (1,))


def tensorrt_llm_ensemble(spec: GenerateSpec, parameters: Mapping[str, str], drafts: bool = False) -> Ensemble:
    """Compose the three models of `spec` and wire them; `parameters` are the decoder's.

    An engine that `drafts` (speculative decoding) may say its last tokens and the end in one response: then the
    detokenizer is told which response is the last, for ten tensors more in each.
    """
    texts = (*generate.TEXTS, *COUNTED)
    tokenizer, decoder = _tokenizer(spec, texts), _decoder(spec, parameters)
    detokenizer = _detokenizer(spec, drafts)
    own = {tensor.name: tensor for tensor in decoder.inputs}
    passed = tuple(replace(own[inner], name=name, scalar=False, ragged=False) for name, inner in PASSED.items())
    # Names of their own: `end_id` and `pad_id` are the caller's wish, and here what becomes of it.
    tokens = {tensor.name: f"prompt_{tensor.name}" for tensor in tokenizer.outputs}
    counted = {"count_tokens": "return_num_input_tokens"}
    prompt = {counted.get(name, name): inside for name, inside in tokens.items()}
    if drafts:
        prompt["return_perf_metrics"] = tokens["streaming"]
    answers = {name: f"decoder_{name}" for name in (*ANSWERED, *([LAST.name] if drafts else []))}
    return Ensemble(
        name=spec.name,
        max_batch_size=1,
        inputs=(*texts, *passed),
        outputs=detokenizer.outputs,
        steps=(
            Step(tokenizer, {tensor.name: tensor.name for tensor in texts}, tokens),
            Step(decoder, prompt | {inner: name for name, inner in PASSED.items()}, answers),
            Step(detokenizer, answers, {tensor.name: tensor.name for tensor in detokenizer.outputs}),
        ),
    )


def _tokenizer(spec: GenerateSpec, texts: tuple[Tensor, ...]) -> Model:
    outputs = (
        Tensor("input_ids", "INT32", (-1,)),
        Tensor("input_lengths", "INT32", (1,)),
        Tensor("request_output_len", "INT32", (1,)),
        Tensor("end_id", "INT32", (1,)),
        Tensor("pad_id", "INT32", (1,)),
        # The ends beyond the first, as words of one token; unwritten where there is one end.
        Tensor("stop_words_list", "INT32", (2, -1)),
        Tensor("streaming", "BOOL", (1,)),
        Tensor("count_tokens", "BOOL", (1,)),
    )
    return generate.tokenizer_model(spec, texts, outputs, {"detokenizer": f"{spec.name}_detokenizer"})


def _decoder(spec: GenerateSpec, parameters: Mapping[str, str]) -> Model:
    return Model(
        name=f"{spec.name}_decoder",
        backend="tensorrtllm",
        max_batch_size=spec.slots,
        inputs=INPUTS,
        outputs=OUTPUTS,
        # The backend reads the bound from here for its own queue: it takes every request in at once.
        batching=Batching(max_queue_size=spec.max_queue_size),
        decoupled=True,
        parameters=parameters,
    )


def _detokenizer(spec: GenerateSpec, drafts: bool) -> Model:
    return generate.detokenizer_model(
        spec,
        (
            Tensor("output_ids", "INT32", (-1, -1), optional=True),
            Tensor("sequence_length", "INT32", (-1,), optional=True),
            Tensor("num_input_tokens", "INT32", (1,), optional=True),
            # Comes alone, from the tokenizer, before the stream's first tokens.
            replace(generate.STREAM_CONTEXT, optional=True),
            *([replace(LAST, optional=True)] if drafts else []),
        ),
    )
