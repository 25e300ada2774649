"""The steps around TensorRT-LLM in a real tritonserver; in place of a GPU a stand-in holds NVIDIA's contract."""

import json
import socket
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
import served_metrics
import tritonclient.grpc as grpc
from gpu_repository import committed, configs_of, launch, write_backends, write_models
from live_server import live_server
from text_calls import ANSWER_S, Call, TextCall, post, tensors
from tritonclient.utils import InferenceServerException

from ensembles.generate import GenerateSpec
from ensembles.model import Ensemble
from ensembles.tensorrt_llm import tensorrt_llm_ensemble
from serving.server import Server
from tritonyard import Client, Generation
from yard.checkout import ROOT

pytestmark = pytest.mark.server

MODEL, DRAFTING = "chat", "draft"
COMMITTED = committed(ROOT / "model_repository" / "gpu")
ENSEMBLES = {name for name, config in COMMITTED.items() if 'platform: "ensemble"' in config}
LONGEST = 511
# A stream of this many letters, a pause after each, that nobody reads to its end.
LONG, PAUSE_MS = "word " * 80, np.uint64(20)

IDS = (f"id {number}" for number in count())


def small(name: str, drafts: bool = False) -> Ensemble:
    spec = GenerateSpec(name, LONGEST + 1, max_text_bytes=2048, slots=4, max_queue_size=8)
    return tensorrt_llm_ensemble(spec, {"exclude_input_in_output": "true"}, drafts)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """All that the checkout has committed for the profile gpu, and a small model of the same kind."""
    folder = tmp_path_factory.mktemp("gpu")
    write_models(folder / "gpu", COMMITTED | configs_of(small(MODEL)) | configs_of(small(DRAFTING, drafts=True)))
    backends = write_backends(folder / "backends")
    with live_server(folder / "gpu", folder / "log", backends, launch) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_left(served: Server) -> Iterator[None]:
    """After every test no stream has left its state behind."""
    yield
    until = time.monotonic() + ANSWER_S
    while open_streams(served) and time.monotonic() < until:
        time.sleep(0.02)
    assert open_streams(served) == 0


def open_streams(server: Server) -> float:
    models = (f"{name}_detokenizer" for name in (MODEL, DRAFTING))
    return sum(served_metrics.value(server.metrics_url, "detokenizer_streams", model=model) for model in models)


def engine(server: Server, what: str) -> float:
    """How many `requests`, `tokens`, `stops` or `broken` requests the stand-in has seen."""
    labels = frozenset({("of", what), ("model", f"{MODEL}_decoder")})
    return served_metrics.read(server.metrics_url)["engine", labels]


def ask(server: Server, id: str | None = None, **request: Any) -> list[tuple[str, str, int, int]]:
    return list(Call(server, MODEL, request, next(IDS) if id is None else id))


def streamed(server: Server, **request: Any) -> tuple[str, str]:
    """The text and the finish reason of a streamed answer."""
    answers = ask(server, stream=True, **request)
    *before, last = [reason for _, reason, _, _ in answers]
    assert set(before) <= {""}
    return "".join(text for text, _, _, _ in answers), last


@pytest.mark.parametrize("name", sorted(ENSEMBLES))
def test_every_committed_model_answers(served: Server, name: str) -> None:
    if f"{name}_encoder" in COMMITTED:
        with Client(served.grpc_url, model=name) as client:
            one, other, again = client.embed(["one text", "another", "one text"])
        assert np.array_equal(one, again)
        assert not np.array_equal(one, other)
    else:
        answers = list(TextCall(served, name, {"text_input": "Hé", "stream": True}, next(IDS)))
        assert answers == [("H", ""), ("é", ""), ("", "stop")]


def test_the_answer_comes_in_deltas_and_its_end_is_found(served: Server) -> None:
    before = engine(served, "broken")
    assert ask(served, text_input="Hey", stream=True) == [
        ("H", "", 3, 1),
        ("e", "", 3, 2),
        ("y", "", 3, 3),
        ("", "stop", 3, 3),
    ]
    assert engine(served, "broken") == before


ENDINGS: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "the first end id": ({"text_input": "ab<eos>cd"}, ("ab", "stop")),
    "another end id": ({"text_input": "ab<eot>cd"}, ("ab", "stop")),
    "the caller's end id": ({"text_input": "abcd<eot>", "end_id": 66}, ("ab", "stop")),
    "no end id": ({"text_input": "ab<eos>", "end_id": -1, "max_tokens": 7}, ("ababa", "length")),
    "the limit": ({"text_input": "abcd", "max_tokens": 3}, ("abc", "length")),
    "an end at the limit": ({"text_input": "ab<eot>", "max_tokens": 3}, ("ab", "stop")),
    "characters of many tokens": ({"text_input": "é🙂! 👩‍👩‍👧"}, ("é🙂! 👩‍👩‍👧", "stop")),
    "half a character at the limit": ({"text_input": "a🙂", "max_tokens": 3}, ("a�", "length")),
    "a stop string": ({"text_input": "so it\n\nends", "stop_words": ["x", "\n\n"]}, ("so it", "stop")),
    "half a stop string": ({"text_input": "the EN", "stop_words": ["END"]}, ("the EN", "stop")),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_every_ending_streamed_and_whole(served: Server, name: str) -> None:
    request, (text, reason) = ENDINGS[name]
    request = request | {"pad_id": 0}
    assert streamed(served, **request) == (text, reason)
    ((whole, why, _, _),) = ask(served, **request)
    assert (whole, why) == (text, reason)


def test_without_streaming_and_id_there_is_one_answer(served: Server) -> None:
    """Without an id nobody remembers its limit: why it ended is said only where an end is seen."""
    assert ask(served, "", text_input="é is here") == [("é is here", "", 10, 10)]
    assert ask(served, "", text_input="é <eot>", max_tokens=9) == [("é ", "stop", 4, 3)]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_stop_string_stops_the_engine_however_it_is_cut(served: Server, size: int) -> None:
    before = engine(served, "tokens"), engine(served, "stops")
    request = {"text_input": f"so it\n\nends {LONG}", "stop_words": ["never", "\n\n"], "top_k": size, "seed": PAUSE_MS}
    assert streamed(served, **request) == ("so it", "stop")
    assert engine(served, "stops") == before[1] + 1
    assert engine(served, "tokens") - before[0] <= 7 + 4 * size, "the engine went on for long"


def test_the_end_of_an_engine_that_drafts_is_found(served: Server) -> None:
    """It may send its last tokens and find the end in one step, so that no empty response follows."""
    for text in ("abcd", "abcde"):
        request = {"text_input": text, "stream": True, "top_k": 2}
        answers = list(Call(served, DRAFTING, request, next(IDS)))
        assert "".join(delta for delta, _, _, _ in answers) == text
        assert [reason for _, reason, _, _ in answers if reason] == ["stop"]


def test_messages_go_through_the_template(served: Server) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "é?"}]
    assert streamed(served, messages=json.dumps(talk)) == ("<system>Be brief.<user>é?<assistant>", "stop")


def test_many_streams_at_once_keep_apart_and_in_order(served: Server) -> None:
    prompts = [f"{number} é🙂 {LONG[:200]}" for number in range(8)]
    requests = [{"text_input": prompt, "stream": True, "seed": np.uint64(1)} for prompt in prompts]
    calls = [Call(served, MODEL, request, next(IDS)) for request in requests]
    assert ["".join(text for text, _, _, _ in call) for call in calls] == prompts


@pytest.mark.parametrize("asked", [{"stream": True}, {"stop_words": ["x"]}])
def test_a_stream_without_id_is_refused(served: Server, asked: dict[str, Any]) -> None:
    with pytest.raises(InferenceServerException, match=r"has no request id: .* send one that is unique"):
        ask(served, "", text_input="a", **asked)


def test_an_id_that_runs_is_refused_and_harms_nobody_and_is_free_afterwards(served: Server) -> None:
    first = Call(served, MODEL, {"text_input": "still here", "stream": True, "seed": PAUSE_MS}, "mine")
    answers = iter(first)
    assert next(answers)[0] == "s"
    for stream in (True, False):
        with pytest.raises(InferenceServerException, match="request id 'mine' is that of a request which still runs"):
            ask(served, "mine", text_input="other", stream=stream)
    assert "".join(text for text, _, _, _ in answers) == "till here"
    assert ask(served, "mine", text_input="again") == [("again", "stop", 5, 5)]


def wait_for_a_stop(server: Server, before: tuple[float, float]) -> float:
    """Wait until the engine was told to stop and is done; return how many tokens it has sent."""
    until = time.monotonic() + ANSWER_S
    while (open_streams(server) or engine(server, "stops") == before[1]) and time.monotonic() < until:
        time.sleep(0.02)
    assert engine(server, "stops") == before[1] + 1
    return engine(server, "tokens") - before[0]


@pytest.mark.parametrize("stream", [True, False])
def test_a_cancelled_grpc_stream_reaches_the_engine(served: Server, stream: bool) -> None:
    """An answer that is not streamed is seen by the detokenizer while it looks for stop words."""
    before = engine(served, "tokens"), engine(served, "stops")
    request = {"text_input": LONG, "stream": stream, "stop_words": ["never"], "seed": PAUSE_MS}
    call = Call(served, MODEL, request, next(IDS))
    if stream:
        assert next(iter(call))[0] == "w"
    else:
        time.sleep(0.2)
    call.cancel()
    assert wait_for_a_stop(served, before) < len(LONG) / 4


def test_a_dropped_http_stream_reaches_the_engine(served: Server) -> None:
    before = engine(served, "tokens"), engine(served, "stops")
    body = json.dumps({"id": next(IDS), "text_input": LONG, "stream": True, "seed": int(PAUSE_MS)})
    host, port = served.http_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v2/models/{MODEL}/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        assert connection.recv(4096)
    assert wait_for_a_stop(served, before) < len(LONG) / 4


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_client_reads_it(served: Server, protocol: str) -> None:
    with Client(served.grpc_url if protocol == "grpc" else served.http_url, model=MODEL) as client:
        assert client.generate("Héy") == Generation("Héy", "stop", 4, 4)
        assert client.chat([{"role": "user", "content": "x"}], max_tokens=4) == Generation("<use", "length", 18, 4)
        deltas = list(client.generate(f"so it\n\nends {LONG}", stream=True, stop="\n\n"))
        assert ("".join(delta.text for delta in deltas), deltas[-1].finish_reason) == ("so it", "stop")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_leaving_the_clients_loop_reaches_the_engine(served: Server, protocol: str) -> None:
    before = engine(served, "tokens"), engine(served, "stops")
    with Client(served.grpc_url if protocol == "grpc" else served.http_url, model=MODEL) as client:
        for _ in client.generate(LONG, stream=True, seed=int(PAUSE_MS)):
            break
        assert wait_for_a_stop(served, before) < len(LONG) / 4


def test_plain_http_generates_and_streams(served: Server) -> None:
    whole = post(served, MODEL, "generate", {"id": next(IDS), "text_input": "é is", "stop_words": ["x", "y"]})
    body = json.load(whole)
    assert (body["text_output"], body["finish_reason"], body["num_output_tokens"]) == ("é is", "stop", 5)
    response = post(served, MODEL, "generate_stream", {"id": next(IDS), "text_input": "é is", "stream": True})
    events = [json.loads(line.removeprefix(b"data: ")) for line in response if line.startswith(b"data: ")]
    assert [event["text_output"] for event in events] == ["é", " ", "i", "s", ""]
    assert [event["finish_reason"] for event in events] == ["", "", "", "", "stop"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"stream": True}, "neither text_input nor messages was sent"),
    "long": ({"text_input": "a" * 512}, f"the prompt has 512 tokens, the longest this model takes is {LONGEST} tokens"),
    "no room": (
        {"text_input": "a" * 500, "max_tokens": 13},
        "max_tokens is 13, but a prompt of 500 tokens leaves room for 12 of the 512 that a slot holds; lower it",
    ),
    "no answer": ({"text_input": "a", "max_tokens": 0}, "max_tokens is 0; give 1 or more"),
    "a bad stop word": ({"text_input": "a", "stop_words": ["a", ""]}, "stop word 1 has 0 characters"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_in_words_and_leaves_nothing(served: Server, name: str) -> None:
    request, words = BAD[name]
    with pytest.raises(InferenceServerException) as caught:
        ask(served, **request)
    assert words in caught.value.message()
    assert post(served, MODEL, "generate", request).status == 400
    assert open_streams(served) == 0


def test_tokens_of_a_stream_that_was_given_up_are_an_error_and_stop_the_engine(served: Server) -> None:
    before = engine(served, "stops")
    inputs = [grpc.InferInput("output_ids", [1, 1, 2], "INT32"), grpc.InferInput("sequence_length", [1, 1], "INT32")]
    inputs[0].set_data_from_numpy(np.array([[[1, 2]]], np.int32))
    inputs[1].set_data_from_numpy(np.array([[2]], np.int32))
    with pytest.raises(InferenceServerException, match="given up, after long without a token"):
        send(served, f"{MODEL}_detokenizer", inputs, (), next(IDS))
    assert engine(served, "stops") == before + 1


def send(server: Server, model: str, inputs: list[Any], outputs: tuple[str, ...], id: str) -> None:
    """Ask one of the models itself; raise its error."""
    landed: list[Any] = []
    with grpc.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
        client.start_stream(lambda result, error: landed.append(error))
        wanted = [grpc.InferRequestedOutput(name) for name in outputs] or None
        client.async_stream_infer(model, inputs, outputs=wanted, request_id=id)
        client.stop_stream()
    if errors := [error for error in landed if error]:
        raise errors[0]


GOOD = {"input_ids": [1, 2], "input_lengths": 2, "request_output_len": 2}


@pytest.mark.parametrize(
    ("request_", "outputs", "words"),
    [
        (GOOD, ("output_ids",), "sequence_length tensor must be present in list of output tensors"),
        (GOOD | {"stop": True}, (), "Trying to stop a request but request ID is not provided"),
        (GOOD | {"end_id": [1, 2]}, (), "end_id"),
    ],
)
def test_the_stand_in_refuses_what_the_engine_would(
    served: Server, request_: dict[str, Any], outputs: tuple[str, ...], words: str
) -> None:
    with pytest.raises(InferenceServerException, match=words):
        send(served, f"{MODEL}_decoder", tensors(request_), outputs, "")
