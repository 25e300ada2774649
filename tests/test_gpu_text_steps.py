"""Text around TensorRT-LLM: what its engine is told of a prompt, how text and end are found in what it answers."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_calls import byte_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from yard.checkout import BACKENDS

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(BACKENDS / "tokenizer")
    patch.syspath_prepend(BACKENDS / "detokenizer")
    from chat import Chat
    from incremental import Vocabulary
    from keyed import LOST_S, KeyedStreams
    from keyed_prompt import KeyedPrompts
    from prompt import Prompts
    from refusal import Refusal
    from template import single_start, without_doubled_start

LONGEST = 20
EOS, EOT, PAD = 256, 257, 258


def tokenizer() -> Tokenizer:
    made = byte_tokenizer()
    made.add_special_tokens(["<eos>", "<eot>", "<pad>"])
    return made


class Opened:
    """A detokenizer that takes every stream, but one of an id that it knows."""

    def __init__(self) -> None:
        self.contexts: dict[str, dict[str, Any]] = {}

    def __call__(self, request_id: str, context: bytes) -> None:
        if request_id in self.contexts:
            raise Refusal("it runs")
        self.contexts[request_id] = json.loads(context)


def keyed(opened: Opened | None = None, end_ids: Iterable[int] = (EOS, EOT)) -> KeyedPrompts:
    prompts = Prompts(tokenizer(), Chat({"template": None}), LONGEST, max_text_bytes=64)
    return KeyedPrompts(prompts, list(end_ids), PAD, opened or Opened())


def text(value: str = "abc", **rest: Any) -> dict[str, list[Any]]:
    return {"text_input": [value.encode()]} | rest


def test_the_engine_is_told_of_prompt_limit_and_ends() -> None:
    made = keyed().make(text(), "")
    assert {name: value.tolist() for name, value in made.items()} == {
        "input_ids": [[tokenizer().token_to_id(letter) for letter in "abc"]],
        "input_lengths": [[3]],
        "request_output_len": [[17]],
        "end_id": [[EOS]],
        "pad_id": [[PAD]],
        "stop_words_list": [[[EOT], [1]]],
        "streaming": [[False]],
        "count_tokens": [[True]],
    }
    assert {name: value.dtype for name, value in made.items()} == {
        name: np.dtype(bool if name in ("streaming", "count_tokens") else np.int32) for name in made
    }


@pytest.mark.parametrize(("prompt", "asked", "limit"), [("abc", 17, 17), ("abc", 1, 1), ("a" * 19, None, 1)])
def test_an_answer_may_fill_what_the_prompt_leaves(prompt: str, asked: int | None, limit: int) -> None:
    sent = text(prompt, **({} if asked is None else {"max_tokens": [asked]}))
    assert keyed().make(sent, "")["request_output_len"].item() == limit


@pytest.mark.parametrize(
    ("sent", "end_ids", "told"),
    [
        ({}, [EOS], (EOS, None)),
        ({}, [EOS, EOT, 7], (EOS, [[EOT, 7], [1, 2]])),
        ({"end_id": [7]}, [EOS, EOT], (7, None)),
        ({"end_id": [-1]}, [EOS, EOT], (-1, None)),
        ({}, [], (-1, None)),
    ],
)
def test_the_callers_end_stands_before_the_checkpoints(
    sent: dict[str, list[int]], end_ids: list[int], told: tuple[int, list[list[int]] | None]
) -> None:
    opened = Opened()
    made = keyed(opened, end_ids).make(text(**sent, pad_id=[3]), "mine")
    words = made.get("stop_words_list")
    assert (made["end_id"].item(), None if words is None else words[0].tolist()) == told
    assert made["pad_id"].item() == 3
    assert opened.contexts["mine"]["end_ids"] == [id for id in sent.get("end_id", end_ids) if id >= 0]


@pytest.mark.parametrize(
    ("sent", "streaming"), [({}, False), ({"stream": [True]}, True), ({"stop_words": [b"x"]}, True)]
)
def test_a_request_with_an_id_is_opened_at_the_detokenizer(sent: dict[str, list[Any]], streaming: bool) -> None:
    opened = Opened()
    made = keyed(opened).make(text(**sent, max_tokens=[5]), "mine")
    assert made["streaming"].item() is streaming
    assert not made["count_tokens"].item()
    stop = [word.decode() for word in sent.get("stop_words", [])]
    known = {"stream": "stream" in sent, "stop": stop, "input_tokens": 3, "max_tokens": 5, "end_ids": [EOS, EOT]}
    assert opened.contexts == {"mine": known}
    with pytest.raises(Refusal, match="it runs"):
        keyed(opened).make(text(), "mine")


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (text(stream=[True]), r"has no request id: .*; send one that is unique"),
        (text(stop_words=[b"x"]), r"has no request id"),
        (text(max_tokens=[0]), "max_tokens is 0; give 1 or more"),
        (text(max_tokens=[18]), "max_tokens is 18, but a prompt of 3 tokens leaves room for 17 of the 20 that a slot"),
        (text("a" * 20), "the prompt has 20 tokens, the longest this model takes is 19"),
    ],
)
def test_what_the_engine_cannot_do_is_refused_and_nothing_opened(sent: dict[str, list[Any]], words: str) -> None:
    opened = Opened()
    with pytest.raises(Refusal, match=words):
        keyed(opened).make(sent, "" if "stream" in sent or "stop_words" in sent else "mine")
    assert not opened.contexts


def starting(start: str) -> Tokenizer:
    """A tokenizer that writes the token `start` before a text."""
    made = Tokenizer(models.BPE({chr(number): number for number in range(97, 123)} | {"<": 123, ">": 124}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(["<s>", "</s>"])
    made.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
    )
    return made


@pytest.mark.parametrize(
    ("written", "added", "left"),
    [
        ("<s>hi", "<s>", "hi"),
        ("<s><s>hi", "<s>", "<s>hi"),
        ("hi<s>", "<s>", "hi<s>"),
        ("hi", "<s>", "hi"),
        ("<s>hi", "</s>", "<s>hi"),
        ("<s>hi", "", "<s>hi"),
    ],
)
def test_the_start_that_the_llm_api_would_double_is_left_to_it(written: str, added: str, left: str) -> None:
    made = starting(added) if added else tokenizer_without_start()
    ids = made.encode(written, add_special_tokens=False).ids
    assert single_start(made, written, ids) == left
    if left != written:
        assert made.encode(left).ids == ids


def tokenizer_without_start() -> Tokenizer:
    made = starting("<s>")
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    return made


def test_a_callers_own_text_stays_as_it_is() -> None:
    prompts = Prompts(starting("<s>"), Chat({"template": "<s>{{ messages[0].content }}"}), LONGEST, max_text_bytes=64)
    talk = json.dumps([{"role": "user", "content": "hi"}]).encode()
    assert without_doubled_start(prompts, {"messages": [talk]})["prompt"].tolist() == [[b"hi"]]
    assert without_doubled_start(prompts, {"text_input": [b"<s>hi"]})["prompt"].tolist() == [[b"<s>hi"]]
    with pytest.raises(Refusal, match="the prompt has 21 tokens"):
        without_doubled_start(prompts, text("a" * 20))
    with pytest.raises(Refusal, match="neither text_input nor messages"):
        without_doubled_start(prompts, {})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


VOCABULARY = Vocabulary(tokenizer())


def context(**settings: Any) -> bytes:
    known = {"stream": True, "stop": [], "input_tokens": 4, "max_tokens": 100, "end_ids": [EOS, EOT]}
    return json.dumps(known | settings).encode()


def streams(clock: Clock | None = None) -> KeyedStreams:
    return KeyedStreams(VOCABULARY, [EOS, EOT], clock or Clock())


def feed(stream: Any, responses: Iterable[list[int]], cancelled: bool = False) -> tuple[str, list[str]]:
    """The text of all answers to `responses`, and the finish reasons among them."""
    answers = [stream.answer(ids, False, lambda: cancelled) for ids in responses]
    found = [answer for answer in answers if answer]
    return "".join(text for text, _ in found), [reason for _, reason in found if reason]


def cut(ids: list[int], sizes: list[int]) -> list[list[int]]:
    """Cut `ids` into responses of these sizes, 1 or more, and one of what is left, if anything."""
    responses = []
    for size in sizes:
        responses.append(ids[:size])
        ids = ids[size:]
    return [each for each in [*responses, ids] if each]


@given(
    said=st.text("ab é🙂\n", max_size=30),
    sizes=st.lists(st.integers(1, 4), max_size=40),
    end=st.sampled_from(["eos", "eot", "limit"]),
    stop=st.sampled_from([[], ["\n"], ["b é"], ["ab", "é🙂"]]),
    streaming=st.booleans(),
)
def test_however_the_engine_cuts_it_text_and_end_are_the_same(
    said: str, sizes: list[int], end: str, stop: list[str], streaming: bool
) -> None:
    ids = tokenizer().encode(said, add_special_tokens=False).ids
    # `end_id` is not sent, and leaves an empty response; any other end is.
    responses = cut(ids + [EOT] * (end == "eot"), sizes)
    limit = len(ids) if end == "limit" else 100
    if end == "eos" or not responses:
        responses.append([])
    opened = streams()
    opened.open("x", context(stop=stop or ["never"], stream=streaming, max_tokens=max(limit, 1)))
    stream = opened.find("x")
    told, ended = [], 0
    texts, reasons = "", []
    for response in responses:
        text, reason = feed(stream, [response])
        texts, reasons = texts + text, reasons + reason
        told += [stream.needs_stop]
        ended += stream.ended
    before = min((said.partition(word)[0] for word in stop), key=len, default=said)
    assert texts == before
    stopped = len(before) < len(said)
    assert reasons == ["length" if end == "limit" and ids and not stopped else "stop"]
    assert ended == 1, "the end is found once, also while the rest is swallowed"
    assert sum(told) <= stopped, "it is told to stop once, and only where it goes on"


def test_a_cancelled_stream_needs_a_stop_and_ends_with_the_engines_empty_response() -> None:
    opened = streams()
    opened.open("x", context())
    stream = opened.find("x")
    assert feed(stream, [[10, 11]], cancelled=True)[1] == ["cancelled"]
    assert stream.needs_stop
    assert not stream.ended
    assert feed(stream, [[12]]) == ("", [])
    assert not stream.needs_stop
    assert feed(stream, [[]]) == ("", [])
    assert stream.ended


def test_a_response_that_the_engine_calls_its_last_is_the_end() -> None:
    opened = streams()
    opened.open("x", context())
    assert opened.find("x").answer([10], True, lambda: False)[1] == "stop"


@pytest.mark.parametrize(("limit", "reason"), [(3, "length"), (4, "stop")])
def test_an_answer_that_is_not_streamed_ends_with_its_one_response(limit: int, reason: str) -> None:
    opened = streams()
    opened.open("x", context(stream=False, max_tokens=limit))
    assert feed(opened.find("x"), [[10, 11, 12]])[1] == [reason]


@pytest.mark.parametrize(("ids", "want"), [([10, 11], ("", 2)), ([10, EOT], ("stop", 1)), ([], ("stop", 0))])
def test_an_answer_that_nobody_opened_is_decoded_as_it_is(ids: list[int], want: tuple[str, int]) -> None:
    text, reason, count = streams().whole(ids)
    assert (reason, count) == want
    assert text == tokenizer().decode([id for id in ids if id < EOS])


def test_an_id_is_one_streams_until_that_is_closed() -> None:
    opened = streams()
    opened.open("x", context())
    with pytest.raises(ValueError, match="request id 'x' is that of a request which still runs; give each its own"):
        opened.open("x", context())
    with pytest.raises(ValueError, match="opened by its request id, and there is none"):
        opened.open("", context())
    opened.close("x")
    opened.open("x", context())
    assert len(opened) == 1


@pytest.mark.parametrize("wrong", [b"", b"[]", b'{"stream": true, "stop": [], "input_tokens": 1}'])
def test_a_context_that_nobody_made_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="stream_context is not what the tokenizer step makes"):
        streams().open("x", wrong)


def test_streams_that_no_token_comes_for_are_given_up_and_free_their_ids() -> None:
    clock = Clock()
    opened = streams(clock)
    opened.open("refused", context())
    clock.now = LOST_S - 1
    opened.open("fed", context())
    clock.now = LOST_S
    assert opened.find("fed")
    opened.open("refused", context())
    clock.now = 2 * LOST_S - 0.5
    opened.open("new", context())
    assert len(opened) == 3, "the last token counts, not the opening"
    clock.now = 2 * LOST_S
    opened.open("newer", context())
    assert [opened.find(key) is not None for key in ("fed", "refused", "new", "newer")] == [False, False, True, True]


def test_the_number_of_streams_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyed.MOST", 3)
    opened = streams()
    for number in range(5):
        opened.open(str(number), context())
    assert [opened.find(str(number)) is not None for number in range(5)] == [False, False, True, True, True]
