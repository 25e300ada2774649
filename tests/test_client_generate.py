"""Generation through the clients over real sockets, against fake servers that write what a test wants."""

import inspect
import json
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from client_kinds import DELTAS, HELLO
from fake_kserve import Fault, said
from hypothesis import given
from hypothesis import strategies as st

from tritonyard import (
    AsyncClient,
    Client,
    Generation,
    InvalidRequest,
    ServerFailed,
    ServerOverloaded,
    ServerUnavailable,
)
from tritonyard._http_codec import Body
from tritonyard._options import Options, chatting, prompting
from tritonyard._transport import Refused, tensor

# --- what comes back


def test_deltas_without_the_empty_ones(client, fake):
    fake.write = lambda inputs: iter(HELLO)
    assert list(client.generate("hi", stream=True)) == DELTAS
    assert list(client.chat([{"role": "user", "content": "hi"}], stream=True)) == DELTAS
    assert not fake.cancelled.is_set(), "a stream that was read to its end was cancelled"


def test_the_whole_answer(client, fake):
    fake.write = lambda inputs: iter([said("", count=0), said("héllo\n", "length", 3)])
    whole = Generation("héllo\n", "length", 3, 3)
    assert client.generate("hi") == whole
    assert client.chat([{"role": "user", "content": "hi"}]) == whole


def test_deltas_come_as_they_are_written(fake):
    read = threading.Semaphore(0)

    def write(inputs):
        for count in range(1, 4):
            yield said("x", "stop" if count == 3 else "", count)
            assert read.acquire(timeout=5), "the delta was held back"

    fake.write = write
    with Client(fake.url, model="minilm") as client:
        for _ in client.generate("hi", stream=True):
            read.release()


@pytest.mark.parametrize(
    ("options", "inputs"),
    [
        ({}, {}),
        ({"max_tokens": 5, "min_tokens": np.int64(2)}, {"max_tokens": [5], "min_tokens": [2]}),
        ({"temperature": 0, "top_k": 1}, {"temperature": [0.0], "top_k": [1]}),
        ({"top_p": np.float32(0.5), "presence_penalty": -2}, {"top_p": [0.5], "presence_penalty": [-2.0]}),
        ({"stop": "\n"}, {"stop_words": ["\n"]}),
        ({"stop": ("é", "b")}, {"stop_words": ["é", "b"]}),
        ({"stop": (), "seed": None}, {}),
        ({"seed": 2**64 - 1}, {"seed": [2**64 - 1]}),
        ({"repetition_penalty": 1.5, "max_tokens": -1}, {"repetition_penalty": [1.5], "max_tokens": [-1]}),
        ({"frequency_penalty": 0.25}, {"frequency_penalty": [0.25]}),
    ],
)
def test_arguments_become_inputs(client, fake, options, inputs):
    client.generate("a\0é", **options)
    assert list(client.generate("a\0é", stream=True, **options))
    asked = {"text_input": ["a\0é"], **inputs}
    assert fake.generations == [asked, {**asked, "stream": [True]}]


def test_each_generation_has_an_id_of_its_own(client, fake):
    client.generate("a")
    assert list(client.generate("a", stream=True))
    assert len({*fake.ids, ""}) == 3


FORKED = """
import os, random
from tritonyard._transport import _new_id
for _ in range(3):
    random.seed(0)
    os.write(1, _new_id().encode() + b"\\n")
if os.fork():
    os.wait()
os.write(1, _new_id().encode())
"""


@pytest.mark.wire
def test_ids_are_no_others_after_a_fork_or_a_seed():
    told = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"([0-9a-f]{32}\n?){5}", told)
    assert len(set(re.findall(r"[0-9a-f]{32}", told))) == 5


def test_messages_travel_as_json(client, fake):
    client.chat([{"role": "system", "content": 'be "brief"'}, {"role": "user", "content": "é\n"}])
    text = '[{"role": "system", "content": "be \\"brief\\""}, {"role": "user", "content": "é\\n"}]'
    assert fake.generations == [{"messages": [text]}]


@pytest.mark.parametrize("method", [Client.generate, Client.chat, AsyncClient.generate, AsyncClient.chat])
def test_help_shows_every_keyword(method):
    assert inspect.signature(method).parameters.keys() >= Options.__annotations__.keys()


# --- what is refused before it is sent


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_tokens": "5"}, "max_tokens '5' is not a whole number from"),
        ({"max_tokens": 5.0}, r"max_tokens 5\.0 is not"),
        ({"max_tokens": True}, "max_tokens True is not"),
        ({"top_k": 2**31}, "top_k 2147483648 is not a whole number from -2147483648 to 2147483647"),
        ({"seed": -1}, "seed -1 is not a whole number from 0 to"),
        ({"temperature": float("nan")}, "temperature nan is not a finite number"),
        ({"temperature": 1e300}, r"temperature 1e\+300 is not a finite number"),
        ({"top_p": "1"}, "top_p '1' is not a finite number"),
        ({"stop": b"a"}, "stop is bytes"),
        ({"stop": 7}, "stop is int"),
        ({"stop": ["a", "\ud800"]}, "stop 1 cannot be sent as UTF-8"),
        ({"stop": ["a", None]}, "stop 1 is NoneType, not str"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(InvalidRequest, match=words) as raised:
        prompting("minilm", "hi", False, options)
    assert raised.value.model == "minilm"


def test_what_is_refused_is_not_sent(client, fake):
    for stream in (False, True):
        for prompt, options in (("hi", {"timeout": 0}), ("hi", {"max_tokens": "5"}), ("x\ud800", {})):
            with pytest.raises(InvalidRequest):
                client.generate(prompt, stream=stream, **options)
        with pytest.raises(InvalidRequest):
            client.chat("hi", stream=stream)
    assert fake.generations == []


def test_an_unknown_option_is_a_type_error(client):
    with pytest.raises(TypeError, match="max_new_tokens"):
        client.generate("hi", max_new_tokens=5)


@pytest.mark.parametrize("prompt", [7, b"hi", None, ["hi"]])
def test_a_prompt_is_a_str(prompt):
    with pytest.raises(InvalidRequest, match="the prompt is"):
        prompting("m", prompt, False, {})


def test_a_prompt_is_utf8():
    with pytest.raises(InvalidRequest, match=r"the prompt cannot be sent as UTF-8: .* U\+D800 at position 1"):
        prompting("m", "x\ud800", False, {})


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hi", "messages is str"),
        ({"role": "user", "content": "hi"}, "messages is dict"),
        (["hi"], "message 0 is str"),
        ([{"role": "user", "content": None}], "the content of message 0 is NoneType"),
        ([{}, {"role": "user", "content": "\udfff"}], "the content of message 1 cannot be sent as UTF-8"),
        ([{7: "user"}], "a key of message 0 is int"),
    ],
)
def test_bad_messages_are_named(messages, words):
    with pytest.raises(InvalidRequest, match=words):
        chatting("m", messages, False, {})


# --- what the server refuses


FAULTS = [
    (Fault("INVALID_ARGUMENT", 400, "the prompt has 900 tokens"), InvalidRequest),
    (Fault("UNAVAILABLE", 503, "the queue is full: 4 requests wait for 2 slots"), ServerOverloaded),
    (Fault("UNAVAILABLE", 503, "in ensemble 'm', Exceeds maximum queue size"), ServerOverloaded),
    (Fault("UNKNOWN", 400, "unexpected inference input 'text_input' for model 'm'"), InvalidRequest),
    (Fault("UNAVAILABLE", 503, "Server is stopping, scheduler for model has stopped"), ServerUnavailable),
    (Fault("INTERNAL", 500, "Failed to process the request(s) for model instance 'm_0_0'"), ServerFailed),
]


@pytest.mark.parametrize(("fault", "error"), FAULTS)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_instead_of_an_answer(client, fake, fault, error, stream):
    def write(inputs):
        raise fault
        yield

    fake.write = write
    with pytest.raises(error, match=re.escape(fault.words)) as raised:
        list(client.generate("hi", stream=stream))
    assert (raised.value.model, raised.value.url, raised.value.words) == ("minilm", fake.url, fault.words)
    fake.write = lambda inputs: iter(HELLO)
    assert list(client.generate("hi", stream=True)) == DELTAS


# --- the codecs


@given(st.lists(st.text()), st.data())
def test_a_body_is_cut_alike_however_it_arrives(texts, data):
    body = b"".join(b"data: %s\n\n" % json.dumps({"t": text}, ensure_ascii=False).encode() for text in texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)))))
    parts = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    cutter = Body(200, {})
    found = [answer["t"] for part in [*filter(None, parts), b""] for answer in cutter.cut(part)]
    assert found == texts


@given(st.lists(st.binary(max_size=20)))
def test_bytes_outputs_come_back(values):
    raw = b"".join(len(value).to_bytes(4, "little") + value for value in values)
    assert tensor("t", "BYTES", [len(values)], raw).tolist() == values


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [
        ("BYTES", [1], b"\x05\0\0\0abc"),
        ("BYTES", [1], b"\x01"),
        ("BYTES", [2], b"\x01\0\0\0a"),
        ("FP32", [2], b"1234"),
        ("FP32", [1], b"12345678"),
        ("FP32", [1], b"12345"),
        ("COMPLEX", [1], b"12345678"),
    ],
)
def test_an_output_that_contradicts_itself(datatype, shape, raw):
    with pytest.raises(Refused):
        tensor("t", datatype, shape, raw)
