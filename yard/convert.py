"""`yard convert`: a Hugging Face checkpoint -> a TensorRT-LLM checkpoint, by hand."""

from pathlib import Path
from typing import get_args

import click
from pydantic import ValidationError

from pipeline.checkpoint import locate
from pipeline.draft import source_of
from pipeline.fingerprint import FileDigests
from pipeline.gpu_engines import Dtype, Quantisation, TensorRtLlmEngine
from pipeline.tensorrt_llm.export import export
from pipeline.tensorrt_llm.settings import checkpoint_settings
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
@click.option(
    "--quantisation",
    type=click.Choice(get_args(Quantisation)),
    help="w8a16, w4a16: trtllm-build quantises the weights on load. The others: modelopt does, here, on shipped text.",
)
@click.option("--kv-cache", type=click.Choice(["fp8", "int8"]), help="Calibrated with the weights.")
def convert(
    checkpoint: str, out: Path, tp: int, pp: int, dtype: Dtype, quantisation: Quantisation | None, kv_cache: str | None
) -> None:
    """Convert SRC, a Hugging Face folder, an installed package or a Hub id with its revision, into the
    TensorRT-LLM checkpoint OUT, which trtllm-build takes. Needs no GPU; and, but for modelopt, little memory.

    \b
    Example: yard convert ./Llama-3.1-8B ./checkpoint --tp 2 --dtype bfloat16
    """
    try:
        engine = TensorRtLlmEngine.model_validate(
            {
                "kind": "tensorrt_llm",
                "tp": tp,
                "pp": pp,
                "dtype": dtype,
                "quantisation": quantisation,
                "kv_cache": kv_cache,
            }
        )
    except ValidationError as error:
        raise click.UsageError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    source = locate(source_of(checkpoint, RECIPES), RECIPES)
    with progress(f"convert {checkpoint}") as report:
        made = export(
            source, out.absolute(), checkpoint_settings(engine), FileDigests(ARTIFACTS / "digests.json"), report
        )
    size = sum(fact["bytes"] for fact in made.manifest["files"].values())
    how = "unchanged" if made.unchanged else "written"
    say(f"{how}: tp {tp}, pp {pp}, {quantisation or dtype}, {size / 1e9:.2f} GB ({shown(made.folder)})")
