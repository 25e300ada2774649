"""The GPUs of this machine as nvidia-smi tells them, and what is known of the usual ones without a machine.

Field names and wordings: `nvidia-smi --help-query-gpu`; `compute_cap` came with driver 495, so an older one is asked
again without it. "[N/A]" is a value that this GPU or this driver does not tell, "[Not Supported]" the older word.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ensembles.errors import YardError, near_miss
from pipeline.runner import NOT_FOUND, Ran, Runner

FIELDS = ("index", "uuid", "name", "memory.total", "driver_version", "mig.mode.current", "compute_cap")
UNKNOWN = ("[N/A]", "[Not Supported]", "N/A", "")
FP8_SINCE = (8, 9)


class GpuError(YardError):
    """The GPUs cannot be told, or one that is named is not there."""


@dataclass(frozen=True)
class Gpu:
    """One GPU: its number in nvidia-smi (PCI order), what it is, its memory in MiB, and the driver's version."""

    index: int
    uuid: str
    name: str
    compute_capability: str
    memory_mib: int
    driver: str
    is_split: bool = False
    """Whether MIG has cut it into slices: an engine then sees a slice's memory, not this."""


@dataclass(frozen=True)
class KnownGpu:
    """What nvidia-smi says of a GPU that is not at hand: memory in MiB, compute capability."""

    memory_mib: int
    compute_capability: str

    @property
    def has_fp8(self) -> bool:
        """Whether its tensor cores take FP8: Ada (8.9), Hopper (9.0) and later."""
        return version(self.compute_capability) >= FP8_SINCE


# memory.total as nvidia-smi prints it, with ECC on where the GPU has it.
KNOWN: Mapping[str, KnownGpu] = {
    "B200": KnownGpu(183359, "10.0"),
    "H200": KnownGpu(143771, "9.0"),
    "H100 NVL": KnownGpu(95830, "9.0"),
    "H100 80GB": KnownGpu(81559, "9.0"),
    "A100 80GB": KnownGpu(81920, "8.0"),
    "A100 40GB": KnownGpu(40960, "8.0"),
    "A30": KnownGpu(24576, "8.0"),
    "L40S": KnownGpu(46068, "8.9"),
    "L40": KnownGpu(46068, "8.9"),
    "L4": KnownGpu(23034, "8.9"),
    "RTX 4090": KnownGpu(24564, "8.9"),
    "A40": KnownGpu(46068, "8.6"),
    "A10G": KnownGpu(23028, "8.6"),
    "A10": KnownGpu(23028, "8.6"),
}


def version(text: str) -> tuple[int, ...]:
    """Return the numbers of a version, such as "9.0", "590.44.01" or "10.14.1.48", to compare it with another."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


def known_gpu(name: str) -> KnownGpu:
    """Return what is known of the GPU `name`, a key of KNOWN.

    Raises GpuError: it is not one of them.
    """
    if name not in KNOWN:
        raise GpuError(f"GPU '{name}' is not one of {', '.join(KNOWN)}{near_miss(name, KNOWN)}")
    return KNOWN[name]


def read_gpus(runner: Runner, visible: str | None = None) -> list[Gpu]:
    """Return the GPUs of this machine, in nvidia-smi's order, or those that `visible` names, in its order.

    `visible` is the value of CUDA_VISIBLE_DEVICES: numbers or (beginnings of) UUIDs. CUDA counts in nvidia-smi's
    order only under CUDA_DEVICE_ORDER=PCI_BUS_ID, which matters where the GPUs differ.

    Raises GpuError: no nvidia-smi, no driver, no GPU, a value that it does not tell, or `visible` names none of them.
    """
    fields: Sequence[str] = FIELDS
    ran = _ask(runner, fields)
    if "not a valid field to query" in ran.stdout + ran.stderr:
        fields = FIELDS[: FIELDS.index("mig.mode.current")]
        ran = _ask(runner, fields)
    if ran.code or "No devices were found" in ran.stdout:
        raise GpuError(_why(ran))
    rows = [row for row in csv.reader(ran.stdout.splitlines(), skipinitialspace=True) if row]
    if not rows:
        raise GpuError("nvidia-smi lists no GPU; see `nvidia-smi -L`")
    gpus = [_gpu(row, fields) for row in rows]
    return gpus if visible is None else _visible(gpus, visible)


def _ask(runner: Runner, fields: Sequence[str]) -> Ran:
    return runner(["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"])


def _why(ran: Ran) -> str:
    """Why nvidia-smi told nothing, and what mends it."""
    said = f"{ran.stdout}\n{ran.stderr}"
    if ran.code == NOT_FOUND:
        return "nvidia-smi is not installed; install NVIDIA's driver, or run on a machine with an NVIDIA GPU"
    if "couldn't communicate with the NVIDIA driver" in said:
        return (
            "nvidia-smi cannot reach NVIDIA's driver; load it (`sudo modprobe nvidia`), or install it again for the "
            "running kernel"
        )
    if "Driver/library version mismatch" in said:
        return "nvidia-smi is newer than the driver that is loaded; restart the machine, or reload the nvidia modules"
    if "No devices were found" in said:
        return "nvidia-smi finds no GPU; see `lspci | grep -i nvidia`, and in a container start it with --gpus all"
    return f"nvidia-smi failed with exit code {ran.code}: {ran.words}"


def _gpu(row: list[str], fields: Sequence[str]) -> Gpu:
    if len(row) != len(fields):
        raise GpuError(f"nvidia-smi gave {len(row)} values, {len(fields)} were asked for: {', '.join(row)}")
    told = dict(zip(fields, (value.strip() for value in row), strict=True))
    for field in ("index", "memory.total"):
        if not told[field].isdecimal():
            raise GpuError(
                f"nvidia-smi tells no {field} of GPU {told['index']} ({told['name']}), but {told[field]!r}; "
                "see `nvidia-smi -q`: the GPU is lost, split, or of a kind without it"
            )
    capability = told.get("compute_cap", "")
    return Gpu(
        index=int(told["index"]),
        uuid=told["uuid"],
        name=told["name"],
        compute_capability=_capability_by_name(told) if capability in UNKNOWN else capability,
        memory_mib=int(told["memory.total"]),
        driver=told["driver_version"],
        is_split=told.get("mig.mode.current") == "Enabled",
    )


def _capability_by_name(told: Mapping[str, str]) -> str:
    """The compute capability of a GPU whose driver does not tell it, by the words of its name."""
    words = set(re.split(r"[ -]", told["name"]))
    for known, gpu in KNOWN.items():
        if known.split()[0] in words:
            return gpu.compute_capability
    raise GpuError(
        f"nvidia-smi of driver {told['driver_version']} does not tell the compute capability of GPU {told['index']} "
        f"({told['name']}), and it is not a known one; update the driver to 535 or newer"
    )


def _visible(gpus: Sequence[Gpu], visible: str) -> list[Gpu]:
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if not names or names[0] == "-1":
        raise GpuError(f"CUDA_VISIBLE_DEVICES is '{visible}' and hides every GPU; unset it, or name one")
    chosen = [_named(gpus, name) for name in names]
    if len(set(chosen)) < len(chosen):
        raise GpuError(f"CUDA_VISIBLE_DEVICES is '{visible}' and names a GPU twice; CUDA then shows none")
    return chosen


def _named(gpus: Sequence[Gpu], name: str) -> Gpu:
    if name.startswith("MIG-"):
        raise GpuError(f"CUDA_VISIBLE_DEVICES names the MIG slice {name}; engines are built for whole GPUs: name one")
    found = [gpu for gpu in gpus if name == str(gpu.index) or (name.startswith("GPU-") and gpu.uuid.startswith(name))]
    if len(found) != 1:
        there = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus)
        fact = "more than one GPU" if found else "no GPU"
        raise GpuError(f"CUDA_VISIBLE_DEVICES names '{name}', which is {fact} of this machine; there are: {there}")
    return found[0]
