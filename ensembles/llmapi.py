"""The generate ensemble around TensorRT-LLM's LLM API, which takes text and gives text: a chat-template step before it.

text_input | messages ─► NAME_tokenizer ─► prompt ─► NAME_decoder (backend llmapi) ─► text_output, finish_reason
max_tokens, temperature, stop_words, ... ─────────► sampling_param_*

The decoder's tensors are those of NVIDIA's own model (TensorRT-LLM 1.2.1, `triton_backend/all_models/llmapi/
tensorrt_llm/config.pbtxt`). As there, `model.yaml` alone says whether it is decoupled and how large its batches are.
"""

from ensembles import generate
from ensembles.generate import GenerateSpec
from ensembles.model import DataType, Ensemble, Model, Step, Tensor

# Ensemble input -> the decoder's own name of it.
SAMPLING: dict[str, tuple[str, DataType]] = {
    "max_tokens": ("sampling_param_max_tokens", "INT32"),
    "temperature": ("sampling_param_temperature", "FP32"),
    "top_k": ("sampling_param_top_k", "INT32"),
    "top_p": ("sampling_param_top_p", "FP32"),
    "presence_penalty": ("sampling_param_presence_penalty", "FP32"),
    "frequency_penalty": ("sampling_param_frequency_penalty", "FP32"),
    "seed": ("sampling_param_seed", "UINT64"),
}
STOP = "sampling_param_stop"


def _optional(dtype: DataType, *names: str) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, dtype, (1,), optional=True) for name in names)


def _varying(dtype: DataType, *names: str) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, dtype, (-1,)) for name in names)


INPUTS = (
    Tensor("text_input", "BYTES", (-1,)),
    *_optional("BOOL", "streaming"),
    *_optional("INT32", "sampling_param_best_of"),
    *(Tensor(name, dtype, (1,), optional=True) for name, dtype in SAMPLING.values()),
    Tensor(STOP, "BYTES", (-1,), optional=True),
    *_optional("BOOL", "sampling_param_exclude_input_from_output", "sampling_param_return_perf_metrics"),
    *_optional("BOOL", "return_finish_reason", "return_stop_reason", "return_cumulative_logprob", "stop"),
)
OUTPUTS = (
    *_varying("BYTES", "text_output", "finish_reason", "stop_reason"),
    *_varying("FP32", "cumulative_logprob"),
    *_varying("INT32", "kv_cache_reused_block", "kv_cache_missed_block"),
    *_varying("INT32", "kv_cache_alloc_new_blocks", "kv_cache_alloc_total_blocks"),
    *_varying("FP32", "kv_cache_hit_rate"),
    *(
        Tensor(name, "INT64", (1,))
        for name in ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
    ),
    Tensor("acceptance_rate", "FP32", (1,)),
    Tensor("total_accepted_draft_tokens", "INT32", (1,)),
    Tensor("total_draft_tokens", "INT32", (1,)),
)
ANSWERS = (generate.TEXT_OUTPUT, generate.FINISH_REASON)


def llmapi_ensemble(spec: GenerateSpec) -> Ensemble:
    """Compose the two models of `spec` and wire them; `slots` and `max_queue_size` are model.yaml's business."""
    texts = (generate.TEXT_INPUT, generate.MESSAGES, generate.EXCLUDE_INPUT)
    tokenizer = generate.tokenizer_model(spec, texts, (Tensor("prompt", "BYTES", ()),))
    decoder = Model(
        name=f"{spec.name}_decoder",
        backend="llmapi",
        max_batch_size=0,
        inputs=INPUTS,
        outputs=OUTPUTS,
        batching=None,
    )
    settings = tuple(Tensor(name, dtype, (1,), optional=True) for name, (_, dtype) in SAMPLING.items())
    asked = {inner: name for name, (inner, _) in SAMPLING.items()}
    asked |= {"text_input": "prompt", "streaming": generate.STREAM.name, STOP: generate.STOP_WORDS.name}
    return Ensemble(
        name=spec.name,
        max_batch_size=1,
        inputs=(*texts, generate.STOP_WORDS, generate.STREAM, *settings),
        outputs=ANSWERS,
        steps=(
            Step(tokenizer, {tensor.name: tensor.name for tensor in texts}, {"prompt": "prompt"}),
            Step(decoder, asked, {tensor.name: tensor.name for tensor in ANSWERS}),
        ),
    )
