"""The engine kind `onnx decoder`: a Hugging Face decoder as one ONNX graph with shared key-value buffers.

onnxruntime-genai's model builder writes it; it alone gives fused GroupQueryAttention whose past and present may be the
same memory. The graph: `input_ids` [B, S] and `attention_mask` [B, T] INT64, T the cached and new tokens of the
longest row, maybe `position_ids` [B, S]; `past_key_values.N.key|value` and `present.N.key|value` FP32 or FP16
[B, heads, length, head size]; `logits` FP32 or FP16 [B, 1, vocabulary] of each row's last token. Weights lie beside it.

A graph for the CUDA provider, which has GroupQueryAttention in FP16 alone, is written and proved without a GPU: the CPU
provider runs it too.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

from ensembles.errors import YardError
from ensembles.generate import Provider
from pipeline.checkpoint import CheckpointError
from pipeline.integer_graphs import write_integer_graphs
from pipeline.onnx_encoder import MODEL, TOKENIZER, signature
from pipeline.recipe import GeneratePrecision

DATA = "model.onnx.data"
DECODER = "decoder.json"
CHAT = "chat.json"
TOOLS = ("torch", "transformers", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-genai", "tokenizers")
# Blocks of 64 weights a scale are as exact as 32 and faster; only the last position's logits are ever wanted. Norms of
# queries and keys stay operators of their own, for inside attention the CPU provider does not have them.
OPTIONS = {"block_size": "64", "prune_lm_head": "true", "hf_token": "false", "fuse_qk_norm_gqa": "false"}
# What caches and logits may be: ONNX's names, and numpy's.
FLOATS = {"tensor(float)": "float32", "tensor(float16)": "float16"}
INPUTS = {"input_ids": "tensor(int64)", "attention_mask": "tensor(int64)", "position_ids": "tensor(int64)"}
LAST_LINES = 5


class BuilderError(YardError):
    """onnxruntime-genai's model builder failed, or wrote a graph that cannot be served."""


def build(folder: Path, precision: GeneratePrecision, out: Path, provider: Provider = "cpu") -> None:
    """Write the engine of the checkpoint in `folder` for `provider` into `out` as model.onnx and model.onnx.data.

    An int8 engine for the CPU gets its integer graphs too, where the family allows it.

    Raises BuilderError: the builder failed, with its last lines.
    """
    with tempfile.TemporaryDirectory(dir=out) as work:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "--input", str(folder), "--output", work]
        command += ["--precision", precision, "--execution_provider", provider, "--cache_dir", f"{work}/cache"]
        command += ["--extra_options", *(f"{key}={value}" for key, value in OPTIONS.items())]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        done = subprocess.run(
            command, env=environment, stdout=PIPE, stderr=STDOUT, text=True, errors="replace", check=False
        )
        if done.returncode:
            words = "\n".join(done.stdout.replace("\r", "\n").strip().splitlines()[-LAST_LINES:])
            raise BuilderError(
                f"checkpoint {folder}: onnxruntime-genai's model builder ended with exit code {done.returncode}:\n"
                f"{words}"
            )
        for name in (MODEL, DATA):
            (Path(work) / name).rename(out / name)
    if (precision, provider) == ("int8", "cpu"):
        write_integer_graphs(out)


def require_graph(file: Path, vocabulary: int) -> dict[str, Any]:
    """Return the engine's own inputs and outputs.

    Raises BuilderError: they are not those of a decoder with shared key-value buffers; each difference is named.
    """
    found = signature(file)
    wrong = list(_differences(found["inputs"], found["outputs"], vocabulary))
    if wrong:
        raise BuilderError(f"engine {file} cannot be served: {'; '.join(wrong)}")
    return found


def _differences(inputs: dict[str, Any], outputs: dict[str, Any], vocabulary: int) -> Iterable[str]:
    past = [name for name in inputs if name.startswith("past_key_values.")]
    if not past:
        yield "it has no inputs past_key_values.N.key and .value"
    for name in ("input_ids", "attention_mask"):
        if name not in inputs:
            yield f"it has no input {name}"
    for name, (kind, shape) in inputs.items():
        if name in past:
            if kind not in FLOATS or len(shape) != 4 or shape[1] < 1:
                yield f"its input {name} is {kind} {shape}, not {' or '.join(FLOATS)} [-1, heads, -1, -1]"
            if outputs.get(present := name.replace("past_key_values", "present")) != [kind, shape]:
                yield f"its output {present} is {outputs.get(present, 'missing')}, not {[kind, shape]}"
        elif kind != INPUTS.get(name):
            yield f"its input {name} of type {kind} is not known"
    wanted = [[kind, [-1, 1, vocabulary]] for kind in FLOATS]
    if outputs.get("logits") not in wanted:
        yield f"its output logits is {outputs.get('logits', 'missing')}, not {' or '.join(map(str, wanted))}"


def save_facts(folder: Path, context: int, out: Path) -> dict[str, Any]:
    """Write tokenizer.json, chat.json and decoder.json of the checkpoint in `folder` into `out`; `context` is
    how many tokens the engine is right for.

    Returns what decoder.json says: `end_ids`, `pad_id`, `bos_id` (or null), `vocab_size`, `context`, `head_size`.

    Raises CheckpointError: there is no tokenizer that tokenizer.json can hold, or nothing ends an answer.
    """
    from transformers import AutoConfig

    tokenizer = load_tokenizer(folder)
    # The loaded form, not the file: transformers may add to it what tokenizer_config.json says.
    plain = tokenizer.backend_tokenizer
    plain.no_padding()
    plain.no_truncation()
    plain.save(str(out / TOKENIZER))
    special = {name: word for name, word in tokenizer.special_tokens_map.items() if isinstance(word, str)}
    template = tokenizer.chat_template
    if isinstance(template, dict):  # several by name
        template = template.get("default")
    chat = {"template": template, "bos_token": None, "eos_token": None, **special}
    (out / CHAT).write_text(json.dumps(chat, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    facts = {**_facts(folder, config, tokenizer), "context": context}
    (out / DECODER).write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def load_tokenizer(folder: Path) -> Any:
    """Return the checkpoint's fast tokenizer; an older form is converted.

    Raises CheckpointError: there is none, or it has no fast form.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(f"checkpoint {folder}: its tokenizer cannot be read: {error}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(f"checkpoint {folder} has a tokenizer that tokenizer.json cannot hold; give a fast one")
    return tokenizer


def _facts(folder: Path, config: Any, tokenizer: Any) -> dict[str, Any]:
    generation = folder / "generation_config.json"
    declared = json.loads(generation.read_text()).get("eos_token_id") if generation.exists() else None
    end_ids = sorted({*_ids(config.eos_token_id), *_ids(declared), *_ids(tokenizer.eos_token_id)})
    if not end_ids:
        raise CheckpointError(f"checkpoint {folder} names no eos_token_id: no answer would end")
    pads = [*_ids(config.pad_token_id), *_ids(tokenizer.pad_token_id), *end_ids]
    starts = [*_ids(config.bos_token_id), *_ids(tokenizer.bos_token_id)]
    return {
        "end_ids": end_ids,
        "pad_id": pads[0],
        "bos_id": starts[0] if starts else None,
        "vocab_size": config.vocab_size,
        "head_size": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
    }


def _ids(value: int | list[int] | None) -> list[int]:
    """The token ids of a config's entry, which may be none, one or several."""
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
