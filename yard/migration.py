"""`yard engines --migrate`: what changes when a TensorRT-LLM engine becomes an LLM-API model."""

from rich.table import Table

from pipeline.gpu_engines import TensorRtLlmEngine
from pipeline.recipe import GenerateRecipe, Recipe
from pipeline.tensorrt_llm.migration import migration
from yard.console import out, say


def show_migration(recipe: Recipe) -> None:
    """Print the difference between the two models of `recipe`; a recipe of another kind has none."""
    engine = recipe.engine.gpu
    if not (isinstance(recipe, GenerateRecipe) and isinstance(engine, TensorRtLlmEngine)):
        return
    found = migration(recipe, engine)
    table = Table(title=f"{recipe.name}: kind = 'tensorrt_llm' -> kind = 'llmapi'", title_justify="left")
    table.add_column("")
    table.add_column("engine, TensorRT-LLM 1.2.1 at the latest")
    table.add_column("LLM API, TensorRT-LLM 1.2 and later")
    before, after = found.models
    table.add_row("models", "\n".join(before), "\n".join(after))
    for name, (old, new) in found.renamed.items():
        table.add_row(name, old, new)
    table.add_row("inputs that callers lose", "\n".join(found.gone_inputs), "-")
    table.add_row("outputs that callers lose", "\n".join(found.gone_outputs), "-")
    table.add_row("settings without successor", "\n".join(found.gone_settings) or "-", "-")
    table.add_row("built", "checkpoint, then engine, on each kind of GPU", "nothing")
    out.print(table)
    say("its model.yaml would be:")
    say(found.model_yaml.rstrip())
