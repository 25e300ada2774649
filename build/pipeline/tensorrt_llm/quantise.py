"""A Hugging Face decoder as a quantised TensorRT-LLM checkpoint: NVIDIA's modelopt quantises and exports it.

What is carried is what nvidia-modelopt 0.37.0 was seen to write right with transformers 5.23.0, without TensorRT-LLM
installed: its tensors are taken as they are, its config.json is not (it drops the base of a rotary embedding that
transformers 5 nests, and knows none for Qwen).
"""

import importlib.util
import multiprocessing
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.checkpoint import CheckpointError, read_json, require_whole
from pipeline.fingerprint import file_digest, tool_versions
from pipeline.store import Report
from pipeline.tensorrt_llm import calibration
from pipeline.tensorrt_llm.family import Model, read_model
from pipeline.tensorrt_llm.quantised_checkpoint import (
    AWQ,
    GROUP,
    Quantisation,
    QuantisationError,
    require_contract,
    write_config,
)
from pipeline.tensorrt_llm.split import require_split

MODELOPT = "nvidia-modelopt"
TOOLS = (MODELOPT, "torch", "transformers")
# modelopt pads a vocabulary to this when it packs weights in 4 bits.
VOCABULARY = 64
LAST_LINES = 5


def require_quantisable(source: Path, settings: Quantisation) -> Model:
    """Return the sizes of the decoder in the Hugging Face folder `source`; nothing is loaded.

    Raises CheckpointError: it is not whole, of a kind that is not carried, or cannot be cut as `settings` say.
    """
    model = read_model(source, read_json(source / "config.json"))
    if model.family == "gpt2":
        raise CheckpointError(
            f"checkpoint {source} is a GPT-2, whose position embedding {MODELOPT} 0.37.0 cuts among the GPUs, which "
            "TensorRT-LLM does not; choose w8a16 or w4a16, which trtllm-build makes of plain weights"
        )
    require_split(source, model, settings.split)
    if model.layers % settings.pp:
        raise CheckpointError(
            f"checkpoint {source} has {model.layers} layers; {MODELOPT} makes stages of equal size, and pp "
            f"{settings.pp} does not divide them"
        )
    if settings.algorithm == "int8_sq" and model.kv_heads < settings.tp:
        raise CheckpointError(
            f"checkpoint {source} has {model.kv_heads} key-value heads for tp {settings.tp}; {MODELOPT} does not "
            f"repeat them for int8_sq: choose fp8, or a tp of at most {model.kv_heads}"
        )
    _require_groups(source, model, settings)
    require_whole(source)
    return model


def _require_groups(source: Path, model: Model, settings: Quantisation) -> None:
    """Raise CheckpointError unless every row that a rank holds is whole groups of weights."""
    awq = settings.algorithm in AWQ
    multiple = settings.tp * (GROUP if awq else 1)
    sizes = {
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "attention heads * head_size": model.heads * model.head_size,
    }
    mends = [*(["fp8 or int8_sq"] if awq else []), *(["a smaller tp"] if settings.tp > 1 else [])]
    for name, size in sizes.items():
        if size % multiple:
            raise CheckpointError(
                f"checkpoint {source} has {name} {size}; {settings.algorithm} at tp {settings.tp} needs a multiple of "
                f"{multiple}: choose {', or '.join(mends)}"
            )
    if awq and model.vocab_size % VOCABULARY:
        raise CheckpointError(
            f"checkpoint {source} has a vocabulary of {model.vocab_size}; for {settings.algorithm} {MODELOPT} pads it "
            f"to a multiple of {VOCABULARY} with tokens that could be chosen: choose fp8 or int8_sq"
        )


def quantise(source: Path, out: Path, settings: Quantisation, report: Report) -> Mapping[str, Any]:
    """Write the Hugging Face folder `source` as a quantised checkpoint into the existing empty folder `out`.

    Loads all of the model, in `settings.dtype`, on the GPUs where there are any. Returns what was done and measured:
    `algorithm`, `kv_cache`, the digest of the `calibration` text, versions of the `tools`, `seconds`, and `perplexity`
    on the shipped prose of the model with its weights, activations and cache rounded, beside `checkpoint_perplexity`.

    Raises CheckpointError: `source` is not carried, or modelopt is not installed; before anything is loaded.
    Raises QuantisationError: modelopt failed, or what it wrote is not what TensorRT-LLM reads.
    """
    model = require_quantisable(source, settings)
    require_modelopt()
    begun = time.monotonic()
    measured = _calibrate(source, out, settings, report)
    report("checking the quantised checkpoint")
    require_contract(out, model, settings)
    write_config(out, model, settings)
    return {
        "algorithm": settings.algorithm,
        "kv_cache": settings.kv_cache,
        "calibration": file_digest(calibration.TEXT),
        "tools": tool_versions(TOOLS),
        "seconds": round(time.monotonic() - begun, 1),
        **measured,
    }


def require_modelopt() -> None:
    """Raise CheckpointError, with the command that installs it, when modelopt is not there."""
    if importlib.util.find_spec("modelopt") is None:
        raise CheckpointError(
            f"quantisation needs {MODELOPT}, which is not installed; run python3.11 bootstrap.py --extra quantise"
        )


def _calibrate(source: Path, out: Path, settings: Quantisation, report: Report) -> Mapping[str, float]:
    """Run the calibration in a process of its own: modelopt patches transformers, and prints as it pleases.

    Returns the perplexities that it measured.
    """
    measured: Mapping[str, float] = {}
    context = multiprocessing.get_context("spawn")
    lines, ours = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile(mode="r", errors="replace", suffix=".log") as log:
        child = context.Process(target=calibration.run, args=(source, out, settings, ours, log.name), daemon=True)
        child.start()
        ours.close()  # the child's end alone is left, so that its death ends the lines
        try:
            while True:
                said = lines.recv()
                if isinstance(said, str):
                    report(said)
                else:
                    measured = said
        except EOFError:
            child.join()
        finally:
            child.kill()
            child.join()
        if child.exitcode:
            raise QuantisationError(_failure(source, settings, child.exitcode, log.read()))
    return measured


def _failure(source: Path, settings: Quantisation, code: int, log: str) -> str:
    if code < 0:
        return (
            f"checkpoint {source}: {settings.algorithm} was killed by signal {-code}; where that is 9 the memory was "
            f"not enough: the whole model in {settings.dtype} must fit"
        )
    words = "\n".join(log.replace("\r", "\n").strip().splitlines()[-LAST_LINES:])
    return f"checkpoint {source}: {MODELOPT} failed at {settings.algorithm}:\n{words}"
