"""Log probabilities: what they are at the engine, and how they travel to the caller with their text."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_detokenizer import tokenizer_of
from test_generate_engine import END, PlayedDecoder, wait_until

from yard.checkout import BACKENDS

with pytest.MonkeyPatch.context() as patch:
    for folder in ("detokenizer", "onnx_generate"):
        patch.syspath_prepend(BACKENDS / folder)
    from answers import Answers
    from engine import Engine, Generation
    from incremental import Vocabulary
    from log_probs import log_prob, log_prob_tensors
    from pending_log_probs import PendingLogProbs, tensors
    from request import BadRequest, Settings
    from sampler import Sampler
    from spelling import Spelling, byte_letters


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=40), st.integers(0, 2), st.integers(0, 20))
def test_log_probs_are_those_of_a_softmax(values: list[float], token: int, top: int) -> None:
    logits = np.array(values, np.float32)
    exact = np.array(values) - np.logaddexp.reduce(np.array(values))
    found = log_prob(logits, token, top)
    assert found.value == pytest.approx(exact[token], abs=1e-5)
    order = np.argsort(-logits, kind="stable")[:top]
    assert found.top_ids == order.tolist()
    assert found.top_values == pytest.approx(exact[order].tolist(), abs=1e-5)
    assert logits.tolist() == values


def test_they_are_of_the_models_own_logits_whatever_else_is_asked_for() -> None:
    logits = np.linspace(0, 5, 8, dtype=np.float32)
    asked = {"temperature": 0.3, "top_k": 2, "logit_bias": {1: 50.0}, "bad_ids": ((7,),), "presence_penalty": 1.0}
    sampler = Sampler(Settings(**asked, top_logprobs=2, seed=1), [1], end_ids=(0,))
    assert sampler.next(logits.copy()) == 1
    assert sampler.log_prob == log_prob(logits, 1, 2)
    assert sampler.log_prob.top_ids == [7, 6]


def test_who_does_not_ask_has_none() -> None:
    sampler = Sampler(Settings(temperature=1.0), [1], end_ids=(0,))
    sampler.next(np.zeros(4, np.float32))
    assert sampler.log_prob is None
    assert log_prob_tensors([], 0.0) == {}


@pytest.mark.parametrize("top", [-1, 21])
def test_the_likeliest_are_20_at_most(top: int) -> None:
    with pytest.raises(BadRequest, match=f"top_logprobs is {top}; give 0 to 20"):
        Settings(top_logprobs=top)


def test_the_engine_keeps_one_for_each_token() -> None:
    engine = Engine(PlayedDecoder(), max_queue_size=9, chunk=8)
    asked, silent = (
        Generation([1, 2], Settings(max_tokens=9, top_logprobs=1)),
        Generation([1, 2], Settings(max_tokens=9)),
    )
    engine.submit(asked)
    engine.submit(silent)
    wait_until(lambda: asked.finish_reason and silent.finish_reason)
    engine.close()
    assert asked.output == silent.output
    assert [each.top_ids for each in asked.log_probs] == [[token] for token in asked.output]
    assert silent.log_probs == []
    found = log_prob_tensors(asked.log_probs, -1.5)
    count = len(asked.output)
    shapes = {name: tensor.shape for name, tensor in found.items()}
    assert shapes == {
        "output_log_probs": (1, 1, count),
        "cum_log_probs": (1, 1),
        "top_token_ids": (1, count, 1),
        "top_log_probs": (1, count, 1),
    }


def test_several_answers_are_taken_in_whole_or_not_at_all() -> None:
    decoder = PlayedDecoder(slots=2, end_ids=())
    engine = Engine(decoder, max_queue_size=0, chunk=8)
    with pytest.raises(Exception, match="the queue is full"):
        engine.submit(*(Generation([END], Settings(max_tokens=3), place=place) for place in range(3)))
    assert engine.scheduler.is_idle
    both = [Generation([END], Settings(max_tokens=3), place=place) for place in range(2)]
    engine.submit(*both)
    wait_until(lambda: all(each.finish_reason for each in both))
    engine.close()


def test_answers_of_one_seed_differ_and_the_first_is_the_only_one() -> None:
    def drawn(**more: Any) -> list[int]:
        sampler = Sampler(Settings(temperature=1.0, seed=4), [1], end_ids=(0,), **more)
        return [sampler.next(np.zeros(1000, np.float32)) for _ in range(5)]

    assert drawn() == drawn(place=0)
    assert drawn(place=1) == drawn(place=1)
    assert len({tuple(drawn(place=place)) for place in range(4)}) == 4


@settings(max_examples=5, deadline=None)
@given(st.data())
@pytest.mark.parametrize("name", ["byte level", "gemma", "word piece"])
def test_what_tokens_say_by_themselves_joins_to_what_they_say_together(name: str, data: Any) -> None:
    tokenizer = tokenizer_of(name)
    vocabulary = Vocabulary(tokenizer)
    spelling = Spelling(vocabulary)
    letters = byte_letters()
    # Byte tokens that are no character together are all replaced, one by one they are cut at characters.
    ids = [id for id in range(tokenizer.get_vocab_size()) if vocabulary.shows(id) and not vocabulary.is_byte(id)]
    if name == "byte level":
        ids = [id for id in ids if set(tokenizer.id_to_token(id)) <= letters.keys()]
    chosen = data.draw(st.lists(st.sampled_from(ids), min_size=1, max_size=8))
    said = [spelling.of(id) for id in chosen]
    # What a text begins with, decoders may strip or mend: this one begins with a letter.
    first = tokenizer.encode("a", add_special_tokens=False).ids if name != "word piece" else tokenizer.encode("the").ids
    joined = b"".join(bytes(each["bytes"]) for each in said)
    assert joined.decode(errors="replace") == tokenizer.decode([*first, *chosen]).removeprefix(tokenizer.decode(first))
    assert all(bytes(each["bytes"]).decode(errors="replace") == each["token"] for each in said)


def test_a_byte_token_is_its_byte() -> None:
    tokenizer = tokenizer_of("llama")
    found = Spelling(Vocabulary(tokenizer)).of(tokenizer.token_to_id("<0xF0>"))
    assert found == {"token": "\ufffd", "bytes": [0xF0]}


def test_special_tokens_are_shown_by_name() -> None:
    tokenizer = tokenizer_of("byte level")
    end = tokenizer.token_to_id("</s>")
    assert Spelling(Vocabulary(tokenizer)).of(end) == {"token": "</s>", "bytes": list(b"</s>")}


class Letters:
    """Spells a token by its number."""

    def of(self, id: int) -> dict[str, Any]:
        return {"token": str(id), "bytes": [id]}


def test_what_is_held_back_goes_with_the_next_text() -> None:
    pending = PendingLogProbs(Letters())
    assert pending.take() is None
    pending.add([5, 6], [-0.5, -1.0], -1.5, [[5, 7], [6, 8]], [[-0.5, -2.0], [-1.0, -3.0]])
    pending.add([9], [-100000.0], -100001.5, [[9, 1]], [[-0.25, -float("inf")]])
    found = tensors([pending.take()])
    assert found["output_log_probs"].tolist() == [[[-0.5, -1.0, -100000.0]]]
    assert found["cum_log_probs"].tolist() == [[-100001.5]]
    first, _, last = json.loads(found["logprobs"].item())
    assert first == {
        "token": "5",
        "bytes": [5],
        "logprob": -0.5,
        "top_logprobs": [
            {"token": "5", "bytes": [5], "logprob": -0.5},
            {"token": "7", "bytes": [7], "logprob": -2.0},
        ],
    }
    assert (last["logprob"], last["top_logprobs"][1]["logprob"]) == (-9999.0, -9999.0), "JSON has no infinity"
    assert pending.take() is None
    pending.add([4], [-0.75], -2.25, [[]], [[]])
    assert [each["token"] for each in json.loads(tensors([pending.take()])["logprobs"].item())] == ["4"]


def test_without_the_likeliest_there_is_no_json() -> None:
    pending = PendingLogProbs(Letters())
    pending.add([5], [-0.5], -0.5)
    assert tensors([pending.take()]).keys() == {"output_log_probs", "cum_log_probs"}
    assert tensors([None, None]) == {}


def test_several_answers_are_padded() -> None:
    rows = [([-1.0, -2.0], -3.0, None), None, ([-0.5], -0.5, None)]
    found = tensors(rows)
    assert found["output_log_probs"].tolist() == [[[-1.0, -2.0], [0.0, 0.0], [-0.5, 0.0]]]
    assert found["cum_log_probs"].tolist() == [[-3.0, 0.0, -0.5]]


def answers(stream: bool, count: int = 2) -> Answers:
    context = json.dumps({"stream": stream, "stop": ["x"], "input_tokens": 3, "answers": count})
    return Answers(context, Vocabulary(tokenizer_of("byte level")), Letters())


def ids_of(text: str) -> list[int]:
    return [tokenizer_of("byte level").token_to_id(letter) for letter in text]


def test_answers_that_stream_come_as_they_are_each_with_its_place() -> None:
    both = answers(stream=True)
    assert both.is_numbered
    assert both.advance(1, ids_of("ab"), False, "") == [(1, "ab", "")]
    assert both.advance(0, ids_of("cx"), False, "") == [(0, "c", "stop")]
    assert both.streams[0].done
    assert both.advance(0, [], True, "cancelled") == []
    assert not both.is_over
    assert both.advance(1, ids_of("d"), True, "length") == [(1, "d", "length")]
    assert both.is_over


def test_answers_that_do_not_stream_come_together_when_the_last_has_ended() -> None:
    both = answers(stream=False)
    assert both.advance(1, ids_of("ab"), False, "") == []
    assert both.advance(1, [], True, "stop") == []
    assert both.advance(0, ids_of("cx"), False, "") == [(0, "c", "stop"), (1, "ab", "stop")]
    assert not both.is_over, "the decoder has not said so"
    assert both.advance(0, [], True, "cancelled") == []
    assert both.is_over


@pytest.mark.parametrize("context", ["[]", "5", '{"answers": 2}'])
def test_a_context_that_nobody_minted_is_refused(context: str) -> None:
    with pytest.raises(ValueError):
        Answers(context, Vocabulary(tokenizer_of("byte level")), Letters())
