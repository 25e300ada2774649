"""The typed description of what Triton serves: tensors, models, and ensembles of steps.

Plain data. `ensembles.pbtxt` writes it as config.pbtxt; one file a task (`ensembles.embed`) composes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

DataType = Literal["BOOL", "INT32", "INT64", "FP16", "FP32", "BYTES"]


@dataclass(frozen=True)
class Tensor:
    """One named input or output: `dims` without the batch dimension, -1 where the length varies."""

    name: str
    dtype: DataType
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class Batching:
    """Triton's dynamic batcher with a bounded queue: request number `max_queue_size` + 1 is refused at once."""

    max_queue_size: int
    max_queue_delay_us: int = 0


@dataclass(frozen=True)
class Model:
    """A model behind one backend. `parameters` reach the backend as strings."""

    name: str
    backend: str
    max_batch_size: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    batching: Batching
    parameters: Mapping[str, str] = field(default_factory=dict)
    instances: int = 1


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
