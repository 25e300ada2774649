"""Fake KServe servers on real sockets, in this process, for faults that a real server cannot be made to show.

An embedding is [bytes, first byte, 0, 0] of its text, so that a test can tell whose it is. `answer` decides what
happens to an inference: it gets the texts and the request parameters, and returns nothing, waits, or raises Fault.

`write` decides what a generation says: it gets the inputs, yields answers (`said`), and may raise Fault, or Dropped.

`models` are served besides minilm, each declared by a test: `Model.run` gets the tensors as they came over the wire.
"""

import contextlib
import json
import socket
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import grpc
import numpy as np
from google.protobuf import json_format
from tritonclient.grpc import service_pb2, service_pb2_grpc

WIDTH, MAX_BATCH = 4, 16
Answer = Callable[[list[bytes], dict], None]
Said = dict[str, str | int]
# A tensor on the wire: datatype, shape, Triton's binary form.
Wired = tuple[str, list[int], bytes]
DATATYPES = {str: "BYTES", int: "INT32"}


class Fault(Exception):
    """What the server answers instead of embeddings: a gRPC status name and an HTTP code, and words."""

    def __init__(self, status: str, code: int, words: str):
        self.status, self.code, self.words = status, code, words


class Dropped(Exception):
    """The connection breaks."""


def said(text: str, finish_reason: str = "", count: int = 1) -> Said:
    """Return one answer of a generation, as the ensemble writes it."""
    return {
        "text_output": text,
        "finish_reason": finish_reason,
        "num_input_tokens": 3,
        "num_output_tokens": count,
    }


@dataclass
class Model:
    """One model that a test declares: tensors as Triton's config has them, and what becomes of a request."""

    inputs: list[dict]
    outputs: list[dict]
    max_batch_size: int = 0
    decoupled: bool = False
    run: Callable[[dict[str, Wired], list[str]], dict[str, Wired]] = lambda inputs, outputs: inputs
    requests: list[dict[str, Wired]] = field(default_factory=list)
    parameters: list[dict] = field(default_factory=list)

    def config(self) -> dict:
        """The config as tritonserver gives it over HTTP."""
        return {
            "max_batch_size": self.max_batch_size,
            "input": self.inputs,
            "output": self.outputs,
            "model_transaction_policy": {"decoupled": self.decoupled},
        }

    def infer(self, inputs: dict[str, Wired], outputs: list[str], parameters: dict) -> dict[str, Wired]:
        self.requests.append(inputs)
        self.parameters.append(parameters)
        return self.run(inputs, outputs)


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
        self.headers: list[dict[str, str]] = []  # of each request, names in lower case
        self.models: dict[str, Model] = {}
        self.configs = 0
        self.answer: Answer = lambda texts, parameters: None
        self.write: Callable[[dict], Iterator[Said]] = lambda inputs: iter([said("hello", "stop")])
        self.generations: list[dict] = []
        self.ids: list[str] = []
        self.cancelled = threading.Event()

    def embed(self, texts: list[bytes], parameters: dict) -> bytes:
        self.requests.append(texts)
        self.answer(texts, parameters)
        return np.array([embedding_of(text) for text in texts], np.float32).tobytes()

    def generate(self, id: str, inputs: dict) -> Iterator[Said]:
        self.ids.append(id)
        self.generations.append(inputs)
        return self.write(inputs)


class _Headers(grpc.ServerInterceptor):
    def __init__(self, server: Server):
        self.server = server

    def intercept_service(self, continuation, details):
        self.server.headers.append(dict(details.invocation_metadata))
        return continuation(details)


class _Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, server: Server):
        self.server = server

    def ServerReady(self, request, context):
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=request.name == "minilm")

    def ModelConfig(self, request, context):
        self.server.configs += 1
        if request.name in self.server.models:
            return json_format.ParseDict(
                {"config": self.server.models[request.name].config()}, service_pb2.ModelConfigResponse()
            )
        if request.name != "minilm":
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        response = service_pb2.ModelConfigResponse()
        response.config.max_batch_size = MAX_BATCH
        response.config.input.add(name="text", dims=[1])
        response.config.output.add(name="embedding", dims=[WIDTH])
        return response

    def ModelInfer(self, request, context):
        if request.model_name in self.server.models:
            return self.infer(request, context)
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

    def infer(self, request, context):
        raws = zip(request.inputs, request.raw_input_contents, strict=True)
        inputs = {each.name: (each.datatype, list(each.shape), raw) for each, raw in raws}
        parameters = {
            key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in request.parameters.items()
        }
        model = self.server.models[request.model_name]
        try:
            found = model.infer(inputs, [each.name for each in request.outputs], parameters)
        except Fault as fault:
            context.abort(getattr(grpc.StatusCode, fault.status), fault.words)
        response = service_pb2.ModelInferResponse()
        for name, (datatype, shape, raw) in found.items():
            response.outputs.add(name=name, datatype=datatype, shape=shape)
            response.raw_output_contents.append(raw)
        return response

    def ModelStreamInfer(self, request_iterator, context):
        (request,) = request_iterator  # one, and then the client's half of the stream is closed
        over = threading.Event()
        context.add_callback(lambda: over.is_set() or self.server.cancelled.set())
        try:
            for answer in self.server.generate(request.id, dict(map(row_of, request.inputs))):
                yield stream_response(answer)
        except Fault as fault:
            over.set()
            if fault.status == "UNKNOWN":
                yield service_pb2.ModelStreamInferResponse(error_message=fault.words)
            else:
                context.abort(getattr(grpc.StatusCode, fault.status), fault.words)
        except Dropped:
            over.set()
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        over.set()


def row_of(tensor) -> tuple[str, list]:
    """Return a tensor's name and values; texts as str, as they are in JSON."""
    ((_, values),) = tensor.contents.ListFields()
    assert list(tensor.shape) == [1, len(values)]
    return tensor.name, [each.decode() if isinstance(each, bytes) else each for each in values]


def stream_response(answer: Said):
    message = service_pb2.ModelStreamInferResponse()
    for name, value in answer.items():
        message.infer_response.outputs.add(name=name, datatype=DATATYPES[type(value)], shape=[1, 1])
        text = value.encode() if isinstance(value, str) else b""
        raw = np.int32(value).tobytes() if isinstance(value, int) else len(text).to_bytes(4, "little") + text
        message.infer_response.raw_output_contents.append(raw)
    return message


@contextlib.contextmanager
def fake_grpc(address: str = "127.0.0.1:0", options: Iterable[tuple[str, int]] = ()) -> Iterator[Server]:
    server = Server()
    every = [("grpc.so_reuseport", 0), *options]
    grpc_server = grpc.server(ThreadPoolExecutor(40), interceptors=[_Headers(server)], options=every)
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

    def parse_request(self):
        parsed = super().parse_request()
        if parsed:
            self.fake.headers.append({name.lower(): value for name, value in self.headers.items()})
        return parsed

    def reply(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)
            self.wfile.flush()

    @property
    def model(self) -> str:
        return unquote(self.path.split("/")[3])

    def do_GET(self):
        if self.path == "/v2/health/ready" or self.path == "/v2/models/minilm/ready":
            self.reply(200, b"")
        elif self.path.endswith("/config") and self.model in self.fake.models:
            self.fake.configs += 1
            self.reply(200, json.dumps(self.fake.models[self.model].config()).encode())
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
        if "/generate" in self.path:
            return self.generate(json.loads(body))
        if "Content-Encoding" in self.headers:
            body = zlib.decompress(body, zlib.MAX_WBITS | 32)
        size = int(self.headers["Inference-Header-Content-Length"])
        header = json.loads(body[:size])
        if self.model in self.fake.models:
            return self.infer(header, body[size:])
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

    def infer(self, header: dict, data: bytes) -> None:
        inputs, outputs = {}, []
        for each in header["inputs"]:
            size = each["parameters"]["binary_data_size"]
            inputs[each["name"]], data = (each["datatype"], each["shape"], data[:size]), data[size:]
        assert data == b""
        wanted = [each["name"] for each in header["outputs"]]
        assert all(each["parameters"] == {"binary_data": True} for each in header["outputs"])
        try:
            found = self.fake.models[self.model].infer(inputs, wanted, header["parameters"])
        except Fault as fault:
            return self.reply(fault.code, json.dumps({"error": fault.words}).encode())
        for name, (datatype, shape, raw) in found.items():
            parameters = {"binary_data_size": len(raw)}
            outputs.append({"name": name, "datatype": datatype, "shape": shape, "parameters": parameters})
            data += raw
        head = json.dumps({"outputs": outputs}).encode()
        # As Triton does: no length of the JSON where nothing follows it.
        return self.reply(200, head + data, **({"Inference_Header_Content_Length": str(len(head))} if data else {}))

    def generate(self, row: dict) -> None:
        """Answer as Triton 2.51 does: the code is the first answer's, and 400 for whatever went wrong."""
        id = row.pop("id")
        inputs = {name: value if isinstance(value, list) else [value] for name, value in row.items()}
        assert self.path == f"/v2/models/minilm/{'generate_stream' if 'stream' in inputs else 'generate'}"
        events = b"data: %s\n\n" if "stream" in inputs else b"%s"
        begun = False
        try:
            for answer in self.tolerant(id, inputs):
                if not begun:
                    self.begin(400 if "error" in answer else 200)
                begun = True
                event = events % json.dumps(answer).encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
        except Dropped:
            self.close_connection = True
        except OSError:
            self.fake.cancelled.set()

    def tolerant(self, id: str, inputs: dict) -> Iterator[dict]:
        try:
            for answer in self.fake.generate(id, inputs):
                # The engine's heartbeats end in the detokenizer where nothing is streamed.
                if "stream" in inputs or answer["finish_reason"]:
                    yield answer
        except Fault as fault:
            yield {"error": fault.words}

    def begin(self, code: int) -> None:
        self.send_response(code)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()


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
