"""When requests are meant to start: a table of `[arrivals]` for each process, and the schedule it gives.

The whole schedule is computed ahead, but for `closed`, whose starts hang on the answers. Knows nothing of clocks
or servers: what the generator does with a schedule, and how late it was, is the locustfile's and the verdict's.
Equal seeds give equal schedules. A short random schedule can be empty.
"""

import itertools
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ensembles.declaration import Declared
from loadtests.judging.sla import Positive
from loadtests.traffic.trace import TraceRequest, read_trace

Count = Annotated[int, Field(ge=1)]


class _Arrivals(Declared):
    """What every process has.

    `duration_s` is the whole schedule, `warmup_s` its first part, which the verdict cuts: requests whose intended
    start lies before `warmup_s` are sent and recorded, not judged. `seed` draws the schedule and the texts.
    """

    duration_s: Positive
    warmup_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 1

    @model_validator(mode="after")
    def _leaves_something_to_judge(self) -> Self:
        if self.warmup_s >= self.duration_s:
            raise ValueError(
                f"warmup_s = {self.warmup_s:g} leaves nothing of duration_s = {self.duration_s:g} to judge; "
                "lower warmup_s or raise duration_s"
            )
        return self


class Constant(_Arrivals):
    """A request every 1/`rate` seconds from 0 on; `rate` in requests/s."""

    process: Literal["constant"]
    rate: Positive

    def schedule(self) -> list[float]:
        """Return the intended starts in seconds, ascending, all in [0, duration_s)."""
        count = int(self.rate * self.duration_s)
        # Whichever way the product was rounded.
        count += count / self.rate < self.duration_s
        # index / rate, not a running sum: no rounding error piles up over a long run.
        return [index / self.rate for index in range(count)]


class Poisson(_Arrivals):
    """Callers who know nothing of each other: gaps drawn from an exponential distribution with mean 1/`rate`."""

    process: Literal["poisson"]
    rate: Positive

    def schedule(self) -> list[float]:
        """Return the intended starts in seconds, ascending, all in [0, duration_s)."""
        return list(_poisson(random.Random(self.seed), self.rate, 0.0, self.duration_s))


class Gamma(_Arrivals):
    """Bursts at a kept rate: gaps drawn from a gamma distribution with mean 1/`rate`.

    `cv` is the gaps' coefficient of variation, standard deviation over mean: 0.01 nearly constant, 1 Poisson, above
    1 bursts with lulls between them. The first gap is what a look at a process that has always run would find left
    of a gap (the equilibrium renewal process: Cox, Renewal Theory, 1962, section 2.2), so `rate * duration_s`
    requests are expected exactly, however bursty.
    """

    process: Literal["gamma"]
    rate: Positive
    cv: Annotated[float, Field(ge=0.01, le=10)]

    def schedule(self) -> list[float]:
        """Return the intended starts in seconds, ascending, all in [0, duration_s)."""
        draw = random.Random(self.seed)
        shape = self.cv**-2
        scale = 1 / (shape * self.rate)
        # A gap that is met by chance is met in proportion to its length, which makes it Gamma(shape + 1), and
        # anywhere within it.
        first = draw.random() * draw.gammavariate(shape + 1, scale)
        gaps = (draw.gammavariate(shape, scale) for _ in itertools.count())
        return list(_below(self.duration_s, itertools.accumulate(gaps, initial=first)))


class Ramp(_Arrivals):
    """A Poisson process whose rate goes from `rate` to `end_rate` in a straight line over `duration_s`."""

    process: Literal["ramp"]
    rate: Positive
    end_rate: Positive

    def schedule(self) -> list[float]:
        """Return the intended starts in seconds, ascending, all in [0, duration_s).

        By inversion (Cinlar, Introduction to Stochastic Processes, 1975, section 4.7): the events of a Poisson
        process of rate 1, each taken back through the expected count, rate * t + slope / 2 * t**2.
        """
        slope = (self.end_rate - self.rate) / self.duration_s
        expected = (self.rate + self.end_rate) / 2 * self.duration_s
        counts = _poisson(random.Random(self.seed), 1.0, 0.0, expected)
        # The root of the quadratic in the form that stays exact where the slope is 0.
        starts = (2 * count / (self.rate + math.sqrt(max(self.rate**2 + 2 * slope * count, 0.0))) for count in counts)
        return list(_below(self.duration_s, starts))


class Spike(_Arrivals):
    """A Poisson process of `rate`, but of `spike_rate` for `spike_s` seconds from `spike_start_s` on."""

    process: Literal["spike"]
    rate: Positive
    spike_rate: Positive
    spike_start_s: Positive
    spike_s: Positive

    @model_validator(mode="after")
    def _spikes_where_it_is_judged(self) -> Self:
        end_s = self.spike_start_s + self.spike_s
        if self.spike_start_s < self.warmup_s or end_s > self.duration_s:
            raise ValueError(
                f"the spike from {self.spike_start_s:g} s to {end_s:g} s must lie between warmup_s = "
                f"{self.warmup_s:g} and duration_s = {self.duration_s:g}; move or shorten it"
            )
        return self

    def schedule(self) -> list[float]:
        """Return the intended starts in seconds, ascending, all in [0, duration_s)."""
        draw, end_s = random.Random(self.seed), self.spike_start_s + self.spike_s
        # What a Poisson process does in one span says nothing about the next: spans can be drawn one by one.
        return [
            *_poisson(draw, self.rate, 0.0, self.spike_start_s),
            *_poisson(draw, self.spike_rate, self.spike_start_s, end_s),
            *_poisson(draw, self.rate, end_s, self.duration_s),
        ]


class Trace(_Arrivals):
    """The requests of a recorded trace, `speedup` times as fast, from its first one on until `duration_s`.

    `file` is a path from the scenario's folder; `loadtests.traffic.trace` says which forms are read. The trace also
    tells each request's lengths in tokens; `max_input_tokens` and `max_output_tokens` cut what the model cannot take.
    """

    process: Literal["trace"]
    file: Annotated[str, Field(min_length=1)]
    speedup: Positive = 1.0
    max_input_tokens: Count
    max_output_tokens: Count

    def requests(self) -> list[TraceRequest]:
        """Return the requests that are sent, at their sped-up times and with their cut lengths, both at least 1.

        Raises TraceError: the file cannot be read.
        """
        rows = [
            TraceRequest(
                row.at_s / self.speedup,
                min(max(row.tokens_in, 1), self.max_input_tokens),
                min(max(row.tokens_out, 1), self.max_output_tokens),
            )
            for row in read_trace(Path(self.file))
        ]
        return [row for row in rows if row.at_s < self.duration_s]

    def schedule(self) -> list[float]:
        """Return the intended starts in seconds, ascending, all in [0, duration_s). Raises TraceError."""
        return [request.at_s for request in self.requests()]


class Closed(_Arrivals):
    """`users` callers, each of whom sends the next request `think_s` seconds after the answer to the last.

    The intended start is the moment when the user is free, so a server that stalls is asked less while it stalls:
    what would have been asked, and would have waited, is never seen (coordinated omission). The percentiles are
    those of N polite callers, not of the world outside; the offered rate is whatever the server allowed. A user whose
    request failed waits a tenth of a second at least. Good for the throughput at a fixed concurrency; for an SLA take
    an open process.
    """

    process: Literal["closed"]
    users: Count
    think_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def schedule(self) -> list[float]:
        """Return what is known ahead: every user's first start. The others follow from the answers."""
        return [0.0] * self.users


Arrivals = Constant | Poisson | Gamma | Ramp | Spike | Trace | Closed
Process = Literal["constant", "poisson", "gamma", "ramp", "spike", "trace", "closed"]


def _poisson(draw: random.Random, rate: float, begin: float, end: float) -> Iterator[float]:
    """The events of a Poisson process in [begin, end); the first gap comes before the first one."""
    gaps = (draw.expovariate(rate) for _ in itertools.count())
    return _below(end, itertools.islice(itertools.accumulate(gaps, initial=begin), 1, None))


def _below(end: float, starts: Iterator[float]) -> Iterator[float]:
    """Those of ascending `starts` that come before `end`."""
    return itertools.takewhile(lambda start: start < end, starts)
