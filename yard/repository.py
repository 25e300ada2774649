"""`yard repository`: engine -> the tree that Triton mounts."""

import click

from pipeline.assemble import RepositoryError, assemble, configs, drift
from pipeline.engines import Engines
from pipeline.recipe import read_recipes
from yard import checkout
from yard.checkout import ARTIFACTS, RECIPES, model_argument, profile_option, shown
from yard.console import progress, say


@click.command()
@model_argument
@profile_option
@click.option("--check", is_flag=True, help="Compare the committed config.pbtxt files with the recipes; exit 1.")
def repository(model: str | None, profile: str, check: bool) -> None:
    """Assemble the repository of all recipes, or renew MODEL in it, and swap it in whole.

    \b
    Example: yard repository --check
    """
    if check:
        _check(model, profile)
    else:
        build(model, profile)


def build(model: str | None, profile: str) -> None:
    """Assemble the repository; engines that are missing are built first."""
    store = Engines(ARTIFACTS)
    target = checkout.repository(profile)
    plans = [store.plan(recipe) for recipe in read_recipes(RECIPES, model)]
    built = []
    for plan in plans:
        with progress(f"engine {plan.recipe.name}") as report:
            built.append((plan, store.build(plan, report)))
    names = assemble(target, built, keep_others=model is not None)
    say(f"repository {shown(target)}: {', '.join(names)}")


def _check(model: str | None, profile: str) -> None:
    store = Engines(ARTIFACTS)
    target = checkout.repository(profile)
    chosen = configs([store.plan(recipe) for recipe in read_recipes(RECIPES, model)])
    everything = configs([store.plan(recipe) for recipe in read_recipes(RECIPES)])
    found = drift(target, everything)
    if model is not None:
        found = [line for line in found if any(f"/{name}/" in line for name in chosen)]
    if found:
        raise RepositoryError("\n".join([*found, "run `yard repository` and commit what it writes"]))
    say(f"repository {shown(target)}: all {len(everything)} config.pbtxt are what the recipes give")
