"""Several answers to one request, and log probabilities: as the server writes them, as a caller gets them."""

import json
import struct

import pytest
from fake_kserve import said
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from tritonyard import (
    Choice,
    Client,
    Delta,
    Generation,
    LogProb,
    MockTransport,
    ServerFailed,
    Usage,
)
from tritonyard._generation import answer_of, deltas
from tritonyard._growth import Growth
from tritonyard._grpc_codec import generate_answer
from tritonyard._http_codec import Body
from tritonyard._transport import Refused

TWO = {"n": 2, "temperature": 1.0}
A, B = LogProb("a", -0.5, b"a"), LogProb("�", -2.0, b"\xc3", (LogProb("b", -0.25, b"b"), LogProb("�", -2.0, b"\xc3")))
CONTENT = [
    {"token": "a", "bytes": [97], "logprob": -0.5},
    {
        "token": "�",
        "bytes": [0xC3],
        "logprob": -2.0,
        "top_logprobs": [
            {"token": "b", "bytes": [98], "logprob": -0.25},
            {"token": "�", "bytes": [0xC3], "logprob": -2.0},
        ],
    },
]


def numbered(index, *arguments):
    return {**said(*arguments), "sequence_index": index}


# Two answers that grow in turns, with a heartbeat between; the second ends first.
IN_TURNS = [
    numbered(1, "x", "", 1),
    numbered(0, "a", "", 1),
    numbered(0, "", "", 2),
    numbered(1, "y", "stop", 2),
    numbered(0, "b", "", 3),
    numbered(0, "c", "length", 4),
]


# --- streamed


def test_a_stream_ends_with_the_last_of_its_answers(client, fake):
    fake.write = lambda inputs: iter(IN_TURNS)
    found = list(client.generate("hi", stream=True, **TWO))
    assert [(delta.index, delta.text, delta.finish_reason) for delta in found] == [
        (1, "x", None),
        (0, "a", None),
        (1, "y", "stop"),
        (0, "b", None),
        (0, "c", "length"),
    ]
    assert fake.generations[0]["num_return_sequences"] == [2]
    assert not fake.cancelled.is_set(), "a stream that was read to its end was cancelled"


@pytest.mark.parametrize("cut", [1, 4, 5])
def test_an_answer_that_never_ends_is_an_error(client, fake, cut):
    fake.write = lambda inputs: iter(IN_TURNS[:cut])
    with pytest.raises(ServerFailed, match="ended without a finish_reason"):
        list(client.generate("hi", stream=True, **TWO))


def test_a_stream_tells_of_all_its_answers(fake):
    fake.write = lambda inputs: iter(IN_TURNS)
    with Client(fake.url, model="minilm") as client:
        stream = client.generate("hi", stream=True, **TWO)
        assert stream.choices == (Choice("", None), Choice("", None))
        seen = [(stream.text, stream.choices[1].text, stream.usage) for _ in stream]
    assert seen == [
        ("", "x", Usage(3, 1)),
        ("a", "x", Usage(3, 2)),
        ("a", "xy", Usage(3, 3)),
        ("ab", "xy", Usage(3, 5)),
        ("abc", "xy", Usage(3, 6)),
    ]
    assert stream.finish_reason == "length"
    assert stream.choices == (Choice("abc", "length"), Choice("xy", "stop"))


def test_an_answer_that_nobody_asked_for(client, fake):
    fake.write = lambda inputs: iter(IN_TURNS)
    with pytest.raises(ServerFailed, match="1 answers were asked for, and number 1 came"):
        list(client.generate("hi", stream=True))


# --- not streamed


def test_all_answers_of_one_response():
    grown = Growth(2)
    for found in deltas({**said(["a", "b"], ["stop", "length"], 7), "cum_log_probs": [-1.0, -2.0]}):
        grown._grow(found)
    assert grown.choices == (Choice("a", "stop"), Choice("b", "length"))
    assert grown.usage == Usage(3, 7)


def test_a_whole_answer_has_its_choices(kind):
    written = [Delta("a", None, 3, 1), Delta("x", "stop", 3, 1, 1, (A,), -0.5), Delta("b", "length", 3, 2)]
    with kind(model="m", transport=MockTransport(lambda call: written)) as client:
        found = client.generate("hi", **TWO)
        assert [delta.index for delta in client.generate("hi", stream=True, **TWO)] == [0, 1, 0]
    assert found == Generation("ab", "length", 3, 3, others=(Choice("x", "stop", (A,), -0.5),))
    assert found.choices == (Choice("ab", "length"), Choice("x", "stop", (A,), -0.5))


# --- log probabilities


def test_log_probs_add_up(kind):
    written = [Delta("a", None, 3, 1, 0, (A,), -0.5), Delta("é", None, 3, 2, 0, (B,), -2.5), Delta("", "stop", 3, 2)]
    with kind(model="m", transport=MockTransport(lambda call: written)) as client:
        found = client.generate("hi", top_logprobs=2)
        assert [delta.log_probs for delta in client.generate("hi", stream=True, top_logprobs=2)] == [(A,), (B,), None]
    assert (found.log_probs, found.cum_log_prob) == ((A, B), -2.5)
    assert found.choices == (Choice("aé", "stop", (A, B), -2.5),)


def test_the_example_of_openai_is_read():
    answer = {**said("aé", "stop", 2), "logprobs": json.dumps(CONTENT), "cum_log_probs": -2.5, "output_log_probs": []}
    assert deltas(answer) == [Delta("aé", "stop", 3, 2, 0, (A, B), -2.5)]


TEXTS = st.text(max_size=3)
TOKENS = st.builds(LogProb, TEXTS, st.floats(-99, 0), st.binary(max_size=3))
WITH_TOP = st.builds(LogProb, TEXTS, st.floats(-99, 0), st.binary(max_size=3), st.lists(TOKENS, max_size=2).map(tuple))
LOG_PROBS = st.none() | st.lists(WITH_TOP, max_size=3).map(tuple)


@settings(max_examples=30)
@given(
    st.builds(
        Delta,
        TEXTS,
        st.sampled_from([None, "stop", "length", "cancelled", "timeout"]),
        st.none() | st.integers(0, 9),
        st.none() | st.integers(0, 9),
        st.integers(0, 3),
        LOG_PROBS,
        st.none() | st.floats(-99, 0),
    )
)
def test_what_a_mock_writes_is_read_alike(found):
    assert deltas(answer_of(found)) == [found] * bool(found.text or found.finish_reason or found.log_probs)


@pytest.mark.parametrize(
    "odd",
    [
        {"text_output": ["a", "b"]},
        {"text_output": ["a", "b"], "finish_reason": ["stop", None]},
        {"sequence_index": "0"},
        {"logprobs": "not JSON"},
        {"logprobs": '[{"token": "a"}]'},
        {"logprobs": "[7]"},
        {"logprobs": [None, None]},
        {"logprobs": 7},
        {"num_output_tokens": 1.5},
    ],
)
def test_an_answer_that_makes_no_sense(odd):
    with pytest.raises(Refused, match="not a generation"):
        deltas({**said("a", "stop"), **odd})


def test_one_of_several_breaks_off():
    with pytest.raises(Refused, match="the model broke off after"):
        deltas(said(["a", "b"], ["stop", "error"], 7))


# --- the codecs


def packed(datatype, values):
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return struct.pack(f"<{len(values)}{'f' if datatype == 'FP32' else 'i'}", *values)


def message_of(**outputs):
    message = service_pb2.ModelStreamInferResponse()
    for name, (datatype, shape, values) in outputs.items():
        message.infer_response.outputs.add(name=name, datatype=datatype, shape=shape)
        message.infer_response.raw_output_contents.append(packed(datatype, values))
    return message


def test_outputs_of_many_values_are_read_alike_over_grpc_and_http():
    message = message_of(
        text_output=("BYTES", [1, 2], ["é".encode(), b""]),
        finish_reason=("BYTES", [1, 2], [b"stop", b"length"]),
        num_output_tokens=("INT32", [1, 1], [7]),
        output_log_probs=("FP32", [1, 2, 2], [-0.5, -1.0, -0.25, 0.0]),
        cum_log_probs=("FP32", [1, 2], [-1.5, -0.25]),
        nothing=("FP32", [1, 0], []),
    )
    # As tritonserver writes it.
    line = (
        '{"model_name":"m","model_version":"1","text_output":["é",""],"finish_reason":["stop","length"],'
        '"num_output_tokens":7,"output_log_probs":[-0.5,-1.0,-0.25,0.0],"cum_log_probs":[-1.5,-0.25],"nothing":[]}'
    )
    (by_http,) = Body(200, {}).cut(line.encode() + b"\n")
    assert generate_answer(message, True) == {
        name: value for name, value in by_http.items() if not name.startswith("model_")
    }


def test_one_text_of_several_is_not_utf8():
    with pytest.raises(Refused, match="'text_output' is not UTF-8"):
        generate_answer(message_of(text_output=("BYTES", [1, 2], [b"a", b"\xff"])), True)


@pytest.mark.parametrize(("datatype", "size"), [("FP32", 7), ("BYTES", 9), ("INT32", 1)])
def test_values_that_are_cut_short(datatype, size):
    message = message_of(values=(datatype, [2], [b"a", b"b"] if datatype == "BYTES" else [1, 2]))
    message.infer_response.raw_output_contents[0] = message.infer_response.raw_output_contents[0][:size]
    with pytest.raises(Refused, match="which cannot be"):
        generate_answer(message, True)
