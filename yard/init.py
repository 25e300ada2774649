"""`yard init`: a checkpoint -> its recipe."""

import click

from ensembles.errors import YardError
from pipeline.draft import draft, model_name
from pipeline.fingerprint import FileDigests
from pipeline.recipe import Profile, read_recipe, require_model_name
from yard.checkout import ARTIFACTS, RECIPES, profile_option, shown
from yard.console import progress, say


@click.command()
@click.argument("checkpoint")
@click.option("--name", help="The model's name; otherwise made from the checkpoint's.")
@profile_option
@click.option("--force", is_flag=True, help="Replace a recipe that is there.")
def init(checkpoint: str, name: str | None, profile: Profile, force: bool) -> None:
    """Look at CHECKPOINT and write its recipe: a folder, a GGUF file, an installed package, or a Hub
    id with its revision.

    \b
    Example: yard init ./my-encoder --name reviews
    """
    name = model_name(checkpoint) if name is None else name
    require_model_name(name)
    file = RECIPES / f"{name}.toml"
    if file.exists() and not force:
        raise YardError(f"{shown(file)} is there already; choose another --name, or replace it with --force")
    with progress(f"init {checkpoint}") as report:
        report("reading the checkpoint")
        text = draft(checkpoint, RECIPES, FileDigests(ARTIFACTS / "digests.json"), profile)
    temporary = file.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(file)
    recipe = read_recipe(file)
    flag = "" if profile == "cpu" else f" --profile {profile}"
    say(text.rstrip())
    say(f"written to {shown(file)}; next: yard engines {recipe.name}{flag} && yard repository {recipe.name}{flag}")
