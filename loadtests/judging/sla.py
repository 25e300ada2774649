"""The SLA that a scenario declares: which numbers are limited, and by how much. What they mean is the verdict's."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from ensembles.declaration import Declared

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

PERCENTILES = (50, 90, 95, 99)
# What a stream alone has: time to first token, inter-token latency, time per output token.
STREAM_LATENCIES = ("ttft_", "itl_", "tpot_")


class Limits(Declared):
    """What the answers must keep; a limit that is left out is not judged.

    Latencies in milliseconds: `p..` from the intended start to the whole answer, `ttft_p..` to its first token,
    `itl_p..` between tokens, `tpot_p..` from the first token to the last, a token; `loadtests.judging.verdict` has the
    definitions. `max_error_rate` is the fraction of requests that failed, `min_goodput` the fraction that met every
    latency limit.
    """

    p50_ms: Positive | None = None
    p90_ms: Positive | None = None
    p95_ms: Positive | None = None
    p99_ms: Positive | None = None
    ttft_p50_ms: Positive | None = None
    ttft_p90_ms: Positive | None = None
    ttft_p95_ms: Positive | None = None
    ttft_p99_ms: Positive | None = None
    itl_p50_ms: Positive | None = None
    itl_p90_ms: Positive | None = None
    itl_p95_ms: Positive | None = None
    itl_p99_ms: Positive | None = None
    tpot_p50_ms: Positive | None = None
    tpot_p90_ms: Positive | None = None
    tpot_p95_ms: Positive | None = None
    tpot_p99_ms: Positive | None = None
    # Zero errors cannot be proved by a finite run: a limit of 0 could never PASS.
    max_error_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    min_goodput: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _promises_something(self) -> Self:
        if self.latency_limits_ms():
            return self
        if self.min_goodput is not None:
            raise ValueError("min_goodput counts the requests that meet the latency limits; give one")
        if not self._others():
            raise ValueError("holds no objective; give at least one, such as p95_ms = 250")
        return self

    def _others(self) -> bool:
        """Whether something is limited beside latencies."""
        return self.max_error_rate is not None

    @property
    def estimated(self) -> int:
        """How many objectives are estimated, and not counted: each may err."""
        shares = (self.max_error_rate, self.min_goodput)
        return len(self.latency_limits_ms()) + sum(limit is not None for limit in shares)

    def latency_limits_ms(self) -> dict[str, float]:
        """Return the declared latency limits by key: `p95_ms`, `ttft_p95_ms` ... -> milliseconds."""
        keys = [f"{latency}p{n}_ms" for latency in ("", *STREAM_LATENCIES) for n in PERCENTILES]
        limits = {key: getattr(self, key) for key in keys}
        return {key: limit for key, limit in limits.items() if limit is not None}

    def loosest_limits(self) -> dict[str, tuple[int, float]]:
        """Return the largest limit on each latency that has one: "", "ttft_" ... -> (its percentile, milliseconds).

        It is what every single request can be held to: half of them may miss the limit on a median.
        """
        loosest = {}
        for latency in ("", *STREAM_LATENCIES):
            given = [(limit, n) for n in PERCENTILES if (limit := getattr(self, f"{latency}p{n}_ms")) is not None]
            if given:
                limit, percentile = max(given)
                loosest[latency] = percentile, limit
        return loosest


class Sla(Limits):
    """The SLA of a scenario: limits over all its requests together, and over each kind of a mix by itself.

    `min_achieved_rate` is the rate of answers as a fraction of the offered rate, `min_output_tokens_per_s` over all
    requests together, `kinds` what the requests of one kind must keep. `confidence` is how sure a PASS or a FAIL must
    be. `max_lag_ms` bounds the 99th percentile of the generator's own lateness: above it nothing can be said about the
    server.
    """

    min_achieved_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    min_output_tokens_per_s: Positive | None = None
    kinds: dict[str, Limits] = Field(default_factory=dict)
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    max_lag_ms: Positive = 20.0

    def _others(self) -> bool:
        counted = (self.min_achieved_rate, self.min_output_tokens_per_s)
        return super()._others() or bool(self.kinds) or counted != (None, None)


class SlaFile(Declared):
    """A TOML file that holds an `[sla]` table; whatever else is in it, such as a scenario, is not read."""

    model_config = ConfigDict(extra="ignore")

    sla: Sla
