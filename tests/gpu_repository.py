"""A repository of the profile `gpu` on a machine without one: real configs and text steps, engines stood in for."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import yaml
from text_calls import byte_tokenizer

from ensembles.model import Ensemble
from ensembles.pbtxt import dump
from serving import embedded
from serving.embedded import Launch, Ports
from yard.checkout import BACKENDS

STAND_INS = Path(__file__).parent / "stand_ins"
# Ours where they run on the CPU, a stand-in where they need what is not here.
WHERE = {
    "tokenizer": BACKENDS / "tokenizer",
    "detokenizer": BACKENDS / "detokenizer",
    "pooler": BACKENDS / "pooler",
    "tensorrtllm": STAND_INS / "tensorrtllm",
    "tensorrt": STAND_INS / "tensorrt",
    "onnxruntime": STAND_INS / "tensorrt",
    "llmapi": STAND_INS / "llmapi",
}
TEMPLATE = "{%- for message in messages -%}<{{ message.role }}>{{ message.content }}{%- endfor -%}<assistant>"
ENDS = {"<eos>": 256, "<eot>": 257}
# As `model.yaml` says it to Triton.
TRITON = {"max_batch_size": 1, "decoupled": True}


def write_backends(folder: Path) -> Path:
    """Link the backends into the new folder `folder`."""
    folder.mkdir()
    for name, place in WHERE.items():
        (folder / name).symlink_to(place)
    return folder


def write_models(repository: Path, configs: Mapping[str, str]) -> None:
    """Write models by the text of their config.pbtxt, with all that any step reads in their version folders.

    A token is a byte, and two tokens end an answer. The one change to a config: a server that sees no GPU refuses
    instances on one.
    """
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(list(ENDS))
    assert all(tokenizer.token_to_id(token) == id for token, id in ENDS.items())
    for name, config in configs.items():
        version = repository / name / "1"
        (version / "checkpoint").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(config.replace("kind: KIND_GPU", "kind: KIND_CPU"))
        tokenizer.save(str(version / "tokenizer.json"))
        (version / "chat.json").write_text(json.dumps({"template": TEMPLATE, "bos_token": None}))
        (version / "decoder.json").write_text(json.dumps({"end_ids": [*ENDS.values()], "pad_id": 256}))
        document = {"model": "checkpoint", "max_seq_len": 512, "triton_config": TRITON}
        (version / "model.yaml").write_text(yaml.safe_dump(document))


def configs_of(ensemble: Ensemble) -> dict[str, str]:
    """Return the config.pbtxt of an ensemble and of its models."""
    return {model.name: dump(model) for model in (ensemble, *ensemble.models)}


def committed(repository: Path) -> dict[str, str]:
    """Return the config.pbtxt files of a repository of the checkout."""
    return {file.parent.name: file.read_text() for file in repository.glob("*/config.pbtxt")}


def launch(repository: Path, backends: Path, ports: Ports, scratch: Path, key: str) -> Launch:
    """Start the embedded server as one with LLM-API models is: their model.yaml completes their config.pbtxt."""
    made = embedded.launch(repository, backends, ports, scratch, key)
    return replace(made, argv=[word for word in made.argv if word != "--disable-auto-complete-config"])
