"""The step `gguf_checkpoint`: a GGUF file as a plain Hugging Face checkpoint in float32, chat template included.

A step of its own, so that engines in several precisions share one conversion. Offline: transformers dequantises.
"""

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from pipeline.checkpoint import CheckpointError
from pipeline.decoder import require_family
from pipeline.fingerprint import FileDigests, tool_versions
from pipeline.store import Report, Step, Store

STEP = "gguf_checkpoint"
TOOLS = ("torch", "transformers", "gguf", "tokenizers", "safetensors")
# llama.cpp's name of the architecture -> transformers' model_type, where they differ.
RENAMED = {"gemma3": "gemma3_text"}


def require_carried(file: Path) -> tuple[str, int]:
    """Return the family and the context length, in tokens, of a GGUF file.

    Reads the header and the table of tensors, which takes seconds (gguf-py `GGUFReader`).

    Raises CheckpointError: `file` is not GGUF, is cut off, or holds a family that is not carried.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        architecture = str(_value(reader, "general.architecture"))
        context = int(_value(reader, f"{architecture}.context_length"))
    except (OSError, ValueError, IndexError, KeyError) as error:
        size = file.stat().st_size
        raise CheckpointError(f"checkpoint {file} is damaged or not GGUF ({size} bytes): {error}") from None
    family = RENAMED.get(architecture, architecture)
    require_family(file, family)
    return family, context


def _value(reader: Any, key: str) -> Any:
    """The value of a GGUF metadata key; KeyError when it is not there."""
    field = reader.get_field(key)
    if field is None:
        raise KeyError(key)
    return field.contents()


def plan_conversion(folder: Path, model: str, pinned: str, digests: FileDigests) -> Step | None:
    """Return the step that makes a folder of `folder`, whose digest is `pinned`; None where it is one already."""
    if not folder.is_file():
        return None
    covers = {"checkpoint": pinned, "tools": tool_versions(TOOLS), "source": digests.of(Path(__file__))}
    return Step(STEP, model, covers)


def converted(folder: Path, conversion: Step | None, store: Store, report: Report) -> Path:
    """Return the checkpoint as a folder in Hugging Face layout; a GGUF file is converted when it is not yet.

    Raises CheckpointError: it cannot be.
    """
    if conversion is None:
        return folder

    def make(out: Path) -> dict[str, Any]:
        report("reading the GGUF file")
        require_carried(folder)
        report("converting the GGUF file")
        convert(folder, out)
        return {}

    return store.build(conversion, make).folder


def convert(file: Path, out: Path) -> None:
    """Write the model and the tokenizer of the GGUF `file` into the folder `out`.

    Raises CheckpointError: transformers cannot read its tensors or its tokenizer.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    here = {"gguf_file": file.name, "local_files_only": True}
    try:
        with redirect_stderr(StringIO()):  # transformers asks nobody for the progress bar of GGUF tensors
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **here)
            model = AutoModelForCausalLM.from_pretrained(
                file.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **here
            )
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {file} cannot be converted: {str(error).splitlines()[0]}") from error
    # transformers takes GGUF for a quantiser and would not save it, though every weight is a plain tensor by now.
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
