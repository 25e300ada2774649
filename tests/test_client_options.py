"""What a generation may be asked for beyond its text: options -> inputs and parameters, and what is refused of them."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensembles import generate as ensemble
from ensembles.llmapi import llmapi_ensemble
from ensembles.tensorrt_llm import tensorrt_llm_ensemble
from tritonyard import InvalidRequest, Options
from tritonyard._grpc_codec import generate_request
from tritonyard._http_codec import encode
from tritonyard._options import DATATYPES, GUIDES, answers_of, chatting, option_of, prompting
from tritonyard._words import callers_words

SPEC = ensemble.GenerateSpec("m", max_tokens=9, max_text_bytes=9, slots=1, max_queue_size=1)
SCHEMA = {"type": "object", "properties": {"é": {"type": "integer"}}}
# Every option that becomes an input, and a value of it.
ASKED = {
    **dict.fromkeys(DATATYPES, 1),
    "stop": ["a"],
    "bad_words": ["b", "c"],
    "logit_bias": {5: -100},
    "n": 2,
    "log_probs": True,
}
# Said in another way, or of no use: beams are refused, ids of ends are the checkpoint's, counts always come.
UNSAID = {"end_id", "pad_id", "beam_width", "embedding_bias_words", "embedding_bias_weights", "return_log_probs"}
UNSAID |= {"exclude_input_in_output", "return_num_input_tokens", "return_num_output_tokens"}


def said(**options):
    """What an option adds to a plain request: its inputs, and the request's parameters."""
    call = prompting("m", "hi", False, options)
    plain = prompting("m", "hi", False, {})
    assert call.inputs.keys() >= plain.inputs.keys()
    return {name: content for name, (_, content) in call.inputs.items() if name not in plain.inputs}, call.parameters


def inputs_of(**options):
    inputs, parameters = said(**options)
    assert parameters == {}
    return inputs


# --- inputs


@pytest.mark.parametrize(
    ("options", "inputs"),
    [
        ({"min_p": 0.1}, {"min_p": (0.1,)}),
        ({"n": np.int64(3)}, {"num_return_sequences": (3,)}),
        ({"bad_words": "a"}, {"bad_words": ("a",)}),
        ({"bad_words": ("é", "b")}, {"bad_words": ("é", "b")}),
        ({"bad_words": [], "stop": []}, {}),
        ({"log_probs": True}, {"top_logprobs": (0,)}),
        ({"log_probs": True, "top_logprobs": 5}, {"top_logprobs": (5,)}),
        ({"log_probs": False, "top_logprobs": 5}, {"top_logprobs": (5,)}),
        ({"log_probs": False}, {}),
        ({"regex": "[é]+"}, {"guided_decoding_guide_type": ("regex",), "guided_decoding_guide": ("[é]+",)}),
        ({"regex": ""}, {"guided_decoding_guide_type": ("regex",), "guided_decoding_guide": ("",)}),
        ({"grammar": "a"}, {"guided_decoding_guide_type": ("ebnf_grammar",), "guided_decoding_guide": ("a",)}),
        ({"json_schema": "{}"}, {"guided_decoding_guide_type": ("json_schema",), "guided_decoding_guide": ("{}",)}),
        ({"json": True}, {"guided_decoding_guide_type": ("json",)}),
        ({"json": False}, {}),
        ({"json": False, "regex": None}, {}),
    ],
)
def test_options_become_inputs(options, inputs):
    assert inputs_of(**options) == inputs


@settings(max_examples=30)
@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.text()))
def test_a_schema_is_sent_as_it_is(schema):
    (guide,) = inputs_of(json_schema=schema)["guided_decoding_guide"]
    assert json.loads(guide) == schema


@settings(max_examples=30)
@given(st.dictionaries(st.integers(0, 99999), st.floats(-100, 100) | st.integers(-100, 100)))
def test_biases_are_an_object_of_json(biases):
    (text,) = inputs_of(logit_bias=biases)["logit_bias"]
    assert json.loads(text) == {str(token): bias for token, bias in biases.items()}
    assert inputs_of(logit_bias={str(token): bias for token, bias in biases.items()}) == {"logit_bias": (text,)}


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("ask", [prompting, chatting])
def test_inputs_are_those_of_the_ensemble(ask, guide):
    known = {each.name: each.dtype for each in ensemble.generate_ensemble(SPEC).inputs}
    inputs = ask("m", [] if ask is chatting else "a", True, {**ASKED, guide: True if guide == "json" else "a"}).inputs
    assert {name: known.get(name) for name in inputs} == {name: dtype for name, (dtype, _) in inputs.items()}
    asked = {*inputs, "text_input", "messages", "guided_decoding_guide"}
    assert known.keys() - asked == UNSAID
    assert inputs.keys() >= {each.name for each in (*ensemble.MORE_SAMPLING, *ensemble.TOKEN_RULES)} - UNSAID - {
        "guided_decoding_guide"
    }


def test_how_many_answers_a_call_asks_for():
    assert [answers_of(prompting("m", "a", True, options)) for options in ({}, {"n": None}, {"n": 1}, {"n": 4})] == [
        1,
        1,
        1,
        4,
    ]


# --- parameters of the request


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"cache_salt": "é", "tenant": "t"}, {"cache_salt": "é", "tenant": "t"}),
        ({"priority_level": np.int32(9)}, {"priority_level": 9}),
        ({"queue_timeout": 2}, {"queue_timeout": 2_000_000}),
        ({"queue_timeout": 1.001}, {"queue_timeout": 1_001_000}),
        ({"queue_timeout": 1e-6}, {"queue_timeout": 1}),
        ({"tenant": None}, {}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_schedules_a_request_goes_beside_its_inputs(options, parameters, stream):
    assert said(**options) == ({}, parameters)
    call = prompting("m", "hi", stream, {**options, "max_tokens": 3})
    message = generate_request(call)
    sent = {key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in message.parameters.items()}
    assert sent == parameters
    assert {each.name for each in message.inputs} == call.inputs.keys()
    body = json.loads(encode(call).body)
    assert body == {"id": call.id, **parameters, **{name: list(content) for name, (_, content) in call.inputs.items()}}
    assert all(type(body[name]) is type(value) for name, value in parameters.items())


# --- what is refused before it is sent


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, "n is 0; ask for 1 answer or more"),
        ({"n": 1.0}, r"n 1\.0 is not a whole number"),
        ({"min_p": "1"}, "min_p '1' is not a finite number"),
        ({"top_logprobs": True}, "top_logprobs True is not a whole number"),
        ({"bad_words": ["a", b"b"]}, "bad_words 1 is bytes, not str"),
        ({"bad_words": 7}, "bad_words is int; pass a str, or a list of them"),
        ({"logit_bias": [5]}, "logit_bias is list; pass a mapping of token ids to biases"),
        ({"logit_bias": {5: "a"}}, "the logit_bias of token 5 'a' is not a finite number"),
        ({"logit_bias": {5: float("nan")}}, "the logit_bias of token 5 nan is not a finite number"),
        ({"logit_bias": {" Paris": 1}}, "logit_bias names ' Paris', which is not the id of a token"),
        ({"logit_bias": {-5: 1}}, "logit_bias names -5, which is not"),
        ({"logit_bias": {True: 1}}, "logit_bias names True, which is not"),
        ({"logit_bias": {"\ud800": 1}}, "logit_bias names"),
        ({"json": True, "regex": "a"}, "regex and json are given; an answer follows one of them"),
        ({"json_schema": {}, "grammar": ""}, "json_schema and grammar are given"),
        ({"json": '{"type": "object"}'}, "json is .*; it is True or left out, a schema is json_schema"),
        ({"json_schema": {"a": {1, 2}}}, "json_schema cannot be written as JSON: .*set"),
        ({"json_schema": {"a": float("nan")}}, "json_schema cannot be written as JSON"),
        ({"json_schema": ["a"]}, "json_schema is list, not str"),
        ({"regex": re.compile("a")}, "regex is Pattern, not str"),
        ({"grammar": "\ud800"}, "grammar cannot be sent as UTF-8"),
        ({"cache_salt": 7}, "cache_salt is int, not str"),
        ({"tenant": "\ud800"}, "tenant cannot be sent as UTF-8"),
        ({"priority_level": 1.5}, r"priority_level 1\.5 is not a whole number"),
        ({"queue_timeout": 0}, "queue_timeout is 0; give a number of seconds above 0"),
        ({"queue_timeout": -1}, "queue_timeout is -1; give"),
        ({"queue_timeout": 1e7}, "queue_timeout is 1e[+]07; give a number of seconds above 0, at most 1,000,000"),
        ({"queue_timeout": float("inf")}, "queue_timeout inf is not a finite number"),
    ],
)
def test_what_cannot_be_sent_is_named(options, words):
    with pytest.raises(InvalidRequest, match=words) as raised:
        prompting("minilm", "hi", False, options)
    assert raised.value.model == "minilm"


# --- what the server says of it


@pytest.mark.parametrize(
    ("options", "words", "told"),
    [
        ({"min_p": 1}, "unexpected inference input 'min_p' for model 'm'", "the model does not take 'min_p': "),
        ({"n": 2}, "unexpected inference input 'num_return_sequences' for model 'm'", "the model does not take 'n': "),
        (
            {"regex": "a"},
            "parameter 'guided_decoding_guide' has invalid type. It should be either 'int', 'bool', or 'string'.",
            "the model does not take 'regex': parameter 'regex' has invalid type",
        ),
        ({"json": True}, "parameter 'guided_decoding_guide_type' has invalid type", "the model does not take 'json': "),
        (
            {"top_logprobs": 1},
            "unexpected inference input 'top_logprobs' for model 'm'",
            "the model does not take 'top_",
        ),
        (
            {"log_probs": True},
            "unexpected inference input 'top_logprobs' for model 'm'",
            "the model does not take 'log_",
        ),
        ({"stop": "a"}, "unexpected inference input 'stop_words' for model 'm'", "the model does not take 'stop': "),
        ({"n": 20}, "num_return_sequences is 20; give 1 to 16", "n is 20; give 1 to 16"),
        ({"json_schema": "a"}, "guided_decoding_guide is refused: no", "json_schema is refused: no"),
        ({}, "num_return_sequences is 20; give 1 to 16", "num_return_sequences is 20"),
        ({}, "unexpected inference input 'text_input' for model 'm'", "unexpected inference input 'text_input'"),
    ],
)
def test_the_server_is_told_in_the_callers_words(options, words, told):
    assert callers_words(prompting("m", "hi", False, options), words).startswith(told)


@pytest.mark.parametrize("stand_in", [llmapi_ensemble(SPEC), tensorrt_llm_ensemble(SPEC, {})], ids=["llmapi", "trtllm"])
def test_what_other_ensembles_lack_is_an_option_by_name(stand_in):
    """Whatever they refuse as unknown can be told by the option that asked for it."""
    known = {each.name for each in stand_in.inputs}
    call = prompting("m", "hi", True, {**ASKED, "json": True})
    lacking = call.inputs.keys() - known
    assert {"min_p", "num_return_sequences", "bad_words", "logit_bias", "top_logprobs"} <= lacking
    assert {option_of(name, call) for name in lacking} <= Options.__annotations__.keys()
