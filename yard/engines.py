"""`yard engines`: checkpoint -> engine."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.table import Table

from pipeline.decoder_comparison import DecoderRow, compare_decoders, plot
from pipeline.encoder_comparison import EncoderRow, compare_encoders
from pipeline.engines import Engines
from pipeline.fidelity import Fidelity
from pipeline.quality import Parity
from pipeline.recipe import EmbedRecipe, GenerateRecipe, Recipe, read_recipes
from yard.checkout import ARTIFACTS, RECIPES, model_argument, profile_option, shown
from yard.console import out, progress, say


@click.command()
@model_argument
@profile_option
@click.option("--why", is_flag=True, help="Say why each step would run or is skipped, and run nothing.")
@click.option("--compare", is_flag=True, help="Measure every precision side by side; publishes nothing.")
def engines(model: str | None, profile: str, why: bool, compare: bool) -> None:
    """Build the engines of all recipes, or of MODEL, and prove each against its checkpoint.

    \b
    Example: yard engines minilm --why
    """
    recipes = read_recipes(RECIPES, model)
    store = Engines(ARTIFACTS)
    for recipe in recipes:
        if compare:
            _compare(store, recipe)
        elif why:
            _why(store, recipe)
        else:
            build(store, recipe)


def build(store: Engines, recipe: Recipe) -> None:
    """Build the engine of one recipe and say what came of it."""
    plan = store.plan(recipe)
    skipped = not store.why(plan)
    with progress(f"engine {recipe.name}") as report:
        artefact = store.build(plan, report)
    how = "unchanged, skipped" if skipped else f"built in {artefact.manifest['seconds']:.0f} s"
    say(f"engine {recipe.name} {plan.precision}: {how}; {_proof(artefact.facts)} ({shown(artefact.folder)})")


def _proof(facts: Mapping[str, Any]) -> str:
    """What was measured of an engine, in one clause."""
    if "parity" in facts:
        parity = Parity(**facts["parity"])
        return (
            f"max abs difference {parity.max_abs_difference:.2g}, min cosine {parity.min_cosine:.6f} over "
            f"{parity.texts} texts"
        )
    fidelity = Fidelity(**facts["fidelity"])
    return (
        f"perplexity {fidelity.perplexity:.2f} (checkpoint {fidelity.checkpoint_perplexity:.2f}), greedy agreement "
        f"{fidelity.greedy_agreement:.1%} over {fidelity.answer_tokens} tokens, max logit difference "
        f"{fidelity.max_logit_difference:.2g}"
    )


def _why(store: Engines, recipe: Recipe) -> None:
    plan = store.plan(recipe)
    reasons = store.why(plan)
    state = "would run" if reasons else "is skipped: nothing it reads has changed"
    say(f"{plan.step.name} {recipe.name} [{plan.step.key}] {state}")
    for reason in reasons:
        say(f"  {reason}")


def _compare(store: Engines, recipe: Recipe) -> None:
    file = ARTIFACTS / "compare" / f"{recipe.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = _compare_encoders(store, recipe) if isinstance(recipe, EmbedRecipe) else _compare_decoders(store, recipe)
    file.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    say(f"written to {shown(file)}")


def _compare_encoders(store: Engines, recipe: EmbedRecipe) -> Sequence[EncoderRow]:
    with progress(f"compare {recipe.name}") as report:
        rows = compare_encoders(store, recipe, report)
    table = Table("precision", "MB", "max abs diff", "min cosine", "mean cosine", "sentences/s", "gate")
    for row in rows:
        table.add_row(
            row.precision,
            f"{row.bytes / 1e6:.1f}",
            f"{row.parity.max_abs_difference:.2g}",
            f"{row.parity.min_cosine:.5f}",
            f"{row.parity.mean_cosine:.5f}",
            f"{row.sentences_per_second:.0f}",
            "refused" if row.misses else "passed",
        )
    out.print(table)
    return rows


def _compare_decoders(store: Engines, recipe: GenerateRecipe) -> Sequence[DecoderRow]:
    with progress(f"compare {recipe.name}") as report:
        rows = compare_decoders(store, recipe, report)
    table = Table("precision", "MB", "perplexity", "greedy agreement", "max logit diff", "tokens/s", "gate")
    for row in rows:
        table.add_row(
            row.precision,
            f"{row.bytes / 1e6:.0f}",
            f"{row.fidelity.perplexity:.2f} ({row.fidelity.perplexity_increase:+.1%})",
            f"{row.fidelity.greedy_agreement:.1%}",
            f"{row.fidelity.max_logit_difference:.2g}",
            f"{row.tokens_per_second:.0f}",
            "refused" if row.misses else "passed",
        )
    out.print(table)
    say(f"checkpoint: perplexity {rows[0].fidelity.checkpoint_perplexity:.2f}")
    file = ARTIFACTS / "compare" / f"{recipe.name}.png"
    plot(recipe.name, rows, file)
    say(f"plotted in {shown(file)}")
    return rows
