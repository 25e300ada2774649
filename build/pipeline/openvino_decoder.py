"""The engine kind `openvino`: a GGUF file as OpenVINO's own graph, int8, for OpenVINO GenAI.

GenAI's own GGUF reader writes it, without another exporter. The weights are first rounded to Q8_0, blocks of 32 with a
scale each: what else the reader takes it rounds on its own (Q4_1 loses its offsets: perplexity 41.5 for 32.6 on
SmolLM2-135M), and many kinds not at all. The graph: `input_ids`, `attention_mask` and `position_ids` INT64 [B, S],
`beam_idx` INT32 [B]; the cache is its state; `logits` FP32 [B, S, V].
"""

import json
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensembles.errors import YardError
from pipeline.checkpoint import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODEL = "openvino_model.xml"
WEIGHTS = "openvino_model.bin"
RUNTIME = "openvino.json"
# What GenAI 2026.4.1 reads, by GGUF's names.
FAMILIES = ("llama", "qwen2", "qwen3")
TOOLS = ("openvino", "openvino-genai", "gguf")
# How the engine is proved and served. The rest is the library's default: activations in int8, KV in uint8.
PROPERTIES = {"INFERENCE_PRECISION_HINT": "f32"}


class OpenVinoError(YardError):
    """OpenVINO GenAI is missing, or could not read what it was given."""


def build(file: Path, family: str, out: Path) -> None:
    """Write the engine of the GGUF `file` into `out`: the graph, its weights, and openvino.json.

    Raises CheckpointError: GenAI does not read its family. OpenVinoError: GenAI is missing, or failed.
    """
    if family not in FAMILIES:
        raise CheckpointError(
            f"checkpoint {file} is of model_type '{family}'; OpenVINO GenAI reads GGUF files of {', '.join(FAMILIES)}; "
            "say kind = 'onnx'"
        )
    try:
        from openvino_genai import LLMPipeline
    except ImportError as error:
        raise OpenVinoError(f"OpenVINO GenAI cannot be loaded ({error}); run `make setup`") from None
    with tempfile.TemporaryDirectory(dir=out) as work:
        rounded = Path(work) / "model.gguf"
        round_weights(file, rounded)
        try:
            LLMPipeline(str(rounded), "CPU", enable_save_ov_model=True)
        except RuntimeError as error:
            raise OpenVinoError(f"checkpoint {file}: OpenVINO GenAI cannot read it: {error}") from error
        for name in (MODEL, WEIGHTS):
            shutil.move(Path(work) / name, out / name)
    (out / RUNTIME).write_text(json.dumps(PROPERTIES, indent=2) + "\n")


def round_weights(file: Path, out: Path) -> None:
    """Write the GGUF `file` to `out` with its matrices as Q8_0, all else as it is."""
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, LlamaFileType, quants

    reader = GGUFReader(file)
    writer = GGUFWriter(out, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        # The writer's own.
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            kind, inner = field.types[0], field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), kind, inner)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    for tensor in reader.tensors:
        shape = [int(size) for size in tensor.shape[::-1]]
        weights = quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype(np.float32)
        if weights.ndim == 1:
            writer.add_tensor(tensor.name, weights)
        else:
            rounded = quants.quantize(weights, GGMLQuantizationType.Q8_0)
            writer.add_tensor(tensor.name, rounded, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class OpenVinoDecoder:
    """The plainest loop over the engine in `folder`, under the properties that it is served with: a row at a time.

    `rows` and `length` bound nothing here: the graph's state grows.
    """

    def __init__(self, folder: Path, rows: int, length: int):
        import openvino

        properties: dict[str, Any] = json.loads((folder / RUNTIME).read_text())
        self._request = openvino.Core().compile_model(folder / MODEL, "CPU", properties).create_infer_request()
        self._inputs = {port.any_name for port in self._request.model_inputs}

    def feed(self, ids: Sequence[int], cached: int) -> "NDArray[np.float32]":
        """Run `ids` behind `cached` tokens, 0 for a new text; return the logits FP32 [len(ids), V]."""
        import numpy as np

        if not cached:
            self._request.reset_state()
        total = cached + len(ids)
        feeds: dict[str, NDArray[Any]] = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(cached, total, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        found = self._request.infer({name: feeds[name] for name in feeds if name in self._inputs})
        logits: NDArray[np.float32] = found[0][0].copy()
        return logits

    def teacher_forced(self, texts: Sequence[Sequence[int]], prompt: bool = False) -> "Iterator[NDArray[np.float32]]":
        """Feed each of `texts` in one piece; yield the logits FP32 [rows, V] behind each position.

        A text that ends early goes on with its last logits: its rows are then without meaning. There is one graph,
        `prompt` or not.
        """
        import numpy as np

        found = [self.feed(text, 0) for text in texts]
        for position in range(max(map(len, texts))):
            yield np.stack([logits[min(position, len(logits) - 1)] for logits in found])

    def answering(self, prompt: Sequence[int], answer: Sequence[int]) -> "Iterator[NDArray[np.float32]]":
        """Feed `prompt` at once and `answer` token by token; yield the logits FP32 [V] before each token."""
        yield self.feed(prompt, 0)[-1]
        for place, token in enumerate(answer[:-1]):
            yield self.feed([token], len(prompt) + place)[-1]

    def generate_greedy(self, ids: Sequence[int], max_tokens: int, end_ids: Collection[int]) -> list[int]:
        """Continue the prompt `ids` by at most `max_tokens` tokens; the end token is left out."""
        answer: list[int] = []
        fed, cached = list(ids), 0
        while len(answer) < max_tokens:
            token = int(self.feed(fed, cached)[-1].argmax())
            if token in end_ids:
                break
            answer.append(token)
            cached, fed = cached + len(fed), [token]
        return answer
