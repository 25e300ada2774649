"""When a call is sent again, where and after how long: rules by table, and steps carried out by made-up outcomes."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonyard import (
    ClientClosed,
    DeadlineExceeded,
    Generate,
    GetConfig,
    Infer,
    InvalidRequest,
    ModelNotFound,
    Probe,
    Retry,
    ServerFailed,
    ServerOverloaded,
    ServerUnavailable,
    TritonyardError,
)
from tritonyard._connection import Address, Connection
from tritonyard._endpoints import LONGEST_REST_S, REST_S, Endpoint, Endpoints
from tritonyard._policy import Answered, Policy, Send, Wait
from tritonyard._retry import fate_of, hindrance
from tritonyard._tracing import Operation
from tritonyard._transport import Deadline, Refused

FULL = Refused("UNAVAILABLE", "in ensemble 'm', Exceeds maximum queue size")
UNSENT = Refused("UNAVAILABLE", "ConnectionRefusedError: [Errno 111]", unsent=True)
LOST = Refused("UNAVAILABLE", "Socket closed")
STOPPING = Refused("UNAVAILABLE", "Server is stopping, scheduler for model has stopped accepting requests")
UNKNOWN = Refused("NOT_FOUND", "Request for unknown model: 'm' is not found")
BROKEN = Refused("INTERNAL", "boom")
LATE = Refused("DEADLINE_EXCEEDED", "")


@pytest.mark.parametrize(
    ("refused", "fate"),
    [
        (UNSENT, "unsent"),
        (Refused("UNAVAILABLE", "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1"), "unsent"),
        (Refused("UNAVAILABLE", "DNS resolution failed for nowhere:8001"), "unsent"),
        (FULL, "declined"),
        (STOPPING, "declined"),
        (Refused(None, "m: the queue is full"), "declined"),
        (Refused(503, ""), "declined"),
        (Refused(429, "slow down"), "declined"),
        (Refused("RESOURCE_EXHAUSTED", "slow down"), "declined"),
        (Refused("UNAVAILABLE", "no healthy upstream"), "declined"),
        (LOST, "lost"),
        (Refused("UNAVAILABLE", "recvmsg:Connection reset by peer"), "lost"),
        (Refused("UNAVAILABLE", "upstream connect error or disconnect/reset before headers"), "lost"),
        (Refused(503, "upstream connect error or disconnect/reset before headers"), "lost"),
        (Refused(502, "Bad Gateway"), "lost"),
        (UNKNOWN, "answered"),
        (BROKEN, "answered"),
        (LATE, "answered"),
        (Refused("INVALID_ARGUMENT", "no"), "answered"),
        (Refused(400, "no"), "answered"),
        (Refused(500, "boom"), "answered"),
        (Refused(504, ""), "answered"),
        (Refused("CANCELLED", ""), "answered"),
    ],
)
def test_what_became_of_a_call(refused, fate):
    assert fate_of(refused) == fate
    assert (hindrance(fate, idempotent=True) is None) == (fate in ("unsent", "declined", "lost"))
    assert (hindrance(fate, idempotent=False) is None) == (fate in ("unsent", "declined"))


@given(
    backoff=st.floats(0, 100),
    longest=st.floats(0, 100),
    rounds=st.integers(1, 5000),
    share=st.floats(0, 1),
    asked=st.none() | st.floats(0, 1e6),
)
def test_a_pause_is_bounded_and_what_the_server_asks_is_kept(backoff, longest, rounds, share, asked):
    pause = Retry(backoff=backoff, longest=longest).pause(rounds, share, asked)
    assert pause >= (asked or 0)
    assert pause <= max(longest, asked or 0)
    if rounds == 1:
        assert pause <= max(backoff, asked or 0)


def test_pauses_double():
    retry = Retry(backoff=0.1, longest=1.0)
    assert [retry.pause(rounds, 1.0, None) for rounds in range(1, 7)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert retry.pause(3, 0.25, None) == 0.1
    assert retry.pause(3, 0.25, 7.0) == 7.0


@pytest.mark.parametrize(
    "given_",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"attempts": True},
        {"backoff": -1},
        {"longest": float("inf")},
        {"backoff": "1"},
    ],
)
def test_a_retry_out_of_range(given_):
    with pytest.raises(InvalidRequest, match=f"retry.{next(iter(given_))} "):
        Retry(**given_)


@dataclass
class World:
    """Addresses a, b, c ..., what each answers in turn, and a clock that waits move."""

    outcomes: dict[str, list[Any]]
    retry: Retry = field(default_factory=lambda: Retry(attempts=3, backoff=0.5, longest=8.0))
    timeout: float = 30.0
    now: float = 100.0
    sent: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    outcome_of_calls: list[Any] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)

    def __post_init__(self):
        self.endpoints = Endpoints(
            [Endpoint(Connection(Address(f"grpc://{name}:1")), name) for name in self.outcomes], lambda: self.now
        )
        self.policy = Policy(self.endpoints, self.retry, self.events.append)

    def call(self, call):
        deadline = Deadline(self.timeout)
        end = self.now + self.timeout
        deadline.remaining = lambda: end - self.now
        steps = self.policy.attempts(call, Operation("infer", call.model, deadline, None))
        step = next(steps)
        while not isinstance(step, Answered):
            try:
                outcome = self.do(step)
            except Refused as refused:
                step = steps.throw(refused)
            else:
                step = steps.send(outcome)
        return step.answer, steps

    def do(self, step):
        if isinstance(step, Wait):
            self.waited.append(step.seconds)
            self.now += step.seconds
            return None
        assert isinstance(step, Send)
        name = step.endpoint.transport
        self.sent.append(f"{name}?" if isinstance(step.call, Probe) and not isinstance(self.asked, Probe) else name)
        self.ids.append(step.call.id)
        outcome = self.outcomes[name].pop(0) if self.outcomes[name] else "ok"
        if isinstance(step.call, Probe) and outcome == "ok":
            return True
        if not self.sent[-1].endswith("?"):
            self.outcome_of_calls.append(outcome)
        if isinstance(outcome, Refused):
            raise outcome
        return outcome

    def ask(self, call):
        """Return what a caller gets: the answer, or the error."""
        self.asked = call
        try:
            return self.call(call)[0]
        except TritonyardError as error:
            return error


def infer(idempotent=False):
    return Infer("m", (), ("y",), idempotent=idempotent)


def generate(idempotent=False):
    return Generate("m", {}, True, idempotent)


@pytest.mark.parametrize(
    ("call", "outcomes", "found", "sent"),
    [
        (infer(), [], "ok", 1),
        (infer(), [UNSENT, UNSENT], "ok", 3),
        (infer(), [UNSENT, UNSENT, UNSENT], ServerUnavailable, 3),
        (infer(), [FULL, STOPPING], "ok", 3),
        (infer(), [FULL, FULL, FULL], ServerOverloaded, 3),
        (infer(), [LOST], ServerUnavailable, 1),
        (infer(idempotent=True), [LOST], "ok", 2),
        (infer(idempotent=True), [LOST, FULL, LOST], ServerUnavailable, 3),
        (generate(), [LOST], ServerUnavailable, 1),
        (generate(idempotent=True), [LOST], "ok", 2),
        (generate(), [FULL], "ok", 2),
        (infer(idempotent=True), [BROKEN], ServerFailed, 1),
        (infer(idempotent=True), [UNKNOWN], ModelNotFound, 1),
        (infer(idempotent=True), [LATE], DeadlineExceeded, 1),
        (GetConfig("m"), [LOST, UNSENT], "ok", 3),
        (Probe("m"), [UNSENT], ServerUnavailable, 1),
        (Probe("m"), [False], False, 1),
    ],
)
def test_one_address(call, outcomes, found, sent):
    world = World({"a": list(outcomes)})
    got = world.ask(call)
    assert len(world.sent) == sent
    assert len(world.waited) == sent - 1
    if isinstance(found, type):
        assert type(got) is found
        assert (got.attempts, got.url, got.model) == (sent, "grpc://a:1", "m")
        assert got.request_id == world.ids[-1]
        assert [each.kind for each in world.events][-1] == "failed"
        assert world.events[-1].error is got
        assert world.events[-1].reason
    else:
        assert got == (True if isinstance(call, Probe) and found == "ok" else found)
        assert [each.kind for each in world.events] == ["sent", "retrying"] * (sent - 1) + ["sent", "answered"]


def test_only_what_may_still_be_running_gets_another_id():
    world = World({"a": [FULL, LOST, UNSENT]}, Retry(attempts=9, backoff=0))
    call = infer(idempotent=True)
    assert world.ask(call) == "ok"
    assert world.ids == [call.id, call.id, f"{call.id}-3", f"{call.id}-3"]


@given(
    st.lists(st.sampled_from([UNSENT, FULL, LOST, BROKEN, Refused(503, "", retry_after=3.0)]), max_size=12),
    st.integers(1, 8),
    st.floats(0.1, 20),
    st.booleans(),
    st.integers(1, 3),
)
def test_whatever_happens_budget_and_attempts_are_kept(outcomes, attempts, timeout, idempotent, count):
    names = "abc"[:count]
    dealt = {name: ["ok", *outcomes[place::count]] if count > 1 else list(outcomes) for place, name in enumerate(names)}
    world = World(dealt, Retry(attempts=attempts, backoff=0.5), timeout)
    begun = world.now
    world.ask(infer(idempotent))
    assert world.now - begun <= timeout
    delivered = [outcome for outcome in world.outcome_of_calls if outcome is not UNSENT]
    assert len(delivered) <= attempts
    assert BROKEN not in delivered[:-1]
    if not idempotent:
        assert LOST not in delivered[:-1]


def test_a_server_that_asks_for_longer_than_the_budget_is_left_alone():
    world = World({"a": [Refused(503, "", retry_after=31.0)]})
    error = world.ask(infer())
    assert isinstance(error, ServerUnavailable)
    assert error.retry_after == 31.0
    assert world.waited == []
    assert "time is up before" in world.events[-1].reason
    world = World({"a": [Refused(503, "", retry_after=5.0)]})
    assert world.ask(infer()) == "ok"
    assert world.waited == [5.0]


def test_what_breaks_a_stream_that_has_begun_is_not_sent_again():
    world = World({"a": []})
    world.asked = generate(idempotent=True)
    _, steps = world.call(world.asked)
    with pytest.raises(ServerUnavailable) as raised:
        steps.throw(LOST)
    assert raised.value.attempts == 1
    assert world.events[-1].reason == "the answer had begun"


def test_a_closed_client_sends_nothing_more():
    world = World({"a": [FULL]})
    do = world.do

    def closing(step):
        if isinstance(step, Wait):
            world.policy.closed.set()
        return do(step)

    world.do = closing
    assert isinstance(world.ask(infer()), ClientClosed)
    assert len(world.sent) == 1


# --- several addresses


def test_addresses_take_turns_and_each_is_asked_before_its_first_call():
    world = World({"a": [], "b": []})
    for _ in range(4):
        world.ask(infer())
    assert world.sent == ["a?", "a", "b?", "b", "a", "b"]


def test_an_address_that_is_away_is_passed_over_left_alone_and_asked_again():
    world = World({"a": [UNSENT], "b": []}, Retry(attempts=1))
    assert world.ask(infer()) == "ok"
    assert world.sent == ["a?", "b?", "b"]
    assert [each.kind for each in world.events] == ["address_down", "retrying", "address_up", "sent", "answered"]
    assert world.waited == []
    world.sent.clear()
    world.ask(infer())
    world.ask(infer())
    assert world.sent == ["b", "b"]
    world.now += REST_S
    world.sent.clear()
    world.ask(infer())
    world.ask(infer())
    assert sorted(world.sent) == ["a", "a?", "b"]


def test_a_call_that_was_lost_goes_to_the_next_address_if_it_may_be_done_twice():
    for idempotent, found in ((True, str), (False, ServerUnavailable)):
        world = World({"a": ["ok", LOST], "b": []})
        got = world.ask(infer(idempotent))
        assert isinstance(got, found)
        assert world.sent == (["a?", "a", "b?", "b"] if idempotent else ["a?", "a"])


def test_a_full_server_is_not_left_alone_but_the_call_goes_to_the_next():
    world = World({"a": ["ok", FULL], "b": []})
    assert world.ask(infer()) == "ok"
    assert world.waited == []
    world.sent.clear()
    world.ask(infer())
    world.ask(infer())
    assert world.sent == ["b", "a"]


def test_an_address_that_did_not_answer_in_time_is_asked_before_its_next_call():
    world = World({"a": ["ok", LATE, "ok"], "b": []})
    assert isinstance(world.ask(infer()), DeadlineExceeded)
    world.sent.clear()
    world.ask(infer())
    world.ask(infer())
    assert "a?" in world.sent


def test_one_that_is_not_ready_is_the_last_resort():
    world = World({"a": [False], "b": [UNSENT]})
    world.outcomes["a"].append("ok")
    assert world.ask(infer()) == "ok"
    world = World({"a": [False, UNKNOWN], "b": [False, UNKNOWN]})
    assert isinstance(world.ask(infer()), ModelNotFound)


def test_ready_is_who_has_one_ready_address():
    assert World({"a": [False], "b": [True]}).ask(Probe()) is True
    assert World({"a": [UNSENT], "b": [True]}).ask(Probe()) is True
    assert World({"a": [False], "b": [False]}).ask(Probe()) is False
    assert isinstance(World({"a": [UNSENT], "b": [UNSENT]}).ask(Probe()), ServerUnavailable)


@given(st.integers(1, 40))
def test_rests_grow_and_end(failures):
    endpoint = Endpoint(Connection(Address("grpc://a:1")), None)
    for _ in range(failures):
        endpoint.failed(0.0)
    assert endpoint.due == min(LONGEST_REST_S, REST_S * 2 ** (failures - 1))
    endpoint.answered()
    assert (endpoint.due, endpoint.failures) == (None, 0)


def test_calls_spread_evenly():
    world = World({name: [] for name in "abcd"})
    for _ in range(400):
        world.ask(infer())
    counts = {name: world.sent.count(name) for name in "abcd"}
    assert set(counts.values()) == {100}
