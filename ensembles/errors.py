"""The root of the tools' error tree. Each floor adds its own branches beside the code that raises them.

    YardError                a user's mistake or a refused check; printed as one sentence, never as a traceback
    ├── DeclarationError     a TOML file says something its schema does not allow        (ensembles.declaration)
    ├── PbtxtError           a config.pbtxt that protobuf cannot read                    (ensembles.pbtxt)
    ├── CheckpointError      a checkpoint is missing, damaged or of an unknown kind      (pipeline.checkpoint)
    ├── BuilderError         a decoder that the model builder cannot make a graph of     (pipeline.onnx_decoder)
    ├── GpuError             the GPUs cannot be told, or one that is named is not there  (pipeline.gpu)
    ├── GpuFingerprintError  what built an engine is missing or broken                   (pipeline.gpu_fingerprint)
    ├── ContainerImageError  no container image is known for what is asked               (pipeline.container_image)
    ├── DockerError          an image is not here and cannot be had                      (pipeline.docker_command)
    ├── TensorRtVersionError the place that builds an engine does not tell its TensorRT  (pipeline.tensorrt_version)
    ├── PlanError            a TensorRT plan could not be built                          (pipeline.tensorrt_encoder)
    ├── EngineBuildError     trtllm-build failed, or built something else          (pipeline.tensorrt_llm.engine_build)
    ├── QuantisationError    modelopt failed, or wrote it wrong           (pipeline.tensorrt_llm.quantised_checkpoint)
    ├── FitError             an engine does not fit into the memory of its GPUs          (pipeline.gpu_fit)
    ├── StoreError           an artefact could not be written or is not what it was      (pipeline.store)
    ├── QualityError         an engine does not say what its checkpoint says             (pipeline.quality)
    ├── RepositoryError      a model repository is missing, drifted or cannot be swapped (pipeline.assemble)
    ├── ScenarioError        a load test cannot be run as it is written                  (loadtests.scenario)
    ├── TraceError           a recorded trace cannot be read                             (loadtests.trace)
    ├── RunError             a load test broke off, or its samples are not whole         (loadtests.samples)
    └── ServingError         the server cannot start, or never became ready; exit code 4 (serving.errors)

A message is subject, value, fact, and what to do next: "recipe minilm.toml: precision 'int9' is not one of fp32,
int8; did you mean 'int8'?"
"""

from collections.abc import Iterable
from difflib import get_close_matches


class YardError(Exception):
    """A user's mistake or a refused check: one sentence that names subject, value, fact and mend."""

    exit_code = 1


def near_miss(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known word closest to `word`, or an empty string."""
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
