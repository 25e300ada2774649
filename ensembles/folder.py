"""One folder of a model repository: its config, its versions, the files its backend loads; rules TY101 to TY108.

Reads versions and backend as tritonserver does, oddities included. Knows nothing of tensors and wiring.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from google.protobuf.message import Message
from tritonclient.grpc.model_config_pb2 import ModelConfig

from ensembles.errors import near_miss
from ensembles.finding import Finding, finding
from ensembles.pbtxt import PbtxtError, parse

ENSEMBLE = "ensemble"
PLATFORMS = {
    "tensorrt_plan": "tensorrt",
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
}
# What each backend loads from a version folder, in the order in which the server guesses a backend by file.
ARTEFACTS = {
    "tensorrt": "model.plan",
    "onnxruntime": "model.onnx",
    "openvino": "model.xml",
    "pytorch": "model.pt",
    "python": "model.py",
}
NOT_VERSIONS = ("warmup", "initial_state", "configs")
# The server reads the integer that a folder's name begins with: it takes '1.bak' for version 1.
VERSION = re.compile(r"[+-]?[0-9]+")
# A whole value only for braces: a chat template holds them rightly.
PLACEHOLDER = re.compile(r"\$\{[^}]*\}|^\s*\{\{\s*\w+\s*\}\}\s*$")


@dataclass(frozen=True)
class Folder:
    """A model's folder; `config` is None where it cannot be read, for the `reason` given."""

    path: Path
    config: ModelConfig | None
    reason: str = ""

    @property
    def name(self) -> str:
        """The folder's name, by which ensembles and requests know the model."""
        return self.path.name

    @cached_property
    def versions(self) -> dict[int, str]:
        """The version that the server sees in each subfolder, to the subfolder's name."""
        found = {}
        for name in sorted(_subfolders(self.path), reverse=True):
            leading_zero = len(name) > 1 and name.startswith("0")
            if name not in NOT_VERSIONS and not leading_zero and (match := VERSION.match(name)):
                found[int(match.group())] = name
        return found

    @cached_property
    def served(self) -> set[int]:
        """The versions that the version policy lets the server load."""
        descending = sorted(self.versions, reverse=True)
        if self.config is None or not self.config.HasField("version_policy"):
            return set(descending[:1])
        policy = self.config.version_policy
        match policy.WhichOneof("policy_choice"):
            case "specific":
                return set(policy.specific.versions) & self.versions.keys()
            case "latest":
                return set(descending[: policy.latest.num_versions])
            case _:
                return set(descending)


def read_folder(path: Path) -> Folder:
    """Read the model folder at `path`; a config.pbtxt that is missing or broken is a Folder without config."""
    file = path / "config.pbtxt"
    try:
        text = file.read_text(encoding="utf-8")
        return Folder(path, parse(text, "it"))
    except FileNotFoundError:
        return Folder(path, None, "there is no config.pbtxt")
    except PbtxtError as error:
        hint = f"; placeholder {found.group()} is left unfilled" if (found := PLACEHOLDER.search(text)) else ""
        return Folder(path, None, " ".join(f"{error}".split()).rstrip(".") + hint)
    except (OSError, UnicodeDecodeError) as error:
        return Folder(path, None, f"it cannot be read: {error}")


def check_folder(folder: Folder) -> Iterator[Finding]:
    """Yield what breaks TY101 to TY108 in `folder`."""
    if folder.config is None:
        yield finding(folder.name, "TY101", folder.reason, "write a config.pbtxt, or move the folder out")
        return
    yield from _name(folder, folder.config)
    backend, contradiction = backend_of(folder, folder.config)
    if contradiction:
        yield finding(folder.name, "TY103", contradiction, 'write backend: "python", or the one meant')
    yield from _versions(folder, folder.config)
    yield from _artefacts(folder, folder.config, backend)
    yield from _labels(folder, folder.config)
    for where, value in placeholders(folder.config):
        yield finding(folder.name, "TY107", f"{where} = '{value}' holds a placeholder", "fill it, or drop the field")


def backend_of(folder: Folder, config: ModelConfig) -> tuple[str, str]:
    """Return the backend the server loads the model with, and what contradicts it; one of the two may be empty."""
    backend, platform = config.backend, config.platform
    if platform == ENSEMBLE:
        return ENSEMBLE, f"platform 'ensemble' and backend '{backend}' exclude each other" if backend else ""
    expected = PLATFORMS.get(platform, "")
    backend = backend or expected or _guess(folder, config)
    if not backend:
        hint = near_miss(platform, [*PLATFORMS, ENSEMBLE]) if platform else ""
        return "", f"platform '{platform}' is unknown{hint}" if platform else "no backend is given or can be guessed"
    if backend in PLATFORMS.values() and platform and expected != backend:
        return backend, f"platform '{platform}' does not belong to backend '{backend}'"
    return backend, ""


def _guess(folder: Folder, config: ModelConfig) -> str:
    """The backend that the server infers from file names, as it does without any config."""
    if config.default_model_filename:
        names = {config.default_model_filename}
    elif config.platform or not (subfolders := sorted(_subfolders(folder.path))):
        names = set()
    else:
        names = {file.name for file in (folder.path / subfolders[0]).iterdir()}
    if names & {"model.savedmodel", "model.graphdef"}:
        return "tensorflow"
    guessed = next((backend for backend, file in ARTEFACTS.items() if file in names), "")
    named = not config.platform and not config.default_model_filename
    return guessed or (folder.name.partition(".")[2] if named else "")


def _name(folder: Folder, config: ModelConfig) -> Iterator[Finding]:
    if config.name and config.name != folder.name:
        yield finding(
            folder.name,
            "TY102",
            f"name = '{config.name}', but the folder is '{folder.name}'",
            "make them equal, or drop the name",
        )


def _versions(folder: Folder, config: ModelConfig) -> Iterator[Finding]:
    present = ", ".join(folder.versions[version] for version in sorted(folder.versions)) or "none"
    if not folder.served:
        fact = f"the version policy leaves nothing to load of the version folders ({present})"
        yield finding(folder.name, "TY104", fact, "add a folder such as '1', or widen version_policy")
        return
    for version in sorted(set(config.version_policy.specific.versions) - folder.served):
        fact = f"version_policy names version {version}, which has no folder (present: {present})"
        yield finding(folder.name, "TY106", fact, "add the folder, or drop the version")


def _artefacts(folder: Folder, config: ModelConfig, backend: str) -> Iterator[Finding]:
    default = config.default_model_filename or ARTEFACTS.get(backend, "")
    # A repository agent may bring the files; a Python runtime of PyTorch loads model.py with or without weights.
    if backend not in ARTEFACTS or config.model_repository_agents.agents or config.runtime == "model.py":
        return
    names = [default] if backend == "python" else [default, *config.cc_model_filenames.values()]
    for version in sorted(folder.served):
        if any(_loadable(folder.path / str(version) / name, backend) for name in names):
            continue
        fact = f"backend '{backend}' needs {version}/{' or '.join(names)}, which does not exist"
        fix = "put the file there, or name it in default_model_filename"
        if folder.versions[version] != str(version):
            fact += f"; the server takes the folder '{folder.versions[version]}' for version {version}"
            fix = f"rename that folder to '{version}', or move it out"
        yield finding(folder.name, "TY105", fact, fix)


def _loadable(path: Path, backend: str) -> bool:
    # An ONNX model beyond 2 GB is a folder that holds model.onnx and its external data.
    return (path / "model.onnx").exists() if backend == "onnxruntime" and path.is_dir() else path.exists()


def _labels(folder: Folder, config: ModelConfig) -> Iterator[Finding]:
    for output in config.output:
        if output.label_filename and not (folder.path / output.label_filename).exists():
            fact = f"output '{output.name}' has label_filename '{output.label_filename}', which does not exist"
            yield finding(folder.name, "TY108", fact, "put the file beside config.pbtxt, or drop the field")


def placeholders(message: Message, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield path and value of every string in `message` that holds an unfilled placeholder."""
    for field, value in message.ListFields():
        path = f"{where}.{field.name}" if where else field.name
        if isinstance(value, str | Message):
            items = [(path, value)]
        elif hasattr(value, "items"):
            items = [(f"{path}['{key}']", item) for key, item in value.items()]
        elif hasattr(value, "__iter__") and not isinstance(value, bytes):
            items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
        else:
            continue
        for place, item in items:
            if isinstance(item, Message):
                yield from placeholders(item, place)
            elif isinstance(item, str) and PLACEHOLDER.search(item):
                yield place, item


def _subfolders(path: Path) -> list[str]:
    return [entry.name for entry in path.iterdir() if entry.is_dir()]
