"""What `openvino_generate` does around the library: what it asks, whom it starts, where an answer ends."""

import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from request import BadRequest, Settings
from terms import Terms

from yard.checkout import BACKENDS

FOLDER = BACKENDS / "openvino_generate"
# Its own files; what is linked is the other engine's.
OWN = ("engine", "generation_config", "grammar", "scheduler")


def load() -> dict[str, Any]:
    """The backend's own modules, whose names are other backends' too."""
    before = {name: sys.modules.pop(name, None) for name in OWN}
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(FOLDER)
            return {name: __import__(name) for name in OWN}
    finally:
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module:
                sys.modules[name] = module


MODULES = load()
Engine, Generation = MODULES["engine"].Engine, MODULES["engine"].Generation
Scheduler, QueueFull = MODULES["scheduler"].Scheduler, MODULES["scheduler"].QueueFull
arguments = MODULES["generation_config"].arguments

END = 9


class Library:
    """Says what it is told to: a token a step to each running request, from the script at its prompt's first token."""

    end_ids, vocabulary, slots, length = (END,), 10, 2, 64

    def __init__(self, scripts: dict[int, list[int]]):
        self.scripts = scripts
        self.open: dict[int, tuple[deque[int], list[int]]] = {}
        self.asked: dict[int, dict[str, Any]] = {}
        self.most, self.is_broken = 0, False

    @property
    def is_busy(self) -> bool:
        return bool(self.open)

    def configured(self, asked: dict[str, Any]) -> dict[str, Any]:
        return asked

    def start(self, prompt: list[int], asked: dict[str, Any]) -> int:
        self.asked[prompt[0]] = asked
        self.open[prompt[0]] = deque(self.scripts[prompt[0]]), []
        self.most = max(self.most, len(self.open))
        return prompt[0]

    def step(self) -> None:
        if self.is_broken:
            self.is_broken = False
            raise RuntimeError("out of order")
        for script, said in self.open.values():
            if script:
                said.append(script.popleft())

    def read(self, handle: int) -> tuple[list[int], list[float], bool]:
        script, said = self.open[handle]
        tokens, said[:] = list(said), []
        return tokens, [-0.5] * len(tokens), not script

    def stop(self, handle: int) -> None:
        self.open.pop(handle)


@pytest.fixture
def errors() -> list[Exception]:
    return []


@pytest.fixture
def engine(errors: list[Exception]) -> Iterator[Any]:
    running = Engine(Library({}), max_queue_size=3, on_error=errors.append)
    yield running
    running.close()


def answered(engine: Any, *generations: Any) -> None:
    engine.submit(*generations)
    end = time.monotonic() + 5
    while not all(each.finish_reason for each in generations) or engine.decoder.is_busy:
        assert time.monotonic() < end, [each.finish_reason for each in generations]
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("settings", "script", "output", "reason"),
    [
        ({"max_tokens": 3}, [1, 2, 3], [1, 2, 3], "length"),
        ({"max_tokens": 8}, [1, 2, END], [1, 2], "stop"),
        ({"max_tokens": 8}, [END], [], "stop"),
        ({"max_tokens": 8, "end_ids": (2,)}, [1, END, 2], [1, END], "stop"),
        ({"max_tokens": 3, "end_ids": ()}, [1, END, 2], [1, END, 2], "length"),
        ({"max_tokens": 8, "stop_ids": ((2, 3), (7,))}, [1, 2, 3, 4, 5], [1, 2, 3], "stop"),
        ({"max_tokens": 8, "stop_ids": ((2, 3),), "min_tokens": 4}, [2, 3, 1, 2, 3, 4], [2, 3, 1, 2, 3], "stop"),
        # The library gave up before anything said so.
        ({"max_tokens": 8}, [1, 2], [1, 2], "error"),
    ],
)
def test_where_an_answer_ends(
    engine: Any, errors: list[Exception], settings: dict[str, Any], script: list[int], output: list[int], reason: str
) -> None:
    engine.decoder.scripts[1] = script
    generation = Generation([1, 1], Settings(**settings, return_log_probs=True))
    answered(engine, generation)
    assert (generation.output, generation.finish_reason) == (output, reason)
    assert [each.value for each in generation.log_probs] == [-0.5] * len(output)
    assert len(generation.token_times) == len(output)
    assert [str(error) for error in errors] == ["the library gave up a request after 2 tokens"] * (reason == "error")


def test_no_more_run_than_there_are_slots_and_a_full_queue_takes_none_of_several(engine: Any) -> None:
    engine.decoder.scripts = {number: [1] * 30 for number in range(7)}
    waiting = [Generation([number], Settings(max_tokens=30)) for number in range(7)]
    with pytest.raises(QueueFull, match="3 requests wait for 2 slots"):
        engine.submit(*waiting[:6])
    answered(engine, *waiting[:5])
    assert engine.decoder.most == 2
    assert list(engine.decoder.asked) == [0, 1, 2, 3, 4]


def test_a_cancelled_request_is_let_go_where_it_is(engine: Any) -> None:
    engine.decoder.scripts = {number: [1] * 63 for number in range(3)}
    first, second, third = (Generation([number], Settings()) for number in range(3))
    first.on_progress = lambda _: [engine.cancel(each) for each in (first, third)] if len(first.output) == 2 else None
    answered(engine, first, second, third)
    assert [each.finish_reason for each in (first, second, third)] == ["cancelled", "length", "cancelled"]
    assert (len(first.output), len(third.output), third.row) == (2, 0, None)


def test_a_step_that_fails_ends_its_requests_and_no_more(engine: Any, errors: list[Exception]) -> None:
    engine.decoder.scripts = {1: [1] * 9, 2: [1, END]}
    engine.decoder.is_broken = True
    broken, whole = Generation([1], Settings()), Generation([2], Settings())
    answered(engine, broken)
    answered(engine, whole)
    assert (broken.finish_reason, whole.finish_reason, len(errors)) == ("error", "stop", 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"min_p": 0.1}, "min_p is not carried by the engine of this model"),
        ({"logit_bias": {1: 2.0}}, "embedding_bias is not carried"),
        ({"bad_ids": ((1,),)}, "bad_words_list is not carried"),
        ({"top_logprobs": 2}, "top_logprobs is not carried"),
        ({"max_tokens": 64}, "leaves room for 63"),
    ],
)
def test_what_the_library_cannot_do_is_refused(engine: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        engine.submit(Generation([1], Settings(**settings)))
    assert engine.scheduler.is_idle


def test_another_order_is_refused(engine: Any) -> None:
    for terms in (Terms(priority_level=1), Terms(tenant="a")):
        with pytest.raises(BadRequest, match="requests start in order of arrival"):
            engine.submit(Generation([1], Settings(), terms=terms))


@pytest.mark.parametrize("limit", ["timeout", "queue_timeout"])
def test_a_late_request_ends_with_what_it_has(engine: Any, limit: str) -> None:
    engine.decoder.scripts = {number: [1] * 63 for number in range(3)}
    # The one that waits arrives first: as the last it could have the row of the late one before it is late itself.
    waiting, late, other = (Generation([each], Settings(), terms=Terms(**{limit: 20_000})) for each in range(3))
    other.terms = Terms()
    answered(engine, late, other, waiting)
    ends = {"timeout": "timeout", "queue_timeout": "length"}
    assert [each.finish_reason for each in (late, other, waiting)] == [ends[limit], "length", "timeout"]
    assert waiting.output == []


def test_a_guide_is_refused() -> None:
    with pytest.raises(BadRequest, match="guided decoding is not carried"):
        MODULES["grammar"].Grammars("tokenizer.json", 10, (END,)).begin(b"json", b"")


PLAIN = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "logprobs": 0}


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, {"do_sample": False}),
        ({"temperature": 0.0, "top_k": 5}, {"do_sample": False}),
        ({"temperature": 0.8, "seed": 5}, {"do_sample": True, "temperature": 0.8, "rng_seed": 7}),
        ({"top_k": 0, "seed": 2**64 - 1}, {"do_sample": True, "rng_seed": 1}),
        ({"top_k": 40, "top_p": 0.5, "seed": 0}, {"do_sample": True, "rng_seed": 2, "top_k": 40, "top_p": 0.5}),
        ({"min_p": 0.0, "seed": 0}, {"do_sample": True, "rng_seed": 2}),
        ({"presence_penalty": 0.5, "top_logprobs": 0}, {"do_sample": False, "presence_penalty": 0.5, "logprobs": 1}),
    ],
)
def test_what_the_library_is_asked(settings: dict[str, Any], found: dict[str, Any]) -> None:
    asked = arguments(Settings(**settings), 12, (END, 3), place=2)
    lengths = {"max_new_tokens": 12, "min_new_tokens": 0, "stop_token_ids": {3, END}, "eos_token_id": 3}
    assert asked == {**PLAIN, **lengths, "ignore_eos": False, "apply_chat_template": False, **found}


def test_without_a_seed_no_two_draws_are_asked_alike() -> None:
    asked = [arguments(Settings(temperature=1.0), 12, ()) for _ in range(2)]
    assert asked[0]["rng_seed"] != asked[1]["rng_seed"]
    assert (asked[0]["ignore_eos"], asked[0]["stop_token_ids"]) == (True, set())


@given(slots=st.integers(1, 3), most=st.integers(1, 3), moves=st.lists(st.integers(0, 2), max_size=40))
def test_requests_start_in_order_of_arrival(slots: int, most: int, moves: list[int]) -> None:
    """0 submits, 1 starts, 2 removes the oldest that is there."""
    scheduler, came, started, there = Scheduler(slots, most), 0, [], []
    for move in moves:
        if move == 0:
            free = slots - len(scheduler.running)
            if len(scheduler.waiting) < most + free:
                scheduler.submit(came)
                there.append(came)
                came += 1
            else:
                with pytest.raises(QueueFull):
                    scheduler.submit(came)
        elif move == 1:
            started += [each for each in [scheduler.start()] if each is not None]
        elif there:
            scheduler.remove(there.pop(0))
        assert scheduler.slots_used <= slots
        assert sorted([*scheduler.running, *scheduler.waiting]) == there
        assert scheduler.is_idle == (not there)
    assert started == sorted(started)
