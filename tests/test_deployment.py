"""What one server of the profile gpu loads, on how many GPUs and in which image; and the command that starts it."""

from pathlib import Path

import pytest

from ensembles.generate import GenerateSpec
from ensembles.llmapi import llmapi_ensemble
from ensembles.model import Ensemble
from ensembles.pbtxt import dump
from ensembles.tensorrt_llm import tensorrt_llm_ensemble
from pipeline.container_image import container_image
from pipeline.gpu_fingerprint import GpuFingerprint, write_fingerprint
from pipeline.recipe import read_recipes
from pipeline.served import ensemble_of
from serving import container
from serving.deployment import Deployment, built_models, deployment
from serving.embedded import Ports
from serving.errors import ServingError
from serving.site import ALL_BUT_LLM, Site
from yard.checkout import BACKENDS, RECIPES


def spec(name: str) -> GenerateSpec:
    return GenerateSpec(name, max_tokens=4096, max_text_bytes=65536, slots=64, max_queue_size=256)


def put(repository: Path, ensemble: Ensemble, tp: int = 1, built: bool = True) -> None:
    for model in (ensemble, *ensemble.models):
        folder = repository / model.name / ("1" if built else "")
        folder.mkdir(parents=True)
        (repository / model.name / "config.pbtxt").write_text(dump(model))
        if built and getattr(model, "backend", "") == "tensorrtllm":
            write_fingerprint(
                folder,
                GpuFingerprint(
                    tensorrt_llm="1.2.1",
                    tensorrt="10.14.1.48",
                    cuda="13.1.0",
                    compute_capability="9.0",
                    tp=tp,
                    limits={"max_batch_size": 64},
                    checkpoint="sha256:" + "0" * 64,
                ),
            )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    put(tmp_path, tensorrt_llm_ensemble(spec("small"), {}))
    put(tmp_path, tensorrt_llm_ensemble(spec("large"), {}), tp=4)
    put(tmp_path, tensorrt_llm_ensemble(spec("later"), {}), built=False)
    put(tmp_path, llmapi_ensemble(spec("api")))
    (minilm,) = read_recipes(RECIPES, "gpu", "minilm")
    put(tmp_path, ensemble_of(minilm, "gpu"))
    return tmp_path


def test_an_engine_on_one_gpu(repository: Path) -> None:
    assert deployment(repository, ["small"]) == Deployment(
        models=("small",),
        members=("small", "small_decoder", "small_detokenizer", "small_tokenizer"),
        decoders=("small_decoder",),
        needs_llm=True,
        ranks=1,
        auto_complete=False,
    )


def test_an_engine_on_four_gpus_and_the_llm_api(repository: Path) -> None:
    assert deployment(repository, ["large"]).ranks == 4
    api = deployment(repository, ["api"])
    assert (api.ranks, api.auto_complete, api.needs_llm, api.decoders) == (1, True, True, ())


def test_an_encoder_needs_no_tensorrt_llm(repository: Path) -> None:
    assert not deployment(repository, ["minilm"]).needs_llm


def test_only_what_is_built_is_served(repository: Path) -> None:
    assert built_models(repository) == ["api", "large", "minilm", "small"]


@pytest.mark.parametrize(
    ("models", "fact"),
    [
        (["smal"], "has no ensemble 'smal'; did you mean 'small'"),
        (["later"], "model 'later' .* has no version to load: its engine was not built"),
        (["small", "minilm"], "'small_decoder' .*tensorrtllm.* 'minilm_encoder' .*different images .*name the models"),
        ([], "different images"),
        (["small", "large"], "different numbers of GPUs need a server each"),
    ],
)
def test_what_cannot_be_served_together_is_refused(repository: Path, models: list[str], fact: str) -> None:
    with pytest.raises(ServingError, match=fact):
        deployment(repository, models)


def test_an_empty_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="holds no built model"):
        deployment(tmp_path, [])


def command(repository: Path, model: str, visible: str | None = None) -> list[str]:
    chosen = deployment(repository, [model])
    image = container_image("1.2.1") if chosen.needs_llm else ALL_BUT_LLM
    site = Site(repository, chosen, image, visible)
    return container.run_command(repository, BACKENDS, Ports(), "name", "KEY", "2g", site)


def test_an_engine_runs_in_nvidias_own_image_with_the_gpus_that_are_visible(repository: Path) -> None:
    argv = command(repository, "small")
    assert "--gpus=all" in argv
    assert argv[argv.index("nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3") + 1] == "tritonserver"
    assert {"--model-control-mode=explicit", "--load-model=small", "--disable-auto-complete-config"} <= set(argv)
    assert '--gpus="device=2,3"' in command(repository, "small", visible="2,3")


def test_ranks_are_processes_of_one_mpirun_and_the_first_alone_answers(repository: Path) -> None:
    argv = command(repository, "large")
    line = argv[argv.index("mpirun") :]
    assert line[:2] == ["mpirun", "--allow-run-as-root"]
    ranks = " ".join(line[2:]).split(" : ")
    assert len(ranks) == 4
    assert all(rank.startswith("-n 1 tritonserver ") for rank in ranks)
    assert ["--load-model=large " in rank for rank in ranks] == [True, False, False, False]
    assert ["--load-model=large_decoder " in rank for rank in ranks] == [False, True, True, True]
    assert all("--disable-auto-complete-config" in rank for rank in ranks)
    assert len({rank.rsplit("shm-region-prefix-name=", 1)[1] for rank in ranks}) == 4


def test_the_llm_api_completes_its_config_from_model_yaml(repository: Path) -> None:
    assert "--disable-auto-complete-config" not in command(repository, "api")


def test_an_encoder_runs_in_the_image_with_all_other_backends(repository: Path) -> None:
    argv = command(repository, "minilm")
    assert container.GPU_IMAGE in argv
    assert "--gpus=all" in argv
