"""The joints of one ensemble: do the two ends of each tensor fit; rules TY314 to TY322 but TY318 and TY320.

The server holds every end of a tensor against the first that it meets: the ensemble's own, then step by step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInput, ModelOutput

from ensembles.finding import Finding, finding
from ensembles.signature import dims_fit, type_name
from ensembles.wiring import Repository


@dataclass(frozen=True)
class End:
    """One end of an ensemble tensor: what `owner` declares for it, `dims` without the batch dimension."""

    owner: str
    data_type: int
    dims: tuple[int, ...]
    batching: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The full shape, the batch dimension first where there is one."""
        return (-1, *self.dims) if self.batching else self.dims

    def fits(self, other: "End") -> bool:
        """Return whether the server lets the two ends meet; it adds or strips a batch dimension of 1."""
        return dims_fit(self.dims, other.dims) or dims_fit(self.shape, other.shape)

    def __str__(self) -> str:
        return f"'{self.owner}' ({type_name(self.data_type)} {list(self.shape)})"


def check_joints(model: str, config: ModelConfig, repository: Repository) -> Iterator[Finding]:
    """Yield what breaks TY314 to TY317, TY319, TY321 and TY322 in the ensemble `model`."""
    for step in config.ensemble_scheduling.step:
        inner = repository.config(step.model_name)
        if inner and 0 < inner.max_batch_size < config.max_batch_size:
            fact = f"max_batch_size = {config.max_batch_size}, but '{step.model_name}' allows {inner.max_batch_size}"
            yield finding(model, "TY316", fact, f"write max_batch_size: {inner.max_batch_size} or less")
    for name, ends in sorted(_ends(model, config, repository).items()):
        yield from _tensor(model, name, ends, config.max_batch_size)
    yield from _optional(model, config, repository)
    yield from _decoupling(model, config, repository)


def _ends(model: str, config: ModelConfig, repository: Repository) -> dict[str, list[End]]:
    """The ends of every ensemble tensor, in the order in which the server meets them."""
    ends: dict[str, list[End]] = {}
    for own in (*config.input, *config.output):
        # What callers see is dims; what the steps see is its reshape.
        dims = own.reshape.shape if own.HasField("reshape") else own.dims
        ends.setdefault(own.name, []).append(End(model, own.data_type, tuple(dims), config.max_batch_size > 0))
    for step in config.ensemble_scheduling.step:
        if not (inner := repository.config(step.model_name)):
            continue
        sides: tuple[tuple[list[ModelInput | ModelOutput], dict[str, str]], ...] = (
            (list(inner.input), dict(step.input_map)),
            (list(inner.output), dict(step.output_map)),
        )
        for tensors, mapped in sides:
            for tensor in tensors:
                if tensor.name in mapped:
                    end = End(step.model_name, tensor.data_type, tuple(tensor.dims), inner.max_batch_size > 0)
                    ends.setdefault(mapped[tensor.name], []).append(end)
    return ends


def _tensor(model: str, name: str, ends: list[End], max_batch: int) -> Iterator[Finding]:
    first = ends[0]
    mixed = False
    for one, other in combinations(dict.fromkeys(ends), 2):
        fact = f"ensemble tensor '{name}' joins {one} and {other}"
        if one.data_type != other.data_type:
            # Types are equal or not: the first end tells all.
            if one is first:
                yield finding(model, "TY314", fact, "give both the same data_type")
        elif not one.fits(other):
            fix = "give both the same dims, or -1 where the length varies"
            if one is first:
                yield finding(model, "TY315", fact, fix)
            elif first.fits(one) and first.fits(other):
                yield finding(model, "TY322", fact, fix)
        elif max_batch > 1 and one.batching != other.batching and not mixed:
            mixed = not dims_fit(one.shape, other.shape)
            if mixed:
                fix = "let both batch, or write the batch dimension as -1 into the dims of the one that does not"
                yield finding(model, "TY317", fact, fix)


def _optional(model: str, config: ModelConfig, repository: Repository) -> Iterator[Finding]:
    optional = {tensor.name for tensor in config.input if tensor.optional}
    for step in config.ensemble_scheduling.step:
        inner = repository.config(step.model_name)
        for tensor in inner.input if inner else ():
            source = step.input_map.get(tensor.name)
            if source in optional and not tensor.optional:
                fact = f"optional input '{source}' feeds required input '{tensor.name}' of '{step.model_name}'"
                yield finding(model, "TY321", fact, "make both optional, or neither")


def _decoupling(model: str, config: ModelConfig, repository: Repository) -> Iterator[Finding]:
    """Yield steps whose inputs are not all answers of the same decoupled step, or all from before any."""
    label = {tensor.name: "the ensemble's input" for tensor in config.input}
    steps = enumerate(config.ensemble_scheduling.step)
    waiting = [(index, step) for index, step in steps if step.input_map]
    while ready := [item for item in waiting if set(item[1].input_map.values()) <= label.keys()]:
        for index, step in ready:
            sources = sorted({label[tensor] for tensor in step.input_map.values()})
            subject = f"step {index} ('{step.model_name}')"
            if len(sources) > 1:
                yield _joined(model, subject, sources)
            source = f"decoupled {subject}" if repository.decoupled(step.model_name) else sources[0]
            # An ensemble input that a step writes keeps its own label: TY309 has said what is wrong with it.
            label = dict.fromkeys(step.output_map.values(), source) | label
        waiting = [item for item in waiting if item not in ready]
    sources = sorted({label[tensor.name] for tensor in config.output if tensor.name in label})
    if len(sources) > 1:
        yield _joined(model, "the ensemble's output", sources)


def _joined(model: str, subject: str, sources: list[str]) -> Finding:
    fact = f"{subject} takes tensors that come from {' and from '.join(sources)}"
    return finding(model, "TY319", fact, "pass the earlier tensor through the decoupled model")
