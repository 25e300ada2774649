"""The highest load at which a scenario still passes: which load to try next, and when the answer is known.

Pure: no files, no clock, no Locust. A trial is one run of the scenario at one load (`loadtests.traffic.load`), and its
verdict.

The rules:
1. The first trial is at the scenario's own load. While loads stand, the next one is twice as high, up to `most`; while
   they fall, half as high, down to `least`. Then the middle between the highest that stands and the lowest that falls,
   until these two are neighbours: users that differ by 1, other loads by a factor of RESOLUTION at most.
2. A load misses where a trial is FAIL or INCONCLUSIVE. It falls when it missed MISSES times, or failed without ever
   having passed; it stands when it passed and does not fall. A first INCONCLUSIVE decides nothing: the load is tried
   again at once. Where it was for want of proof, and not the generator's doing, the next trial at that load is twice
   as long.
3. At the edge one trial is not enough. The upper neighbour must have missed MISSES times, the lower one must have
   passed PASSES times; where a repeat turns that over, the search goes on from there. So the load that is named passed
   3 of at most 4 trials. One that breaks the SLA passes a trial with probability at most alpha = 1 - confidence
   (`loadtests.judging.verdict`, rule 4), so it is named with probability at most 4 alpha^3: 0.0005 at confidence 0.95.
   The other way there is no such bound, because INCONCLUSIVE is a miss: the true capacity may be higher.
4. Nothing above the lowest load that falls is believed, even if it passed.
5. What keeps the answer from being higher: the server, where the upper neighbour was FAIL; the generator, where that
   one, late or busy, is why it missed every time; else the want of proof. Where `most` stands, it is `most`.
6. Where `least` falls there is no capacity; where it was INCONCLUSIVE every time, nothing is known.

No load is tried more than PASSES + MISSES - 1 times.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from loadtests.judging.measure import Measure, Outcome
from loadtests.judging.verdict import EXIT_CODES, Verdict

RESOLUTION = 1.05
PASSES = 3
MISSES = 2


class Bound(StrEnum):
    """What keeps the answer from being higher."""

    SERVER = "server"
    GENERATOR = "generator"
    PROOF = "proof"
    MOST = "most"


@dataclass(frozen=True)
class Span:
    """Where to look: from `least` to `most`, from `start` on; `whole` loads are users."""

    least: float
    most: float
    start: float
    whole: bool = False


@dataclass(frozen=True)
class Trial:
    """One run of the scenario at `load`: its verdict, and the id of its run."""

    load: float
    verdict: Verdict
    run: str = ""

    @property
    def passed(self) -> bool:
        """Whether the SLA was kept."""
        return self.verdict.outcome is Outcome.PASS

    @property
    def failed(self) -> bool:
        """Whether the SLA was broken."""
        return self.verdict.outcome is Outcome.FAIL


def _bound_by(missed: Trial) -> Bound:
    if missed.failed:
        return Bound.SERVER
    return Bound.GENERATOR if missed.verdict.generator_bound else Bound.PROOF


@dataclass(frozen=True)
class Capacity:
    """The answer: the highest load that passes, None where there is none.

    `missed` are the trials that missed at its upper neighbour, or at the least load of all; none where `most` stands.
    """

    load: float | None
    missed: Sequence[Trial]

    @property
    def outcome(self) -> Outcome:
        """PASS: there is a capacity; FAIL: not even the least load passes; INCONCLUSIVE: nothing is known."""
        if self.load is not None:
            return Outcome.PASS
        return Outcome.FAIL if self.bound is Bound.SERVER else Outcome.INCONCLUSIVE

    @property
    def exit_code(self) -> int:
        """PASS 0, FAIL 1, INCONCLUSIVE 3."""
        return EXIT_CODES[self.outcome]

    @property
    def bound(self) -> Bound:
        """What keeps the answer from being higher."""
        if not self.missed:
            return Bound.MOST
        bounds = {_bound_by(trial) for trial in self.missed}
        return next(bound for bound in (Bound.SERVER, Bound.PROOF, Bound.GENERATOR) if bound in bounds)


class _Loads:
    """The trials so far, by their load."""

    def __init__(self, trials: Sequence[Trial]):
        self._trials = trials

    def passes(self, load: float) -> int:
        return sum(trial.passed for trial in self._trials if trial.load == load)

    def misses(self, load: float) -> list[Trial]:
        return [trial for trial in self._trials if trial.load == load and not trial.passed]

    def falls(self, load: float) -> bool:
        missed = self.misses(load)
        return len(missed) >= MISSES or (any(trial.failed for trial in missed) and not self.passes(load))

    def edge(self) -> tuple[float | None, float | None]:
        """The highest load that may stand, and the lowest that falls, which is above it."""
        tried = {trial.load for trial in self._trials}
        upper = min(filter(self.falls, tried), default=None)
        below = (load for load in tried if upper is None or load < upper)
        return max(below, default=None), upper


def following(trials: Sequence[Trial], span: Span) -> float | Capacity:
    """Return the load to try next, or the answer; the module's docstring states the rules."""
    loads = _Loads(trials)
    lower, upper = loads.edge()
    if lower is None:
        return span.start if upper is None else _downwards(loads, upper, span)
    if not loads.passes(lower):
        return lower
    missed = loads.misses(upper) if upper is not None else []
    if upper is None:
        if lower < span.most:
            return min(lower * 2, span.most)
    elif (middle := _between(lower, upper, span.whole)) is not None:
        return middle
    elif len(missed) < MISSES:
        return upper
    return Capacity(lower, missed) if loads.passes(lower) >= PASSES else lower


def lengthened(trials: Sequence[Trial], load: float) -> int:
    """Return how many times as long as declared the next trial at `load` is."""
    undecided = [trial for trial in trials if trial.load == load and not trial.passed]
    return int(2 ** sum(_bound_by(trial) is Bound.PROOF for trial in undecided))


def _downwards(loads: _Loads, upper: float, span: Span) -> float | Capacity:
    """Every load so far fell."""
    if upper > span.least:
        return max(upper // 2 if span.whole else upper / 2, span.least)
    missed = loads.misses(upper)
    return upper if len(missed) < MISSES else Capacity(None, missed)


def _between(lower: float, upper: float, whole: bool) -> float | None:
    """The middle, None where the two are neighbours."""
    if whole:
        return (lower + upper) // 2 if upper - lower > 1 else None
    # Three digits, for readers: finer than the resolution.
    return float(f"{(lower + upper) / 2:.3g}") if upper > lower * RESOLUTION else None


def worded(load: float, key: str) -> str:
    """Word a load as the scenario has it: `rate = 24 requests/s`, `users = 6`."""
    return f"{key} = {load:g}{' requests/s' if key == 'rate' else ''}"


def sentence(capacity: Capacity, trials: Sequence[Trial], key: str) -> str:
    """Word the answer to `trials`, with what decided it."""
    bound = capacity.bound
    if bound is Bound.MOST:
        return f"capacity: at least {_named(capacity, trials, key)}; nothing above it was tried, raise --most"
    decisive = [trial for trial in capacity.missed if _bound_by(trial) is bound][-1]
    above, why = worded(decisive.load, key), decisive.verdict.reasons[0]
    if capacity.load is None:
        if bound is Bound.SERVER:
            return f"no capacity: not even {above} passes: {why}"
        return f"capacity unknown: at {above} nothing can be concluded: {why}"
    named = _named(capacity, trials, key)
    if bound is Bound.SERVER:
        return f"capacity: {named}; {above} fails: {why}"
    if bound is Bound.GENERATOR:
        return f"capacity: at least {named}; at {above} the generator, not the server, is the bottleneck: {why}"
    return f"capacity: at least {named}; {above} is not decided: {why}"


def _named(capacity: Capacity, trials: Sequence[Trial], key: str) -> str:
    passed = [trial.passed for trial in trials if trial.load == capacity.load]
    return f"{worded(capacity.load or 0, key)}, passed in {passed.count(True)} of {len(passed)} trials"


def deciding(verdict: Verdict) -> str:
    """Return what decided a verdict; of a PASS the percentile whose interval comes nearest to its limit."""
    if verdict.outcome is not Outcome.PASS:
        return verdict.reasons[0]
    nearest = max(limited(verdict), key=_used, default=None)
    return nearest.sentence if nearest else verdict.reasons[0]


def limited(verdict: Verdict) -> list[Measure]:
    """Return the latencies that the SLA limits."""
    return [measure for measure in verdict.measures if measure.limit is not None and _is_latency(measure)]


def _is_latency(measure: Measure) -> bool:
    # The generator's own lateness is none of the server's.
    return measure.name.endswith("_ms") and not measure.name.startswith("lag_")


def _used(measure: Measure) -> float:
    """How much of its limit a latency uses up."""
    return (measure.high or 0.0) / (measure.limit or 1.0)
