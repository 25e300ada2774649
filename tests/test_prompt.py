"""Prompts: which requests are taken, how the context of a stream is minted, and a sentence for every refusal."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from yard.checkout import BACKENDS

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(BACKENDS / "tokenizer")
    from chat import Chat
    from echoed_prompt import echoed
    from prompt import MAX_STOP_WORD, MAX_STOP_WORDS, Prompts
    from refusal import Refusal

LONGEST = 8


def prompts(template: str | None = "{{ messages[0].content }}") -> Prompts:
    """A byte a token; what is no letter of the alphabet has none."""
    tokenizer = Tokenizer(models.BPE({chr(number): number for number in range(97, 123)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return Prompts(tokenizer, Chat({"template": template}), max_tokens=LONGEST + 1, max_text_bytes=64)


def text(value: str = "abc", **rest: Any) -> dict[str, list[Any]]:
    return {"text_input": [value.encode()]} | rest


def messages(content: str) -> dict[str, list[Any]]:
    return {"messages": [json.dumps([{"role": "user", "content": content}]).encode()]}


@pytest.mark.parametrize("sent", [text("abc"), messages("abc")], ids=["text", "messages"])
def test_a_prompt_has_its_ids_and_does_not_stream_unless_asked(sent: dict[str, list[Any]]) -> None:
    made = prompts().make(sent)
    assert made.ids == [97, 98, 99]
    assert not made.streaming


@pytest.mark.parametrize("stream", [True, False])
def test_the_context_says_what_the_detokenizer_must_know(stream: bool) -> None:
    made = prompts().make(text(stream=[stream], stop_words=["é".encode(), b"\n\n"]))
    context = json.loads(made.context(id="7"))
    assert made.streaming, "who looks for stop words must see the tokens as they come"
    assert context == {"id": "7", "stream": stream, "stop": ["é", "\n\n"], "input_tokens": len(made.ids)}
    assert prompts().make(text(stream=[stream])).streaming is stream


def test_no_two_streams_have_the_same_context() -> None:
    made = prompts().make(text())
    assert len({echoed(made)["stream_context"].item() for _ in range(1000)}) == 1000


def test_what_tensorrt_llms_clients_send_along_is_taken() -> None:
    along = {"exclude_input_in_output": [True], "return_num_input_tokens": [False], "return_num_output_tokens": [True]}
    made = prompts().make(text(**along, bad_words=[b""], stop_words=[b""]))
    assert (made.ids, made.stop) == ([97, 98, 99], [])


def test_the_longest_of_everything_is_taken() -> None:
    longest = ["🙂" * MAX_STOP_WORD for _ in range(MAX_STOP_WORDS)]
    made = prompts().make(text("a" * LONGEST, stop_words=[word.encode() for word in longest]))
    assert len(made.ids) == LONGEST
    assert json.loads(made.context())["stop"] == longest


BAD: dict[str, tuple[dict[str, list[Any]], str]] = {
    "nothing": ({}, "neither text_input nor messages was sent; send one of them"),
    "both": (text() | messages("a"), "both text_input and messages were sent; send one of them"),
    "empty text": (text(""), "the prompt has no tokens at all; send some text"),
    "empty messages": (messages(""), "the prompt has no tokens at all; send some text"),
    "one token too many": (
        text("a" * 9),
        r"the prompt has 9 tokens, the longest this model takes is 8 tokens \(prompt and answer share 9\); shorten it",
    ),
    "one byte too many": (text("a" * 65), "text_input is 65 bytes long, the longest this model takes is 64 bytes"),
    "bytes before utf-8": ({"text_input": [b"\xff" * 65]}, "text_input is 65 bytes long"),
    "bytes before json": ({"messages": [b"[" * 65]}, "messages is 65 bytes long, the longest this model takes is 64"),
    "text not utf-8": ({"text_input": [b"ab\xffcd"]}, "text_input is not UTF-8: byte 0xff at position 2; encode it"),
    "messages not utf-8": ({"messages": [b'["\xc3"]']}, "messages is not UTF-8: byte 0xc3 at position 2"),
    "messages no json": ({"messages": [b"Hi"]}, "messages is not JSON"),
    "prompt in the answer": (text(exclude_input_in_output=[False]), "exclude_input_in_output is false, only true is"),
    "too many stop words": (text(stop_words=[b"a"] * 17), "17 stop_words were sent, at most 16 are taken"),
    "an empty stop word": (text(stop_words=[b"a", b""]), "stop word 1 has 0 characters, taken are 1 to 256"),
    "a long stop word": (text(stop_words=[b"a" * 257]), "stop word 0 has 257 characters, taken are 1 to 256"),
    "a megabyte of stop word": (
        text(stop_words=[b"\xff" * (1 << 20)]),
        "stop word 0 is 1048576 bytes long, at most 256 characters are taken",
    ),
    "a stop word not utf-8": (text(stop_words=[b"a\xff"]), "stop word 0 is not UTF-8: byte 0xff at position 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_in_words(name: str) -> None:
    sent, words = BAD[name]
    with pytest.raises(Refusal, match=words):
        prompts().make(sent)


def test_a_broken_template_costs_only_those_who_need_it() -> None:
    maker = prompts("{% for %}")
    assert maker.make(text()).ids == [97, 98, 99]
    with pytest.raises(Refusal, match=r"template is broken in line 1: .*; send text_input"):
        maker.make(messages("abc"))


@given(st.dictionaries(st.sampled_from(["text_input", "messages", "stop_words"]), st.lists(st.binary(), min_size=1)))
def test_any_bytes_are_taken_or_refused(sent: dict[str, list[Any]]) -> None:
    with suppress(Refusal):
        assert 1 <= len(prompts().make(sent).ids) <= LONGEST
