"""Tokenizer and detokenizer in a real tritonserver, around a decoder that says the prompt's own tokens again."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import served_metrics
from live_server import live_server
from text_calls import ANSWER_S, Call, byte_tokenizer, post
from tritonclient.utils import InferenceServerException

from ensembles.generate import GenerateSpec, generate_ensemble
from ensembles.pbtxt import dump
from serving.server import Server
from yard.checkout import BACKENDS

pytestmark = pytest.mark.server

MODEL = "echo"
LONGEST = 511
# A stream of this many letters, a pause after each, that nobody reads to its end.
LONG, PAUSE_MS = "word " * 80, 20

# In place of an engine: it answers with the ids of the prompt, `request_output_len` of them a response and
# `min_tokens` ms apart, after `end_id` heartbeats.
DECODER = """
import json
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils


def value(request, name, default):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy().reshape(-1)[0]


class TritonPythonModel:
    def initialize(self, args):
        self.config = json.loads(args["model_config"])
        self.stopped, self.lock = set(), threading.Lock()
        self.family = pb_utils.MetricFamily(name="echo", description="what it saw", kind=pb_utils.MetricFamily.COUNTER)
        self.tokens, self.stops = (self.family.Metric(labels={"of": of}) for of in ("tokens", "stops"))

    def execute(self, requests):
        for request in requests:
            sender, context = request.get_response_sender(), value(request, "stream_context", b"")
            if value(request, "stop", False):
                self.count(self.stops, 1)
                self.stopped.add(context)
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                continue
            ids = pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy().reshape(-1)
            names = {"request_output_len": 1, "min_tokens": 0, "end_id": 0, "streaming": False}
            script = {name: int(value(request, name, default)) for name, default in names.items()}
            wanted = set(request.requested_output_names())
            threading.Thread(target=self.say, args=(sender, wanted, context, ids, script)).start()

    def count(self, metric, value):
        # Without the lock, a test with 16 of these threads crashed the server.
        with self.lock:
            metric.increment(value)

    def say(self, sender, wanted, context, ids, script):
        size = script["request_output_len"]
        chunks = [ids[:0]] * script["end_id"] + [ids[start : start + size] for start in range(0, len(ids), size)]
        if not script["streaming"]:
            chunks = [ids[:0]] * len(chunks) + [ids]
        count = 0
        for place, chunk in enumerate(chunks):
            reason = "cancelled" if context in self.stopped else "length" if place == len(chunks) - 1 else ""
            chunk = ids[:0] if reason == "cancelled" else chunk
            count += len(chunk)
            self.count(self.tokens, len(chunk))
            sender.send(self.response(wanted, context, chunk, len(ids), count, reason))
            if reason:
                break
            time.sleep(script["min_tokens"] / 1000)
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def response(self, wanted, context, chunk, asked, count, reason):
        tensors = {
            "output_ids": np.array(chunk, np.int32).reshape(1, 1, -1),
            "sequence_length": np.array([[len(chunk)]], np.int32),
            "num_input_tokens": np.array([[asked]], np.int32),
            "num_output_tokens": np.array([[count]], np.int32),
            "stream_context": np.array([[context]], object),
        }
        if reason:
            tensors["finish_reason"] = np.array([[reason.encode()]], object)
        # One tensor more, and the stub crashes now and then: see the real engine.
        asked_for = {name: value for name, value in tensors.items() if name in wanted}
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in asked_for.items()])
"""
TEMPLATE = """
{%- for message in messages -%}
{%- if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif -%}
<{{ message.role }}>{{ message.content }}
{%- endfor -%}
<assistant>"""


def write_model(repository: Path, name: str, template: str | None) -> None:
    """Write the ensemble `name` over the scripted decoder."""
    ensemble = generate_ensemble(GenerateSpec(name, LONGEST + 1, max_text_bytes=2048, slots=4, max_queue_size=8))
    for model in (ensemble, *ensemble.models):
        version = repository / model.name / "1"
        version.mkdir(parents=True)
        (repository / model.name / "config.pbtxt").write_text(dump(model))
        if model.name.endswith("tokenizer"):
            byte_tokenizer().save(str(version / "tokenizer.json"))
            (version / "chat.json").write_text(json.dumps({"template": template, "bos_token": None}))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("steps")
    write_model(folder / "cpu", MODEL, TEMPLATE)
    write_model(folder / "cpu", "broken", "{% for %}")
    (folder / "backends" / "onnx_generate").mkdir(parents=True)
    (folder / "backends" / "onnx_generate" / "model.py").write_text(DECODER)
    for step in ("tokenizer", "detokenizer"):
        (folder / "backends" / step).symlink_to(BACKENDS / step)
    with live_server(folder / "cpu", folder / "log", folder / "backends") as running:
        yield running


def ask(server: Server, model: str = MODEL, **request: Any) -> list[tuple[str, str, int, int]]:
    return list(Call(server, model, request))


def texts(server: Server, **request: Any) -> list[str]:
    """The deltas of a streamed answer, which ended by itself."""
    answers = ask(server, stream=True, **request)
    assert {reason for _, reason, _, _ in answers[:-1]} <= {""}
    assert answers[-1][1] in ("length", "stop")
    return [text for text, _, _, _ in answers]


def counted(server: Server) -> tuple[float, float]:
    """How many tokens the decoder has sent, and how many times it was told to stop, of both models."""
    found = served_metrics.read(server.metrics_url)
    return found["echo", frozenset({("of", "tokens")})], found["echo", frozenset({("of", "stops")})]


def open_streams(server: Server) -> float:
    return served_metrics.value(server.metrics_url, "detokenizer_streams", model=f"{MODEL}_detokenizer")


@pytest.fixture(autouse=True)
def nothing_left(served: Server) -> Iterator[None]:
    """After every test no stream has left its state behind."""
    yield
    until = time.monotonic() + ANSWER_S
    while open_streams(served) and time.monotonic() < until:
        time.sleep(0.02)
    assert open_streams(served) == 0


def test_the_answer_comes_in_deltas(served: Server) -> None:
    assert ask(served, text_input="Hey", stream=True) == [("H", "", 3, 1), ("e", "", 3, 2), ("y", "length", 3, 3)]


def test_several_tokens_in_one_response_are_one_delta(served: Server) -> None:
    assert texts(served, text_input="Hey you", max_tokens=3) == ["Hey", " yo", "u"]


def test_a_character_comes_whole_and_what_is_held_back_costs_no_response(served: Server) -> None:
    assert texts(served, text_input="é🙂!") == ["é", "🙂", "!"]


def test_a_heartbeat_opens_the_stream_and_costs_no_response_later(served: Server) -> None:
    assert texts(served, text_input="ab", end_id=5) == ["", "a", "b"]


def test_messages_go_through_the_template(served: Server) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "é?"}]
    assert "".join(texts(served, messages=json.dumps(talk))) == "<system>Be brief.<user>é?<assistant>"


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_a_stop_string_ends_the_answer_however_it_is_cut(served: Server, size: int) -> None:
    request = {"text_input": f"so it\n\nends {LONG}", "stop_words": ["never", "\n\n"]}
    before = counted(served)
    answers = ask(served, stream=True, max_tokens=size, min_tokens=PAUSE_MS, **request)
    assert "".join(text for text, _, _, _ in answers) == "so it"
    assert [reason for _, reason, _, _ in answers if reason] == ["stop"]
    tokens, stops = counted(served)
    assert stops == before[1] + 1
    assert tokens - before[0] <= 7 + 4 * size, "the decoder went on for long"


def test_a_stop_string_that_did_not_come_is_given_back(served: Server) -> None:
    assert texts(served, text_input="the EN", stop_words=["END"]) == ["t", "h", "e", " ", "EN"]


@pytest.mark.parametrize("asked", [{}, {"stream": False}])
def test_without_streaming_there_is_one_response(served: Server, asked: dict[str, Any]) -> None:
    assert ask(served, text_input="é is here", **asked) == [("é is here", "length", 10, 10)]
    stopped = ask(served, text_input="é is here", stop_words=["is"], **asked)
    assert stopped == [("é ", "stop", 10, 5)]


def test_generate_over_http_is_one_json(served: Server) -> None:
    response = post(served, MODEL, "generate", {"text_input": "é is", "stop_words": ["x", "y"]})
    body = json.load(response)
    assert response.status == 200
    assert (body["text_output"], body["finish_reason"], body["num_output_tokens"]) == ("é is", "length", 5)


def test_generate_stream_over_http_is_an_event_a_delta(served: Server) -> None:
    response = post(served, MODEL, "generate_stream", {"text_input": "é is", "stream": True})
    events = [json.loads(line.removeprefix(b"data: ")) for line in response if line.startswith(b"data: ")]
    assert [event["text_output"] for event in events] == ["é", " ", "i", "s"]


def test_many_streams_at_once_keep_apart_and_in_order(served: Server) -> None:
    prompts = [f"{number} é🙂 {LONG}" for number in range(16)]
    calls = [Call(served, MODEL, {"text_input": prompt, "stream": True, "min_tokens": 1}) for prompt in prompts]
    assert ["".join(text for text, _, _, _ in call) for call in calls] == prompts


def wait_for_a_stop(server: Server, before: tuple[float, float]) -> float:
    """Wait until the decoder was told to stop and is done; return how many tokens it has sent."""
    until = time.monotonic() + ANSWER_S
    while (open_streams(server) or counted(server)[1] == before[1]) and time.monotonic() < until:
        time.sleep(0.02)
    tokens, stops = counted(server)
    assert stops == before[1] + 1
    return tokens - before[0]


@pytest.mark.parametrize("stream", [True, False])
def test_a_cancelled_grpc_stream_reaches_the_decoder(served: Server, stream: bool) -> None:
    before = counted(served)
    call = Call(served, MODEL, {"text_input": LONG, "stream": stream, "min_tokens": PAUSE_MS})
    if stream:
        assert next(iter(call))[0] == "w"
    else:
        time.sleep(10 * PAUSE_MS / 1000)
    call.cancel()
    assert wait_for_a_stop(served, before) < len(LONG) / 4


def test_a_cancel_while_the_request_waits_reaches_the_decoder(served: Server) -> None:
    before = counted(served)
    call = Call(served, MODEL, {"text_input": LONG, "stream": True, "min_tokens": PAUSE_MS, "end_id": 500})
    time.sleep(10 * PAUSE_MS / 1000)
    call.cancel()
    assert wait_for_a_stop(served, before) == 0


def test_a_dropped_http_stream_reaches_the_decoder(served: Server) -> None:
    """For a dropped plain `generate` tritonserver 2.51 was not seen to cancel anything."""
    before = counted(served)
    body = json.dumps({"text_input": LONG, "stream": True, "min_tokens": PAUSE_MS})
    host, port = served.http_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v2/models/{MODEL}/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        assert connection.recv(4096)
    assert wait_for_a_stop(served, before) < len(LONG) / 4


def talk(*messages: Any) -> str:
    return json.dumps(messages)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"stream": True}, "neither text_input nor messages was sent"),
    "both": ({"text_input": "a", "messages": talk({"role": "user", "content": "a"})}, "both text_input and messages"),
    "empty": ({"text_input": ""}, "the prompt has no tokens at all"),
    "long": ({"text_input": "a" * 512}, f"the prompt has 512 tokens, the longest this model takes is {LONGEST} tokens"),
    "many bytes": ({"text_input": "a" * 2049}, "text_input is 2049 bytes long, the longest this model takes is 2048"),
    "no json": ({"messages": "Hi"}, "messages is not JSON"),
    "no list": ({"messages": "{}"}, "messages is an object; send a list"),
    "no messages": ({"messages": "[]"}, "messages is an empty list"),
    "unknown role": ({"messages": talk({"role": "usr", "content": "a"})}, "role 'usr'; did you mean 'user'?"),
    "no content": ({"messages": talk({"role": "user"})}, "message 0 (user) has no content"),
    "refused by the template": ({"messages": talk({"role": "tool", "content": "a"})}, "messages: no tools here"),
    "prompt wanted": ({"text_input": "a", "exclude_input_in_output": False}, "only true is carried"),
    "many stop words": ({"text_input": "a", "stop_words": ["a"] * 17}, "17 stop_words were sent, at most 16"),
    "empty stop word": ({"text_input": "a", "stop_words": ["a", ""]}, "stop word 1 has 0 characters"),
    "long stop word": ({"text_input": "a", "stop_words": ["a" * 257]}, "stop word 0 has 257 characters"),
    "huge stop word": ({"text_input": "a", "stop_words": ["a" * (1 << 20)]}, "stop word 0 is 1048576 bytes long"),
}
NOT_UTF8: dict[str, tuple[dict[str, Any], str]] = {
    "text no utf-8": ({"text_input": b"ab\xffcd"}, "text_input is not UTF-8: byte 0xff at position 2"),
    "messages no utf-8": ({"messages": b"[\xff]"}, "messages is not UTF-8: byte 0xff at position 1"),
    "stop word no utf-8": ({"text_input": b"a", "stop_words": [b"a", b"\xff"]}, "stop word 1 is not UTF-8: byte 0xff"),
}


@pytest.mark.parametrize("name", [*BAD, *NOT_UTF8])
def test_a_bad_request_is_refused_in_words_and_harms_nobody_elses(served: Server, name: str) -> None:
    request, words = (BAD | NOT_UTF8)[name]
    good = Call(served, MODEL, {"text_input": "still here", "stream": True, "min_tokens": 5})
    with pytest.raises(InferenceServerException) as caught:
        ask(served, **request)
    assert words in caught.value.message()
    assert "Traceback" not in caught.value.message()
    assert "".join(text for text, _, _, _ in good) == "still here"


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("kind", ["generate", "generate_stream"])
def test_a_bad_request_is_a_400_over_http(served: Server, kind: str, name: str) -> None:
    request, words = BAD[name]
    response = post(served, MODEL, kind, request)
    assert response.status == 400
    assert words in json.loads(response.read().removeprefix(b"data: "))["error"]


def test_a_model_with_a_broken_template_serves_plain_text(served: Server) -> None:
    assert ask(served, "broken", text_input="ab") == [("ab", "length", 2, 2)]
    with pytest.raises(InferenceServerException, match=r"template is broken in line 1: .*; send text_input"):
        ask(served, "broken", messages=talk({"role": "user", "content": "a"}))
