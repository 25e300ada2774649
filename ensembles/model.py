"""The typed description of what Triton serves: tensors, models, and ensembles of steps.

Plain data. `ensembles.pbtxt` writes it as config.pbtxt; one file a task (`ensembles.embed`) composes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

DataType = Literal["BOOL", "INT32", "INT64", "UINT64", "FP16", "FP32", "BYTES"]


@dataclass(frozen=True)
class Tensor:
    """One named input or output: `dims` without the batch dimension, -1 where the length varies."""

    name: str
    dtype: DataType
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class Batching:
    """Triton's dynamic batcher. With `max_queue_size` one request more is refused at once; None is unbounded.

    A bounded queue wants at least two instances: with one, requests that are left over when a batch is cut wait up to
    500 ms for a wake-up that came too early (`DynamicBatchScheduler::WaitForPayloadSlotAvailable`, tritonserver 2.51
    and later: a queue policy turns prefetching off, and the slot is asked for before the instance is back).
    """

    max_queue_size: int | None = None


@dataclass(frozen=True)
class Model:
    """A model behind one backend. `parameters` reach the backend as strings.

    Without `batching` the backend gets each request as it comes. A `decoupled` model answers a request any number of
    times.
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
