"""One decoder in every precision, side by side: size, fidelity, tokens a second; as rows and as a plot."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.engines import Engines
from pipeline.fidelity import Fidelity
from pipeline.greedy import GreedyDecoder
from pipeline.recipe import GENERATE_PRECISIONS, GenerateRecipe
from pipeline.store import Report
from pipeline.timing import median_seconds

TOKENS = 32


@dataclass(frozen=True)
class DecoderRow:
    """One precision: bytes on disk, fidelity to the checkpoint, the gate's findings, decoding speed of one stream."""

    precision: str
    bytes: int
    fidelity: Fidelity
    misses: list[str]
    tokens_per_second: float


def compare_decoders(engines: Engines, recipe: GenerateRecipe, report: Report) -> list[DecoderRow]:
    """Build `recipe` in every precision and measure them in turns, so that a drifting machine hits all alike.

    An engine that misses its gate is measured too; nothing is published here.
    """
    plans = [engines.plan(recipe, precision=precision) for precision in GENERATE_PRECISIONS]
    with ExitStack() as stack:
        made = [engines.unpublished(plan, stack, report) for plan in plans]
        report("measuring speed")
        speeds = _speeds([folder for folder, _ in made])
        return [
            DecoderRow(
                precision=plan.label,
                bytes=sum(file.stat().st_size for file in folder.glob("*.onnx*")),
                fidelity=Fidelity(**facts["fidelity"]),
                misses=plan.misses(facts),
                tokens_per_second=round(speed, 1),
            )
            for plan, (folder, facts), speed in zip(plans, made, speeds, strict=True)
        ]


def _speeds(folders: Sequence[Path]) -> list[float]:
    """Tokens a second of each engine in one stream, without the prompt's."""
    decoders = [GreedyDecoder(folder, 1, TOKENS + 1) for folder in folders]
    works = [partial(decoder.generate_greedy, [1], TOKENS, end_ids=()) for decoder in decoders]
    return [TOKENS / seconds for seconds in median_seconds(works)]


def plot(model: str, rows: Sequence[DecoderRow], file: Path) -> None:
    """Draw the rows of `model` as bars, one panel a measure, into the image `file`; a refused precision is hatched."""
    from matplotlib.figure import Figure

    panels = [
        ("size, MB", [row.bytes / 1e6 for row in rows], "{:.0f}"),
        ("perplexity (lower is better)", [row.fidelity.perplexity for row in rows], "{:.2f}"),
        ("greedy agreement, %", [row.fidelity.greedy_agreement * 100 for row in rows], "{:.1f}"),
        ("tokens/s, one stream", [row.tokens_per_second for row in rows], "{:.0f}"),
    ]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    figure.suptitle(f"{model}: precisions side by side")
    for axes, (title, values, form) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for row, value in zip(rows, values, strict=True):
            style = {"color": "white", "hatch": "///"} if row.misses else {"color": "tab:blue"}
            axes.bar(row.precision, value, width=0.6, edgecolor="tab:blue", **style)
            axes.bar_label(axes.containers[-1], [form.format(value)], padding=2)
        axes.set_title(title, fontsize=10)
        axes.set_ylim(0, max(values) * 1.15)
        axes.spines[["top", "right"]].set_visible(False)
    reference = rows[0].fidelity.checkpoint_perplexity
    perplexity = figure.axes[1]
    perplexity.axhline(reference, color="tab:red", linestyle="--", linewidth=1)
    perplexity.set_xlabel(f"dashed: the checkpoint, {reference:.2f}", color="tab:red", fontsize=9)
    if any(row.misses for row in rows):
        figure.supxlabel("hatched: refused by the quality gate", fontsize=9)
    figure.savefig(file, dpi=150)
