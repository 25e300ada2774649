"""`yard doctor`: what this machine lacks, and what mends it."""

import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import click
from rich.table import Table

from ensembles.errors import YardError
from pipeline.engines import Engines
from pipeline.recipe import Profile, read_recipes
from serving.deployment import built_models, deployment
from serving.gpu_preflight import gpu_checks
from serving.preflight import Check, machine_checks, require_repository
from serving.site import ALL_BUT_LLM, image_of
from yard import checkout
from yard.checkout import ARTIFACTS, RECIPES, profile_option
from yard.console import out
from yard.engines import plan_or_reason


@click.command()
@profile_option
def doctor(profile: Profile) -> None:
    """Look at machine, environment, recipes and repository, and say what mends what is not well.

    \b
    Example: yard doctor
    """
    checks = [*machine_checks(), *_recipe_checks(profile), *_repository_checks(profile)]
    table = Table("", "what", "found", "to do")
    for check in checks:
        mark = "[green]ok[/]" if check.well else "[red]ill[/]"
        table.add_row(mark, check.subject, check.found, check.mend)
    out.print(table)
    if not all(check.well for check in checks):
        sys.exit(1)


def _recipe_checks(profile: Profile) -> Iterator[Check]:
    store = Engines(ARTIFACTS)
    try:
        recipes = read_recipes(RECIPES, profile)
    except YardError as error:
        yield Check("recipes", "not readable", str(error))
        return
    for recipe in recipes:
        subject = f"engine {recipe.name}"
        try:
            plan = plan_or_reason(store, recipe, profile, named=False)
        except YardError as error:
            yield Check(subject, "its checkpoint is not fit", str(error))
            continue
        if isinstance(plan, str):
            yield Check(subject, f"left out: {plan}")
            continue
        reasons = store.why(plan)
        mend = f"run `yard engines --profile {profile}`" if reasons else ""
        yield Check(subject, "; ".join(reasons) or "built and proved", mend)


def _repository_checks(profile: Profile) -> Iterator[Check]:
    """The repository by the lint; for the GPU each model that is built, with the machine that it needs."""
    target = checkout.repository(profile)
    if profile == "cpu":
        yield _lint_check("repository", target, None)
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    told: set[Check] = set()
    for name in built_models(target):
        try:
            chosen = deployment(target, [name])
            image = image_of(chosen, read_recipes(RECIPES, profile, name))
        except YardError as error:
            yield Check(f"model {name}", "cannot be served", str(error))
            continue
        yield _lint_check(f"model {name}", target, chosen.members)
        for check in gpu_checks(target, image, visible=visible, members=chosen.members):
            # The machine is the same for all of them.
            if check not in told:
                told.add(check)
                yield check
    if not told:
        yield Check("repository", "no model is built", "run `yard repository --profile gpu`")
        yield from gpu_checks(target, ALL_BUT_LLM, visible=visible, members=())


def _lint_check(subject: str, repository: Path, members: Collection[str] | None) -> Check:
    try:
        require_repository(repository, members)
    except YardError as error:
        return Check(subject, "not fit", str(error))
    return Check(subject, "no lint error")
