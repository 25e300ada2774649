"""`yard repository`: engine -> the tree that Triton mounts."""

import click

from pipeline.assemble import RepositoryError, assemble, configs, drift
from pipeline.engines import Engines
from pipeline.recipe import Profile, read_recipes
from pipeline.served import ensemble_of
from yard import checkout
from yard.checkout import ARTIFACTS, RECIPES, model_argument, profile_option, shown
from yard.console import progress, say
from yard.engines import plan_or_reason


@click.command()
@model_argument
@profile_option
@click.option("--check", is_flag=True, help="Compare the committed config.pbtxt files with the recipes; exit 1.")
def repository(model: str | None, profile: Profile, check: bool) -> None:
    """Assemble the repository of all recipes, or renew MODEL in it, and swap it in whole.

    \b
    Example: yard repository --check
    """
    if check:
        _check(model, profile)
    else:
        build(model, profile)


def build(model: str | None, profile: Profile) -> None:
    """Assemble the repository; engines that are missing are built first.

    For the GPU those that cannot be built here are described all the same: their config.pbtxt needs neither weights
    nor GPU.
    """
    store = Engines(ARTIFACTS)
    target = checkout.repository(profile)
    built, unbuilt = [], []
    for recipe in read_recipes(RECIPES, profile, model):
        plan = plan_or_reason(store, recipe, profile, named=model is not None)
        if isinstance(plan, str):
            say(f"engine {recipe.name}: {plan}; only its config.pbtxt is written")
            unbuilt.append(ensemble_of(recipe, profile))
            continue
        with progress(f"engine {recipe.name}") as report:
            built.append((plan, store.build(plan, report)))
    names = assemble(target, built, keep_others=model is not None, unbuilt=unbuilt)
    say(f"repository {shown(target)}: {', '.join(names)}")


def _check(model: str | None, profile: Profile) -> None:
    target = checkout.repository(profile)
    chosen = configs(read_recipes(RECIPES, profile, model), profile)
    everything = configs(read_recipes(RECIPES, profile), profile)
    found = drift(target, everything)
    if model is not None:
        found = [line for line in found if any(f"/{name}/" in line for name in chosen)]
    if found:
        again = f"yard repository{' --profile gpu' if profile == 'gpu' else ''}"
        raise RepositoryError("\n".join([*found, f"run `{again}` and commit what it writes"]))
    say(f"repository {shown(target)}: all {len(everything)} config.pbtxt are what the recipes give")
