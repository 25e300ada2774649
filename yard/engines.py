"""`yard engines`: checkpoint -> engine."""

import json

import click
from rich.table import Table

from pipeline.engines import Engines
from pipeline.recipe import Recipe, read_recipes
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
    precision = plan.step.covers["precision"]
    skipped = not store.why(plan)
    with progress(f"engine {recipe.name}") as report:
        artefact = store.build(plan, report)
    parity = artefact.facts["parity"]
    how = "unchanged, skipped" if skipped else f"built in {artefact.manifest['seconds']:.0f} s"
    say(
        f"engine {recipe.name} {precision}: {how}; max abs difference {parity['max_abs_difference']:.2g}, "
        f"min cosine {parity['min_cosine']:.6f} over {parity['texts']} texts ({shown(artefact.folder)})"
    )


def _why(store: Engines, recipe: Recipe) -> None:
    plan = store.plan(recipe)
    reasons = store.why(plan)
    state = "would run" if reasons else "is skipped: nothing it reads has changed"
    say(f"{plan.step.name} {recipe.name} [{plan.step.key}] {state}")
    for reason in reasons:
        say(f"  {reason}")


def _compare(store: Engines, recipe: Recipe) -> None:
    from pipeline.compare import compare

    with progress(f"compare {recipe.name}") as report:
        rows = compare(store, recipe, report)
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
    file = ARTIFACTS / "compare" / f"{recipe.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n")
    say(f"written to {shown(file)}")
