"""The typed description of what Triton serves: tensors, models, and ensembles of steps.

Plain data. `ensembles.pbtxt` writes it as config.pbtxt; one file a task (`ensembles.embed`) composes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

DataType = Literal["BOOL", "UINT8", "INT32", "INT64", "UINT64", "FP16", "FP32", "BYTES"]


@dataclass(frozen=True)
class Tensor:
    """One named input or output: `dims` without the batch dimension, -1 where the length varies.

    A `ragged` input may have another length in each request of a batch. A `scalar` one has dims [1] for callers and no
    dims, beside the batch dimension, for the backend.
    """

    name: str
    dtype: DataType
    dims: tuple[int, ...]
    optional: bool = False
    ragged: bool = False
    scalar: bool = False


@dataclass(frozen=True)
class Batching:
    """Triton's dynamic batcher. With `max_queue_size` one request more is refused at once; None is unbounded.

    A bounded queue wants at least two instances: with one, requests that are left over when a batch is cut wait up to
    500 ms for a wake-up that came too early (`DynamicBatchScheduler::WaitForPayloadSlotAvailable`, tritonserver 2.51
    and later: a queue policy turns prefetching off, and the slot is asked for before the instance is back).
    """

    max_queue_size: int | None = None


@dataclass(frozen=True)
class Accelerator:
    """An execution provider that ONNX Runtime runs a model with beside its default one, and its options."""

    name: Literal["tensorrt"]
    parameters: Mapping[str, str]


@dataclass(frozen=True)
class Model:
    """A model behind one backend. `parameters` reach the backend as strings.

    Without `batching` the backend gets each request as it comes. A `decoupled` model answers a request any number of
    times. With `on_gpu` there are `instances` on each GPU that the server sees. `files_by_capability` names the file of
    each compute capability ("9.0") where there is not one for all.
    """

    name: str
    backend: str
    max_batch_size: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    batching: Batching | None
    parameters: Mapping[str, str] = field(default_factory=dict)
    instances: int = 1
    decoupled: bool = False
    on_gpu: bool = False
    accelerator: Accelerator | None = None
    files_by_capability: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One model inside an ensemble: `inputs` and `outputs` map the model's tensor names to the ensemble's."""

    model: Model
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Ensemble:
    """Steps wired by tensor names; what callers see is `inputs` and `outputs`."""

    name: str
    max_batch_size: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[Step, ...]

    @property
    def models(self) -> tuple[Model, ...]:
        """The models of the steps, in their order."""
        return tuple(step.model for step in self.steps)
