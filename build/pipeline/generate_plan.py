"""The plan of a generate recipe: one decoder, proved against its checkpoint, from a folder or through a GGUF file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ensembles.generate import Provider
from pipeline import fidelity, gguf_checkpoint, onnx_decoder
from pipeline.checkpoint import CheckpointError, require_whole
from pipeline.decoder import Decoder, read_decoder
from pipeline.fidelity import Fidelity
from pipeline.fingerprint import FileDigests, tool_versions
from pipeline.onnx_decoder import CHAT, DECODER
from pipeline.onnx_encoder import MODEL, TOKENIZER
from pipeline.recipe import GeneratePrecision, GenerateRecipe, Profile
from pipeline.store import Report, Step, Store
from pipeline.verify_graph import write_verify_graph

STEP = "onnx_decoder"
# Where the graph is to run.
PROVIDERS: Mapping[Profile, Provider] = {"cpu": "cpu", "gpu": "cuda"}
FILES = {
    "tokenizer": [TOKENIZER, CHAT],
    "onnx_generate": ["*.onnx*", DECODER, TOKENIZER],
    "detokenizer": [TOKENIZER],
}
# The golden request must be no accident.
MIN_GOLDEN_TOKENS = 4
# What the steps' results depend on besides their inputs: their own code and the shipped texts.
SOURCES = (
    "onnx_decoder.py",
    "integer_graphs.py",
    "rotation.py",
    "verify_graph.py",
    "greedy.py",
    "fidelity.py",
    "texts/prose.txt",
    "texts/prompts.txt",
)


@dataclass(frozen=True)
class GeneratePlan:
    """One decoder to build: its checkpoint's folder or GGUF file, and the step that makes it.

    A GGUF file is first made a folder, by the step `conversion`, whose artefact is kept in `store`.
    """

    recipe: GenerateRecipe
    profile: Profile
    folder: Path
    conversion: Step | None
    step: Step
    store: Store

    @property
    def precision(self) -> GeneratePrecision:
        """The precision that the step builds."""
        precision: GeneratePrecision = self.step.covers["precision"]
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
        """Write engine, tokenizer and facts into `out`; return what was measured, and the golden request.

        Raises CheckpointError: the checkpoint is damaged, or of a kind that no step can build. BuilderError: the
        graph could not be built.
        """
        folder = gguf_checkpoint.converted(self.folder, self.conversion, self.store, report)
        decoder = read_decoder(folder)
        require_context(self.recipe, decoder)
        require_whole(folder)
        facts = onnx_decoder.save_facts(folder, decoder.context, out)
        report(f"building the graph in {self.precision}")
        onnx_decoder.build(folder, self.precision, out, provider=PROVIDERS[self.profile])
        if self.step.covers["speculation"] and not write_verify_graph(out):
            raise onnx_decoder.BuilderError(
                f"{self.recipe.file}: engine.cpu.speculation = '{self.step.covers['speculation']}', but the graph of "
                f"{self.recipe.checkpoint} in {self.precision} cannot verify drafts exactly; leave it out"
            )
        signature = onnx_decoder.require_graph(out / MODEL, facts["vocab_size"])
        report("asking the checkpoint")
        reference = fidelity.load_reference(folder)
        known = fidelity.answers(reference, folder, facts, decoder.context)
        report("proving the engine against the checkpoint")
        measured = fidelity.measure(reference, folder, out, known, decoder.context)
        golden = fidelity.golden(out, known, facts, self.recipe.limits.max_tokens)
        return {"fidelity": asdict(measured), "golden_tokens": golden["max_tokens"], "signature": signature}, golden

    def misses(self, facts: Mapping[str, Any]) -> list[str]:
        """Return each limit of the plan's gate that the measured `facts` miss."""
        gate = getattr(self.recipe.quality, self.precision)
        return fidelity.misses(Fidelity(**facts["fidelity"]), gate) + golden_misses(facts)


def golden_misses(facts: Mapping[str, Any]) -> list[str]:
    """Return, in words, that an engine with these `facts` has no golden request, if so."""
    if (agreed := facts["golden_tokens"]) >= MIN_GOLDEN_TOKENS:
        return []
    return [
        f"the first {agreed} tokens of its best answer are the checkpoint's, {MIN_GOLDEN_TOKENS} are wanted for a "
        "golden request (a larger limits.max_tokens admits longer prompts)"
    ]


def _speculation(recipe: GenerateRecipe, profile: Profile, precision: GeneratePrecision) -> str | None:
    """What the recipe says of the engine that it asks for; others it is compared with are without."""
    engine = recipe.engine.cpu
    return engine.speculation if engine and (profile, engine.precision) == ("cpu", precision) else None


def require_context(recipe: GenerateRecipe, decoder: Decoder) -> None:
    """Raise CheckpointError when the recipe promises more tokens than the engine of `decoder` is right for."""
    if recipe.limits.max_tokens > decoder.context:
        raise CheckpointError(
            f"{recipe.file}: limits.max_tokens = {recipe.limits.max_tokens} is more than the {decoder.context} tokens "
            f"that an engine of {recipe.checkpoint} is right for ({decoder.bound} of its config.json)"
        )


def plan_generate(
    recipe: GenerateRecipe,
    profile: Profile,
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
        "speculation": _speculation(recipe, profile, precision),
        "provider": PROVIDERS[profile],
        "gate": getattr(recipe.quality, precision).model_dump(),
        "max_tokens": recipe.limits.max_tokens,
        "options": onnx_decoder.OPTIONS,
        "tools": tool_versions(onnx_decoder.TOOLS),
        "sources": {name: digests.of(here / name) for name in SOURCES},
    }
    conversion = gguf_checkpoint.plan_conversion(folder, recipe.name, pinned, digests)
    if conversion:
        covers["conversion"] = conversion.covers
    else:
        require_context(recipe, read_decoder(folder))
    return GeneratePlan(recipe, profile, folder, conversion, Step(STEP, recipe.name, covers), store)
