"""The ensemble of the embed task: text -> tokenizer -> encoder -> pooler -> embedding.

text ─► NAME_tokenizer ─► input_ids, attention_mask[, token_type_ids] ─► NAME_encoder ─► last_hidden_state ─┐
            │                     └──────── attention_mask ────────────────► NAME_pooler ◄──────────────────┘
            └─► num_input_tokens                                                └─► embedding
"""

from dataclasses import dataclass
from typing import Literal

from ensembles.model import Batching, Ensemble, Model, Step, Tensor

Pooling = Literal["mean", "cls", "max", "mean_sqrt_len"]

TEXT = Tensor("text", "BYTES", (1,))
NUM_INPUT_TOKENS = Tensor("num_input_tokens", "INT32", (1,))

# See `Batching`: a bounded queue over one instance stalls.
BOUNDED_INSTANCES = 2


@dataclass(frozen=True)
class EmbedSpec:
    """What the embed ensemble must know of a checkpoint and its recipe.

    `encoder_inputs` are the engine's inputs in its own order; `hidden_size` is the width of the embedding.
    Lengths in tokens, `max_text_bytes` in UTF-8 bytes.
    """

    name: str
    encoder_inputs: tuple[str, ...]
    hidden_size: int
    pooling: Pooling
    normalize: bool
    max_tokens: int
    max_text_bytes: int
    max_batch_size: int
    max_queue_size: int


def length_buckets(max_tokens: int) -> list[int]:
    """Return the lengths that texts are padded to, ascending, `max_tokens` last.

    Triton's batcher only joins requests of equal shape: few buckets find partners, many waste less padding.
    """
    steps = [*range(8, 128, 8), *range(128, 256, 16), *range(256, 512, 32), *range(512, max_tokens, 64)]
    return [length for length in steps if length < max_tokens] + [max_tokens]


def embed_ensemble(spec: EmbedSpec) -> Ensemble:
    """Compose the three models of `spec` and wire them."""
    bounded = Batching(max_queue_size=spec.max_queue_size)
    embedding = Tensor("embedding", "FP32", (spec.hidden_size,))
    hidden = Tensor("last_hidden_state", "FP32", (-1, spec.hidden_size))
    encoder_inputs = tuple(Tensor(name, "INT64", (-1,)) for name in spec.encoder_inputs)
    mask = Tensor("attention_mask", "INT64", (-1,))
    tokenizer = Model(
        name=f"{spec.name}_tokenizer",
        backend="tokenizer",
        max_batch_size=spec.max_batch_size,
        inputs=(TEXT,),
        outputs=(*encoder_inputs, NUM_INPUT_TOKENS),
        batching=bounded,
        instances=BOUNDED_INSTANCES,
        parameters={
            "length_buckets": ",".join(map(str, length_buckets(spec.max_tokens))),
            "max_text_bytes": str(spec.max_text_bytes),
        },
    )
    encoder = Model(
        name=f"{spec.name}_encoder",
        backend="onnxruntime",
        max_batch_size=spec.max_batch_size,
        inputs=encoder_inputs,
        outputs=(hidden,),
        batching=bounded,
        instances=BOUNDED_INSTANCES,
    )
    pooler = Model(
        name=f"{spec.name}_pooler",
        backend="pooler",
        max_batch_size=spec.max_batch_size,
        inputs=(hidden, mask),
        outputs=(embedding,),
        # Fed by a bounded step alone: nothing can pile up here.
        batching=Batching(),
        parameters={"pooling": spec.pooling, "normalize": str(spec.normalize).lower()},
    )
    return Ensemble(
        name=spec.name,
        max_batch_size=spec.max_batch_size,
        inputs=(TEXT,),
        outputs=(embedding, NUM_INPUT_TOKENS),
        steps=(
            Step(tokenizer, {"text": "text"}, {tensor.name: tensor.name for tensor in tokenizer.outputs}),
            Step(encoder, {tensor.name: tensor.name for tensor in encoder_inputs}, {hidden.name: hidden.name}),
            Step(pooler, {hidden.name: hidden.name, mask.name: mask.name}, {embedding.name: embedding.name}),
        ),
    )
