"""Known errors of the GPU side: TensorRT, TensorRT-LLM, CUDA, NCCL and MPI.

TensorRT says "expecting" of the machine that loads and "got" of the engine.
"""

from serving.known_error import KnownError

REBUILD = "build it again for this machine: `yard engines --profile gpu`"

# Wordings: TensorRT's runtime.cpp and stdArchiveReader.cpp, as users of NVIDIA/TensorRT and of Triton report them.
TENSORRT = (
    KnownError(
        "other-gpu",
        r"incompatible device, expecting compute (?P<here>[\d.]+\d) got compute (?P<built>[\d.]+\d)",
        "the engine was built for compute capability {built}, this GPU has {here}",
        f"{REBUILD}, or serve on a GPU of the kind that built it",
    ),
    KnownError(
        "other-tensorrt",
        r"not compatible with this version of TensorRT, expecting library version (?P<here>[\d.]+\d) "
        r"got (?P<built>[\d.]+\d)",
        "the engine was built by TensorRT {built}, the server has {here}",
        "build and serve in one image: `yard engines --profile gpu`",
    ),
    KnownError(
        "other-serialization",
        r"Serialization assertion stdVersionRead == \w+ failed",
        "the engine was written by another TensorRT than the server's",
        "build and serve in one image: `yard engines --profile gpu`",
    ),
    KnownError(
        "damaged-engine",
        r"Serialization assertion .*(?:magicTag|MAGIC_TAG).* failed",
        "the engine file is cut short, or written by a TensorRT of another major version",
        "build it again: `yard engines --profile gpu`; a copied file must have the size of the original",
    ),
    KnownError(
        "plan-batch",
        r"configuration specified max-batch (?P<config>\d+) but TensorRT engine only supports max-batch "
        r"(?P<engine>\d+)",
        "config.pbtxt allows batches of {config}, the engine was built for {engine}",
        "assemble the repository from this engine: `yard repository --profile gpu`",
    ),
    KnownError(
        "plan-datatype",
        r"unexpected datatype (?P<given>TYPE_\w+) for inference (?P<io>input|output) '(?P<tensor>[^']+)', expecting "
        r"(?P<wanted>TYPE_\w+)",
        "the engine's {io} '{tensor}' is {given}, config.pbtxt says {wanted}",
        "assemble the repository from this engine: `yard repository --profile gpu`",
    ),
)

# Wordings: NVIDIA/TensorRT-LLM cpp/tensorrt_llm (executorImpl.cpp, worldConfig.cpp, trtGptModelInflightBatching.cpp),
# triton_backend/inflight_batcher_llm/src, tensorrt_llm/models/modeling_utils.py; tensorrtllm_backend's issues.
TENSORRT_LLM = (
    KnownError(
        "other-release",
        r"\[json\.exception\.out_of_range\.403\] key '(?P<key>[^']+)' not found",
        "the engine's config.json lacks '{key}': it was built by another TensorRT-LLM release than the server's",
        "build and serve in one image: `yard engines --profile gpu`",
    ),
    KnownError(
        "no-engine-config",
        r"\[json\.exception\.parse_error\.101\]",
        "the engine's config.json is missing, empty or not JSON",
        f"it lies beside rank0.engine, in the folder of gpt_model_path; {REBUILD}",
    ),
    KnownError(
        "other-plugins",
        r"Assertion failed: d == a \+ length",
        "the engine's plugins were written by another TensorRT-LLM release than the server's",
        "build and serve in one image: `yard engines --profile gpu`",
    ),
    KnownError(
        "mixed-libraries",
        r"unable to load shared library: .*: undefined symbol: (?P<symbol>\w+)",
        "libraries of two TensorRT-LLM releases are mixed in this image",
        "serve in NVIDIA's image as it is, with nothing installed over tensorrt_llm",
    ),
    KnownError(
        "ranks",
        r"mpiSize == tp \* pp|MPI size \d+ != TP size \d+ \* PP size \d+"
        r"|MPI worldSize is expected to be equal to tp\*pp|Engine world size \(.*\) != Runtime world size",
        "the engine wants tp * pp MPI ranks, and the server was started with another number of them",
        "start it with `yard serve --profile gpu`, which starts a rank a GPU through mpirun",
    ),
    KnownError(
        "kv-cache-small",
        r"maxTokensInPagedKvCache \((?P<tokens>\d+)\) must be large enough to process at least 1 sequence",
        "the memory left for the KV cache holds {tokens} tokens, less than one sequence of the engine's full length",
        "raise kv_cache_free_gpu_mem_fraction, free the GPU, or build the engine with a smaller max_seq_len",
    ),
    KnownError(
        "kv-reuse",
        r"When KV cache block reuse is set, model has to be built with paged context FMHA support",
        "enable_kv_cache_reuse is on, and the engine was built without paged context FMHA",
        "build it with --use_paged_context_fmha enable, or turn enable_kv_cache_reuse off",
    ),
    KnownError(
        "engine-folder",
        r"Both encoder and decoder model paths are empty|Decoder \(GPT\) model path at (?P<path>\S+) does not exist",
        "gpt_model_path in the model's config.pbtxt is empty, or names a folder that the server cannot see",
        "`yard repository --profile gpu` writes it; in a container it is a path inside",
    ),
    KnownError(
        "batching-type",
        r"Invalid gpt_model_type\. Must be",
        "gpt_model_type in the model's config.pbtxt is not one that TensorRT-LLM knows",
        "set inflight_fused_batching",
    ),
    KnownError(
        "guided-decoding",
        r"Xgrammar's tokenizer info path at (?P<path>\S+) does not exist",
        "guided decoding is on, and its tokenizer info {path} is not there",
        "write that file with the image's generate_xgrammar_tokenizer_info.py, or turn guided_decoding_backend off",
    ),
    KnownError(
        "lookahead",
        r"Decoding mode is set to lookahead but lookahead parameters are not specified",
        "decoding_mode is lookahead, and its window, n-gram and verification sizes are not given",
        "give all three of lookahead_window_size, lookahead_ngram_size and lookahead_verification_set_size",
    ),
    KnownError(
        "not-decoupled",
        r"Streaming is only supported if model is deployed using decoupled mode"
        r"|Batch size > 1 requires the tensorrt_llm backend to be using decoupled",
        "the tensorrt_llm model is not decoupled, so it cannot stream",
        "set decoupled: true in its model_transaction_policy; `yard repository --profile gpu` does",
    ),
    KnownError(
        "build-flags",
        r"trtllm-build: error: (?P<what>.+)",
        "trtllm-build refuses its arguments: {what}",
        "use the pinned image: flags come and go between releases",
    ),
    KnownError(
        "weights-missing",
        r"RuntimeError: Required but not provided tensors:\s*\{(?P<tensors>.{1,120})",
        "the checkpoint lacks tensors that the engine needs: {tensors}",
        "convert it again: `yard convert`",
    ),
)

# Wordings: CUDA's cudaGetErrorString, NVIDIA's container entry point, the loader, PyTorch, Triton's core.
CUDA = (
    KnownError(
        "driver-old",
        # These two are said on a machine without a GPU as well, where they are harmless.
        r"^(?!.*(?:unable to create stream|pinned memory pool)).*"
        r"(?:CUDA driver version is insufficient for CUDA runtime version"
        r"|built for NVIDIA Driver Release [\d.]+ or later, but version [\d.]+ was detected and compatibility mode is "
        r"UNAVAILABLE)",
        "the driver of this machine is too old for the CUDA of the image, or there is none",
        "update the driver (CUDA 13 needs 580 or newer); `nvidia-smi` tells its version",
    ),
    KnownError(
        "no-kernel",
        r"no kernel image is available for execution on the device",
        "the image holds no code for this GPU's compute capability",
        "serve on a GPU that the image supports (compute capability 8.0 or newer), or in a newer image",
    ),
    KnownError(
        "out-of-memory",
        r"CUDA runtime error in .*: out of memory|CUDA out of memory|Cuda Runtime \(out of memory\)"
        r"|CUDA failure 2: out of memory|Requested amount of GPU memory \(\d+ bytes\) could not be allocated",
        "the GPU's memory is full: weights, activations and KV cache do not fit, or another process holds some",
        "see `nvidia-smi`; lower kv_cache_free_gpu_mem_fraction, or build with a smaller max_batch_size or "
        "max_num_tokens, a larger tp, or quantised",
    ),
    KnownError(
        "no-gpu",
        r"no CUDA-capable device is detected|libcuda\.so\.1: cannot open shared object file"
        r"|has kind KIND_GPU but no GPUs are available",
        "the server sees no GPU",
        "start its container with --gpus all; `docker run --rm --gpus all IMAGE nvidia-smi` tries it",
    ),
    KnownError(
        "few-gpus",
        r"invalid device ordinal",
        "a rank or an instance wants a GPU whose number does not exist here",
        "give the container all GPUs that the engine needs (tp * pp), and mind CUDA_VISIBLE_DEVICES",
    ),
    KnownError(
        "fabric",
        r"system not yet initialized",
        "the GPUs are joined by NVSwitch, and the fabric manager does not run",
        "sudo systemctl start nvidia-fabricmanager, in the very version of the driver",
    ),
    KnownError(
        "library-missing",
        r"(?P<library>lib(?:nvinfer|cudart|cublas|cudnn|nccl|tensorrt_llm|nvonnxparser)[\w+.-]*): "
        r"cannot open shared object file",
        "the library {library} is missing: this is not the image that the backend was made for",
        "serve in NVIDIA's TensorRT-LLM image, with its own LD_LIBRARY_PATH",
    ),
)

# Wordings: NCCL's misc/shmutils.cc, TensorRT-LLM's NCCL plugins, Open MPI's help texts.
COMMUNICATION = (
    KnownError(
        "nccl-shm",
        r"NCCL WARN Error(?:: failed to extend| while creating shared memory segment) /dev/shm/",
        "NCCL finds no room in /dev/shm for the rings between the GPUs",
        "start the container with --shm-size=2g or more",
    ),
    KnownError(
        "nccl",
        r"NCCL error .*'(?P<what>[^']*)'",
        "NCCL cannot join the GPUs: {what}",
        "set NCCL_DEBUG=WARN and read what it says; --shm-size=2g, --ulimit memlock=-1 and equal GPUs mend most",
    ),
    KnownError(
        "mpi-root",
        r"mpirun has detected an attempt to run as root",
        "mpirun refuses to run as root",
        "add --allow-run-as-root, as `yard serve --profile gpu` does",
    ),
    KnownError(
        "mpi-slots",
        r"There are not enough slots available in the system",
        "mpirun counts fewer slots than there are ranks",
        "add --oversubscribe: a rank takes a GPU, not a core",
    ),
)

ENGINE_ERRORS = TENSORRT + TENSORRT_LLM + CUDA + COMMUNICATION
