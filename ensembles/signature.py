"""One model's own declaration: tensors, batching, warm-up, cache, instances; rules TY201 to TY210.

Knows nothing of files and of other models.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import (
    DataType,
    ModelConfig,
    ModelInput,
    ModelInstanceGroup,
    ModelOutput,
    ModelWarmup,
)

from ensembles.errors import near_miss
from ensembles.finding import Finding, finding

Dims = Iterable[int]


def check_signature(folder: Path, config: ModelConfig, decoupled: bool) -> Iterator[Finding]:
    """Yield what breaks TY201 to TY210 in the `config` of the model in `folder`.

    `decoupled` says whether the model, or a model inside the ensemble, answers a request more than once.
    """
    model = folder.name
    for side, tensors in (("input", config.input), ("output", config.output)):
        for tensor in tensors:
            yield from _tensor(model, side, tensor, config.max_batch_size)
    for name, count in Counter(tensor.name for tensor in config.input).items():
        if count > 1:
            fact = f"input '{name}' is declared {count} times, so the server counts {len(config.input)} inputs"
            yield finding(model, "TY204", fact, "declare it once")
    yield from _batching(model, config)
    yield from _cache(model, config, decoupled)
    for sample in config.model_warmup:
        # A sample of batch size 0 is skipped by the server; an ensemble may have none at all.
        if sample.batch_size and config.platform != "ensemble":
            yield from _warm_up(folder, config, sample)
    for group in config.instance_group:
        if group.gpus and group.kind in (ModelInstanceGroup.KIND_CPU, ModelInstanceGroup.KIND_MODEL):
            kind = ModelInstanceGroup.Kind.Name(group.kind)
            fact = f"an instance group of {kind} lists gpus {list(group.gpus)}"
            yield finding(model, "TY210", fact, "drop gpus, or say KIND_GPU")


def type_name(data_type: int) -> str:
    """Return the data type as config.pbtxt writes it."""
    return str(DataType.Name(data_type))


def dims_fit(left: Dims, right: Dims) -> bool:
    """Return whether two shapes can be equal, -1 standing for any length."""
    left, right = list(left), list(right)
    return len(left) == len(right) and all(
        one == other or -1 in (one, other) for one, other in zip(left, right, strict=True)
    )


def _tensor(model: str, side: str, tensor: ModelInput | ModelOutput, max_batch: int) -> Iterator[Finding]:
    lacking = [field for field in ("name", "data_type", "dims") if not getattr(tensor, field)]
    if lacking:
        fact = f"{side} '{tensor.name}' lacks {', '.join(lacking)}"
        yield finding(model, "TY201", fact, "declare what the backend takes and gives")
    shape = tensor.reshape.shape
    for where, dims in (("dims", tensor.dims), ("reshape", shape)):
        if any(dim < 1 and dim != -1 for dim in dims):
            fact = f"{side} '{tensor.name}' has {where} {list(dims)}"
            yield finding(model, "TY202", fact, "write a positive length, or -1 where it varies")
            return
    if not tensor.HasField("reshape") or not tensor.dims:
        return
    if _chunks(tensor.dims) != _chunks(shape) or (not shape and max_batch == 0):
        fact = f"{side} '{tensor.name}' has dims {list(tensor.dims)} but reshape {list(shape)}"
        if not shape:
            fact += ", a scalar"
        yield finding(model, "TY203", fact, "let both hold the same elements between every -1")


def _chunks(dims: Dims) -> list[int]:
    """The element counts of the runs between the variable dimensions, which a reshape must keep."""
    runs: list[list[int]] = [[]]
    for dim in dims:
        if dim == -1:
            runs.append([])
        else:
            runs[-1].append(dim)
    return [prod(run) for run in runs]


def _batching(model: str, config: ModelConfig) -> Iterator[Finding]:
    if config.max_batch_size < 0:
        fact = f"max_batch_size = {config.max_batch_size} is negative"
        yield finding(model, "TY206", fact, "write 0 for a model without batching")
    batchers = (
        ("dynamic_batching", config.dynamic_batching.preferred_batch_size),
        ("sequence_batching", config.sequence_batching.oldest.preferred_batch_size),
    )
    for field, preferred in batchers:
        if any(not 0 < size <= config.max_batch_size for size in preferred):
            fact = f"{field} prefers batches of {list(preferred)}, max_batch_size is {config.max_batch_size}"
            yield finding(model, "TY205", fact, "prefer sizes from 1 to max_batch_size")


def _cache(model: str, config: ModelConfig, decoupled: bool) -> Iterator[Finding]:
    sequences = config.HasField("sequence_batching")
    if config.response_cache.enable and (decoupled or sequences):
        why = "batches sequences" if sequences else "is decoupled, or contains a decoupled model"
        yield finding(model, "TY207", f"response_cache is on, but the model {why}", "drop response_cache")


def _warm_up(folder: Path, config: ModelConfig, sample: ModelWarmup) -> Iterator[Finding]:
    model, subject = folder.name, f"warm-up sample '{sample.name}'"
    limit = max(config.max_batch_size, 1)
    if sample.batch_size > limit:
        fact = f"{subject} has batch_size {sample.batch_size}, max_batch_size is {config.max_batch_size}"
        yield finding(model, "TY209", fact, f"write batch_size: {limit}, and raise count instead")
    inputs = {tensor.name: tensor for tensor in config.input}
    for name in sorted(inputs):
        if name not in sample.inputs and not inputs[name].optional:
            unknown = [other for other in sample.inputs if other not in inputs]
            fact = f"{subject} gives no required input '{name}'"
            yield finding(model, "TY208", fact, f"add it to the sample{near_miss(name, unknown)}")
    for name in sorted(sample.inputs):
        # What the model does not declare may be a control input of a sequence.
        if name in inputs and (fault := _sample_fault(folder, inputs[name], sample.inputs[name])):
            yield finding(model, "TY208", f"{subject}, input '{name}': {fault}", "write what the model takes")


def _sample_fault(folder: Path, declared: ModelInput, given: ModelWarmup.Input) -> str:
    """What keeps a warm-up input from being the `declared` one; empty if nothing does."""
    if given.data_type != declared.data_type:
        return f"{type_name(given.data_type)} instead of {type_name(declared.data_type)}"
    if -1 in given.dims:
        return f"dims {list(given.dims)} leave a length open"
    if not dims_fit(given.dims, declared.dims):
        return f"dims {list(given.dims)} instead of {list(declared.dims)}"
    match given.WhichOneof("input_data_type"):
        case None:
            return "none of zero_data, random_data and input_data_file is set"
        case "input_data_file" if not (folder / "warmup" / given.input_data_file).exists():
            return f"file warmup/{given.input_data_file} does not exist"
    return ""
