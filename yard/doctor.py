"""`yard doctor`: what this machine lacks, and what mends it."""

import sys

import click
from rich.table import Table

from ensembles.errors import YardError
from pipeline.engines import Engines
from pipeline.recipe import read_recipes
from serving.preflight import Check, machine_checks, require_repository
from yard import checkout
from yard.checkout import ARTIFACTS, RECIPES, profile_option
from yard.console import out


@click.command()
@profile_option
def doctor(profile: str) -> None:
    """Look at machine, environment, recipes and repository, and say what mends what is not well.

    \b
    Example: yard doctor
    """
    checks = [*machine_checks(), *_recipe_checks(), _repository_check(profile)]
    table = Table("", "what", "found", "to do")
    for check in checks:
        mark = "[green]ok[/]" if check.well else "[red]ill[/]"
        table.add_row(mark, check.subject, check.found, check.mend)
    out.print(table)
    if not all(check.well for check in checks):
        sys.exit(1)


def _recipe_checks() -> list[Check]:
    store = Engines(ARTIFACTS)
    checks = []
    try:
        recipes = read_recipes(RECIPES)
    except YardError as error:
        return [Check("recipes", "not readable", str(error))]
    for recipe in recipes:
        subject = f"engine {recipe.name}"
        try:
            reasons = store.why(store.plan(recipe))
        except YardError as error:
            checks.append(Check(subject, "its checkpoint is not fit", str(error)))
            continue
        mend = "run `yard engines`" if reasons else ""
        checks.append(Check(subject, "; ".join(reasons) or "built and proved", mend))
    return checks


def _repository_check(profile: str) -> Check:
    target = checkout.repository(profile)
    try:
        require_repository(target)
    except YardError as error:
        return Check("repository", f"{profile}: not fit", str(error))
    return Check("repository", f"{profile}: no lint error")
