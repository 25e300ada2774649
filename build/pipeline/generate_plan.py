"""The plan of a generate recipe: one decoder, proved against its checkpoint, from a folder or through a GGUF file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import fidelity, gguf_checkpoint, onnx_decoder
from pipeline.checkpoint import CheckpointError, require_whole
from pipeline.decoder import Decoder, read_decoder
from pipeline.fidelity import Fidelity
from pipeline.fingerprint import FileDigests, tool_versions
from pipeline.onnx_encoder import MODEL
from pipeline.quality import QualityError
from pipeline.recipe import GeneratePrecision, GenerateRecipe
from pipeline.store import Report, Step, Store

STEP = "onnx_decoder"
# The golden request must be no accident.
MIN_GOLDEN_TOKENS = 4
# What the steps' results depend on besides their inputs: their own code and the shipped texts.
SOURCES = ("onnx_decoder.py", "greedy.py", "fidelity.py", "texts/prose.txt", "texts/prompts.txt")
GGUF_SOURCES = ("gguf_checkpoint.py",)


@dataclass(frozen=True)
class GeneratePlan:
    """One decoder to build: its checkpoint's folder or GGUF file, and the step that makes it.

    A GGUF file is first made a folder, by the step `conversion`, whose artefact is kept in `store`.
    """

    recipe: GenerateRecipe
    folder: Path
    conversion: Step | None
    step: Step
    store: Store

    @property
    def precision(self) -> GeneratePrecision:
        """The precision that the step builds."""
        precision: GeneratePrecision = self.step.covers["precision"]
        return precision

    def make(self, out: Path, report: Report) -> tuple[dict[str, Any], dict[str, Any]]:
        """Write engine, tokenizer and facts into `out`; return what was measured, and the golden request.

        Raises CheckpointError: the checkpoint is damaged, or of a kind that no step can build. BuilderError: the
        graph could not be built.
        """
        folder = self._converted(report)
        decoder = read_decoder(folder)
        require_context(self.recipe, decoder)
        require_whole(folder)
        facts = onnx_decoder.save_facts(folder, decoder.context, out)
        report(f"building the graph in {self.precision}")
        onnx_decoder.build(folder, self.precision, out)
        signature = onnx_decoder.require_graph(out / MODEL, facts["vocab_size"])
        report("asking the checkpoint")
        reference = fidelity.load_reference(folder)
        known = fidelity.answers(reference, folder, facts, decoder.context)
        report("proving the engine against the checkpoint")
        measured = fidelity.measure(reference, folder, out, known, decoder.context)
        golden = fidelity.golden(out, known, facts, self.recipe.limits.max_tokens)
        return {"fidelity": asdict(measured), "golden_tokens": golden["max_tokens"], "signature": signature}, golden

    def _converted(self, report: Report) -> Path:
        """The checkpoint as a folder in Hugging Face layout; a GGUF file is converted when it is not yet."""
        if self.conversion is None:
            return self.folder

        def convert(out: Path) -> dict[str, Any]:
            report("reading the GGUF file")
            gguf_checkpoint.require_carried(self.folder)
            report("converting the GGUF file")
            gguf_checkpoint.convert(self.folder, out)
            return {}

        return self.store.build(self.conversion, convert).folder

    def misses(self, facts: Mapping[str, Any]) -> list[str]:
        """Return each limit of the plan's gate that the measured `facts` miss."""
        found = fidelity.misses(Fidelity(**facts["fidelity"]), getattr(self.recipe.quality, self.precision))
        if (agreed := facts["golden_tokens"]) < MIN_GOLDEN_TOKENS:
            found.append(
                f"the first {agreed} tokens of its best answer are the checkpoint's, {MIN_GOLDEN_TOKENS} are wanted "
                "for a golden request (a larger limits.max_tokens admits longer prompts)"
            )
        return found

    def require_gate(self, facts: Mapping[str, Any]) -> None:
        """Raise QualityError when the measured `facts` miss the gate, and say by how much."""
        if missed := self.misses(facts):
            raise QualityError(
                f"engine {self.recipe.name} {self.precision} misses its gate: {'; '.join(missed)}. It was not published"
            )


def require_context(recipe: GenerateRecipe, decoder: Decoder) -> None:
    """Raise CheckpointError when the recipe promises more tokens than the engine of `decoder` is right for."""
    if recipe.limits.max_tokens > decoder.context:
        raise CheckpointError(
            f"{recipe.file}: limits.max_tokens = {recipe.limits.max_tokens} is more than the {decoder.context} tokens "
            f"that an engine of {recipe.checkpoint} is right for ({decoder.bound} of its config.json)"
        )


def plan_generate(
    recipe: GenerateRecipe,
    precision: GeneratePrecision,
    folder: Path,
    pinned: str,
    digests: FileDigests,
    store: Store,
) -> GeneratePlan:
    """Say what the decoder of `recipe` needs; `pinned` is the digest of `folder`, which may be a GGUF file.

    Raises CheckpointError: a folder's config.json says that no step can build it. A GGUF file, which takes seconds to
    open, is asked when it is converted.
    """
    here = Path(__file__).parent
    covers: dict[str, Any] = {
        "checkpoint": pinned,
        "precision": precision,
        "gate": getattr(recipe.quality, precision).model_dump(),
        "max_tokens": recipe.limits.max_tokens,
        "options": onnx_decoder.OPTIONS,
        "tools": tool_versions(onnx_decoder.TOOLS),
        "sources": {name: digests.of(here / name) for name in SOURCES},
    }
    conversion = None
    if folder.is_file():
        tools = tool_versions(gguf_checkpoint.TOOLS)
        sources = {name: digests.of(here / name) for name in GGUF_SOURCES}
        conversion = Step(gguf_checkpoint.STEP, recipe.name, {"checkpoint": pinned, "tools": tools, "sources": sources})
        covers["conversion"] = {"tools": tools, "sources": sources}
    else:
        require_context(recipe, read_decoder(folder))
    return GeneratePlan(recipe, folder, conversion, Step(STEP, recipe.name, covers), store)
