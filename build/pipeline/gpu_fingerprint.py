"""The record beside a GPU engine, `fingerprint.json`: what it was built with, and for what.

A TensorRT engine runs on the compute capability and under the exact TensorRT that built it, a TensorRT-LLM engine under
that release too; its own config.json carries only the last. What does not match is told before a server finds out.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from ensembles.declaration import Declared
from ensembles.errors import YardError
from pipeline.container_image import ContainerImage
from pipeline.gpu import Gpu, version

FILE = "fingerprint.json"
REBUILD = "build it again here: `yard engines --profile gpu`"


class GpuFingerprintError(YardError):
    """The fingerprint of an engine is missing or broken."""


class GpuFingerprint(Declared):
    """What one engine was built with, and for what; `tensorrt_llm` is None for a plain TensorRT plan."""

    tensorrt_llm: str | None = None
    tensorrt: str
    cuda: str
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d+$")]
    tp: Annotated[int, Field(ge=1)] = 1
    pp: Annotated[int, Field(ge=1)] = 1
    limits: dict[str, Annotated[int, Field(ge=1)]]
    """max_batch_size, max_input_len, max_seq_len, max_num_tokens: those that the engine has."""
    checkpoint: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    """The digest of the checkpoint that it was built from."""

    @property
    def ranks(self) -> int:
        """How many GPUs the engine runs on, one rank each."""
        return self.tp * self.pp

    def __str__(self) -> str:
        llm = f"TensorRT-LLM {self.tensorrt_llm}, " if self.tensorrt_llm else ""
        return f"{llm}TensorRT {self.tensorrt}, compute capability {self.compute_capability}, {_gpus(self.ranks)}"


def write_fingerprint(folder: Path, fingerprint: GpuFingerprint) -> None:
    """Write `fingerprint` into the engine's folder, whole or not at all."""
    temporary = folder / f".{FILE}"
    temporary.write_text(fingerprint.model_dump_json(indent=2, exclude_none=True) + "\n")
    temporary.replace(folder / FILE)


def read_fingerprint(file: Path) -> GpuFingerprint:
    """Read the fingerprint of an engine.

    Raises GpuFingerprintError: it is missing, or not what `write_fingerprint` writes.
    """
    try:
        return GpuFingerprint.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise GpuFingerprintError(
            f"engine {file.parent} has no {FILE}: what built it is not known; {REBUILD}"
        ) from None
    except OSError as error:
        raise GpuFingerprintError(f"{file} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        found = error.errors()[0]
        key = ".".join(str(part) for part in found["loc"])
        fact = f"{key}: {found['msg']}" if key else found["msg"]
        raise GpuFingerprintError(f"{file} is not a fingerprint: {fact}; {REBUILD}") from None


def mismatches(
    fingerprint: GpuFingerprint, gpus: Sequence[Gpu], container: ContainerImage, engine_mib: int = 0
) -> list[str]:
    """Return why the engine would not load on `gpus` under `container`, a sentence each; none when it would.

    The engine takes the first tp * pp of `gpus`; `engine_mib` is the size of its largest rank file, which one GPU must
    hold.
    """
    used = gpus[: fingerprint.ranks]
    return [
        *_versions(fingerprint, container),
        *_driver(used, container),
        *_devices(fingerprint, used),
        *_memory(used, engine_mib),
    ]


def _versions(fingerprint: GpuFingerprint, container: ContainerImage) -> Iterator[str]:
    pairs = [
        ("TensorRT-LLM", fingerprint.tensorrt_llm, container.tensorrt_llm),
        ("TensorRT", fingerprint.tensorrt, container.tensorrt),
    ]
    for tool, built, carried in pairs:
        if built and carried and built != carried:
            yield f"it was built by {tool} {built}, {container.image} carries {carried}; {REBUILD}"


def _driver(gpus: Sequence[Gpu], container: ContainerImage) -> Iterator[str]:
    if gpus and container.min_driver and version(gpus[0].driver) < version(container.min_driver):
        yield (
            f"the driver is {gpus[0].driver}, CUDA {container.cuda} of {container.image} needs "
            f"{container.min_driver} or newer; update the driver"
        )


def _devices(fingerprint: GpuFingerprint, gpus: Sequence[Gpu]) -> Iterator[str]:
    if len(gpus) < fingerprint.ranks:
        yield (
            f"it runs on {_gpus(fingerprint.ranks)} (tp {fingerprint.tp} x pp {fingerprint.pp}), {len(gpus)} "
            "can be used here; add or unhide GPUs, or build it with a smaller tp"
        )
    if len({gpu.name for gpu in gpus}) > 1:
        kinds = ", ".join(f"{gpu.index} is {gpu.name}" for gpu in gpus)
        yield f"its GPUs are of different kinds: {kinds}; choose equal ones with CUDA_VISIBLE_DEVICES"
    for gpu in gpus:
        if gpu.compute_capability != fingerprint.compute_capability:
            yield (
                f"it was built for compute capability {fingerprint.compute_capability}, GPU {gpu.index} ({gpu.name}) "
                f"has {gpu.compute_capability}; {REBUILD}"
            )
            break
    for gpu in gpus:
        if gpu.is_split:
            yield (
                f"GPU {gpu.index} ({gpu.name}) is cut into MIG slices, engines are built for whole GPUs; "
                f"`sudo nvidia-smi -i {gpu.index} -mig 0`"
            )


def _memory(gpus: Sequence[Gpu], engine_mib: int) -> Iterator[str]:
    smallest = min(gpus, key=lambda gpu: gpu.memory_mib, default=None)
    if smallest and engine_mib >= smallest.memory_mib:
        yield (
            f"its weights take {engine_mib} MiB of a GPU, GPU {smallest.index} ({smallest.name}) has "
            f"{smallest.memory_mib} MiB; build it with a larger tp, or quantised"
        )


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"
