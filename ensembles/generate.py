"""The ensemble of the generate task: text or messages -> tokenizer -> decoder -> detokenizer -> text, in deltas.

text_input | messages ─► NAME_tokenizer ─► input_ids ─► NAME_decoder ─► output_ids ─► NAME_detokenizer ─► text_output
stop_words, stream            └──────► stream_context, streaming ────►      └──► stream_context ──►
max_tokens, temperature, ... ────────────────────────────────────►

The ensemble speaks the tensor names of TensorRT-LLM's own ensemble, the decoder those of its `tensorrt_llm` model
(TensorRT-LLM 1.2.1, `all_models/inflight_batcher_llm`). Beyond them: `messages`, `finish_reason`, `stream_context`, and
of sampling `min_p`, `logit_bias`, `top_logprobs` and `logprobs` (docs/sampling.md says what each means).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ensembles.model import DataType, Ensemble, Model, Step, Tensor

Provider = Literal["cpu", "cuda"]
# Both take the same tensors; what the second cannot do it refuses (docs/openvino.md).
GenerateBackend = Literal["onnx_generate", "openvino_generate"]

# The text side, as callers see it.
TEXT_INPUT = Tensor("text_input", "BYTES", (1,), optional=True)
MESSAGES = Tensor("messages", "BYTES", (1,), optional=True)
STOP_WORDS = Tensor("stop_words", "BYTES", (-1,), optional=True)
STREAM = Tensor("stream", "BOOL", (1,), optional=True)
# What TensorRT-LLM's clients send along: taken, and refused where it asks for what is not carried.
EXCLUDE_INPUT = Tensor("exclude_input_in_output", "BOOL", (1,), optional=True)
RETURN_INPUT_COUNT = Tensor("return_num_input_tokens", "BOOL", (1,), optional=True)
RETURN_OUTPUT_COUNT = Tensor("return_num_output_tokens", "BOOL", (1,), optional=True)
TEXTS = (TEXT_INPUT, MESSAGES, STOP_WORDS, STREAM, EXCLUDE_INPUT, RETURN_INPUT_COUNT, RETURN_OUTPUT_COUNT)

# Read by the tokenizer step, which makes `bad_words_list` and `embedding_bias` of them.
TOKEN_RULES = (
    Tensor("bad_words", "BYTES", (-1,), optional=True),
    Tensor("embedding_bias_words", "BYTES", (-1,), optional=True),
    Tensor("embedding_bias_weights", "FP32", (-1,), optional=True),
    Tensor("logit_bias", "BYTES", (1,), optional=True),
)

# The tokenizer step hands on to the detokenizer how many answers there will be.
NUM_RETURN_SEQUENCES = Tensor("num_return_sequences", "INT32", (1,), optional=True)

# Ensemble input -> the decoder's own name of it. All are optional.
SAMPLING: dict[str, tuple[str, DataType]] = {
    "max_tokens": ("request_output_len", "INT32"),
    "min_tokens": ("min_tokens", "INT32"),
    "temperature": ("temperature", "FP32"),
    "top_k": ("runtime_top_k", "INT32"),
    "top_p": ("runtime_top_p", "FP32"),
    "repetition_penalty": ("repetition_penalty", "FP32"),
    "presence_penalty": ("presence_penalty", "FP32"),
    "frequency_penalty": ("frequency_penalty", "FP32"),
    "seed": ("seed", "UINT64"),
    "end_id": ("end_id", "INT32"),
    "pad_id": ("pad_id", "INT32"),
}
# What `onnx_generate` takes besides, under the same name inside: `min_p` is vLLM's, `top_logprobs` OpenAI's, the others
# are TensorRT-LLM's; a `beam_width` other than 1 is refused.
MORE_SAMPLING = (
    Tensor("min_p", "FP32", (1,), optional=True),
    Tensor("top_logprobs", "INT32", (1,), optional=True),
    Tensor("return_log_probs", "BOOL", (1,), optional=True),
    Tensor("beam_width", "INT32", (1,), optional=True),
    Tensor("guided_decoding_guide_type", "BYTES", (1,), optional=True),
    Tensor("guided_decoding_guide", "BYTES", (1,), optional=True),
    NUM_RETURN_SEQUENCES,
)

NUM_INPUT_TOKENS = Tensor("num_input_tokens", "INT32", (1,))
NUM_OUTPUT_TOKENS = Tensor("num_output_tokens", "INT32", (1,))
TEXT_OUTPUT = Tensor("text_output", "BYTES", (-1,))
# One, or those of several answers that come at once.
FINISH_REASON = Tensor("finish_reason", "BYTES", (-1,))
SEQUENCE_INDEX = Tensor("sequence_index", "INT32", (1,))
LOG_PROBS = (Tensor("output_log_probs", "FP32", (-1, -1)), Tensor("cum_log_probs", "FP32", (-1,)))
TOP_LOG_PROBS = (Tensor("top_token_ids", "INT32", (-1, -1)), Tensor("top_log_probs", "FP32", (-1, -1)))
# The JSON list `choices[].logprobs.content` of OpenAI's API.
LOGPROBS = Tensor("logprobs", "BYTES", (-1,))
STREAM_CONTEXT = Tensor("stream_context", "BYTES", (1,))
BAD_WORDS_LIST = Tensor("bad_words_list", "INT32", (2, -1))
EMBEDDING_BIAS = Tensor("embedding_bias", "FP32", (-1,))
OUTPUT_IDS = Tensor("output_ids", "INT32", (-1, -1))
# Unwritten where they are not asked for.
ASKED_FOR = (SEQUENCE_INDEX, *LOG_PROBS, *TOP_LOG_PROBS)
DECODER_OUTPUTS = (
    OUTPUT_IDS,
    Tensor("sequence_length", "INT32", (-1,)),
    NUM_INPUT_TOKENS,
    NUM_OUTPUT_TOKENS,
    FINISH_REASON,
    STREAM_CONTEXT,
    *ASKED_FOR,
)


@dataclass(frozen=True)
class GenerateSpec:
    """What the generate ensemble must know of a recipe. Lengths in tokens, `max_text_bytes` in UTF-8 bytes.

    `max_tokens` is what prompt and answer together may hold; `slots` how many requests run at once.
    """

    name: str
    max_tokens: int
    max_text_bytes: int
    slots: int
    max_queue_size: int


def generate_ensemble(
    spec: GenerateSpec, provider: Provider = "cpu", backend: GenerateBackend = "onnx_generate"
) -> Ensemble:
    """Compose the three models of `spec` and wire them; the decoder runs under `backend`, on `provider`."""
    tokenizer, decoder, detokenizer = _tokenizer(spec), _decoder(spec, provider, backend), _detokenizer(spec)
    settings = tuple(Tensor(name, dtype, (1,), optional=True) for name, (_, dtype) in SAMPLING.items())
    asked = {inner: outer for outer, (inner, _) in SAMPLING.items()}
    asked |= {tensor.name: tensor.name for tensor in MORE_SAMPLING}
    tokens = {tensor.name: tensor.name for tensor in tokenizer.outputs}
    # The decoder echoes the context: the detokenizer may not take tensors from both sides of a decoupled step.
    answers = {tensor.name: f"decoder_{tensor.name}" for tensor in detokenizer.inputs}
    return Ensemble(
        name=spec.name,
        max_batch_size=1,
        inputs=(*TEXTS, *TOKEN_RULES, *settings, *MORE_SAMPLING),
        outputs=detokenizer.outputs,
        steps=(
            Step(tokenizer, {tensor.name: tensor.name for tensor in tokenizer.inputs}, tokens),
            Step(decoder, tokens | asked, answers),
            Step(detokenizer, answers, {tensor.name: tensor.name for tensor in detokenizer.outputs}),
        ),
    )


def _tokenizer(spec: GenerateSpec) -> Model:
    outputs = (
        Tensor("input_ids", "INT32", (-1,)),
        Tensor("input_lengths", "INT32", (1,)),
        Tensor("streaming", "BOOL", (1,)),
        STREAM_CONTEXT,
        # Unwritten where nothing is asked for.
        BAD_WORDS_LIST,
        EMBEDDING_BIAS,
    )
    return tokenizer_model(spec, (*TEXTS, *TOKEN_RULES, NUM_RETURN_SEQUENCES), outputs)


def tokenizer_model(
    spec: GenerateSpec,
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    parameters: Mapping[str, str] | None = None,
) -> Model:
    """Return the tokenizer step of `spec`; its tensors' dims are given as those of one request, without batch.

    Without a batch dimension of Triton's: it would refuse a request that has no inputs before the model can.
    """
    return Model(
        name=f"{spec.name}_tokenizer",
        backend="tokenizer",
        max_batch_size=0,
        inputs=tuple(replace(tensor, dims=(1, *tensor.dims)) for tensor in inputs),
        outputs=tuple(replace(tensor, dims=(1, *tensor.dims)) for tensor in outputs),
        batching=None,
        parameters={
            "max_tokens": str(spec.max_tokens),
            "max_text_bytes": str(spec.max_text_bytes),
            **(parameters or {}),
        },
    )


def _decoder(spec: GenerateSpec, provider: Provider, backend: GenerateBackend) -> Model:
    settings = tuple(Tensor(inner, dtype, (1,), optional=True) for inner, dtype in SAMPLING.values())
    return Model(
        name=f"{spec.name}_decoder",
        backend=backend,
        max_batch_size=1,
        inputs=(
            # Optional, because a request that says `stop` carries none.
            Tensor("input_ids", "INT32", (-1,), optional=True),
            Tensor("input_lengths", "INT32", (1,), optional=True),
            *settings,
            *MORE_SAMPLING,
            Tensor("stop_words_list", "INT32", (2, -1), optional=True),
            replace(BAD_WORDS_LIST, optional=True),
            replace(EMBEDDING_BIAS, optional=True),
            Tensor("streaming", "BOOL", (1,), optional=True),
            Tensor("stop", "BOOL", (1,), optional=True),
            Tensor("stream_context", "BYTES", (1,), optional=True),
            # With `stop`: which of the request's answers; without it all of them.
            replace(SEQUENCE_INDEX, optional=True),
        ),
        outputs=DECODER_OUTPUTS,
        batching=None,
        decoupled=True,
        parameters={
            "max_tokens": str(spec.max_tokens),
            "slots": str(spec.slots),
            "max_queue_size": str(spec.max_queue_size),
            **({"provider": provider} if provider != "cpu" else {}),
        },
    )


def _detokenizer(spec: GenerateSpec) -> Model:
    return detokenizer_model(
        spec,
        (
            OUTPUT_IDS,
            replace(FINISH_REASON, optional=True),
            STREAM_CONTEXT,
            *(replace(tensor, optional=True) for tensor in ASKED_FOR),
        ),
        (*LOG_PROBS, LOGPROBS, SEQUENCE_INDEX),
    )


def detokenizer_model(spec: GenerateSpec, inputs: tuple[Tensor, ...], more: tuple[Tensor, ...] = ()) -> Model:
    """Return the detokenizer step of `spec`, which answers as every generate ensemble does, and with `more` outputs."""
    return Model(
        name=f"{spec.name}_detokenizer",
        backend="detokenizer",
        max_batch_size=1,
        inputs=inputs,
        outputs=(TEXT_OUTPUT, NUM_INPUT_TOKENS, NUM_OUTPUT_TOKENS, FINISH_REASON, *more),
        # One instance without batching: it alone sees every delta of a stream in order, and a cancelled request.
        batching=None,
        decoupled=True,
        parameters={"decoder": f"{spec.name}_decoder"},
    )
