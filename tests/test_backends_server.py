"""The backends in a real tritonserver: right for every text, a bad one alone refused, a full queue said so."""

import json
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http
from golden_server import golden_server
from tritonclient.utils import InferenceServerException

from pipeline import quality
from pipeline.onnx_encoder import load_reference
from pipeline.plan import Plan
from pipeline.store import Artefact
from serving.errors import ServingError
from serving.ports import free_ports
from serving.server import Server
from tritonyard import Client, InvalidRequest, ServerOverloaded
from yard.checkout import BACKENDS

pytestmark = pytest.mark.server

MODEL = "minilm"
LONGEST = 256
CLOSE = 1e-4
READY_S = 60.0
# What one request may take on a machine that does other things too: far below a stalled server's for ever.
ANSWER_S = 60.0

EXACT = "time " * (LONGEST - 2)  # one token a word, and two of the tokenizer's own
TEXTS = {
    "empty": "",
    "spaces": "   ",
    "nul bytes": "a\0b \0",
    "emoji": "🙂 👩‍👩‍👧‍👦 🏳️‍🌈",
    "combining": "e\u0301 a\u0323\u0302 and é, ﬁ, Ａ",
    "no word known": "\u16a0\u16a2 \u200b\u200e",
    "longest": EXACT,
}
BAD = {
    "not utf-8": (b"ab\xffcd", r"text 0 is not UTF-8: byte 0xff at position 2"),
    "cut utf-8": ("naïve café".encode()[:-1], r"text 0 is not UTF-8: byte 0xc3 at position 10"),
    "a megabyte": (b"x" * (1 << 20), r"text 0 is 1048576 bytes long, the longest this model takes is 65536 bytes"),
    "too long": (f"{EXACT}more".encode(), r"text 0 has 257 tokens, the longest this model takes is 256 tokens"),
}

Answer = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
Reference = Callable[[Sequence[str]], Answer]


@pytest.fixture(scope="module")
def reference(minilm: tuple[Plan, Artefact]) -> Reference:
    """Embeddings [n, 384] and token counts [n, 1] as PyTorch gives them, each text alone, cut at the longest length."""
    import torch
    from transformers import AutoTokenizer

    plan, _ = minilm
    tokenizer = AutoTokenizer.from_pretrained(plan.folder, local_files_only=True)
    module = load_reference(plan.folder)

    def embed(text: str) -> np.ndarray[Any, Any]:
        tokens = tokenizer([text], truncation=True, max_length=LONGEST, return_tensors="pt")
        with torch.no_grad():
            hidden = module(**{name: tokens[name] for name in plan.encoder.inputs}).last_hidden_state.numpy()
        counts.append(hidden.shape[1])
        return quality.pool(hidden, tokens["attention_mask"].numpy(), plan.encoder)

    counts: list[int] = []

    def embed_all(texts: Sequence[str]) -> Answer:
        counts.clear()
        return np.concatenate([embed(text) for text in texts]), np.array(counts)[:, None]

    return embed_all


@pytest.fixture
def wire(server: Server) -> Iterator[grpc.InferenceServerClient]:
    with grpc.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
        yield client


@pytest.fixture
def web(server: Server) -> Iterator[http.InferenceServerClient]:
    address = server.http_url.removeprefix("http://")
    with http.InferenceServerClient(address, connection_timeout=ANSWER_S, network_timeout=ANSWER_S) as client:
        yield client


@pytest.fixture(params=["grpc", "http"])
def either(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """tritonclient's module of one protocol, and its client of the server."""
    if request.param == "grpc":
        return grpc, request.getfixturevalue("wire")
    return http, request.getfixturevalue("web")


def an_input(protocol: Any, texts: Sequence[bytes]) -> Any:
    tensor = protocol.InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(texts, dtype=object).reshape(-1, 1))
    return tensor


def answer(result: Any) -> Answer:
    return result.as_numpy("embedding"), result.as_numpy("num_input_tokens")


def ask(client: grpc.InferenceServerClient, texts: Sequence[bytes], **rest: Any) -> Answer:
    return answer(client.infer(MODEL, [an_input(grpc, texts)], client_timeout=ANSWER_S, **rest))


class Flight:
    """Requests that are all under way at once; `land` returns what came back, in their order."""

    def __init__(self, client: grpc.InferenceServerClient):
        self._client = client
        self._landed: queue.Queue[tuple[int, Any, InferenceServerException | None]] = queue.Queue()
        self._count = 0

    def send(self, text: bytes) -> None:
        self.send_to(MODEL, [an_input(grpc, [text])])

    def send_to(self, model: str, inputs: list[Any]) -> None:
        done = partial(self._done, self._count)
        self._client.async_infer(model, inputs, done, client_timeout=ANSWER_S)
        self._count += 1

    def _done(self, number: int, result: Any, error: InferenceServerException | None) -> None:
        self._landed.put((number, result, error))

    def land(self, within_s: float = ANSWER_S) -> list[Any]:
        landed = sorted((self._landed.get(timeout=within_s) for _ in range(self._count)), key=lambda each: each[0])
        return [error or result for _, result, error in landed]


def embeddings(landed: list[Any]) -> np.ndarray[Any, Any]:
    """The embeddings of all requests, none of which failed."""
    assert [each for each in landed if isinstance(each, InferenceServerException)] == []
    return np.concatenate([answer(each)[0] for each in landed])


def batches(client: grpc.InferenceServerClient, model: str) -> dict[int, int]:
    """How many batches of each size `model` has run since its server started."""
    (statistics,) = client.get_inference_statistics(model, as_json=True)["model_stats"]
    return {
        int(each["batch_size"]): int(each["compute_infer"].get("count", 0))
        for each in statistics.get("batch_stats", ())
    }


def joined(before: dict[int, int], after: dict[int, int]) -> int:
    """How many batches of more than one request of one text ran between two looks."""
    return sum(after[size] - before.get(size, 0) for size in after if size > 1)


def test_what_is_served_is_what_pytorch_gives(wire: grpc.InferenceServerClient, reference: Reference) -> None:
    texts = quality.read_texts()
    want, counts = reference(texts)
    have, have_counts = ask(wire, [text.encode() for text in texts])
    np.testing.assert_allclose(have, want, atol=CLOSE)
    np.testing.assert_array_equal(have_counts, counts)


@pytest.mark.parametrize("name", TEXTS)
def test_an_odd_text_is_served_as_pytorch_gives_it(
    wire: grpc.InferenceServerClient, reference: Reference, name: str
) -> None:
    want, counts = reference([TEXTS[name]])
    have, have_counts = ask(wire, [TEXTS[name].encode()])
    np.testing.assert_allclose(have, want, atol=CLOSE)
    np.testing.assert_array_equal(have_counts, counts)
    assert name != "longest" or have_counts == [[LONGEST]]


def test_odd_texts_in_one_request_are_the_same_as_alone(server: Server, reference: Reference) -> None:
    want, _ = reference(list(TEXTS.values()))
    with Client(server.grpc_url, model=MODEL) as client:
        np.testing.assert_allclose(client.embed(list(TEXTS.values())), want, atol=CLOSE)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_text_fails_its_own_request_and_no_other_of_its_batch(
    wire: grpc.InferenceServerClient, reference: Reference, name: str
) -> None:
    bad, words = BAD[name]
    texts = quality.read_texts()[:16]
    want, _ = reference(texts)
    before = batches(wire, f"{MODEL}_tokenizer")
    for _ in range(10):
        flight = Flight(wire)
        for text in texts[:8]:
            flight.send(text.encode())
        flight.send(bad)
        for text in texts[8:]:
            flight.send(text.encode())
        landed = flight.land()
        refusal = landed.pop(8)
        assert isinstance(refusal, InferenceServerException)
        assert refusal.status() == "StatusCode.INVALID_ARGUMENT"
        with pytest.raises(InferenceServerException, match=words):
            raise refusal
        np.testing.assert_allclose(embeddings(landed), want, atol=CLOSE)
    assert joined(before, batches(wire, f"{MODEL}_tokenizer")) > 0, "no request ever shared a batch"


@pytest.mark.parametrize("name", BAD)
def test_a_bad_text_is_a_400_over_http_and_the_server_goes_on(web: http.InferenceServerClient, name: str) -> None:
    bad, words = BAD[name]
    with pytest.raises(InferenceServerException, match=words) as caught:
        web.infer(MODEL, [an_input(http, [bad])])
    assert caught.value.status() == "400"
    assert answer(web.infer(MODEL, [an_input(http, [b"still here"])]))[0].shape == (1, 384)


def test_the_bad_text_of_a_request_is_named_by_its_place(wire: grpc.InferenceServerClient, server: Server) -> None:
    with pytest.raises(InferenceServerException, match="text 2 is not UTF-8"):
        ask(wire, [b"a", b"b", b"\xff", b"d"])
    with (
        Client(server.grpc_url, model=MODEL) as client,
        pytest.raises(InvalidRequest, match=r"text 1 has 257 tokens.*truncate=true"),
    ):
        client.embed(["a", f"{EXACT}more", "b"])


@pytest.mark.parametrize("text", [f"{EXACT}more", "internationalization " * 300], ids=["by one", "by far"])
def test_truncating_gives_what_pytorch_gives_with_truncation(
    either: tuple[Any, Any], reference: Reference, text: str
) -> None:
    want, counts = reference([text, "short"])
    assert counts[0] == LONGEST
    module, client = either
    texts = an_input(module, [text.encode(), b"short"])
    have, have_counts = answer(client.infer(MODEL, [texts], parameters={"truncate": True}))
    np.testing.assert_allclose(have, want, atol=CLOSE)
    np.testing.assert_array_equal(have_counts, counts)
    with pytest.raises(InferenceServerException, match=r"text 0 has \d+ tokens"):
        client.infer(MODEL, [texts], parameters={"truncate": False})


def numbers(protocol: Any) -> list[Any]:
    tensor = protocol.InferInput("text", [1, 1], "INT32")
    tensor.set_data_from_numpy(np.array([[7]], np.int32))
    return [tensor]


def square(protocol: Any) -> list[Any]:
    tensor = protocol.InferInput("text", [2, 2], "BYTES")
    tensor.set_data_from_numpy(np.array([[b"a", b"b"], [b"c", b"d"]], dtype=object))
    return [tensor]


def renamed(protocol: Any) -> list[Any]:
    tensor = protocol.InferInput("texts", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[b"a"]], dtype=object))
    return [tensor]


MISTAKES = {
    "text of numbers": (numbers, None, "data-type is 'INT32', but model 'minilm' expects 'BYTES'"),
    "a square of texts": (square, None, r"unexpected shape for input 'text' .*\[-1,1\], got \[2,2\]"),
    "no text": (lambda _: [], None, "expected 1 inputs but got 0 inputs for model 'minilm'"),
    "an unknown input": (renamed, None, "unexpected inference input 'texts'|input 'text'"),
    "an unknown output": (lambda of: [an_input(of, [b"a"])], "nosuch", "unexpected inference output 'nosuch'"),
    "0 texts": (lambda of: [an_input(of, [])], None, "input 'text' for model 'minilm', got 0"),
    "65 texts": (lambda of: [an_input(of, [b"a"] * 65)], None, "batch-size must be <= 64 for 'minilm'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistaken_request_is_refused_in_words_and_the_server_goes_on(either: tuple[Any, Any], name: str) -> None:
    module, client = either
    inputs, output, words = MISTAKES[name]
    outputs = [module.InferRequestedOutput(output)] if output else None
    with pytest.raises(InferenceServerException, match=words) as caught:
        client.infer(MODEL, inputs(module), outputs=outputs)
    assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
    assert answer(client.infer(MODEL, [an_input(module, [b"still here"])]))[0].shape == (1, 384)


def test_a_request_without_texts_harms_nobody_elses(wire: grpc.InferenceServerClient, reference: Reference) -> None:
    want, _ = reference(["good"])
    for _ in range(10):
        flight = Flight(wire)
        for _ in range(4):
            flight.send(b"good")
        with pytest.raises(InferenceServerException) as caught:
            ask(wire, [])
        np.testing.assert_allclose(embeddings(flight.land()), np.repeat(want, 4, 0), atol=CLOSE)
    assert "Traceback" not in str(caught.value)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_token_ids_that_are_not_in_the_vocabulary_fail_alone(wire: grpc.InferenceServerClient) -> None:
    """The encoder's batch breaks as a whole; each of its requests then runs alone."""

    def tokens(value: int) -> list[Any]:
        tensors = []
        for name, fill in (("input_ids", value), ("attention_mask", 1), ("token_type_ids", 0)):
            tensor = grpc.InferInput(name, [1, 16], "INT64")
            tensor.set_data_from_numpy(np.full((1, 16), fill, np.int64))
            tensors.append(tensor)
        return tensors

    encoder = f"{MODEL}_encoder"
    want = wire.infer(encoder, tokens(2051)).as_numpy("last_hidden_state")
    for _ in range(5):
        flight = Flight(wire)
        for value in (*[2051] * 4, 10_000_000, *[2051] * 4):
            flight.send_to(encoder, tokens(value))
        landed = flight.land()
        with pytest.raises(InferenceServerException, match=r"minilm_encoder: .*EmbedLayerNormalization"):
            raise landed.pop(4)
        for each in landed:
            assert not isinstance(each, InferenceServerException), each
            np.testing.assert_allclose(each.as_numpy("last_hidden_state"), want, atol=CLOSE)


def test_unequal_requests_that_are_joined_give_what_they_give_alone(wire: grpc.InferenceServerClient) -> None:
    texts = [("word " * count).encode() for count in (1, 2, 3, 5, 6, 9, 12, 13, 20, 21, 40, 41, 100, 101, 200, 254)] * 4
    alone = {text: ask(wire, [text])[0] for text in set(texts)}
    before = batches(wire, f"{MODEL}_encoder")
    flight = Flight(wire)
    for text in texts:
        flight.send(text)
    want = np.concatenate([alone[text] for text in texts])
    np.testing.assert_allclose(embeddings(flight.land()), want, atol=CLOSE)
    assert joined(before, batches(wire, f"{MODEL}_encoder")) > 0, "no request ever shared a batch"


def test_bursts_of_unequal_texts_never_stall(wire: grpc.InferenceServerClient) -> None:
    """Two instances behind one queue, each batch of another shape: a request left behind would not land in time."""
    for burst in range(40):
        flight = Flight(wire)
        for number in range(8):
            flight.send(("word " * ((burst * 7 + number * 13) % 60 + 1)).encode())
        assert embeddings(flight.land(within_s=5)).shape == (8, 384)


@pytest.fixture(scope="module")
def crowded(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that lets one request wait before each step."""
    folder = tmp_path_factory.mktemp("crowded")
    copy = Path(shutil.copytree(repository, folder / "cpu"))
    for step in ("tokenizer", "encoder"):
        config = copy / f"{MODEL}_{step}" / "config.pbtxt"
        text = config.read_text()
        assert "max_queue_size: 1024" in text
        config.unlink()
        config.write_text(text.replace("max_queue_size: 1024", "max_queue_size: 1"))
    with golden_server(copy, folder / "log") as running:
        yield running


def test_a_full_queue_refuses_some_requests_and_answers_the_others_right(crowded: Server, reference: Reference) -> None:
    long = "time and again " * 60
    want, _ = reference([long])
    with grpc.InferenceServerClient(crowded.grpc_url.removeprefix("grpc://")) as client:
        flight = Flight(client)
        for _ in range(200):
            flight.send(long.encode())
        landed = flight.land()
        refused = [each for each in landed if isinstance(each, InferenceServerException)]
        answered = [each for each in landed if not isinstance(each, InferenceServerException)]
        assert {each.status() for each in refused} == {"StatusCode.UNAVAILABLE"}
        assert all("Exceeds maximum queue size" in each.message() for each in refused)
        assert answered
        np.testing.assert_allclose(embeddings(answered), np.repeat(want, len(answered), 0), atol=CLOSE)
        np.testing.assert_allclose(ask(client, [long.encode()])[0], want, atol=CLOSE)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_client_calls_a_full_queue_by_its_name(crowded: Server, reference: Reference, protocol: str) -> None:
    long = "time and again " * 60
    want, _ = reference([long])
    begin = threading.Barrier(32)

    def call(_: int) -> np.ndarray[Any, Any] | ServerOverloaded:
        with Client(getattr(crowded, f"{protocol}_url"), model=MODEL) as client:
            assert client.model_ready()
            begin.wait()
            try:
                return client.embed(long)
            except ServerOverloaded as error:
                return error

    with ThreadPoolExecutor(32) as pool:
        results = list(pool.map(call, range(32)))
    refused = [each for each in results if isinstance(each, ServerOverloaded)]
    assert refused
    assert "lower concurrency" in str(refused[0])
    for each in results:
        if not isinstance(each, ServerOverloaded):
            np.testing.assert_allclose(each, want, atol=CLOSE)
    with Client(getattr(crowded, f"{protocol}_url"), model=MODEL) as client:
        np.testing.assert_allclose(client.embed(long), want, atol=CLOSE)


CONFIG = """
name: "plain"
backend: "onnxruntime"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 2 }
output { name: "y" data_type: TYPE_FP32 dims: 2 }
instance_group { count: 1 kind: KIND_CPU }
"""


def plain(folder: Path, config: str) -> Server:
    """A server over one small engine: y = x, FP32 [-1, 2]."""
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "plain", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "cpu" / "plain" / "1").mkdir(parents=True)
    onnx.save(model, folder / "cpu" / "plain" / "1" / "model.onnx")
    (folder / "cpu" / "plain" / "config.pbtxt").write_text(config)
    return Server(folder / "cpu", BACKENDS, free_ports(), folder / "log")


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(value)} }} }}\n'


def test_the_stand_in_honours_nvidias_settings(tmp_path: Path) -> None:
    settings = [
        parameter("intra_op_thread_count", "1"),
        parameter("inter_op_thread_count", "1"),
        parameter("execution_mode", "0"),
        parameter("enable_mem_arena", "1"),
        parameter("enable_mem_pattern", "1"),
        parameter("memory.enable_memory_arena_shrinkage", "cpu:0"),
        "optimization { graph { level: 1 } }\n",
    ]
    with plain(tmp_path, CONFIG + "".join(settings)) as server:
        server.wait_until_live(READY_S)
        with grpc.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
            x = grpc.InferInput("x", [1, 2], "FP32")
            x.set_data_from_numpy(np.array([[1, 2]], np.float32))
            np.testing.assert_array_equal(client.infer("plain", [x]).as_numpy("y"), [[1, 2]])


UNFIT = {
    "an unknown parameter": (
        CONFIG + parameter("intra_op_threads", "1"),
        "parameter 'intra_op_threads' is not known to this onnxruntime stand-in",
    ),
    "a bad number": (
        CONFIG + parameter("intra_op_thread_count", "two"),
        "parameter intra_op_thread_count = 'two' is not a whole number",
    ),
    "a bad switch": (CONFIG + parameter("execution_mode", "2"), "parameter execution_mode = '2' is not 0 or 1"),
    "a bad level": (CONFIG + "optimization { graph { level: 7 } }", r"optimization\.graph\.level 7 is not one of"),
    "an accelerator": (
        CONFIG + 'optimization { execution_accelerators { gpu_execution_accelerator : [ { name : "tensorrt" } ] } }',
        "execution_accelerators needs NVIDIA's own backend",
    ),
    "another data type": (
        CONFIG.replace('"x" data_type: TYPE_FP32', '"x" data_type: TYPE_INT64'),
        r"input 'x' is TYPE_INT64, the engine has tensor\(float\)",
    ),
    "another shape": (
        CONFIG.replace('"y" data_type: TYPE_FP32 dims: 2', '"y" data_type: TYPE_FP32 dims: 3'),
        r"output 'y' has shape \[-1, 3\] with its batch, the engine has \[-1, 2\]",
    ),
    "another name": (CONFIG.replace('"y"', '"z"'), "output 'z' is not in the engine, which has y"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_the_stand_in_refuses_a_config_that_does_not_fit(tmp_path: Path, name: str) -> None:
    config, words = UNFIT[name]
    with (
        plain(tmp_path, config) as server,
        pytest.raises(ServingError, match=f"model 'plain' failed to load: .*{words}") as caught,
    ):
        server.wait_until_live(READY_S)
    assert "Traceback" not in str(caught.value)
