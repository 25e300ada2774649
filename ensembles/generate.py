"""The ensemble of the generate task: text or messages -> tokenizer -> decoder -> detokenizer -> text, in deltas.

text_input | messages ─► NAME_tokenizer ─► input_ids ─► NAME_decoder ─► output_ids ─► NAME_detokenizer ─► text_output
stop_words, stream            └──────► stream_context, streaming ────►      └──► stream_context ──►
max_tokens, temperature, ... ────────────────────────────────────►

The ensemble speaks the tensor names of TensorRT-LLM's own ensemble, the decoder those of its `tensorrt_llm` model
(TensorRT-LLM 1.2.1, `all_models/inflight_batcher_llm`). Beyond them: `messages`, `finish_reason`, `stream_context`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ensembles.model import DataType, Ensemble, Model, Step, Tensor

Provider = Literal["cpu", "cuda"]

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

NUM_INPUT_TOKENS = Tensor("num_input_tokens", "INT32", (1,))
NUM_OUTPUT_TOKENS = Tensor("num_output_tokens", "INT32", (1,))
TEXT_OUTPUT = Tensor("text_output", "BYTES", (-1,))
FINISH_REASON = Tensor("finish_reason", "BYTES", (1,))
STREAM_CONTEXT = Tensor("stream_context", "BYTES", (1,))


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


def generate_ensemble(spec: GenerateSpec, provider: Provider = "cpu") -> Ensemble:
    """Compose the three models of `spec` and wire them; the decoder runs on ONNX Runtime's `provider`."""
    tokenizer, decoder, detokenizer = _tokenizer(spec), _decoder(spec, provider), _detokenizer(spec)
    settings = tuple(Tensor(name, dtype, (1,), optional=True) for name, (_, dtype) in SAMPLING.items())
    tokens = {tensor.name: tensor.name for tensor in tokenizer.outputs}
    # The decoder echoes the context: the detokenizer may not take tensors from both sides of a decoupled step.
    answers = {tensor.name: f"decoder_{tensor.name}" for tensor in detokenizer.inputs}
    return Ensemble(
        name=spec.name,
        max_batch_size=1,
        inputs=(*TEXTS, *settings),
        outputs=detokenizer.outputs,
        steps=(
            Step(tokenizer, {tensor.name: tensor.name for tensor in TEXTS}, tokens),
            Step(decoder, tokens | {inner: outer for outer, (inner, _) in SAMPLING.items()}, answers),
            Step(detokenizer, answers, {tensor.name: tensor.name for tensor in detokenizer.outputs}),
        ),
    )


def _tokenizer(spec: GenerateSpec) -> Model:
    outputs = (
        Tensor("input_ids", "INT32", (-1,)),
        Tensor("input_lengths", "INT32", (1,)),
        Tensor("streaming", "BOOL", (1,)),
        STREAM_CONTEXT,
    )
    return tokenizer_model(spec, TEXTS, outputs)


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


def _decoder(spec: GenerateSpec, provider: Provider) -> Model:
    settings = tuple(Tensor(inner, dtype, (1,), optional=True) for inner, dtype in SAMPLING.values())
    return Model(
        name=f"{spec.name}_decoder",
        backend="onnx_generate",
        max_batch_size=1,
        inputs=(
            # Optional, because a request that says `stop` carries none.
            Tensor("input_ids", "INT32", (-1,), optional=True),
            Tensor("input_lengths", "INT32", (1,), optional=True),
            *settings,
            Tensor("stop_words_list", "INT32", (2, -1), optional=True),
            Tensor("streaming", "BOOL", (1,), optional=True),
            Tensor("stop", "BOOL", (1,), optional=True),
            Tensor("stream_context", "BYTES", (1,), optional=True),
        ),
        outputs=(
            Tensor("output_ids", "INT32", (-1, -1)),
            Tensor("sequence_length", "INT32", (-1,)),
            NUM_INPUT_TOKENS,
            NUM_OUTPUT_TOKENS,
            FINISH_REASON,
            STREAM_CONTEXT,
        ),
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
            Tensor("output_ids", "INT32", (-1, -1)),
            Tensor("finish_reason", "BYTES", (1,), optional=True),
            STREAM_CONTEXT,
        ),
    )


def detokenizer_model(spec: GenerateSpec, inputs: tuple[Tensor, ...]) -> Model:
    """Return the detokenizer step of `spec`, which answers as every generate ensemble does."""
    return Model(
        name=f"{spec.name}_detokenizer",
        backend="detokenizer",
        max_batch_size=1,
        inputs=inputs,
        outputs=(TEXT_OUTPUT, NUM_INPUT_TOKENS, NUM_OUTPUT_TOKENS, FINISH_REASON),
        # One instance without batching: it alone sees every delta of a stream in order, and a cancelled request.
        batching=None,
        decoupled=True,
        parameters={"decoder": f"{spec.name}_decoder"},
    )
