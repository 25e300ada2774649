"""`yard engines`: checkpoint -> engine."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.table import Table

from pipeline.checkpoint import is_here
from pipeline.decoder_comparison import DecoderRow, compare_decoders, plot
from pipeline.encoder_comparison import EncoderRow, compare_encoders
from pipeline.engines import Engines
from pipeline.fidelity import Fidelity
from pipeline.gpu import GpuError
from pipeline.gpu_engines import LlmApiEngine, TensorRtLlmEngine
from pipeline.plan import Plan
from pipeline.quality import Parity
from pipeline.recipe import EmbedRecipe, GenerateRecipe, Profile, Recipe, read_recipes
from pipeline.served import decoder_folder
from pipeline.tensorrt_llm.engine_plan import engine_label, printed_commands
from pipeline.tensorrt_llm.model_yaml import MODEL_YAML, model_yaml
from yard.checkout import ARTIFACTS, RECIPES, model_argument, profile_option, shown
from yard.console import out, progress, say
from yard.migration import show_migration


@click.command()
@model_argument
@profile_option
@click.option("--why", is_flag=True, help="Say why each step would run or is skipped, and run nothing.")
@click.option("--compare", is_flag=True, help="Measure every precision of the CPU side by side; publishes nothing.")
@click.option("--print", "print_only", is_flag=True, help="Print the commands of the profile gpu and run nothing.")
@click.option("--migrate", is_flag=True, help="Say what changes when a TensorRT-LLM engine becomes an LLM-API model.")
def engines(model: str | None, profile: Profile, why: bool, compare: bool, print_only: bool, migrate: bool) -> None:
    """Build the engines of all recipes, or of MODEL, and prove each against its checkpoint.

    \b
    Example: yard engines minilm --why
    """
    if (print_only or migrate) and profile != "gpu":
        raise click.UsageError("--print and --migrate are for --profile gpu")
    if compare and profile != "cpu":
        raise click.UsageError("--compare is for --profile cpu")
    store = Engines(ARTIFACTS)
    for recipe in read_recipes(RECIPES, profile, model):
        if print_only:
            _print(recipe)
        elif migrate:
            show_migration(recipe)
        elif compare:
            _compare(store, recipe)
        else:
            _build_or_why(store, recipe, profile, why, named=model is not None)


def _build_or_why(store: Engines, recipe: Recipe, profile: Profile, why: bool, named: bool) -> None:
    plan = plan_or_reason(store, recipe, profile, named)
    if isinstance(plan, str):
        say(f"engine {recipe.name}: {plan}; left out")
    elif why:
        _why(store, plan)
    else:
        build(store, plan)


def plan_or_reason(store: Engines, recipe: Recipe, profile: Profile, named: bool) -> Plan | str:
    """Return the plan of `recipe`, or why it is left out.

    Nobody downloads a Hub checkpoint, or is refused for want of a GPU, who did not name the model.
    """
    if not named and not is_here(recipe.checkpoint):
        name = f"yard engines {recipe.name} --profile {profile}"
        return f"its checkpoint {recipe.checkpoint} is not on this machine (`{name}` downloads it)"
    try:
        return store.plan(recipe, profile)
    except GpuError as error:
        if named:
            raise
        return str(error)


def build(store: Engines, plan: Plan) -> None:
    """Build the engine of `plan` and say what came of it."""
    skipped = not store.why(plan)
    with progress(f"engine {plan.recipe.name}") as report:
        artefact = store.build(plan, report)
    how = "unchanged, skipped" if skipped else f"built in {artefact.manifest['seconds']:.0f} s"
    proof = _proof(artefact.facts)
    say(f"engine {plan.recipe.name} {plan.label}: {how}; {proof}({shown(artefact.folder)})")


def _print(recipe: Recipe) -> None:
    """The commands that make the engine, as a shell takes them."""
    engine = recipe.engine.gpu
    if isinstance(recipe, GenerateRecipe) and isinstance(engine, TensorRtLlmEngine):
        say(f"# {recipe.name}: {engine_label(engine)}")
        for argv in printed_commands(recipe, engine):
            say(shlex.join(argv))
    elif isinstance(recipe, GenerateRecipe) and isinstance(engine, LlmApiEngine):
        say(f"# {recipe.name}: nothing is built; its {MODEL_YAML}:")
        say(model_yaml(engine, recipe.limits, str(decoder_folder(recipe.name))).rstrip())
    else:
        say(f"# {recipe.name}: built by `yard engines {recipe.name} --profile gpu` itself, without a container")


def _proof(facts: Mapping[str, Any]) -> str:
    """What was measured of an engine, in one clause."""
    if "parity" in facts:
        parity = Parity(**facts["parity"])
        return (
            f"max abs difference {parity.max_abs_difference:.2g}, min cosine {parity.min_cosine:.6f} over "
            f"{parity.texts} texts "
        )
    if "fidelity" not in facts:
        return ""
    fidelity = Fidelity(**facts["fidelity"])
    return (
        f"perplexity {fidelity.perplexity:.2f} (checkpoint {fidelity.checkpoint_perplexity:.2f}), greedy agreement "
        f"{fidelity.greedy_agreement:.1%} over {fidelity.answer_tokens} tokens, max logit difference "
        f"{fidelity.max_logit_difference:.2g} "
    )


def _why(store: Engines, plan: Plan) -> None:
    reasons = store.why(plan)
    state = "would run" if reasons else "is skipped: nothing it reads has changed"
    say(f"{plan.step.name} {plan.recipe.name} [{plan.step.key}] {state}")
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
