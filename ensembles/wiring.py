"""The wiring of one ensemble: its steps, the tensors between them, and the models at their ends; rules TY301 to TY313.

Whether the two ends of a tensor fit each other is `ensembles.joint`'s.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelEnsembling

from ensembles.errors import near_miss
from ensembles.finding import Finding, finding
from ensembles.folder import Folder, read_folder

Step: TypeAlias = ModelEnsembling.Step


@dataclass(frozen=True)
class Repository:
    """Every model folder by name, and what follows from them together."""

    folders: Mapping[str, Folder]

    def config(self, model: str) -> ModelConfig | None:
        """Return the config of `model`; None if it is not there or cannot be read."""
        folder = self.folders.get(model)
        return folder.config if folder else None

    def steps(self, model: str) -> list[Step]:
        """Return the steps of `model`, none unless it is an ensemble."""
        config = self.config(model)
        return list(config.ensemble_scheduling.step) if config else []

    def inside(self, model: str) -> set[str]:
        """Return the models that `model` contains, at any depth; itself only if ensembles form a circle."""
        found: set[str] = set()
        waiting = [model]
        while waiting:
            for step in self.steps(waiting.pop()):
                if step.model_name not in found:
                    found.add(step.model_name)
                    waiting.append(step.model_name)
        return found

    def decoupled(self, model: str) -> bool:
        """Return whether `model` may answer a request more than once; for an ensemble its models say so."""
        models = self.inside(model) if self.steps(model) else {model}
        configs = [self.config(name) for name in models]
        return any(config.model_transaction_policy.decoupled for config in configs if config)


def read_repository(path: Path) -> Repository:
    """Read every model of the repository at `path`: each subfolder is one, hidden ones too, as for the server."""
    return Repository({folder.name: read_folder(folder) for folder in sorted(path.iterdir()) if folder.is_dir()})


def check_wiring(model: str, config: ModelConfig, repository: Repository) -> Iterator[Finding]:
    """Yield what breaks TY301 to TY313, TY318 and TY320 in the ensemble `model`."""
    yield from _fields(model, config)
    if config.platform != "ensemble":
        return
    steps = config.ensemble_scheduling.step
    if not steps:
        yield finding(model, "TY301", "ensemble_scheduling holds no step", "add the steps")
        return
    for index, step in enumerate(steps):
        yield from _step(model, index, step, repository)
    if model in repository.inside(model):
        others = sorted(name for name in repository.inside(model) if model in repository.inside(name))
        fact = f"the ensemble contains itself, by way of {', '.join(others)}"
        yield finding(model, "TY318", fact, "break the circle")
    yield from _flow(model, config)
    yield from _circle(model, config)


def _fields(model: str, config: ModelConfig) -> Iterator[Finding]:
    if config.platform != "ensemble":
        if config.HasField("ensemble_scheduling"):
            fact = f"ensemble_scheduling is set, but platform is '{config.platform}'"
            yield finding(model, "TY320", fact, 'write platform: "ensemble" and drop backend')
        return
    for field in ("instance_group", "optimization", "model_warmup"):
        if field in {descriptor.name for descriptor, _ in config.ListFields()}:
            yield finding(model, "TY320", f"an ensemble may not have {field}", "move it to the steps' models")


def _step(model: str, index: int, step: Step, repository: Repository) -> Iterator[Finding]:
    lacking = [field for field in ("model_name", "input_map", "output_map") if not getattr(step, field)]
    if lacking:
        yield finding(model, "TY301", f"step {index} lacks {', '.join(lacking)}", "complete the step, or drop it")
    if not step.model_name:
        return
    subject = f"step {index} ('{step.model_name}')"
    folder = repository.folders.get(step.model_name)
    if folder is None:
        fix = f"add the model, or correct the name{near_miss(step.model_name, repository.folders)}"
        yield finding(model, "TY302", f"{subject} names a model that is not in the repository", fix)
    elif folder.config:
        if step.model_version != -1 and folder.served and step.model_version not in folder.served:
            fact = f"{subject} wants version {step.model_version}, served are {sorted(folder.served)}"
            yield finding(model, "TY303", fact, "write model_version: -1 for the newest")
        yield from _maps(model, subject, step, folder.config)


def _maps(model: str, subject: str, step: Step, config: ModelConfig) -> Iterator[Finding]:
    inputs = {tensor.name: tensor.optional for tensor in config.input}
    outputs = [tensor.name for tensor in config.output]
    for rule, side, keys, known in (
        ("TY304", "input", step.input_map, list(inputs)),
        ("TY306", "output", step.output_map, outputs),
    ):
        for key in sorted(set(keys) - set(known)):
            fact = f"{subject} maps '{key}', which is not an {side} of the model ({', '.join(known) or 'none'})"
            yield finding(model, rule, fact, f"use one of them{near_miss(key, known)}")
    for name in sorted(name for name, optional in inputs.items() if not optional):
        # An empty input_map is TY301 already.
        if step.input_map and name not in step.input_map:
            yield finding(model, "TY305", f"{subject} leaves input '{name}' unmapped", "map it to a tensor")


def _flow(model: str, config: ModelConfig) -> Iterator[Finding]:
    """Yield tensors that lack a writer or a reader, and those with two writers."""
    steps = config.ensemble_scheduling.step
    written = Counter(tensor for step in steps for tensor in step.output_map.values())
    read = {tensor for step in steps for tensor in step.input_map.values()}
    inputs = {tensor.name for tensor in config.input}
    outputs = {tensor.name for tensor in config.output}
    writable = [*written, *inputs]
    for name in sorted(read - written.keys() - inputs):
        fix = f"write it in a step's output_map{near_miss(name, writable)}"
        yield finding(model, "TY307", f"ensemble tensor '{name}' is read, but nothing writes it", fix)
    for name in sorted(name for name, count in written.items() if count > 1):
        yield finding(model, "TY308", f"ensemble tensor '{name}' is written twice", "give each its own name")
    for name in sorted(written.keys() & inputs):
        yield finding(model, "TY309", f"a step writes ensemble input '{name}'", "write to a new tensor")
    for name in sorted(outputs - written.keys() - inputs):
        fix = f"map a model's output to it, or drop it{near_miss(name, written)}"
        yield finding(model, "TY310", f"no step writes ensemble output '{name}'", fix)
    for name in sorted(inputs - read - written.keys()):
        fix = f"map it into a step, or drop it{near_miss(name, read)}"
        yield finding(model, "TY311", f"no step reads ensemble input '{name}'", fix)
    for name in sorted(written.keys() - read - outputs - inputs):
        fix = f"drop it from the output_map{near_miss(name, read | outputs)}"
        yield finding(model, "TY312", f"ensemble tensor '{name}' is written, but nothing reads it", fix)


def _circle(model: str, config: ModelConfig) -> Iterator[Finding]:
    waiting = list(config.ensemble_scheduling.step)
    inputs = {tensor.name for tensor in config.input}
    while waiting:
        missing = {tensor for step in waiting for tensor in step.output_map.values()} - inputs
        blocked = [step for step in waiting if missing & set(step.input_map.values())]
        if len(blocked) == len(waiting):
            names = ", ".join(f"'{step.model_name}'" for step in blocked)
            yield finding(model, "TY313", f"steps {names} wait for each other's outputs", "break the circle")
            return
        waiting = blocked
