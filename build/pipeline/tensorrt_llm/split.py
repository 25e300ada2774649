"""How a TensorRT-LLM checkpoint is split over GPUs, and which numbers it holds. Pure.

Ranks count tensor-parallel first: rank = stage * tp + t (`Mapping.tp_rank`, `pp_rank` of TensorRT-LLM's mapping.py).
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from pipeline.checkpoint import CheckpointError
from pipeline.tensorrt_llm.family import Model

Dtype = Literal["float16", "bfloat16"]
WeightOnly = Literal["W8A16", "W4A16"]

# trtllm-build interleaves the columns of weights that it quantises in tiles of this many.
TILE = 64


@dataclass(frozen=True)
class Split:
    """`tp` GPUs share each layer, `pp` groups of them share the layers.

    With `quantisation` the checkpoint holds plain weights all the same: trtllm-build quantises them on load.
    """

    tp: int = 1
    pp: int = 1
    dtype: Dtype = "float16"
    quantisation: WeightOnly | None = None

    @property
    def ranks(self) -> int:
        """How many files, and GPUs, there are."""
        return self.tp * self.pp

    def stages(self, layers: int) -> list[range]:
        """Return the layers of each pipeline stage; where they do not divide, the first stages have one more."""
        least, more = divmod(layers, self.pp)
        bounds = accumulate((least + (stage < more) for stage in range(self.pp)), initial=0)
        return [range(first, end) for first, end in pairwise(bounds)]


def require_split(subject: object, model: Model, split: Split) -> None:
    """Raise CheckpointError unless `model` can be cut as `split` says."""
    tp, pp = split.tp, split.pp
    if tp < 1 or pp < 1:
        raise CheckpointError(f"checkpoint {subject}: tp {tp} and pp {pp} must be at least 1")
    if pp > model.layers:
        raise CheckpointError(
            f"checkpoint {subject} has {model.layers} layers, too few for pp {pp}; choose a smaller pp"
        )
    for name, size in (("attention heads", model.heads), ("rows in its MLP", model.intermediate_size)):
        if size % tp:
            raise CheckpointError(f"checkpoint {subject} has {size} {name}, which tp {tp} does not divide")
    if model.kv_heads % tp and tp % model.kv_heads:
        raise CheckpointError(
            f"checkpoint {subject} has {model.kv_heads} key-value heads: tp {tp} neither divides them nor repeats each "
            "as often"
        )
    if split.quantisation:
        _require_tiles(subject, model, split)


def _require_tiles(subject: object, model: Model, split: Split) -> None:
    tile = TILE * split.tp
    heads = model.heads + 2 * max(model.kv_heads, split.tp)
    sizes = {
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "attention heads * head_size": model.heads * model.head_size,
        "query, key and value rows": heads * model.head_size,
    }
    for name, size in sizes.items():
        if size % tile:
            raise CheckpointError(
                f"checkpoint {subject} has {name} {size}; {split.quantisation} at tp {split.tp} needs a multiple of "
                f"{tile}: choose a smaller tp, or leave the weights in {split.dtype}"
            )
