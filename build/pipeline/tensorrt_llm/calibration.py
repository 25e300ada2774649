"""Quantisation by NVIDIA's modelopt, calibrated on the shipped text: the work of a process of its own.

The text is none that an engine is judged by. modelopt's own examples take 512 news articles; a pass here is at most
ROWS rows of ROW_TOKENS tokens, so that AWQ, which tries eleven scalings of every layer, ends on a CPU too.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.fidelity import PASSAGE_TOKENS, PROSE, read_lines
from pipeline.store import Report
from pipeline.tensorrt_llm.quantised_checkpoint import Algorithm, KvCache, Quantisation

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TEXT = Path(__file__).parent.parent / "texts" / "calibration.txt"
ROWS = 16
ROW_TOKENS = 512

# modelopt/torch/quantization/config.py; the int8 key-value cache is its fp8 one in other numbers.
CONFIG: Mapping[Algorithm, str] = {
    "fp8": "FP8_DEFAULT_CFG",
    "int8_sq": "INT8_SMOOTHQUANT_CFG",
    "int4_awq": "INT4_AWQ_CFG",
    "w4a8_awq": "W4A8_AWQ_BETA_CFG",
}
KV_BITS: Mapping[KvCache, int | tuple[int, int]] = {"fp8": (4, 3), "int8": 8}
# modelopt's name for every family that is carried: with its "qwen" it asks for TensorRT-LLM itself.
DECODER = "llama"


def run(source: Path, out: Path, settings: Quantisation, lines: Connection, log: str) -> None:
    """Do all of it in this process, whose output goes to the file `log`.

    What it is at is sent through `lines`, and what it measured last of all.
    """
    with Path(log).open("w") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    # When nobody reads any more, sending fails, and so ends a process that was left behind.
    lines.send(export(source, out, settings, lines.send))


def export(source: Path, out: Path, settings: Quantisation, report: Report) -> Mapping[str, float]:
    """Quantise the Hugging Face folder `source`, and write modelopt's TensorRT-LLM checkpoint into `out`.

    Returns the `checkpoint_perplexity`, and the `perplexity` of the quantised model in modelopt's simulation.
    """
    import modelopt.torch.quantization as quantization
    import torch
    from modelopt.torch.export import export_tensorrt_llm_checkpoint
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report("loading the checkpoint")
    dtype = getattr(torch, settings.dtype)
    devices = "auto" if torch.cuda.is_available() else None
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        source, dtype=dtype, device_map=devices, local_files_only=True
    ).eval()
    longest = min(ROW_TOKENS, model.config.max_position_embeddings)
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    ids = torch.tensor(rows([tokenizer(text).input_ids for text in read_passages()], longest))
    prose = [tokenizer(text).input_ids[: min(PASSAGE_TOKENS, longest)] for text in read_lines(PROSE)]
    config = quantiser_config(getattr(quantization, CONFIG[settings.algorithm]), settings.kv_cache)
    with torch.no_grad():
        report("measuring the checkpoint's perplexity")
        before = _perplexity(model, prose)
        quantization.quantize(model, config, forward_loop=_forward_loop(ids, report))
        report("measuring the quantised model's perplexity")
        after = _perplexity(model, prose)
        report("writing the quantised checkpoint")
        export_tensorrt_llm_checkpoint(model, DECODER, dtype, out, settings.tp, settings.pp)
    return {"perplexity": after, "checkpoint_perplexity": before}


def _forward_loop(ids: "torch.Tensor", report: Report) -> Callable[["PreTrainedModel"], None]:
    """What modelopt calls for each pass over the text; it says which layer it is at."""
    passes = 0

    def loop(model: "PreTrainedModel") -> None:
        nonlocal passes
        passes += 1
        layers = model.base_model.layers
        hooks = [
            layer.register_forward_pre_hook(
                lambda *_, at=at: report(
                    f"calibrating on {ids.numel()} tokens, pass {passes}, layer {at} of {len(layers)}"
                )
            )
            for at, layer in enumerate(layers, start=1)
        ]
        # Without the head: it stays float, and its logits would be the largest tensor of all.
        model.base_model(ids.to(model.device), use_cache=False)
        for hook in hooks:
            hook.remove()

    return loop


def _perplexity(model: "PreTrainedModel", passages: Sequence[Sequence[int]]) -> float:
    """The perplexity over all tokens of `passages` but the first of each, in float32."""
    import torch

    losses = []
    for passage in passages:
        ids = torch.tensor([passage], device=model.device)
        logits = model(ids, use_cache=False).logits[0, :-1].float()
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").cpu())
    return float(torch.cat(losses).mean().exp())


def quantiser_config(config: Mapping[str, Any], kv_cache: KvCache | None) -> dict[str, Any]:
    """Return one of modelopt's configurations with the quantisers of keys and values added."""
    if kv_cache is None:
        return dict(config)
    keys_and_values = {"num_bits": KV_BITS[kv_cache], "axis": None, "enable": True}
    return {**config, "quant_cfg": {**config["quant_cfg"], "*[kv]_bmm_quantizer": keys_and_values}}


def rows(passages: Sequence[Sequence[int]], longest: int) -> list[list[int]]:
    """Return the token ids of all passages in rows of `longest`, at most ROWS; what fills none is left out.

    Fewer ids than one row make a shorter one.
    """
    ids = [token for passage in passages for token in passage]
    if len(ids) <= longest:
        return [ids]
    return [ids[start : start + longest] for start in range(0, len(ids) - longest + 1, longest)][:ROWS]


def read_passages() -> list[str]:
    """Return the shipped calibration passages, one a line."""
    return TEXT.read_text(encoding="utf-8").splitlines()
