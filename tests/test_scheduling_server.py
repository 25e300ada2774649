"""Who runs when, through the real tritonserver: levels, tenants, timeouts, and who is interrupted."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from few_slots import few_slots
from served_metrics import value
from test_generate_server import DECODER, MODEL, in_engine, wait_until
from text_calls import TextCall, post
from tritonclient.utils import InferenceServerException

from serving.server import Server
from tritonyard import ServerOverloaded
from tritonyard._errors import kind_of

pytestmark = [pytest.mark.server, pytest.mark.alone]

LONG = {"text_input": "On and on:", "max_tokens": 900, "min_tokens": 900}


@pytest.fixture(scope="module")
def small(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose decoder has 2 slots and a queue of 8."""
    with few_slots(repository, tmp_path_factory.mktemp("scheduling"), slots=2, queue=8) as running:
        yield running


def ask(server: Server, text: str, tokens: int, **request: Any) -> dict[str, Any]:
    """An answer of so many tokens over HTTP, or what it was refused with: {"error": ..., "status": ...}."""
    request = {"text_input": text, "max_tokens": tokens, "min_tokens": tokens, **request}
    response = post(server, MODEL, "generate", request)
    return {"status": response.status, **json.loads(response.read())}


@contextmanager
def taken(server: Server, slots: int, **terms: Any) -> Iterator[list[TextCall]]:
    """Keep so many slots taken by answers that are longer than any test; give their calls, which may be left."""
    calls = [TextCall(server, MODEL, LONG, parameters=terms) for _ in range(slots)]
    wait_until(lambda: value(server.metrics_url, "requests_running", **DECODER) == slots)
    yield calls
    for call in calls:
        call.cancel()
        call.client.close()
    wait_until(lambda: in_engine(server) == 0)


def order_of_ends(server: Server, requests: list[dict[str, Any]], **terms: Any) -> list[int]:
    """Let requests wait, one by one, while both slots are `taken`, then free one; return in which order they ended."""
    ended: list[int] = []

    def run(number: int) -> None:
        assert ask(server, f"Story {number}:", 20, **requests[number])["status"] == 200
        ended.append(number)

    with taken(server, 2, **terms) as calls, ThreadPoolExecutor(len(requests)) as pool:
        done = []
        for number in range(len(requests)):
            done.append(pool.submit(run, number))
            waiting = number + 1
            wait_until(lambda waiting=waiting: value(server.metrics_url, "requests_waiting", **DECODER) == waiting)
        calls[0].cancel()
        for each in done:
            each.result(30)
    return ended


def test_the_best_level_starts_first(small: Server) -> None:
    levels = [{"priority_level": level} for level in (9, 5, 1, 5)]
    assert order_of_ends(small, levels, priority_level=1) == [2, 1, 3, 0]


def test_a_tenant_who_asks_for_little_does_not_wait_for_one_who_asks_for_much(small: Server) -> None:
    tenants = [{"tenant": tenant} for tenant in ("much", "much", "much", "much", "little", "little")]
    ends = order_of_ends(small, tenants)
    assert sorted(ends[:4]) == [0, 1, 4, 5]


def test_who_is_interrupted_says_the_same(small: Server) -> None:
    asked: list[dict[str, Any]] = [
        {"text": "One day", "tokens": 120},
        {"text": "At night", "tokens": 120, "temperature": 1.2, "seed": 7, "repetition_penalty": 1.3},
    ]
    alone = [ask(small, **each)["text_output"] for each in asked]
    before = value(small.metrics_url, "preemptions", **DECODER)
    with ThreadPoolExecutor(2) as pool:
        worse = [pool.submit(ask, small, **each, priority_level=9) for each in asked]
        wait_until(lambda: value(small.metrics_url, "requests_running", **DECODER) == 2)
        # Either of the two may have the shorter answer, and be interrupted.
        for number in range(3):
            assert ask(small, f"Now {number}:", 5, priority_level=1)["num_output_tokens"] == 5
        assert not any(each.done() for each in worse)
        assert [each.result(30)["text_output"] for each in worse] == alone
    wait_until(lambda: value(small.metrics_url, "preemptions", **DECODER) >= before + 2)


def test_an_answer_whose_time_is_over_ends_with_what_it_has(small: Server) -> None:
    """Over HTTP it is a parameter, over gRPC Triton's own field."""
    answer = ask(small, "On and on:", 900, timeout=1_000_000)
    assert (answer["status"], answer["finish_reason"]) == (200, "timeout")
    assert 0 < answer["num_output_tokens"] < 900
    assert answer["text_output"]
    (said,) = TextCall(small, MODEL, LONG, timeout=1_000_000)
    assert said[0].startswith(answer["text_output"][:20])
    assert said[1] == "timeout"


def test_who_would_not_start_in_time_is_refused_at_once(small: Server) -> None:
    for _ in range(8):  # answers are as long as they may be
        ask(small, "Short:", 4)
    with taken(small, 2):
        for limit in ("timeout", "queue_timeout"):
            refused = ask(small, "Late:", 5, **{limit: 1_000_000})
            assert refused["status"] == 400
            assert "would start in about" in refused["error"]
            assert kind_of(refused["status"], refused["error"]) is ServerOverloaded
        assert in_engine(small) == 2
        assert value(small.metrics_url, "requests_waiting", **DECODER) == 0
        # A better level has its slot at once.
        assert ask(small, "Urgent:", 5, priority_level=1, queue_timeout=1_000_000)["status"] == 200


def test_who_did_not_start_in_time_is_refused_then(small: Server) -> None:
    for _ in range(25):  # answers are much shorter than they may be: a slot will be free soon
        ask(small, "Say a:", 900, min_tokens=0, guided_decoding_guide_type="regex", guided_decoding_guide="a")
    with taken(small, 2):
        time.sleep(0.5)
        refused = ask(small, "Late:", 5, queue_timeout=300_000)
        assert (refused["status"], "Request timeout expired" in refused["error"]) == (400, True), refused
        assert kind_of(refused["status"], refused["error"]) is ServerOverloaded
        call = TextCall(small, MODEL, {**LONG, "stream": True}, parameters={"queue_timeout": 300_000})
        with pytest.raises(InferenceServerException, match="Request timeout expired"):
            list(call)
    wait_until(lambda: value(small.metrics_url, "detokenizer_streams") == 0)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"priority_level": 10}, "priority_level is 10; give a whole number from 1 to 9"),
        ({"tenant": 7}, "tenant is 7; give a string"),
        ({"queue_timeout": -1}, "queue_timeout is -1; give a whole number from 0"),
    ],
)
def test_terms_out_of_range_are_refused(small: Server, terms: dict[str, Any], words: str) -> None:
    refused = ask(small, "x", 3, **terms)
    assert refused["status"] == 400
    assert words in refused["error"]
