"""A fake Triton server: KServe's gRPC protocol on a real socket, with planted latency, stalls and errors.

It computes nothing: every text gets the same embedding. It runs as a process of its own, so that it can be
killed and so that it does not share the interpreter of what measures it. It ends when its stdin does.
"""

import argparse
import contextlib
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

WIDTH = 4


@dataclass(frozen=True)
class Plan:
    """What goes wrong. Seconds count from the first inference request."""

    latency_s: float = 0.0
    stall_at_s: float = 0.0
    stall_s: float = 0.0
    error_every: int = 0
    silent: bool = False


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers as `plan` says; always live and ready, for every model."""

    def __init__(self, plan: Plan):
        self._plan, self._lock = plan, threading.Lock()
        self._first: float | None = None
        self._count = 0

    def ServerLive(self, request, context):
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request, context):
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelMetadata(self, request, context):
        tensor = service_pb2.ModelMetadataResponse.TensorMetadata
        return service_pb2.ModelMetadataResponse(
            name=request.name,
            versions=["1"],
            platform="ensemble",
            inputs=[tensor(name="text", datatype="BYTES", shape=[-1, 1])],
            outputs=[
                tensor(name="embedding", datatype="FP32", shape=[-1, WIDTH]),
                tensor(name="num_input_tokens", datatype="INT32", shape=[-1, 1]),
            ],
        )

    def ModelConfig(self, request, context):
        response = service_pb2.ModelConfigResponse()
        config = response.config
        config.name, config.platform, config.max_batch_size = request.name, "ensemble", 64
        config.input.add(name="text", data_type="TYPE_STRING", dims=[1])
        config.output.add(name="embedding", data_type="TYPE_FP32", dims=[WIDTH])
        config.output.add(name="num_input_tokens", data_type="TYPE_INT32", dims=[1])
        return response

    def ModelInfer(self, request, context):
        arrived = time.monotonic()
        with self._lock:
            self._first = arrived if self._first is None else self._first
            self._count += 1
            count, since = self._count, arrived - self._first
        plan = self._plan
        if plan.silent:
            while context.is_active():
                time.sleep(0.05)
        if plan.stall_at_s <= since < plan.stall_at_s + plan.stall_s:
            time.sleep(plan.stall_at_s + plan.stall_s - since)
        time.sleep(plan.latency_s)
        if plan.error_every and count % plan.error_every == 0:
            context.abort(grpc.StatusCode.INTERNAL, "a planted error")
        return _answer(request)


def _answer(request):
    rows = request.inputs[0].shape[0]
    response = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    embedding = struct.pack(f"<{WIDTH}f", 1.0, *[0.0] * (WIDTH - 1)) * rows
    tokens = struct.pack("<i", 7) * rows
    for name, datatype, width, raw in [
        ("embedding", "FP32", WIDTH, embedding),
        ("num_input_tokens", "INT32", 1, tokens),
    ]:
        asked = {output.name for output in request.outputs}
        if not asked or name in asked:
            response.outputs.add(name=name, datatype=datatype, shape=[rows, width])
            response.raw_output_contents.append(raw)
    return response


@dataclass
class Running:
    """A fake server that runs as `process` and listens on `url`."""

    process: subprocess.Popen[str]
    url: str

    def kill(self) -> None:
        """End it as a crash would: no goodbye to anyone."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def fake_triton(*, latency_s=0.0, stall_at_s=0.0, stall_s=0.0, error_every=0, silent=False) -> Iterator[Running]:
    """Run a fake server in a subprocess for the length of a `with` block."""
    plan = Plan(latency_s, stall_at_s, stall_s, error_every, silent)
    arguments = [f"--{key.replace('_', '-')}={float(value)}" for key, value in vars(plan).items()]
    command = [sys.executable, str(Path(__file__)), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Running(process, f"grpc://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def main() -> None:
    """Serve until stdin ends; print the port first."""
    parser = argparse.ArgumentParser()
    for key in vars(Plan()):
        parser.add_argument(f"--{key.replace('_', '-')}", type=float, default=0.0)
    options = vars(parser.parse_args())
    plan = Plan(
        options["latency_s"],
        options["stall_at_s"],
        options["stall_s"],
        int(options["error_every"]),
        bool(options["silent"]),
    )
    # More threads than a stall can hold requests: a wait is planted, never a queue.
    server = grpc.server(ThreadPoolExecutor(max_workers=300))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(FakeTriton(plan), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(grace=None)


if __name__ == "__main__":
    main()
