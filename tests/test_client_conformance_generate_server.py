"""The conformance suite for generations: the same text and errors from all four transports, streamed and not."""

import asyncio
import json
import re
import time
from contextlib import ExitStack

import pytest
from four_clients import by_all_and_streamed, choices_by_all_and_streamed, opened, same
from served_metrics import value

from tritonyard import AsyncClient, Client, DeadlineExceeded, InvalidRequest, ModelNotFound

pytestmark = pytest.mark.server

WAIT_S = 4.0  # 900 tokens take many more
TALK = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": "Say héllo 🙂"}]


@pytest.fixture(scope="module")
def four(server):
    with ExitStack() as stack:
        yield opened(stack, grpc=server.grpc_url, http=server.http_url)


def wait_until(condition):
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.02)


def generate(prompt, model="smollm2", **options):
    return lambda client, stream: client.generate(prompt, model=model, stream=stream, **options)


def chat(messages, **options):
    return lambda client, stream: client.chat(messages, model="smollm2", stream=stream, **options)


DRAWN = {"top_k": 50, "top_p": 0.9, "repetition_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.1}


@pytest.mark.parametrize(
    ("ask", "reason", "tokens"),
    [
        (generate("The sea is", max_tokens=12), "length", 12),
        (generate("The sea is", max_tokens=1, temperature=None), "length", 1),
        (generate("x\0y", max_tokens=3), "length", 3),
        (generate("naïve 東京 🙂 🎉 🙂 🎉 🙂 🎉", max_tokens=12), "length", 12),  # emoji of several tokens each
        (generate("A poem", max_tokens=12, temperature=1.2, seed=7, **DRAWN), "length", 12),
        (chat(TALK, max_tokens=8, min_tokens=8), "length", 8),
    ],
)
def test_generations(four, ask, reason, tokens):
    text, *found = same(by_all_and_streamed(four, ask))
    assert text
    assert (found[0], found[2]) == (reason, tokens)


@pytest.mark.parametrize("stop", [" of", ["\n", " of"], ("nowhere", "f endless")])
def test_stop_strings(four, stop):
    found = by_all_and_streamed(four, generate("The sea is", max_tokens=40, stop=stop))
    # How many tokens the engine was ahead when the text was found is by chance.
    text, reason, _ = same({name: told[:3] for name, told in found.items()})
    assert " a place of endless".startswith(text)
    assert reason == "stop"


CAPITAL = "The capital of France is"
PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["é", "b"]}, "age": {"type": "integer", "maximum": 9}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"min_p": 0.9, "seed": 1}, " Paris.*"),
        ({"bad_words": ["Paris", "the"]}, "(?!.*(Paris|the)).+"),
        ({"logit_bias": {260: 100}, "max_tokens": 2}, " the the"),
        ({"regex": "(x|é){2}", "max_tokens": 9}, "[xé]{2}"),
        ({"grammar": 'root ::= "no" | "yes"'}, "no|yes"),
        ({"json_schema": json.dumps({"const": [1]}), "max_tokens": 9}, r"\[1\]"),
        ({"json": True, "max_tokens": 9}, r"[\[{].*"),
    ],
)
def test_what_changes_an_answer(four, options, pattern):
    found, *_ = same(by_all_and_streamed(four, generate(CAPITAL, **{"max_tokens": 3, **options})))
    assert re.fullmatch(pattern, found, re.DOTALL), found


def test_an_answer_by_a_schema(four):
    talk = [{"role": "user", "content": "A person, as JSON."}]
    text, reason, *_ = same(by_all_and_streamed(four, chat(talk, max_tokens=40, json_schema=PERSON)))
    assert (json.loads(text).keys(), reason) == ({"name", "age"}, "stop")


def test_several_answers_with_their_log_probs(four):
    ask = generate(CAPITAL, n=3, temperature=1.0, seed=11, max_tokens=6, top_logprobs=2)
    answers = same(choices_by_all_and_streamed(four, ask))
    assert len({text for text, *_ in answers}) == 3
    for text, reason, log_probs in answers:
        assert (reason, len(log_probs)) == ("length", 6)
        assert b"".join(each.raw for each in log_probs).decode() == text
        for each in log_probs:
            assert len(each.top) == 2
            assert each.top[0].log_prob >= max(each.log_prob, each.top[1].log_prob)


def test_log_probs_only_where_they_are_asked_for(four):
    ((text, _, log_probs),) = same(choices_by_all_and_streamed(four, generate(CAPITAL, max_tokens=3, log_probs=True)))
    assert ("".join(each.token for each in log_probs), {each.top for each in log_probs}) == (text, {()})
    assert same(choices_by_all_and_streamed(four, generate(CAPITAL, max_tokens=3))) == [(text, "length", None)]


def test_only_who_has_the_same_salt_shares(server, four):
    def cached():
        return value(server.metrics_url, "cached_tokens", model="smollm2_decoder")

    prompt = "A long prompt that nobody else has sent, of the salts that are sent beside it: " * 3
    time.sleep(0.2)  # what earlier requests had is counted after their answers
    before = cached()
    for salt in "ab":
        tokens = four["sync grpc"].generate(prompt, model="smollm2", max_tokens=1, cache_salt=salt).num_input_tokens
    same(by_all_and_streamed(four, generate(prompt, max_tokens=1, cache_salt="a")))
    wait_until(lambda: cached() - before > 8 * 0.9 * tokens)
    assert cached() - before < 8 * tokens


LACKING = ({"min_p": 0.5}, {"json": True}, {"log_probs": True})


@pytest.mark.parametrize("options", LACKING, ids=[*map(str, LACKING)])
def test_an_option_that_the_model_lacks_is_named(four, options):
    (option,) = options
    found = by_all_and_streamed(four, generate("a", model="smollm2_tokenizer", **options))
    for failure in found.values():
        assert failure.kind is InvalidRequest
        assert f"the model does not take '{option}'" in failure.words


NOT_SERVED = [
    (generate("a", model="nobody"), ModelNotFound, "unknown model: 'nobody'"),
    (generate("a", model=None), InvalidRequest, "no model is named"),
    (generate(""), InvalidRequest, "the prompt has no tokens at all"),
    (generate("x " * 3000), InvalidRequest, "the prompt has 3001 tokens, the longest this model takes is 1023"),
    (generate("a", temperature=-1.0), InvalidRequest, "temperature is -1; give a number of 0 or more"),
    (generate("a", top_p=1.5), InvalidRequest, "top_p is 1.5; give a number between 0 and 1"),
    (generate("a", max_tokens=0), InvalidRequest, "max_tokens is 0; give 1 or more"),
    (generate("a", seed=-1), InvalidRequest, "seed -1 is not a whole number"),
    (generate("a", stop=["b", 3]), InvalidRequest, "stop 1 is int, not str"),
    (generate("a", min_p=1.5), InvalidRequest, "min_p is 1.5; give a number between 0 and 1"),
    (generate("a", n=2), InvalidRequest, "n is 2, but the greedy answers are all one; give a temperature"),
    (generate("a", n=17, top_k=9), InvalidRequest, "n is 17; give 1 to 16, the slots of this model"),
    (generate("a", n=0), InvalidRequest, "n is 0; ask for 1 answer or more"),
    (generate("a", logit_bias={99999: 1}), InvalidRequest, "logit_bias names the token '99999'; the vocabulary has"),
    (generate("a", json_schema={"type": "objekt"}), InvalidRequest, "json_schema is refused: Invalid type: objekt"),
    (generate("a", json=True, regex="a"), InvalidRequest, "regex and json are given"),
    (generate("a", priority_level=10), InvalidRequest, "priority_level is 10; give a whole number from 1 to 9"),
    (generate("On:", max_tokens=60, min_tokens=60, timeout=0.2), DeadlineExceeded, "no complete answer within 0.2 s"),
    (chat([{"role": "usr", "content": "x"}]), InvalidRequest, "unknown role 'usr'; did you mean 'user'?"),
    (chat([{"role": "user"}]), InvalidRequest, "message 0 (user) has no content"),
    (chat([]), InvalidRequest, "messages is an empty list"),
]


@pytest.mark.parametrize(("ask", "kind", "words"), NOT_SERVED, ids=[words for _, _, words in NOT_SERVED])
def test_refused_generations(four, ask, kind, words):
    failure = same(by_all_and_streamed(four, ask))
    assert failure.kind is kind
    assert words in failure.words
    assert failure.attempts == failure.has_request_id


@pytest.mark.parametrize("model", ["minilm", "minilm_encoder", "smollm2_decoder"])
def test_a_model_that_does_not_generate(four, model):
    # tritonserver has other words for it over HTTP, and over gRPC other ones for a stream.
    found = by_all_and_streamed(four, generate("a", model=model))
    assert same({name: failure[:2] for name, failure in found.items()}) == (InvalidRequest, model)


ENDLESS = {"max_tokens": 900, "min_tokens": 900, "stream": True}


def leave(url, then):
    with Client(url, model="smollm2") as client:
        stream = client.generate("On and on:", **ENDLESS)
        for delta in stream:
            if delta.num_output_tokens > 3:
                break
        then()


def leave_async(url, then):
    async def main():
        async with AsyncClient(url, model="smollm2") as client:
            stream = client.generate("On and on:", **ENDLESS)
            async for delta in stream:
                if delta.num_output_tokens > 3:
                    break
            await asyncio.to_thread(then)

    asyncio.run(main())


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("leave", [leave, leave_async])
def test_leaving_the_loop_cancels(server, protocol, leave):
    def cancelled():
        return value(server.metrics_url, "requests_finished", model="smollm2_decoder", finish_reason="cancelled")

    wait_until(lambda: value(server.metrics_url, "slots_used", model="smollm2_decoder") == 0)
    before = cancelled()
    # The client is still open then, and the stream is held: it is the loop's end that has cancelled.
    leave(getattr(server, f"{protocol}_url"), lambda: wait_until(lambda: cancelled() == before + 1))
