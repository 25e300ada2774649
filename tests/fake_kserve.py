"""Fake KServe servers on real sockets, in this process, for faults that a real server cannot be made to show.

An embedding is [bytes, first byte, 0, 0] of its text, so that a test can tell whose it is. `answer` decides what
happens to an inference: it gets the texts and the request parameters, and returns nothing, waits, or raises Fault.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

WIDTH, MAX_BATCH = 4, 16
Answer = Callable[[list[bytes], dict], None]


class Fault(Exception):
    """What the server answers instead of embeddings: a gRPC status name and an HTTP code, and words."""

    def __init__(self, status: str, code: int, words: str):
        self.status, self.code, self.words = status, code, words


def embedding_of(text: bytes) -> list[float]:
    return [len(text), text[0] if text else 0, 0, 0]


def texts_of(raw: bytes) -> list[bytes]:
    texts, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        texts.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    return texts


class Server:
    """Where a fake listens, what it was asked, and how it answers."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[list[bytes]] = []
        self.configs = 0
        self.answer: Answer = lambda texts, parameters: None

    def embed(self, texts: list[bytes], parameters: dict) -> bytes:
        self.requests.append(texts)
        self.answer(texts, parameters)
        return np.array([embedding_of(text) for text in texts], np.float32).tobytes()


class _Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, server: Server):
        self.server = server

    def ServerReady(self, request, context):
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=request.name == "minilm")

    def ModelConfig(self, request, context):
        self.server.configs += 1
        if request.name != "minilm":
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        response = service_pb2.ModelConfigResponse()
        response.config.max_batch_size = MAX_BATCH
        response.config.input.add(name="text", dims=[1])
        response.config.output.add(name="embedding", dims=[WIDTH])
        return response

    def ModelInfer(self, request, context):
        texts = texts_of(request.raw_input_contents[0])
        assert list(request.inputs[0].shape) == [len(texts), 1]
        try:
            raw = self.server.embed(texts, {k: v.bool_param for k, v in request.parameters.items()})
        except Fault as fault:
            context.abort(getattr(grpc.StatusCode, fault.status), fault.words)
        response = service_pb2.ModelInferResponse()
        response.outputs.add(name="embedding", datatype="FP32", shape=[len(texts), WIDTH])
        response.raw_output_contents.append(raw)
        return response


@contextlib.contextmanager
def fake_grpc(address: str = "127.0.0.1:0") -> Iterator[Server]:
    server = Server()
    grpc_server = grpc.server(ThreadPoolExecutor(40), options=[("grpc.so_reuseport", 0)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Servicer(server), grpc_server)
    port = grpc_server.add_insecure_port(address)
    server.url = f"grpc://127.0.0.1:{port}"
    grpc_server.start()
    try:
        yield server
    finally:
        grpc_server.stop(None).wait()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    fake: Server

    def log_message(self, *args):
        pass

    def reply(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)
            self.wfile.flush()

    def do_GET(self):
        if self.path == "/v2/health/ready" or self.path == "/v2/models/minilm/ready":
            self.reply(200, b"")
        elif self.path == "/v2/models/minilm/config":
            self.fake.configs += 1
            config = {
                "max_batch_size": MAX_BATCH,
                "input": [{"name": "text", "dims": [1]}],
                "output": [{"name": "embedding", "dims": [WIDTH]}],
            }
            self.reply(200, json.dumps(config).encode())
        else:
            words = f"Request for unknown model: '{self.path}' is not found"
            self.reply(400, b"" if self.path.endswith("/ready") else json.dumps({"error": words}).encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        size = int(self.headers["Inference-Header-Content-Length"])
        header = json.loads(body[:size])
        texts = texts_of(body[size:])
        assert header["inputs"][0]["shape"] == [len(texts), 1]
        try:
            raw = self.fake.embed(texts, header["parameters"])
        except Fault as fault:
            return self.reply(fault.code, json.dumps({"error": fault.words}).encode())
        output = {
            "name": "embedding",
            "datatype": "FP32",
            "shape": [len(texts), WIDTH],
            "parameters": {"binary_data_size": len(raw)},
        }
        head = json.dumps({"outputs": [output]}).encode()
        return self.reply(200, head + raw, Inference_Header_Content_Length=str(len(head)))


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass


@contextlib.contextmanager
def fake_http(port: int = 0) -> Iterator[Server]:
    server = Server()
    handler = type("Handler", (_Handler,), {"fake": server})
    with _HttpServer(("127.0.0.1", port), handler) as http_server:
        server.url = f"http://127.0.0.1:{http_server.server_port}"
        thread = threading.Thread(target=http_server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            http_server.shutdown()
            thread.join()


@contextlib.contextmanager
def raw_socket(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """Listen and do `behave` with each connection, in a thread of its own; yields host:port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            behave(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
