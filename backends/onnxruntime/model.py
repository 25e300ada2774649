"""Triton python-based backend `onnxruntime`: stands in for NVIDIA's C++ backend on machines that lack it.

Runs inside Triton from its own folder and imports nothing of the project. It takes the config.pbtxt that NVIDIA's
backend takes and honours the same model parameters (README of triton-inference-server/onnxruntime_backend); what it
does not know it refuses, where NVIDIA's backend would silently ignore it. It is never mounted over NVIDIA's own.

    optimization { graph { level } }            -1 basic, 1 extended, 2 none; otherwise all
    intra_op_thread_count, inter_op_thread_count   0: one a core
    execution_mode                              0 sequential, 1 parallel
    enable_mem_arena, enable_mem_pattern, memory.enable_memory_arena_shrinkage,
    session.use_device_allocator_for_initializers
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
DATA_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
}
SHRINKAGE = "memory.enable_memory_arena_shrinkage"


class BadConfig(Exception):
    """A config.pbtxt that does not fit the engine, or that this stand-in does not know."""


def session_options(config):
    """Return ONNX Runtime's session options for a model config; raise BadConfig on what is not known."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    optimization = config.get("optimization", {})
    if optimization.get("execution_accelerators"):
        raise BadConfig("optimization.execution_accelerators needs NVIDIA's own backend; remove it here")
    level = int(optimization.get("graph", {}).get("level", 0))
    if level not in GRAPH_LEVELS:
        raise BadConfig(f"optimization.graph.level {level} is not one of -1, 1, 2")
    options.graph_optimization_level = GRAPH_LEVELS[level]
    # Long enough to bridge the gaps between two operators, which is worth 2 ms of 14 at one text; short enough to
    # leave the cores to the server's other steps, which share them.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    for key, value in model_parameters(config).items():
        _set(options, key, value)
    return options


def model_parameters(config):
    """Return the config's parameters as strings by key."""
    return {key: entry["string_value"] for key, entry in config.get("parameters", {}).items()}


def _set(options, key, value):
    match key:
        case "intra_op_thread_count":
            options.intra_op_num_threads = _whole(key, value)
        case "inter_op_thread_count":
            options.inter_op_num_threads = _whole(key, value)
        case "execution_mode":
            modes = [ort.ExecutionMode.ORT_SEQUENTIAL, ort.ExecutionMode.ORT_PARALLEL]
            options.execution_mode = modes[_switch(key, value)]
        case "enable_mem_arena":
            options.enable_cpu_mem_arena = bool(_switch(key, value))
        case "enable_mem_pattern":
            options.enable_mem_pattern = bool(_switch(key, value))
        case "session.use_device_allocator_for_initializers":
            options.add_session_config_entry(key, str(_switch(key, value)))
        case "memory.enable_memory_arena_shrinkage":
            pass  # An option of each run, not of the session: see `run_options`.
        case _:
            raise BadConfig(f"parameter '{key}' is not known to this onnxruntime stand-in; remove it")


def run_options(config):
    """Return the options of each run."""
    options = ort.RunOptions()
    if shrinkage := model_parameters(config).get(SHRINKAGE):
        options.add_run_config_entry(SHRINKAGE, shrinkage)
    return options


def _whole(key, value):
    if not value.isdecimal():
        raise BadConfig(f"parameter {key} = '{value}' is not a whole number of 0 or more")
    return int(value)


def _switch(key, value):
    if value not in ("0", "1"):
        raise BadConfig(f"parameter {key} = '{value}' is not 0 or 1")
    return int(value)


def check_signature(config, session):
    """Raise BadConfig where config.pbtxt and the engine disagree, as NVIDIA's backend does at load time."""
    batched = int(config.get("max_batch_size", 0)) > 0
    _check_side("input", config["input"], session.get_inputs(), batched)
    _check_side("output", config["output"], session.get_outputs(), batched)
    missing = {arg.name for arg in session.get_inputs()} - {entry["name"] for entry in config["input"]}
    if missing:
        raise BadConfig(f"the engine's input '{min(missing)}' is not in config.pbtxt")


def _check_side(side, entries, args, batched):
    engine = {arg.name: arg for arg in args}
    for entry in entries:
        name, arg = entry["name"], engine.get(entry["name"])
        if arg is None:
            raise BadConfig(f"{side} '{name}' is not in the engine, which has {', '.join(sorted(engine))}")
        if DATA_TYPES.get(entry["data_type"]) != arg.type:
            raise BadConfig(f"{side} '{name}' is {entry['data_type']}, the engine has {arg.type}")
        dims = [int(size) for size in entry["dims"]]
        declared = [-1, *dims] if batched else dims
        shape = [size if isinstance(size, int) else -1 for size in arg.shape]
        agree = len(declared) == len(shape) and all(
            have in (-1, want) or want == -1 for want, have in zip(declared, shape, strict=True)
        )
        if not agree:
            raise BadConfig(f"{side} '{name}' has shape {declared} with its batch, the engine has {shape}")


class TritonPythonModel:
    """Any ONNX model: the requests of a batch are joined, run once, and split again."""

    def initialize(self, args):
        """Open the engine and hold config.pbtxt against it; raise, so that the model fails to load."""
        config = json.loads(args["model_config"])
        self.name = config["name"]
        folder = Path(args["model_repository"]) / args["model_version"]
        file = folder / (config.get("default_model_filename") or "model.onnx")
        if file.is_dir():  # an engine with external data
            file = file / "model.onnx"
        try:
            self.session = ort.InferenceSession(str(file), session_options(config), providers=["CPUExecutionProvider"])
            check_signature(config, self.session)
            self.options = run_options(config)
        except Exception as error:
            raise pb_utils.TritonModelException(f"{self.name}: {error}") from None
        self.inputs = [entry["name"] for entry in config["input"]]
        self.batched = int(config.get("max_batch_size", 0)) > 0

    def execute(self, requests):
        """Run all requests as one batch; where that fails, each alone, so that one cannot fail the others."""
        feeds = [self._feed(request) for request in requests]
        if self.batched and len(feeds) > 1:
            try:
                return self._run_joined(requests, feeds)
            except Exception as error:
                pb_utils.Logger.log_warn(f"{self.name}: batch of {len(feeds)} failed, running each alone: {error}")
        return [self._run_alone(request, feed) for request, feed in zip(requests, feeds, strict=True)]

    def _feed(self, request):
        tensors = ((name, pb_utils.get_input_tensor_by_name(request, name)) for name in self.inputs)
        return {name: tensor.as_numpy() for name, tensor in tensors if tensor is not None}

    def _run_joined(self, requests, feeds):
        joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        names = list(dict.fromkeys(name for request in requests for name in request.requested_output_names()))
        outputs = dict(zip(names, self.session.run(names, joined, self.options), strict=True))
        responses, start = [], 0
        for request, feed in zip(requests, feeds, strict=True):
            end = start + len(next(iter(feed.values())))
            rows = {name: outputs[name][start:end] for name in request.requested_output_names()}
            responses.append(self._response(rows))
            start = end
        return responses

    def _run_alone(self, request, feed):
        names = list(request.requested_output_names())
        try:
            return self._response(dict(zip(names, self.session.run(names, feed, self.options), strict=True)))
        except Exception as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self.name}: {error}"))

    def _response(self, outputs):
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs.items()])
