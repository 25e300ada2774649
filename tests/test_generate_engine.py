"""The engine's loop over a decoder whose every token is a checksum of the row that it was computed from."""

import threading
import time

import numpy as np
import pytest
from engine import Engine, Generation
from outbox import HEARTBEAT_S, PATIENCE, Outbox, Parcel
from request import BadRequest, Settings
from scheduler import QueueFull
from terms import Terms

VOCABULARY = 97
END = 96
LONG_S = 10.0


class PlayedDecoder:
    """A decoder without a model: logits depend on every token that the row holds, in their order."""

    def __init__(self, slots: int = 4, length: int = 64, end_ids: tuple[int, ...] = (END,)) -> None:
        self.slots, self.length, self.vocabulary, self.end_ids = slots, length, VOCABULARY, end_ids
        self.rows: list[list[int]] = [[] for _ in range(slots)]
        self.delay_s = 0.0
        self.broken = False
        self.verified = self.decoded = 0
        # How many tokens the next one depends on, and of how many it is one: with few, answers turn in circles.
        self.depth, self.kinds = 1000, VOCABULARY

    @property
    def lengths(self):
        return [len(row) for row in self.rows]

    def copy(self, source: int, target: int, length: int) -> None:
        self.rows[target] = self.rows[source][:length]

    def swap(self, first: int, second: int) -> None:
        self.rows[first], self.rows[second] = self.rows[second], self.rows[first]

    def prefill(self, row: int, tokens):
        self.rows[row] += tokens.tolist()
        return self._logits([row])[0]

    def decode(self, tokens):
        time.sleep(self.delay_s)
        self.decoded += 1
        if self.broken:
            raise RuntimeError("the runtime failed")
        for row, token in enumerate(tokens.tolist()):
            self.rows[row].append(token)
        return self._logits(range(len(tokens)))

    def verify(self, row: int, tokens):
        assert len(tokens) == self.verified
        assert len(self.rows[row]) + len(tokens) <= self.length
        return np.concatenate([self._appended(row, token) for token in tokens.tolist()])

    def _appended(self, row: int, token: int):
        self.rows[row].append(token)
        return self._logits([row])

    def _logits(self, rows):
        logits = np.zeros((len(rows), VOCABULARY), np.float32)
        for index, row in enumerate(rows):
            logits[index, next_token(self.rows[row][-self.depth :]) % self.kinds] = 1
        return logits


def next_token(tokens: list[int]) -> int:
    total = 0
    for token in tokens:
        total = (total * 31 + token + 1) % 1_000_003
    return total % VOCABULARY


def alone(prompt: list[int], limit: int, depth: int = 1000, kinds: int = VOCABULARY) -> list[int]:
    output: list[int] = []
    while len(output) < limit and (token := next_token((prompt + output)[-depth:]) % kinds) != END:
        output.append(token)
    return output


def wait_until(condition) -> None:
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.001)


@pytest.fixture
def decoder():
    return PlayedDecoder()


@pytest.fixture
def engine(decoder):
    running = Engine(decoder, max_queue_size=100, chunk=8)
    yield running
    running.close()


def test_requests_that_join_and_leave_at_random_get_what_each_gets_alone(engine) -> None:
    random = np.random.default_rng(4)
    shared, generations = random.integers(0, END, 20).tolist(), []
    for _ in range(60):
        prompt = shared[: random.integers(0, 20)] + random.integers(0, END, random.integers(1, 20)).tolist()
        generation = Generation(prompt, Settings(max_tokens=int(random.integers(1, 30))))
        engine.submit(generation)
        generations.append(generation)
        time.sleep(float(random.random()) * 0.002)
    wait_until(lambda: all(each.finish_reason for each in generations))
    for each in generations:
        assert each.output == alone(each.prompt, each.limit)
        assert each.finish_reason == ("length" if len(each.output) == each.limit else "stop")
        assert len(each.token_times) == len(each.output)
    assert engine.scheduler.is_idle
    assert sum(each.cached for each in generations) > 60


def test_a_cancelled_request_ends_wherever_it_is_and_the_others_go_on(decoder, engine) -> None:
    decoder.end_ids, decoder.delay_s = (), 0.002
    running = [Generation([1, index], Settings(max_tokens=60)) for index in range(4)]
    waiting = [Generation([2, index], Settings(max_tokens=5)) for index in range(3)]
    for generation in (*running, *waiting):
        engine.submit(generation)
    wait_until(lambda: running[1].output)
    steps = engine.steps
    engine.cancel(running[1])
    engine.cancel(waiting[1])
    wait_until(lambda: running[1].finish_reason)
    assert engine.steps - steps <= 2
    wait_until(lambda: all(each.finish_reason for each in (*running, *waiting)))
    reasons = [each.finish_reason for each in (*running, *waiting)]
    assert reasons == ["length", "cancelled", "length", "length", "length", "cancelled", "length"]
    for each in (running[0], running[2], running[3], waiting[0], waiting[2]):
        assert each.output == [next_token(each.prompt + each.output[:at]) for at in range(each.limit)]
    engine.cancel(running[0])  # long gone
    assert running[0].finish_reason == "length"


def test_a_step_that_fails_ends_its_requests_with_error_and_the_engine_goes_on(decoder, engine) -> None:
    decoder.end_ids, decoder.broken = (), True
    failed = Generation([1, 2, 3, 4], Settings(max_tokens=9))
    engine.submit(failed)
    wait_until(lambda: failed.finish_reason)
    assert failed.finish_reason == "error"
    decoder.broken = False
    fine = Generation([1, 2, 3, 4], Settings(max_tokens=9))
    engine.submit(fine)
    wait_until(lambda: fine.finish_reason)
    assert (fine.finish_reason, len(fine.output), fine.cached) == ("length", 9, 0)


def test_a_choice_that_fails_ends_its_own_request_alone(decoder, engine) -> None:
    decoder.end_ids, decoder.delay_s = (), 0.002
    failing, beside = (Generation([1, index], Settings(max_tokens=9, presence_penalty=0.1)) for index in range(2))
    engine.submit(failing, beside)
    wait_until(lambda: failing.output and beside.output)
    failing.sampler.next = None
    wait_until(lambda: failing.finish_reason and beside.finish_reason)
    assert (failing.finish_reason, beside.finish_reason, len(beside.output)) == ("error", "length", 9)


def test_bad_and_surplus_requests_are_refused_at_once(decoder) -> None:
    decoder.delay_s, decoder.end_ids = 0.01, ()
    engine = Engine(decoder, max_queue_size=2, chunk=8)
    with pytest.raises(BadRequest):
        engine.submit(Generation([], Settings()))
    for _ in range(6):
        engine.submit(Generation([1], Settings(max_tokens=50)))
    with pytest.raises(QueueFull):
        engine.submit(Generation([1], Settings(max_tokens=50)))
    engine.close()


def test_stop_ids_end_where_they_are_complete(engine, decoder) -> None:
    decoder.end_ids = ()
    output = [next_token([3])]
    while len(output) < 12:
        output.append(next_token([3, *output]))
    stopped = Generation([3], Settings(max_tokens=12, stop_ids=(tuple(output[4:6]),)))
    late = Generation([3], Settings(max_tokens=12, min_tokens=8, stop_ids=(tuple(output[4:6]), tuple(output[8:9]))))
    engine.submit(stopped)
    engine.submit(late)
    wait_until(lambda: stopped.finish_reason and late.finish_reason)
    assert (stopped.output, stopped.finish_reason) == (output[:6], "stop")
    assert len(late.output) >= 8
    assert late.finish_reason == "stop"


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 3, "repetition_penalty": 1.5}])
def test_who_is_interrupted_goes_on_as_if_it_had_not_been(decoder, engine, sampling) -> None:
    decoder.end_ids, decoder.delay_s = (), 0.001
    settings = Settings(max_tokens=30, **sampling)
    worst, alone = ([Generation([1, index, 7], settings, terms=Terms(9)) for index in range(4)] for _ in range(2))
    for generation in worst:
        engine.submit(generation)
    wait_until(lambda: all(len(each.output) > 5 for each in worst))
    for index in range(6):
        better = Generation([2, index], Settings(max_tokens=4), terms=Terms(1))
        engine.submit(better)
        wait_until(lambda better=better: better.finish_reason)
        assert better.output == [next_token(better.prompt + better.output[:at]) for at in range(4)]
    wait_until(lambda: all(each.finish_reason for each in worst))
    assert engine.scheduler.preemptions >= 4
    for generation in alone:
        engine.submit(generation)
    wait_until(lambda: all(each.finish_reason for each in alone))
    assert [each.output for each in worst] == [each.output for each in alone]
    assert [len(each.token_times) for each in worst] == [30] * 4


def test_time_that_is_over_ends_what_runs_and_what_waits(decoder, engine) -> None:
    decoder.end_ids, decoder.delay_s = (), 0.01
    timeouts = (200_000, 0, 0, 0)
    short, *others = (Generation([1], Settings(), terms=Terms(timeout=each)) for each in timeouts)
    waiting = Generation([2], Settings(), terms=Terms(queue_timeout=50_000))
    for generation in (short, *others, waiting):
        engine.submit(generation)
    wait_until(lambda: short.finish_reason and waiting.finish_reason)
    assert (short.finish_reason, waiting.finish_reason, waiting.output) == ("timeout", "timeout", [])
    assert 0 < len(short.output) < 60
    assert [each.finish_reason for each in others] == [None] * 3
    started = Generation([3], Settings(max_tokens=45), terms=Terms(queue_timeout=300_000))
    engine.submit(started)
    wait_until(lambda: started.finish_reason)
    assert started.finish_reason == "length"


def test_a_prompt_beside_others_comes_in_smaller_pieces_than_alone() -> None:
    class Slow(PlayedDecoder):
        def prefill(self, row: int, tokens):
            widths.append(len(tokens))
            time.sleep(0.005)
            return super().prefill(row, tokens)

    widths: list[int] = []
    engine = Engine(Slow(length=200, end_ids=()), max_queue_size=10, chunk=32)
    first, second, long = (Generation([number] * 120, Settings(max_tokens=60)) for number in range(3))
    engine.submit(first, second)
    wait_until(lambda: second.output)
    engine.submit(long)
    wait_until(lambda: long.output)
    engine.close()
    assert sum(widths[:2]) == 128, "as many as a step takes where nobody runs"
    assert sum(widths) == 360
    assert min(widths[3:-1]) < 32, widths


def test_what_would_start_too_late_is_refused_once_answers_have_ended(decoder, engine) -> None:
    decoder.end_ids, decoder.delay_s = (), 0.002
    brief = Generation([1], Settings(max_tokens=2))
    engine.submit(brief)
    wait_until(lambda: brief.finish_reason)
    engine.submit(*(Generation([2, index], Settings()) for index in range(4)))
    with pytest.raises(QueueFull, match="would start in about"):
        engine.submit(Generation([3], Settings(), terms=Terms(queue_timeout=1000)))


class Mail:
    """Where an outbox delivers: every response as (tokens, reason), with a consumer that may be slow."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.responses: list[tuple[list[int], str | None]] = []
        self.delay_s = delay_s

    def __call__(self, parcel, tokens, reason) -> None:
        time.sleep(self.delay_s)
        self.responses.append((tokens, reason))

    @property
    def tokens(self) -> list[int]:
        return [token for tokens, _ in self.responses for token in tokens]

    @property
    def is_over(self) -> bool:
        return bool(self.responses) and self.responses[-1][1] is not None


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("delay_s", [0.0, 0.01])
def test_every_token_arrives_once_in_order_and_the_reason_last(decoder, engine, streaming, delay_s) -> None:
    decoder.end_ids, decoder.delay_s = (), 0.002
    outbox = Outbox(engine.cancel)
    mails = [Mail(delay_s) for _ in range(6)]
    generations = []
    for index, mail in enumerate(mails):
        generation = Generation([1, index], Settings(max_tokens=20))
        parcel = Parcel(generation, streaming, mail, abandoned=None)
        generation.on_progress = lambda _, parcel=parcel: outbox.notify(parcel)
        outbox.add(parcel)
        engine.submit(generation)
        generations.append(generation)
    wait_until(lambda: all(mail.is_over for mail in mails))
    outbox.close()
    for generation, mail in zip(generations, mails, strict=True):
        assert mail.tokens == generation.output
        assert [reason for _, reason in mail.responses[:-1]] == [None] * (len(mail.responses) - 1)
        said = [tokens for tokens, _ in mail.responses if tokens]
        if not streaming:
            assert len(said) == 1
        elif delay_s:
            assert max(map(len, said)) > 1, "a slow consumer gets several tokens at once"


@pytest.mark.parametrize(
    ("gap_s", "heartbeat_s", "after_two", "after_three"),
    [(0.039, 60.0, [[1]], [[1], [2, 3]]), (0.041, 60.0, [[1], [2]], [[1], [2], [3]]), (0.0, 0.1, [[1], [2]], None)],
    ids=["the next is due soon", "it is not", "it does not come before a heartbeat"],
)
def test_a_token_waits_for_one_that_is_due_soon(monkeypatch, gap_s, heartbeat_s, after_two, after_three) -> None:
    monkeypatch.setattr("outbox.HEARTBEAT_S", heartbeat_s)
    mail, generation = Mail(), Generation([1], Settings())
    outbox, parcel = Outbox(cancel=lambda _: None), Parcel(generation, True, mail, abandoned=None)
    outbox.add(parcel)

    def said() -> list[list[int]]:
        return [tokens for tokens, _ in mail.responses if tokens]

    def grow() -> None:
        generation.output.append(len(generation.output) + 1)
        generation.token_times.append(gap_s * len(generation.output))
        outbox.notify(parcel)

    grow()
    grow()
    wait_until(lambda: said() == after_two)
    time.sleep(0.03)
    assert said() == after_two
    if after_three:
        grow()
        wait_until(lambda: said() == after_three)
    generation.output.append(9)
    generation.finish_reason = "length"
    outbox.notify(parcel)
    wait_until(lambda: mail.responses[-1] == ([9], "length"))
    outbox.close()


@pytest.mark.parametrize(
    ("row", "output", "abandoned", "silence"),
    [
        (None, [], None, 0.5),
        (0, [], None, HEARTBEAT_S),
        (0, [1], None, PATIENCE * 0.5),
        (None, [1], None, 0.5),
        (None, [], bool, HEARTBEAT_S),
        (0, [1], bool, HEARTBEAT_S),
    ],
    ids=["waits", "in prefill", "runs", "interrupted", "direct, waits", "direct, runs"],
)
def test_how_long_a_silence_may_be(row, output, abandoned, silence) -> None:
    generation = Generation([1], Settings())
    generation.row, generation.output = row, output
    assert Parcel(generation, False, Mail(), abandoned).silence(0.5) == silence


def test_who_waits_gets_heartbeats_and_a_direct_caller_is_asked(decoder, engine) -> None:
    decoder.end_ids, decoder.delay_s = (), 0.02
    outbox, mail, left = Outbox(engine.cancel), Mail(), threading.Event()
    busy = [Generation([1, index], Settings(max_tokens=30)) for index in range(4)]
    waiting, direct = (Generation([2], Settings(max_tokens=2)) for _ in range(2))
    for generation in busy:
        engine.submit(generation)
    for generation, abandoned in ((waiting, None), (direct, left.is_set)):
        parcel = Parcel(generation, True, mail if abandoned is None else Mail(), abandoned)
        generation.on_progress = lambda _, parcel=parcel: outbox.notify(parcel)
        outbox.add(parcel)
        engine.submit(generation)
    time.sleep(0.35)
    beats = len(mail.responses)
    assert 2 <= beats <= 4
    assert mail.tokens == []
    left.set()
    wait_until(lambda: direct.finish_reason)
    assert direct.finish_reason == "cancelled"
    wait_until(lambda: mail.is_over)
    outbox.close()
    assert waiting.finish_reason == "length"


@pytest.mark.parametrize(("depth", "kinds", "runs"), [(1, 7, 1), (2, 5, 1), (2, 5, 3), (1000, 97, 1), (1000, 3, 1)])
def test_what_was_drafted_changes_no_token(decoder, engine, depth: int, kinds: int, runs: int) -> None:
    decoder.verified, decoder.depth, decoder.kinds = 4, depth, kinds
    random = np.random.default_rng(depth)
    for _ in range(40 // runs):
        asked = [random.integers(0, END, random.integers(1, 12)).tolist() for _ in range(runs)]
        generations = [Generation(prompt, Settings(max_tokens=int(random.integers(1, 52)))) for prompt in asked]
        engine.submit(*generations)
        wait_until(lambda found=generations: all(each.finish_reason for each in found))
        for each in generations:
            assert each.output == alone(each.prompt, each.limit, depth, kinds)
            assert len(each.token_times) == len(each.output)
    drafted, accepted = engine.drafted_tokens, engine.accepted_tokens
    assert 0 <= accepted <= drafted
    assert (drafted > 0) == (kinds < VOCABULARY)
    if depth == 1:
        assert accepted > 0.8 * drafted > 200
    if (depth, kinds) == (1000, 3):
        assert accepted < 0.6 * drafted


def test_drafts_end_with_the_answer_and_with_the_row(decoder, engine) -> None:
    """Tokens that turn in circles, to a stop word in mid draft, and to the last place of a row."""
    decoder.verified, decoder.depth, decoder.kinds = 4, 1, 7
    circle = alone([1], 60, 1, 7)
    for settings, wanted in (
        (Settings(max_tokens=60, stop_ids=(tuple(circle[29:31]),), min_tokens=30), (31, "stop")),
        (Settings(max_tokens=63), (63, "length")),
    ):
        generation = Generation([1], settings)
        engine.submit(generation)
        wait_until(lambda found=generation: found.finish_reason)
        assert generation.output == alone([1], len(generation.output), 1, 7)
        assert (len(generation.output), generation.finish_reason) == wanted
    assert engine.accepted_tokens > 30
