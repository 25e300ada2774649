"""`yard fit`: does the GPU engine fit, asked before anything is built."""

import sys

import click
from rich.table import Table

from pipeline.checkpoint import CheckpointError
from pipeline.gpu import known_gpu
from pipeline.gpu_fit import GB, Fit, config_of, fit_of, meant_for, refusal
from pipeline.recipe import Recipe, read_recipes
from yard.checkout import RECIPES, model_argument
from yard.console import out, say

STYLES = {"fits": "green", "fits with paging": "green", "does not fit": "red", "cannot run": "red"}


@click.command()
@model_argument
@click.option("--gpu", help="Ask about this GPU, not about those that the recipe is for.")
def fit(model: str | None, gpu: str | None) -> None:
    """Say what the GPU engines of all recipes, or of MODEL, take of a GPU's memory, and whether they fit.

    Needs neither weights nor a GPU. Sizes are in GB of 10^9 bytes, each on one GPU; "full" is how many of limits.slots
    fit at once when each is limits.max_tokens long.

    \b
    Example: yard fit llama-3.1-70b --gpu "H100 80GB"
    """
    table = Table("model", "GPU", "GB", "weights", "activations", "CUDA", "cache", "tokens", "full", "verdict")
    notes, good = [], True
    for recipe in read_recipes(RECIPES, "gpu", model):
        try:
            config = config_of(recipe)
            found = {name: fit_of(recipe, config, known_gpu(name)) for name in ([gpu] if gpu else meant_for(recipe))}
        except CheckpointError as error:
            if model:
                raise
            notes.append(f"{recipe.name}: {error}; left out")
            continue
        for name, each in found.items():
            table.add_row(*_row(recipe, name, each))
            if not each.is_good:
                notes.append(refusal(recipe, config, name, each))
                good = False
    out.print(table)
    for note in notes:
        say(note)
    if not good:
        sys.exit(1)


def _row(recipe: Recipe, gpu: str, found: Fit) -> list[str]:
    memory, kept = found.memory, found.memory.cache_token > 0
    return [
        recipe.name,
        gpu,
        f"{found.total / GB:.1f}",
        f"{memory.weights / GB:.1f}",
        f"{memory.activations / GB:.1f}",
        f"{memory.overhead / GB:.1f}",
        f"{found.cache / GB:.1f}" if kept else "",
        f"{found.tokens}" if kept else "",
        f"{min(found.requests, found.slots)} of {found.slots}" if kept else "",
        f"[{STYLES[found.verdict]}]{found.verdict}[/]",
    ]
