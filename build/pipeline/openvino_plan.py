"""The plan of a generate recipe of kind `openvino`: a GGUF file's decoder, proved against its checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import fidelity, gguf_checkpoint, onnx_decoder, openvino_decoder
from pipeline.checkpoint import CheckpointError
from pipeline.decoder import read_decoder
from pipeline.fidelity import Fidelity
from pipeline.fingerprint import FileDigests, tool_versions
from pipeline.generate_plan import FILES, golden_misses, require_context
from pipeline.onnx_decoder import DECODER
from pipeline.openvino_decoder import MODEL, RUNTIME, WEIGHTS, OpenVinoDecoder
from pipeline.recipe import GenerateRecipe, Profile
from pipeline.store import Report, Step, Store

STEP = "openvino_decoder"
SOURCES = ("openvino_decoder.py", "fidelity.py", "texts/prose.txt", "texts/prompts.txt")


@dataclass(frozen=True)
class OpenVinoPlan:
    """One decoder to build of the GGUF file `folder`, which the step `conversion` makes its own reference."""

    recipe: GenerateRecipe
    folder: Path
    conversion: Step
    step: Step
    store: Store

    @property
    def profile(self) -> Profile:
        """The CPU."""
        return "cpu"

    @property
    def label(self) -> str:
        """The kind and the precision."""
        return "openvino int8"

    @property
    def files(self) -> Mapping[str, Sequence[str]]:
        """What each backend's version folder holds."""
        return {**FILES, "openvino_generate": [MODEL, WEIGHTS, RUNTIME, DECODER]}

    def make(self, out: Path, report: Report) -> tuple[dict[str, Any], dict[str, Any]]:
        """Write engine, tokenizer and facts into `out`; return what was measured, and the golden request.

        Raises CheckpointError: the checkpoint is damaged, or of a kind that GenAI does not read. OpenVinoError: GenAI
        is missing, or failed.
        """
        folder = gguf_checkpoint.converted(self.folder, self.conversion, self.store, report)
        decoder = read_decoder(folder)
        require_context(self.recipe, decoder)
        facts = onnx_decoder.save_facts(folder, decoder.context, out)
        report("building the graph in int8")
        openvino_decoder.build(self.folder, decoder.family, out)
        report("asking the checkpoint")
        reference = fidelity.load_reference(folder)
        known = fidelity.answers(reference, folder, facts, decoder.context)
        report("proving the engine against the checkpoint")
        measured = fidelity.measure(reference, folder, out, known, decoder.context, OpenVinoDecoder)
        golden = fidelity.golden(out, known, facts, self.recipe.limits.max_tokens, OpenVinoDecoder)
        return {"fidelity": asdict(measured), "golden_tokens": golden["max_tokens"]}, golden

    def misses(self, facts: Mapping[str, Any]) -> list[str]:
        """Return each limit of the plan's gate that the measured `facts` miss."""
        return fidelity.misses(Fidelity(**facts["fidelity"]), self.recipe.quality.int8) + golden_misses(facts)


def plan_openvino(
    recipe: GenerateRecipe, folder: Path, pinned: str, digests: FileDigests, store: Store
) -> OpenVinoPlan:
    """Say what the decoder of `recipe` needs; `pinned` is the digest of its GGUF file `folder`.

    Raises CheckpointError: the checkpoint is no GGUF file.
    """
    conversion = gguf_checkpoint.plan_conversion(folder, recipe.name, pinned, digests)
    if conversion is None:
        raise CheckpointError(
            f"checkpoint {folder} is a folder, and kind = 'openvino' reads GGUF files; say kind = 'onnx'"
        )
    here = Path(__file__).parent
    covers: dict[str, Any] = {
        "conversion": conversion.covers,
        "gate": recipe.quality.int8.model_dump(),
        "max_tokens": recipe.limits.max_tokens,
        "tools": tool_versions((*openvino_decoder.TOOLS, *onnx_decoder.TOOLS)),
        "sources": {name: digests.of(here / name) for name in SOURCES},
    }
    return OpenVinoPlan(recipe, folder, conversion, Step(STEP, recipe.name, covers), store)
