"""A request to any model: a caller's arrays, held against what the model declares, and the arrays of the answer.

What cannot be right is refused here, with the tensor's name, what it wants and what it got, before it is sent.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tritonyard._datatype import FLOATING, TRUTH, WHOLE, Array, Unfit, array_of, dtype_of, is_array, raw_of
from tritonyard._errors import InvalidRequest, ServerFailed, TritonyardError
from tritonyard._flows import Flow, described, utf8
from tritonyard._shared_memory import Segments, sharing
from tritonyard._transport import Infer, Input, ModelConfig, Parameter, TensorConfig

INT64 = range(-(2**63), 2**63)
MOST_FITTING = 1000


def inferring(
    model: str,
    inputs: Mapping[str, object],
    outputs: Iterable[str] | str | None,
    parameters: Mapping[str, Parameter] | None,
    idempotent: bool,
    configs: dict[str, ModelConfig],
    segments: Segments | None,
) -> Flow[dict[str, Array]]:
    """Ask `model`; `configs` remembers what models look like, from call to call, `segments` have its large tensors."""
    try:
        config = configs.get(model) or (yield from described(model, configs))
        call = infer_call(model, config, inputs, outputs, parameters, idempotent)
        if segments is None:
            (answer,) = yield [call]
        else:
            answer = yield from sharing(call, config, segments)
        if outputs is not None and (left := [name for name in call.outputs if name not in answer]):
            raise ServerFailed(f"it was asked for {_named(left)}, and left it out of its answer", model=model)
        return {name: answer[name] for name in call.outputs if name in answer}
    except TritonyardError:
        # It may have been replaced by one of another shape.
        configs.pop(model, None)
        raise


def one_mapping(inputs: Mapping[str, object] | None, arrays: Mapping[str, object]) -> dict[str, object]:
    """Return the tensors that came by `inputs` and by keyword; raise InvalidRequest where one came twice."""
    if inputs is None:
        return dict(arrays)
    if not isinstance(inputs, Mapping):
        raise InvalidRequest(f"inputs is {type(inputs).__name__}; pass a mapping from the tensors' names")
    if twice := inputs.keys() & arrays.keys():
        raise InvalidRequest(f"{_named(sorted(twice))} came in inputs and as a keyword; pass it once")
    return {**inputs, **arrays}


def infer_call(
    model: str,
    config: ModelConfig,
    inputs: Mapping[str, object],
    outputs: Iterable[str] | str | None,
    parameters: Mapping[str, Parameter] | None,
    idempotent: bool = False,
) -> Infer:
    """Build the request; raise InvalidRequest where the model's configuration says that it would be refused."""
    if config.decoupled:
        fact = "it may answer one request many times (decoupled), and infer reads one answer"
        raise InvalidRequest(f"{fact}; a text generator is for generate and chat", model=model)
    try:
        arrays = _arrays(inputs, config)
        wanted = _outputs(outputs, config.outputs)
        said = {} if parameters is None else _parameters(parameters, model)
    except Unfit as unfit:
        raise InvalidRequest(str(unfit), model=model) from None
    tensors = [Input(name, config.inputs[name].datatype, array.shape, raw_of(array)) for name, array in arrays.items()]
    return Infer(model, tuple(tensors), wanted, said, idempotent=idempotent)


def _arrays(given: Mapping[str, Any], config: ModelConfig) -> Mapping[str, Array]:
    """Return what is sent for each input; raise Unfit."""
    kinds = tuple(
        [(name, each.dtype, each.shape) if type(each) is np.ndarray else None for name, each in given.items()]
    )
    if kinds in config.fitting:
        return given
    for name in given:
        _require_known(name, config.inputs, "input")
    _require_complete(given, config)
    arrays = {name: _array(name, value, config) for name, value in given.items()}
    _require_one_batch(arrays, config.max_batch_size)
    # Of what was taken as it is nothing but dtype and shape was looked at.
    if len(config.fitting) < MOST_FITTING and all(array is given[name] for name, array in arrays.items()):
        config.fitting.add(kinds)
    return arrays


def _require_known(name: object, known: Mapping[str, TensorConfig], what: str) -> None:
    if isinstance(name, str) and name in known:
        return
    near = difflib.get_close_matches(name, known, 1) if isinstance(name, str) else []
    mend = f"did you mean '{near[0]}'?" if near else f"its {what}s are {', '.join(known)}"
    raise Unfit(f"there is no {what} {name!r}; {mend}")


def _require_complete(given: Mapping[str, object], config: ModelConfig) -> None:
    missing = [
        f"'{name}' ({_wanted(tensor, config)})"
        for name, tensor in config.inputs.items()
        if not tensor.optional and name not in given
    ]
    if missing:
        raise Unfit(f"input {', '.join(missing)} is missing; only optional inputs may be left out")


def _wanted(tensor: TensorConfig, config: ModelConfig) -> str:
    sizes = ["batch", *tensor.dims] if config.max_batch_size else list(tensor.dims)
    return f"{tensor.datatype} [{', '.join(map(str, sizes))}]"


def _array(name: str, value: object, config: ModelConfig) -> Array:
    """Return what is sent for input `name`; raise Unfit."""
    tensor = config.inputs[name]
    wants = (-1, *tensor.dims) if config.max_batch_size else tensor.dims
    dtype = _dtype(name, tensor)
    try:
        array = array_of(value, dtype)
    except Unfit as unfit:
        raise Unfit(f"{_told(name, tensor, config)} {unfit}") from None
    shape = array.shape
    if len(shape) < len(wants) and not is_array(value):
        shape = _filled(shape, wants)
    if len(shape) == len(wants) and all(want in (-1, size) for size, want in zip(shape, wants, strict=True)):
        return array if shape == array.shape else array.reshape(shape)
    mend = "; the first dimension is the batch" if config.max_batch_size and len(shape) < len(wants) else ""
    raise Unfit(f"{_told(name, tensor, config)} the shape {list(array.shape)}{mend}")


def _told(name: str, tensor: TensorConfig, config: ModelConfig) -> str:
    return f"input '{name}' wants {_wanted(tensor, config)}, and got"


def _dtype(name: str, tensor: TensorConfig) -> Any:
    dtype = dtype_of(tensor.datatype)
    if dtype is None:
        mend = "pip install ml_dtypes" if tensor.datatype == "BF16" else "another version of this package may"
        raise Unfit(f"tensor '{name}' is {tensor.datatype}, which numpy does not hold; {mend}")
    return dtype


def _filled(shape: tuple[int, ...], wants: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a list or scalar with the dimensions of size 1 that it left out at its end.

    A scalar is one value in all of them.
    """
    left_out = wants[len(shape) :]
    return shape + (1,) * len(left_out) if not shape or all(want == 1 for want in left_out) else shape


def _require_one_batch(arrays: Mapping[str, Array], largest: int) -> None:
    if not largest:
        return
    sizes = {name: len(array) for name, array in arrays.items()}
    for name, size in sizes.items():
        if not 1 <= size <= largest:
            raise Unfit(f"input '{name}' has a batch of {size}, the model takes 1 to {largest}; send it in parts")
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{size} of '{name}'" for name, size in sizes.items())
        raise Unfit(f"the inputs differ in their first dimension, which is the batch: {told}")


def _outputs(wanted: Iterable[str] | str | None, known: Mapping[str, TensorConfig]) -> tuple[str, ...]:
    found = tuple(known) if wanted is None else _asked_for(wanted, known)
    for name in found:
        _dtype(name, known[name])
    return found


def _asked_for(wanted: object, known: Mapping[str, TensorConfig]) -> tuple[str, ...]:
    names = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(names, Iterable):
        raise Unfit(f"outputs is {type(wanted).__name__}; pass a list of names, or one name")
    found = list(names)
    for name in found:
        _require_known(name, known, "output")
    if not found:
        raise Unfit(f"outputs is empty; name some of {', '.join(known)}, or leave it out for all")
    return tuple(dict.fromkeys(found))


def _parameters(given: Mapping[str, Parameter], model: str) -> dict[str, Parameter]:
    if not isinstance(given, Mapping):
        raise Unfit(f"parameters is {type(given).__name__}; pass a mapping from their names")
    for key, value in given.items():
        utf8(key, "a parameter's name", model)
        if isinstance(value, str):
            utf8(value, f"the parameter '{key}'", model)
    return {key: _parameter(key, value) for key, value in given.items()}


def _parameter(key: str, value: object) -> Parameter:
    """Return the value as Python's own kind of it; raise Unfit where Triton has none such."""
    if isinstance(value, TRUTH):
        return bool(value)
    if isinstance(value, WHOLE) and int(value) in INT64:
        return int(value)
    if isinstance(value, FLOATING) and math.isfinite(value):
        return float(value)
    if isinstance(value, str):
        return str(value)
    raise Unfit(f"the parameter '{key}' is {value!r:.40}, not a bool, str, finite float or int of 64 bits")


def _named(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
