"""Known errors of the server around the engine: Triton itself, its Python stubs, Docker."""

from serving.known_error import KnownError

ASSEMBLE = "assemble the repository again: `yard repository`"

# Wordings: triton-inference-server/core src/ensemble_utils.cc, backend_manager.cc, model_lifecycle.cc,
# model_config_utils.cc, infer_request.cc, and triton-inference-server/server src/main.cc.
TRITON = (
    KnownError(
        "template",
        r"\$\{(?P<variable>\w+)\}|Error parsing text-format inference\.ModelConfig: .*got: \$",
        "config.pbtxt holds a template variable that nobody filled in",
        ASSEMBLE,
    ),
    KnownError(
        "backend-missing",
        r"unable to find backend library for backend '(?P<backend>[^'$]+)'",
        "this image has no backend '{backend}'",
        "serve in the image that has it: `yard serve --profile gpu` names it, `ls /opt/tritonserver/backends` shows it",
    ),
    KnownError(
        "ensemble-datatype",
        r"ensemble tensor (?P<tensor>\S+): inconsistent data type: (?P<one>TYPE_\w+) is inferred from model (?P<a>\S+) "
        r"while (?P<other>TYPE_\w+) is inferred from model (?P<b>[^\s\"]+)",
        "the ensemble's tensor '{tensor}' is {one} in model {a} and {other} in model {b}",
        ASSEMBLE,
    ),
    KnownError(
        "request-datatype",
        r"inference input '(?P<tensor>[^']+)' data-type is '(?P<given>\w+)', but model '(?P<model>[^']+)' "
        r"expects '(?P<wanted>\w+)'",
        "input '{tensor}' of model {model} was sent as {given}, it is {wanted}",
        "send it as {wanted}; between the steps of an ensemble, assemble the repository again",
    ),
    KnownError(
        "ensemble-shape",
        r"ensemble tensor (?P<tensor>\S+): inconsistent shape: (?P<one>\[[^\]]*\]) is inferred from model (?P<a>\S+) "
        r"while (?P<other>\[[^\]]*\]) is inferred from model (?P<b>[^\s\"]+)",
        "the ensemble's tensor '{tensor}' has shape {one} in model {a} and {other} in model {b}",
        ASSEMBLE,
    ),
    KnownError(
        "ensemble-name",
        r"is mapp(?:ing to non-existing input|ed from non-existing output) (?P<tensor>\S+) in model "
        r"(?P<model>[^\s\"]+)",
        "the ensemble names a tensor '{tensor}' that model {model} does not have",
        ASSEMBLE,
    ),
    KnownError(
        "ensemble-input",
        r"input (?P<tensor>\S+) in model (?P<model>\S+) is not mapped to any ensemble tensors",
        "the ensemble gives model {model} no '{tensor}', which it needs",
        ASSEMBLE,
    ),
    KnownError(
        "ensemble-batch",
        r"allows maximum batch size (?P<whole>\d+), but it contains model (?P<model>\S+) which only allows maximum "
        r"batch size to be (?P<step>\d+)",
        "the ensemble allows batches of {whole}, its model {model} only {step}",
        ASSEMBLE,
    ),
    KnownError(
        "decoupled-paths",
        r"step of model '(?P<model>[^']+)' receives inputs originated from different decoupled models",
        "step {model} of the ensemble takes inputs from both sides of a decoupled model",
        "let what it needs travel through the decoupled model, or open the stream by a BLS call",
    ),
    KnownError(
        "version-folder",
        r"at least one version must be available under the version policy of model '(?P<model>[^']+)'",
        "model {model} has no version folder; git drops empty ones",
        ASSEMBLE,
    ),
    KnownError(
        "not-a-model",
        r"Invalid model name: Could not determine backend for model '(?P<model>[^']+)'",
        "the folder '{model}' lies where models lie and is none; is the path given a model's, not the repository's?",
        "give the repository itself, and keep other folders out of it",
    ),
    KnownError(
        "unknown-model",
        r"failed to load '(?P<model>[^']+)', failed to poll from model repository",
        "model {model} is to be loaded, and the repository has none of that name",
        "see the names in the repository, and assemble it again: `yard repository`",
    ),
    KnownError(
        "port",
        r"Socket '(?P<socket>[^']+)' already in use",
        "{socket} is taken by another process",
        "stop it, or choose other ports: --grpc-port, --http-port, --metrics-port",
    ),
)

# Wordings: triton-inference-server/python_backend src/shm_manager.cc and stub_launcher.cc, Python, transformers.
PYTHON = (
    KnownError(
        "shm-full",
        r"(?:Unable to initialize shared memory key|Failed to increase the shared memory pool size) .*"
        r"No space left on device|\bBus error\b",
        "/dev/shm is full, and the Python stubs talk through it",
        "free some of it; a container gets more by --shm-size=2g",
    ),
    KnownError(
        "shm-shared",
        r"Unable to initialize shared memory key .*Error: (?:File exists|No such file or directory)",
        "two servers, or two ranks of one, use the same names in /dev/shm",
        "give each its own --backend-config=python,shm-region-prefix-name=NAME, as `yard serve` does",
    ),
    KnownError(
        "stub-python",
        r"(?P<library>libpython[\d.]+so[\d.]*): cannot open shared object file",
        "the Python backend's stub was made for another Python: {library} is not here",
        "use the stub of the Python that runs, or install that library; `yard doctor` says which",
    ),
    KnownError(
        "numpy-2",
        r"compiled using NumPy 1\.x cannot be run in\s*NumPy 2|unpack_from requires a buffer of at least",
        "numpy 2 is installed where the Python stub was made for numpy 1",
        "install numpy below 2 there; `make setup` pins it",
    ),
    KnownError(
        "module-missing",
        r"ModuleNotFoundError: No module named '(?P<module>[^']+)'",
        "a Python model imports '{module}', which its environment lacks",
        "serve in the image of serving/Dockerfile, which adds what our backends import; here, `make setup`",
    ),
    KnownError(
        "tokenizer",
        r"Can't load tokenizer for '|Repo id must be in the form"
        r"|is not a local folder and is not a valid model identifier",
        "the tokenizer's folder is not where the model looks for it, so its name is taken for a Hub id",
        ASSEMBLE + ", which puts the tokenizer into the model's version folder",
    ),
)

# Wordings: Docker's daemon and client, NVIDIA/nvidia-container-toolkit.
DOCKER = (
    KnownError(
        "docker-gpu",
        r"could not select device driver \"[^\"]*\" with capabilities: \[\[gpu\]\]"
        r"|unknown or invalid runtime name: nvidia",
        "Docker cannot hand out GPUs: the NVIDIA Container Toolkit is not installed, or Docker does not know of it",
        "install nvidia-container-toolkit, then sudo nvidia-ctk runtime configure --runtime=docker, and restart docker",
    ),
    KnownError(
        "docker-driver",
        r"nvidia-container-cli: initialization error: (?P<what>.+)",
        "the NVIDIA Container Toolkit cannot reach the driver: {what}",
        "`nvidia-smi` must work on the machine itself first; restart the machine after a driver update",
    ),
    KnownError(
        "docker-login",
        r"unauthorized: authentication required|pull access denied for|denied: \{\"errors\"|401 Unauthorized",
        "the registry refuses to give the image",
        "docker login nvcr.io (user $oauthtoken, password: an NGC API key), and see that the tag exists",
    ),
    KnownError(
        "docker-disk",
        r"failed to register layer: .*no space left on device",
        "Docker's disk is full: the image takes tens of GB unpacked",
        "docker system prune, or give Docker a larger data-root",
    ),
    KnownError(
        "docker-port",
        r"Bind for (?P<socket>\S+) failed: port is already allocated",
        "{socket} is taken by another container",
        "see `docker ps`; stop it, or choose other ports: --grpc-port, --http-port, --metrics-port",
    ),
    KnownError(
        "docker-daemon",
        r"Cannot connect to the Docker daemon at|permission denied while trying to connect to the Docker daemon",
        "the Docker daemon does not run, or refuses this user",
        "sudo systemctl start docker, and sudo usermod -aG docker $USER",
    ),
)

SERVER_ERRORS = TRITON + PYTHON + DOCKER
