"""The plan of an embed recipe: one fused encoder, proved against its checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import onnx_encoder, quality
from pipeline.checkpoint import CheckpointError, require_whole
from pipeline.encoder import Encoder, read_encoder
from pipeline.fingerprint import FileDigests, tool_versions
from pipeline.onnx_encoder import MODEL, TOKENIZER
from pipeline.quality import Parity
from pipeline.recipe import EmbedPrecision, EmbedRecipe, Profile
from pipeline.store import Report, Step

STEP = "onnx_encoder"
FILES: Mapping[str, Sequence[str]] = {"tokenizer": [TOKENIZER], "onnxruntime": [MODEL], "pooler": []}
# What the step's result depends on besides its inputs: its own code and the parity texts.
SOURCES = ("onnx_encoder.py", "quality.py", "texts/parity.txt")


@dataclass(frozen=True)
class EmbedPlan:
    """One encoder to build: where its checkpoint lies, what it is, and the step that makes it."""

    recipe: EmbedRecipe
    profile: Profile
    folder: Path
    encoder: Encoder
    step: Step

    @property
    def precision(self) -> EmbedPrecision:
        """The precision that the step builds."""
        precision: EmbedPrecision = self.step.covers["precision"]
        return precision

    @property
    def label(self) -> str:
        """The precision."""
        return self.precision

    @property
    def files(self) -> Mapping[str, Sequence[str]]:
        """What each backend's version folder holds."""
        return FILES

    def make(self, out: Path, report: Report) -> tuple[dict[str, Any], dict[str, Any]]:
        """Write engine and tokenizer into `out`; return what was measured, and the golden request.

        Raises CheckpointError: the checkpoint is damaged.
        """
        require_whole(self.folder)
        reference = onnx_encoder.load_reference(self.folder)
        onnx_encoder.export(reference, self.encoder, self.precision, out, report, fused=self.step.covers["fused"])
        onnx_encoder.save_tokenizer(self.folder, out)
        report("proving it against the checkpoint")
        session = onnx_encoder.open_session(out / MODEL)
        limits = self.recipe.limits
        parity, golden = quality.measure(reference, session, self.folder, self.encoder, limits.max_tokens)
        facts = {"parity": asdict(parity), "signature": onnx_encoder.signature(out / MODEL)}
        return facts, {**golden, "min_cosine": getattr(self.recipe.quality, self.precision).min_cosine}

    def misses(self, facts: Mapping[str, Any]) -> list[str]:
        """Return each limit of the plan's gate that the measured `facts` miss."""
        return quality.misses(Parity(**facts["parity"]), getattr(self.recipe.quality, self.precision))


def plan_embed(
    recipe: EmbedRecipe,
    profile: Profile,
    precision: EmbedPrecision,
    folder: Path,
    pinned: str,
    digests: FileDigests,
    *,
    fused: bool = True,
) -> EmbedPlan:
    """Say what the encoder of `recipe` needs; `pinned` is the digest of the checkpoint in `folder`.

    A graph that is `fused` has operators that ONNX Runtime's own providers know and TensorRT does not.

    Raises CheckpointError: it is of a kind no step can read, or has fewer positions than the recipe promises.
    """
    encoder = read_encoder(folder)
    if recipe.limits.max_tokens > encoder.positions:
        raise CheckpointError(
            f"{recipe.file}: limits.max_tokens = {recipe.limits.max_tokens} is more than the {encoder.positions} "
            f"positions of {recipe.checkpoint}"
        )
    here = Path(__file__).parent
    covers = {
        "checkpoint": pinned,
        "precision": precision,
        "fused": fused,
        "gate": getattr(recipe.quality, precision).model_dump(),
        "max_tokens": recipe.limits.max_tokens,
        "opset": onnx_encoder.OPSET,
        "tools": tool_versions(onnx_encoder.TOOLS),
        "sources": {name: digests.of(here / name) for name in SOURCES},
    }
    return EmbedPlan(recipe, profile, folder, encoder, Step(STEP, recipe.name, covers))
