"""The preflight of a GPU repository, against recorded answers of nvidia-smi and docker: wrong versions among them."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.container_image import KNOWN, ContainerImage, container_image
from pipeline.gpu_fingerprint import FILE, GpuFingerprint, write_fingerprint
from pipeline.runner import Ran, Runner
from serving.errors import ServingError
from serving.gpu_preflight import gpu_checks, require_gpu
from serving.preflight import Check

FOLDER = Path(__file__).parent / "recorded_gpu"
SMI, DOCKER = (json.loads((FOLDER / f"{tool}.json").read_text()) for tool in ("nvidia_smi", "docker"))
IMAGE = KNOWN["1.2.1"]
PLAIN = ContainerImage("tritonyard/tritonserver:26.07", None, None, "13.3", "580", "2.71.0")
LLM = 'name: "llama_tensorrt_llm"\nbackend: "tensorrtllm"\nmax_batch_size: 64\n'


def machine(smi: str = "four H100", docker: str = "with nvidia", image: str = "image here") -> Runner:
    """A runner that answers as a machine does: the names of its recordings."""

    def answer(argv: Sequence[str]) -> Ran:
        if argv[0] == "nvidia-smi":
            return Ran(**SMI[smi])
        assert argv[0] == "docker"
        return Ran(**DOCKER[docker if argv[1] == "info" else image])

    return answer


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one TensorRT-LLM engine over two H100s, and a tokenizer that needs no GPU."""
    engine = tmp_path / "llama_tensorrt_llm" / "1"
    engine.mkdir(parents=True)
    (engine.parent / "config.pbtxt").write_text(LLM)
    for rank in (0, 1):
        (engine / f"rank{rank}.engine").write_bytes(b"engine")
    tokenizer = tmp_path / "llama_tokenizer"
    (tokenizer / "1").mkdir(parents=True)
    (tokenizer / "config.pbtxt").write_text('name: "llama_tokenizer"\nbackend: "tokenizer"\n')
    write_fingerprint(engine, built())
    return tmp_path


def built(**changes: object) -> GpuFingerprint:
    told = {"tensorrt_llm": "1.2.1", "tensorrt": "10.14.1.48", "cuda": "13.1.0", "compute_capability": "9.0", "tp": 2}
    rest = {"limits": {"max_batch_size": 64}, "checkpoint": "sha256:" + "1" * 64}
    return GpuFingerprint(**{**told, **rest, **changes})  # type: ignore[arg-type]


def by_subject(checks: Sequence[Check]) -> dict[str, Check]:
    assert len({check.subject for check in checks}) == len(checks)
    return {check.subject: check for check in checks}


def test_a_machine_that_fits_is_well(repository: Path) -> None:
    checks = by_subject(list(gpu_checks(repository, IMAGE, machine())))
    assert list(checks) == ["docker", "image", "GPUs", "driver", "engine llama_tensorrt_llm"]
    assert all(check.well for check in checks.values())
    assert checks["driver"].found == "590.44.01"
    assert checks["image"].found == f"{IMAGE.image} with Triton 2.71.0, TensorRT 10.14.1.48, CUDA 13.1.0"
    assert checks["GPUs"].found.startswith("0 NVIDIA H100 80GB HBM3, compute capability 9.0, 81559 MiB; 1 NVIDIA H100")
    require_gpu(repository, IMAGE, machine(docker="with CDI"))


@pytest.mark.parametrize(
    ("told", "changes", "visible", "sentences"),
    [
        ({"smi": "not installed"}, {}, None, ["GPUs: none that can be used; nvidia-smi is not installed; install"]),
        (
            {"smi": "no driver"},
            {},
            None,
            ["GPUs: none that can be used; nvidia-smi cannot reach NVIDIA's driver; load"],
        ),
        (
            {"smi": "one L4"},
            {},
            None,
            ["driver: 535.183.01; CUDA 13.1.0 of", "9.0, GPU 0 (NVIDIA L4) has 8.9; build it"],
        ),
        ({"smi": "one H100"}, {}, None, ["runs on 2 GPUs (tp 2 x pp 1), 1 can be used here"]),
        ({}, {}, "3", ["runs on 2 GPUs (tp 2 x pp 1), 1 can be used here"]),
        ({}, {}, "7", ["CUDA_VISIBLE_DEVICES names '7', which is no GPU"]),
        ({"smi": "A100 under MIG"}, {"tp": 1}, None, ["cut into MIG slices", "built for compute capability 9.0"]),
        (
            {},
            {"tensorrt_llm": "1.1.0"},
            None,
            ["built by TensorRT-LLM 1.1.0, nvcr.io/nvidia/tritonserver:26.07-trtllm"],
        ),
        ({}, {"tensorrt": "10.13.3.9"}, None, ["built by TensorRT 10.13.3.9", "carries 10.14.1.48; build it again"]),
        ({"docker": "not installed"}, {}, None, ["docker: absent; install Docker"]),
        ({"docker": "no daemon"}, {}, None, ["Is the docker daemon running?; start it"]),
        ({"docker": "refused"}, {}, None, ["docker: its daemon refuses this user; add yourself to the group"]),
        ({"docker": "without nvidia"}, {}, None, ["no nvidia runtime; install the NVIDIA Container Toolkit"]),
        ({"docker": "not JSON"}, {}, None, ["docker: `docker info` gave no JSON; update Docker"]),
        ({"image": "image absent"}, {}, None, [f"image: {IMAGE.image} is not here; docker pull {IMAGE.image}"]),
    ],
)
def test_what_does_not_fit_is_refused_with_both_values_and_the_mend(
    repository: Path, told: dict[str, str], changes: dict[str, object], visible: str | None, sentences: list[str]
) -> None:
    write_fingerprint(repository / "llama_tensorrt_llm" / "1", built(**changes))
    with pytest.raises(ServingError) as caught:
        require_gpu(repository, IMAGE, machine(**told), visible)
    for sentence in sentences:
        assert sentence in str(caught.value)
    assert caught.value.exit_code == 4


def test_everything_is_told_at_once(repository: Path) -> None:
    write_fingerprint(repository / "llama_tensorrt_llm" / "1", built(tensorrt="10.0.1.6"))
    with pytest.raises(ServingError) as caught:
        require_gpu(repository, IMAGE, machine(smi="one L4", docker="without nvidia"))
    subjects = [line.split(":")[0] for line in str(caught.value).splitlines()]
    assert subjects == ["docker", "driver", "engine llama_tensorrt_llm"]
    engine = str(caught.value).splitlines()[2]
    assert all(fact in engine for fact in ("by TensorRT 10.0.1.6", "runs on 2 GPUs", "has 8.9"))
    assert str(caught.value).count("535.183.01") == 1


@pytest.mark.parametrize("config", ['backend: "tensorrtllm"', 'backend: "tensorrt"', 'platform: "tensorrt_plan"'])
def test_an_engine_without_fingerprint_is_refused(repository: Path, config: str) -> None:
    (repository / "llama_tensorrt_llm" / "config.pbtxt").write_text(f'name: "llama_tensorrt_llm"\n{config}\n')
    (repository / "llama_tensorrt_llm" / "1" / FILE).unlink()
    with pytest.raises(ServingError, match=rf"engine llama_tensorrt_llm: no {FILE}: not built, .*; run `yard engines"):
        require_gpu(repository, IMAGE, machine())
    require_gpu(repository, IMAGE, machine(), members=["llama_tokenizer"])


def test_a_broken_fingerprint_is_refused(repository: Path) -> None:
    (repository / "llama_tensorrt_llm" / "1" / FILE).write_text("{}")
    with pytest.raises(
        ServingError, match=r"fingerprint cannot be read; .*is not a fingerprint: tensorrt: Field required"
    ):
        require_gpu(repository, IMAGE, machine())


def test_a_fingerprint_deeper_in_the_version_folder_is_found(repository: Path) -> None:
    version = repository / "llama_tensorrt_llm" / "1"
    (version / "engine").mkdir()
    shutil.move(version / FILE, version / "engine" / FILE)
    write_fingerprint(version / "engine", built(compute_capability="8.0"))
    with pytest.raises(ServingError, match=r"built for compute capability 8\.0"):
        require_gpu(repository, IMAGE, machine())


def test_an_engine_that_a_gpu_cannot_hold_is_refused(repository: Path) -> None:
    engine = repository / "llama_tensorrt_llm" / "1" / "rank1.engine"
    with engine.open("r+b") as file:
        file.truncate(90_000 << 20)  # A hole: no byte is written.
    with pytest.raises(ServingError, match=r"take 90000 MiB of a GPU, GPU 0 .* has 81559 MiB"):
        require_gpu(repository, IMAGE, machine())


@pytest.mark.parametrize(
    ("container", "image", "found"),
    [
        (
            PLAIN,
            "another image here",
            "built by TensorRT 10.14.1.48, tritonyard/tritonserver:26.07 carries 11.0.0",
        ),
        (
            container_image("1.1.0", "ours:1"),
            "another image here",
            "built by TensorRT 10.14.1.48, ours:1 carries 11.0.0.114",
        ),
        (container_image("1.2.1", "ours:1"), "another image here", None),
        (PLAIN, "image that tells nothing", None),
    ],
)
def test_what_is_not_known_of_an_image_is_asked_of_it(
    repository: Path, container: ContainerImage, image: str, found: str | None
) -> None:
    write_fingerprint(repository / "llama_tensorrt_llm" / "1", built(tensorrt_llm=None))
    checks = by_subject(list(gpu_checks(repository, container, machine(image=image))))
    engine = checks["engine llama_tensorrt_llm"]
    assert engine.mend.startswith(f"it was {found}" if found else "")
    assert engine.well == (found is None)


def test_our_own_image_may_be_missing_because_the_start_builds_it(repository: Path) -> None:
    checks = by_subject(list(gpu_checks(repository, PLAIN, machine(image="image absent"))))
    assert checks["image"].well
    assert checks["image"].found == "tritonyard/tritonserver:26.07 is built at the first start"


def test_an_unknown_image_needs_the_driver_of_its_cuda() -> None:
    for told, driver in [("CUDA_VERSION=12.9.1", "525"), ("CUDA_VERSION=13.3.1", "580"), ("CUDA_VERSION=99.1", None)]:
        assert container_image("1.1.0", "ours:1").completed([told, "no pair"]).min_driver == driver
