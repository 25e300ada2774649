"""The engine kind `onnx encoder`: a Hugging Face encoder as one ONNX graph, fp32, fp16 or int8.

The graph takes int64 [batch, sequence] inputs and gives `last_hidden_state`, float32 [batch, sequence, hidden], also
when it computes in float16. Pooling stays outside: inside the graph it breaks the last layer's fusion. Only the legacy
exporter with eager attention fuses fully (Attention, EmbedLayerNormalization, SkipLayerNormalization, BiasGelu). Those
operators are ONNX Runtime's own: TensorRT takes the graph without them.
"""

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.encoder import Encoder
from pipeline.recipe import EmbedPrecision
from pipeline.store import Report

if TYPE_CHECKING:
    from torch import nn

OPSET = 17
OUTPUT = "last_hidden_state"
MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
TOOLS = ("torch", "transformers", "onnx", "onnxruntime", "tokenizers")


def load_reference(folder: Path) -> "nn.Module":
    """Return the checkpoint as a PyTorch float32 model in evaluation mode: what every engine is proved against."""
    import torch
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    model: nn.Module = AutoModel.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, local_files_only=True
    )
    return model.eval()


def export(
    reference: "nn.Module",
    encoder: Encoder,
    precision: EmbedPrecision,
    out: Path,
    report: Report,
    fused: bool = True,
) -> None:
    """Write the engine of `reference` into the folder `out` as model.onnx.

    Unless `fused`, it has operators of the ONNX standard alone, for TensorRT.
    """
    with _quiet():
        report("exporting to ONNX")
        _trace(reference, encoder, out / MODEL)
        if fused:
            report("fusing the graph")
            _fuse(out / MODEL, encoder)
        if precision == "int8":
            report("quantising to int8")
            _quantize(out / MODEL)
        elif precision == "fp16":
            report("converting to fp16")
            _halve(out / MODEL)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's and the optimizer's chatter to themselves: the gate decides what is wrong."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _trace(reference: "nn.Module", encoder: Encoder, file: Path) -> None:
    import torch

    class Traced(torch.nn.Module):
        """The reference with positional inputs and one output, as the exporter wants it."""

        def __init__(self, model: torch.nn.Module):
            super().__init__()
            self.model = model

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            output = self.model(**dict(zip(encoder.inputs, inputs, strict=True)))
            hidden: torch.Tensor = output.last_hidden_state
            return hidden

    ids = torch.ones((2, 8), dtype=torch.int64)
    example = {"input_ids": ids, "attention_mask": ids, "token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        torch.onnx.export(
            # The exporter restores the mode it found, into the reference too: without eval() dropout comes on.
            Traced(reference).eval(),
            tuple(example[name] for name in encoder.inputs),
            file,
            input_names=list(encoder.inputs),
            output_names=[OUTPUT],
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in (*encoder.inputs, OUTPUT)},
            opset_version=OPSET,
            dynamo=False,
        )


def _fuse(file: Path, encoder: Encoder) -> None:
    from onnxruntime.transformers import optimizer

    fused = optimizer.optimize_model(
        str(file), model_type="bert", num_heads=encoder.heads, hidden_size=encoder.hidden_size, opt_level=1
    )
    # The legacy exporter may lose the static width of the output, which config.pbtxt promises.
    (output,) = fused.model.graph.output
    output.type.tensor_type.shape.dim[2].dim_value = encoder.hidden_size
    fused.save_model_to_file(str(file))


def _quantize(file: Path) -> None:
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    floating = file.with_suffix(".fp32")
    file.rename(floating)
    # Per channel: one scale a tensor costs 0.04 of cosine. A full signed range is safe on AVX512-VNNI and AVX2.
    quantize_dynamic(
        floating,
        file,
        per_channel=True,
        reduce_range=False,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Attention"],
        extra_options={"DefaultTensorType": TensorProto.FLOAT, "MatMulConstBOnly": True},
    )
    floating.unlink()


def _halve(file: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    # Types in the graph, not hints beside it: TensorRT 11 takes nothing else, and the proof on the CPU holds for them.
    onnx.save(convert_float_to_float16(onnx.load(file), keep_io_types=True), file)


def save_tokenizer(folder: Path, out: Path) -> None:
    """Write the checkpoint's tokenizer into `out` as tokenizer.json: its own file, or made from its older form."""
    own = folder / TOKENIZER
    if own.exists():
        shutil.copyfile(own, out / TOKENIZER)
        return
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer.save(str(out / TOKENIZER))


def open_session(file: Path, threads: int = 0) -> Any:
    """Open an engine in process on the CPU; `threads` 0 means one a core."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def signature(file: Path) -> dict[str, Any]:
    """Return the engine's own inputs and outputs: ``{side: {name: [type, shape]}}``, -1 where a size varies."""
    session = open_session(file, threads=1)

    def side(arguments: Any) -> dict[str, Any]:
        return {
            argument.name: [
                argument.type,
                [size if isinstance(size, int) else -1 for size in argument.shape],
            ]
            for argument in arguments
        }

    return {"inputs": side(session.get_inputs()), "outputs": side(session.get_outputs())}
