"""`yard convert`: a Hugging Face checkpoint -> a TensorRT-LLM checkpoint, by hand."""

from pathlib import Path
from typing import cast

import click

from pipeline.checkpoint import locate
from pipeline.draft import source_of
from pipeline.fingerprint import FileDigests
from pipeline.tensorrt_llm.export import export
from pipeline.tensorrt_llm.split import Dtype, Split, WeightOnly
from yard.checkout import ARTIFACTS, RECIPES, shown
from yard.console import progress, say


@click.command()
@click.argument("checkpoint", metavar="SRC")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--tp", type=click.IntRange(min=1), default=1, show_default=True, help="GPUs that share each layer.")
@click.option(
    "--pp", type=click.IntRange(min=1), default=1, show_default=True, help="Groups of layers, each on its GPUs."
)
@click.option("--dtype", type=click.Choice(["float16", "bfloat16"]), default="bfloat16", show_default=True)
@click.option("--weights", type=click.Choice(["W8A16", "W4A16"]), help="What trtllm-build shall quantise them to.")
def convert(checkpoint: str, out: Path, tp: int, pp: int, dtype: str, weights: str | None) -> None:
    """Convert SRC, a Hugging Face folder, an installed package or a Hub id with its revision, into the
    TensorRT-LLM checkpoint OUT, which trtllm-build takes. Needs no GPU, and little memory.

    \b
    Example: yard convert ./Llama-3.1-8B ./checkpoint --tp 2 --dtype bfloat16
    """
    source = locate(source_of(checkpoint, RECIPES), RECIPES)
    split = Split(tp, pp, cast(Dtype, dtype), cast(WeightOnly | None, weights))
    with progress(f"convert {checkpoint}") as report:
        made = export(source, out.absolute(), split, FileDigests(ARTIFACTS / "digests.json"), report)
    size = sum(fact["bytes"] for fact in made.manifest["files"].values())
    how = "unchanged" if made.unchanged else "written"
    say(f"{how}: tp {tp}, pp {pp}, {weights or dtype}, {size / 1e9:.2f} GB ({shown(made.folder)})")
