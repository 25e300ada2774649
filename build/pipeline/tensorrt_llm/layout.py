"""Which numbers of a Hugging Face checkpoint fill which tensor of which rank. Pure: names and shapes, no files.

The tensors and the rules of tensor parallelism are TensorRT-LLM's (`split`, `split_qkv`, `split_embedding` in
tensorrt_llm/models/gpt/convert.py, and the mapping of names in models/model_weights_loader.py). A target is filled
from above: its pieces lie one below the other, and rows that no piece fills are zero.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.tensorrt_llm.family import FAMILIES, Model
from pipeline.tensorrt_llm.split import Split

Shape = tuple[int, ...]
Range = tuple[int, int]
Cut = Literal["whole", "rows", "columns", "heads"]


@dataclass(frozen=True)
class Piece:
    """Rows and columns of a source, as the target has them, that fill `target` of `rank` from its row `at` on."""

    rank: int
    target: str
    at: int
    rows: Range
    columns: Range | None = None
    """None: whole rows, or a vector, whose elements are its rows."""


@dataclass
class Source:
    """A tensor of the checkpoint: `shape` is [out, in] or [n], stored the other way round when `transposed`."""

    shape: Shape
    transposed: bool
    pieces: list[Piece] = field(default_factory=list)

    @property
    def stored_shape(self) -> Shape:
        """The shape that the checkpoint's own file has."""
        return self.shape[::-1] if self.transposed else self.shape


@dataclass(frozen=True)
class Layout:
    """`targets`: for each rank its tensors' shapes by name. `sources`: what is read, by the checkpoint's names."""

    targets: tuple[Mapping[str, Shape], ...]
    sources: Mapping[str, Source]


@dataclass(frozen=True)
class _Part:
    """One source of one target, and how it is cut among the ranks of a stage.

    `heads` of `head_size` rows each begin at row `first`; the other cuts take all rows.
    """

    target: str
    source: str
    shape: Shape
    cut: Cut = "whole"
    transposed: bool = False
    first: int = 0
    heads: int = 0
    head_size: int = 0


def layout(model: Model, split: Split) -> Layout:
    """Return the layout of `model`, which `require_split` has found to divide as `split` says."""
    targets: list[dict[str, Shape]] = [{} for _ in range(split.ranks)]
    sources: dict[str, Source] = {}
    stages = split.stages(model.layers)
    for stage, layers in enumerate(stages):
        parts = [
            *(_first(model) if stage == 0 else ()),
            *(part for at, layer in enumerate(layers) for part in _layer(model, layer, at)),
            *(_last(model) if stage == len(stages) - 1 else ()),
        ]
        for part in parts:
            source = sources.setdefault(part.source, Source(part.shape, part.transposed))
            for t in range(split.tp):
                rank = stage * split.tp + t
                source.pieces.append(_place(part, rank, targets[rank], t, split.tp))
    return Layout(tuple(targets), sources)


def _place(part: _Part, rank: int, targets: dict[str, Shape], t: int, tp: int) -> Piece:
    """Put what rank `t` of `tp` gets of `part` below what its target holds already."""
    rows, height, columns = _share(part, t, tp)
    at = targets.get(part.target, (0,))[0]
    width = () if len(part.shape) == 1 else (columns[1] - columns[0] if columns else part.shape[1],)
    targets[part.target] = (at + height, *width)
    return Piece(rank, part.target, at, rows, columns)


def _share(part: _Part, t: int, tp: int) -> tuple[Range, int, Range | None]:
    """The rows of `part` that rank `t` gets, how many its target has for them, and the columns."""
    rows = part.shape[0]
    match part.cut:
        case "heads":
            # Fewer heads than ranks: each goes to tp/heads neighbours.
            first = t * part.heads // tp
            end = max((t + 1) * part.heads // tp, first + 1)
            taken = (part.first + first * part.head_size, part.first + end * part.head_size)
            return taken, taken[1] - taken[0], None
        case "rows":
            # Only the vocabulary may not divide: its last ranks end in rows of zeros.
            height = -(-rows // tp)
            return (min(t * height, rows), min((t + 1) * height, rows)), height, None
        case "columns":
            width = part.shape[1] // tp
            return (0, rows), rows, (t * width, (t + 1) * width)
        case "whole":
            return (0, rows), rows, None


def _first(model: Model) -> Iterator[_Part]:
    prefix, shape = FAMILIES[model.family].prefix, (model.vocab_size, model.hidden_size)
    yield _Part("transformer.vocab_embedding.weight", _embedding(model), shape)
    if model.family == "gpt2":
        positions = (model.positions, model.hidden_size)
        yield _Part("transformer.position_embedding.weight", f"{prefix}wpe.weight", positions)


def _last(model: Model) -> Iterator[_Part]:
    prefix = FAMILIES[model.family].prefix
    if model.family == "gpt2":
        yield from _norm("transformer.ln_f", f"{prefix}ln_f", model.hidden_size, bias=True)
    else:
        yield from _norm("transformer.ln_f", f"{prefix}norm", model.hidden_size)
    head = _embedding(model) if model.tied else "lm_head.weight"
    yield _Part("lm_head.weight", head, (model.vocab_size, model.hidden_size), "rows")


def _embedding(model: Model) -> str:
    name = "wte" if model.family == "gpt2" else "embed_tokens"
    return f"{FAMILIES[model.family].prefix}{name}.weight"


def _layer(model: Model, layer: int, at: int) -> Iterator[_Part]:
    """The parts of layer `layer`, which is the stage's layer `at`."""
    ours = f"transformer.layers.{at}"
    prefix = FAMILIES[model.family].prefix
    if model.family == "gpt2":
        yield from _gpt2_layer(model, ours, f"{prefix}h.{layer}")
    else:
        yield from _llama_layer(model, ours, f"{prefix}layers.{layer}")


def _llama_layer(model: Model, ours: str, theirs: str) -> Iterator[_Part]:
    """Llama's and what descends from it: Mistral, Qwen2 with biases of its qkv, Qwen3 with norms of each head."""
    hidden, inner, size = model.hidden_size, model.intermediate_size, model.head_size
    attention = f"{theirs}.self_attn"
    yield from _norm(f"{ours}.input_layernorm", f"{theirs}.input_layernorm", hidden)
    for name, heads in (("q", model.heads), ("k", model.kv_heads), ("v", model.kv_heads)):
        source, rows = f"{attention}.{name}_proj", heads * size
        yield _Part(
            f"{ours}.attention.qkv.weight", f"{source}.weight", (rows, hidden), "heads", heads=heads, head_size=size
        )
        if model.attention_bias:
            yield _Part(f"{ours}.attention.qkv.bias", f"{source}.bias", (rows,), "heads", heads=heads, head_size=size)
    output = (hidden, model.heads * size)
    yield _Part(f"{ours}.attention.dense.weight", f"{attention}.o_proj.weight", output, "columns")
    if model.attention_bias and model.family == "llama":
        yield _Part(f"{ours}.attention.dense.bias", f"{attention}.o_proj.bias", (hidden,))
    if model.family == "qwen3":
        yield from _norm(f"{ours}.attention.q_layernorm", f"{attention}.q_norm", size)
        yield from _norm(f"{ours}.attention.k_layernorm", f"{attention}.k_norm", size)
    yield from _norm(f"{ours}.post_layernorm", f"{theirs}.post_attention_layernorm", hidden)
    # TensorRT-LLM's fc is the activated one, its gate the one beside it.
    yield _Part(f"{ours}.mlp.fc.weight", f"{theirs}.mlp.gate_proj.weight", (inner, hidden), "rows")
    yield _Part(f"{ours}.mlp.gate.weight", f"{theirs}.mlp.up_proj.weight", (inner, hidden), "rows")
    yield _Part(f"{ours}.mlp.proj.weight", f"{theirs}.mlp.down_proj.weight", (hidden, inner), "columns")


def _gpt2_layer(model: Model, ours: str, theirs: str) -> Iterator[_Part]:
    """GPT-2's: a bias everywhere, and weights stored [in, out], as its Conv1D has them."""
    hidden, inner, heads, size = model.hidden_size, model.intermediate_size, model.heads, model.head_size
    yield from _norm(f"{ours}.input_layernorm", f"{theirs}.ln_1", hidden, bias=True)
    for kind, shape in (("weight", (3 * hidden, hidden)), ("bias", (3 * hidden,))):
        target, source = f"{ours}.attention.qkv.{kind}", f"{theirs}.attn.c_attn.{kind}"
        for first in (0, hidden, 2 * hidden):
            yield _Part(target, source, shape, "heads", len(shape) == 2, first, heads, size)
    linears: tuple[tuple[str, str, Shape, Cut], ...] = (
        ("attention.dense", "attn.c_proj", (hidden, hidden), "columns"),
        ("mlp.fc", "mlp.c_fc", (inner, hidden), "rows"),
        ("mlp.proj", "mlp.c_proj", (hidden, inner), "columns"),
    )
    for target, source, matrix, cut in linears:
        yield _Part(f"{ours}.{target}.weight", f"{theirs}.{source}.weight", matrix, cut, transposed=True)
        # What is cut by columns is summed over the ranks, and its bias is added once.
        yield _Part(
            f"{ours}.{target}.bias", f"{theirs}.{source}.bias", matrix[:1], "rows" if cut == "rows" else "whole"
        )
    yield from _norm(f"{ours}.post_layernorm", f"{theirs}.ln_2", hidden, bias=True)


def _norm(target: str, source: str, size: int, *, bias: bool = False) -> Iterator[_Part]:
    yield _Part(f"{target}.weight", f"{source}.weight", (size,))
    if bias:
        yield _Part(f"{target}.bias", f"{source}.bias", (size,))
