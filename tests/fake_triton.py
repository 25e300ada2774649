"""A fake Triton server: KServe's gRPC protocol on a real socket, with planted latency, stalls and errors.

It computes nothing: every text gets the same embedding, every prompt the same word again and again. It runs as a
process of its own, so that it can be killed and so that it does not share the interpreter of what measures it. It ends
when its stdin does. It can record what it sent and when, by Linux's monotonic clock, which all processes share.
"""

import argparse
import contextlib
import itertools
import json
import random
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

WIDTH = 4
# How many times later a request is answered that comes beyond the capacity.
OVERLOADED = 10


@dataclass(frozen=True)
class Plan:
    """What goes wrong. Seconds count from the first inference request.

    A streamed answer comes in deltas of `delta_tokens`, `delta_s` apart, the first after `latency_s`; one with an
    error breaks off after half of its tokens. Every answer is `short_by` tokens shorter than asked for. With `sigma`
    both times are medians of lognormal distributions, drawn by a seed: a latency a request, a gap a delta. Deltas come
    `burst` at a time, one right after the other, and that many gaps lie between bursts.
    A unary request that finds `capacity` others inside takes `OVERLOADED` times as long; 0 is no limit.
    """

    latency_s: float = 0.0
    stall_at_s: float = 0.0
    stall_s: float = 0.0
    error_every: int = 0
    silent: bool = False
    delta_s: float = 0.0
    delta_tokens: int = 1
    short_by: int = 0
    capacity: int = 0
    sigma: float = 0.0
    burst: int = 1

    def pauses(self, number: int, deltas: int) -> list[float]:
        """The seconds before each delta of the `number`th request."""
        draw, spans = random.Random(number), [self.latency_s, *[self.delta_s * self.burst] * (deltas - 1)]
        return [
            0.0 if index % self.burst else span * draw.lognormvariate(0, self.sigma) for index, span in enumerate(spans)
        ]


@dataclass(frozen=True)
class Sent:
    """What was sent to a good request: deltas as (when, output tokens so far), of an embedding one without tokens.

    Times in seconds of time.monotonic, taken when gRPC was given the message. `text` is what was asked.
    """

    text: str
    arrived_s: float
    deltas: list[tuple[float, int]]


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers as `plan` says; always live and ready, for every model."""

    def __init__(self, plan: Plan, record: TextIO | None):
        self._plan, self._lock, self._record = plan, threading.Lock(), record
        self._first: float | None = None
        self._count = 0
        self._inside = 0

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

    def _arrived(self):
        """Which request this is, and the seconds since the first."""
        now = time.monotonic()
        with self._lock:
            self._first = now if self._first is None else self._first
            self._count += 1
            return self._count, now - self._first

    def _note(self, sent):
        """Write what was sent, before the last message goes: whoever has an answer finds it recorded."""
        if self._record:
            with self._lock:
                self._record.write(json.dumps(vars(sent)) + "\n")

    def ModelInfer(self, request, context):
        arrived, (count, since) = time.monotonic(), self._arrived()
        plan = self._plan
        if plan.silent:
            while context.is_active():
                time.sleep(0.05)
        if plan.stall_at_s <= since < plan.stall_at_s + plan.stall_s:
            time.sleep(plan.stall_at_s + plan.stall_s - since)
        (latency_s,) = plan.pauses(count, 1)
        self._work(latency_s)
        if plan.error_every and count % plan.error_every == 0:
            context.abort(grpc.StatusCode.INTERNAL, "a planted error")
        answer = _answer(request)
        self._note(Sent(_inputs(request)["text"].decode(), arrived, [(time.monotonic(), 0)]))
        return answer

    def _work(self, latency_s):
        with self._lock:
            self._inside += 1
            crowded = 0 < self._plan.capacity < self._inside
        time.sleep(latency_s * (OVERLOADED if crowded else 1))
        with self._lock:
            self._inside -= 1

    def ModelStreamInfer(self, requests, context):
        for request in requests:
            count, _ = self._arrived()
            breaks = bool(self._plan.error_every) and count % self._plan.error_every == 0
            yield from self._deltas(request, context, breaks, count)

    def _deltas(self, request, context, breaks, number):
        arrived, plan, inputs = time.monotonic(), self._plan, _inputs(request)
        wanted = inputs["max_tokens"] - plan.short_by
        ends = [*range(plan.delta_tokens, wanted, plan.delta_tokens), wanted]
        dues = [arrived + pause for pause in itertools.accumulate(plan.pauses(number, len(ends)))]
        if not inputs.get("stream"):
            ends, dues = [wanted], [dues[-1]]
        sent = Sent(json.loads(inputs["messages"])[-1]["content"], arrived, [])
        for end, due in zip(ends, dues, strict=True):
            # To a schedule, so that late wake-ups do not add up.
            time.sleep(max(due - time.monotonic(), 0))
            if breaks and end > wanted // 2:
                context.abort(grpc.StatusCode.INTERNAL, "a planted error")
            before = sent.deltas[-1][1] if sent.deltas else 0
            message = _delta(request, end - before, end, last=end == wanted)
            sent.deltas.append((time.monotonic(), end))
            if end == wanted:
                self._note(sent)
            yield message


def _inputs(request):
    """The first value of each input; an FP32 one is not read right, and not looked at."""
    values = {}
    for place, each in enumerate(request.inputs):
        if not request.raw_input_contents:
            ((_, contents),) = each.contents.ListFields()
            values[each.name] = contents[0]
        elif each.datatype == "BYTES":
            raw = request.raw_input_contents[place]
            values[each.name] = raw[4 : 4 + int.from_bytes(raw[:4], "little")]
        else:
            values[each.name] = int.from_bytes(request.raw_input_contents[place], "little")
    return values


def _delta(request, new, so_far, last):
    """One response of the generate ensemble, all tensors [1, 1]."""
    response = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    for name, datatype, value in [
        ("text_output", "BYTES", b" word" * new),
        ("num_input_tokens", "INT32", struct.pack("<i", 7)),
        ("num_output_tokens", "INT32", struct.pack("<i", so_far)),
        ("finish_reason", "BYTES", b"length" if last else b""),
    ]:
        response.outputs.add(name=name, datatype=datatype, shape=[1, 1])
        # Bytes travel with their length in front.
        response.raw_output_contents.append(struct.pack("<I", len(value)) + value if datatype == "BYTES" else value)
    response.parameters["triton_final_response"].bool_param = last
    return service_pb2.ModelStreamInferResponse(infer_response=response)


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
def fake_triton(record: Path | None = None, **planted) -> Iterator[Running]:
    """Run a fake server, with what of `Plan` is planted, in a subprocess for the length of a `with` block.

    What it sends to good requests is written to `record`, for `read_record`.
    """
    plan = Plan(**planted)
    arguments = [f"--{key.replace('_', '-')}={float(value)}" for key, value in vars(plan).items()]
    command = [sys.executable, str(Path(__file__)), *arguments, *(["--record", str(record)] if record else [])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Running(process, f"grpc://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def read_record(path: Path) -> list[Sent]:
    """Read what a fake server recorded, in the order of its last messages."""
    return [Sent(**json.loads(line)) for line in path.read_text().splitlines()]


def main() -> None:
    """Serve until stdin ends; print the port first."""
    parser = argparse.ArgumentParser()
    for key in vars(Plan()):
        parser.add_argument(f"--{key.replace('_', '-')}", type=float)
    parser.add_argument("--record", type=Path)
    given = vars(parser.parse_args())
    record = given.pop("record")
    # Each number back in the type of its field.
    plan = Plan(**{key: type(vars(Plan())[key])(value) for key, value in given.items()})
    # More threads than a stall can hold requests, or streams are open: a wait is planted, never a queue.
    server = grpc.server(ThreadPoolExecutor(max_workers=700))
    fake = FakeTriton(plan, record.open("w", buffering=1) if record else None)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(grace=None)


if __name__ == "__main__":
    main()
