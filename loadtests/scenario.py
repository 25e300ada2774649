"""A scenario: the traffic of a load test and the SLA it must keep, read from loadtests/scenarios/*.toml.

Declarations only. A scenario's name is its file's stem. Three tables: `[arrivals]` says when requests start,
`[request]` what one of them is, `[sla]` what the answers must keep. A new task or arrival process is a new
value of `task` or `process`.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ensembles.declaration import Declared, read
from ensembles.errors import YardError, near_miss
from loadtests import arrivals

SCENARIOS = Path(__file__).parent / "scenarios"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class ScenarioError(YardError):
    """A load test cannot be run as it is written."""

    exit_code = 2


class Arrivals(Declared):
    """When requests start.

    `rate` in requests/s. `duration_s` is the whole schedule, `warmup_s` its first part, which the verdict
    cuts: requests whose intended start lies before `warmup_s` are sent and recorded, not judged. `seed` draws
    the schedule and the texts.
    """

    process: arrivals.Process
    rate: Positive
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


class Words(Declared):
    """How long a text is, in words.

    `sentences` takes shipped sentences as they are (5 to 100 words). `uniform` draws from [`min`, `max`].
    `lognormal` draws with `median` and `sigma` (of the logarithm), clipped to [`min`, `max`].
    """

    distribution: Literal["sentences", "uniform", "lognormal"] = "sentences"
    min: Count | None = None
    max: Count | None = None
    median: Positive | None = None
    sigma: Positive | None = None

    @model_validator(mode="after")
    def _has_its_parameters(self) -> Self:
        needed = {
            "sentences": set(),
            "uniform": {"min", "max"},
            "lognormal": {"min", "max", "median", "sigma"},
        }
        mine: set[str] = needed[self.distribution]
        given = {key for key in ("min", "max", "median", "sigma") if getattr(self, key) is not None}
        if given != mine:
            known = ", ".join(sorted(mine)) or "no other key"
            raise ValueError(
                f"distribution '{self.distribution}' takes {known}; "
                f"missing: {', '.join(sorted(mine - given)) or 'none'}, "
                f"too many: {', '.join(sorted(given - mine)) or 'none'}"
            )
        if self.min and self.max and self.min > self.max:
            raise ValueError(f"min = {self.min} is above max = {self.max}; swap them")
        return self


class Request(Declared):
    """What one request is: the model it goes to, `texts` of `words` each, and its timeout in seconds.

    A request is one call of the SDK, as a user makes it; the SDK may cut many texts into several requests to Triton.
    """

    task: Literal["embed"]
    model: Annotated[str, Field(min_length=1)]
    texts: Count = 1
    words: Words = Words()
    timeout_s: Positive = 5.0


class Sla(Declared):
    """What the answers must keep; a limit that is left out is not judged.

    Latencies in milliseconds from the intended start. `max_error_rate` is the fraction of requests that
    failed, `min_achieved_rate` the rate of answers as a fraction of the offered rate. `confidence` is how
    sure a PASS or a FAIL must be. `max_lag_ms` bounds the 99th percentile of the generator's own lateness:
    above it nothing can be said about the server.
    """

    p50_ms: Positive | None = None
    p90_ms: Positive | None = None
    p95_ms: Positive | None = None
    p99_ms: Positive | None = None
    # Zero errors cannot be proved by a finite run: a limit of 0 could never PASS.
    max_error_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    min_achieved_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    max_lag_ms: Positive = 20.0

    @model_validator(mode="after")
    def _promises_something(self) -> Self:
        if not self.latency_limits_ms() and self.max_error_rate is None and self.min_achieved_rate is None:
            raise ValueError("holds no objective; give at least one, such as p95_ms = 250")
        return self

    def latency_limits_ms(self) -> dict[int, float]:
        """Return the declared latency limits: percentile -> milliseconds."""
        limits = {50: self.p50_ms, 90: self.p90_ms, 95: self.p95_ms, 99: self.p99_ms}
        return {percentile: limit for percentile, limit in limits.items() if limit is not None}


class Scenario(Declared):
    """One load test as declared."""

    arrivals: Arrivals
    request: Request
    sla: Sla

    def schedule(self) -> list[float]:
        """Return the intended starts in seconds.

        Raises ScenarioError: the schedule holds no request after the warm-up.
        """
        of = self.arrivals
        starts = arrivals.schedule(of.process, of.rate, of.duration_s, of.seed)
        if not starts or starts[-1] < of.warmup_s:
            raise ScenarioError(
                f"rate = {of.rate:g} over duration_s = {of.duration_s:g} with seed = {of.seed} starts "
                f"no request after warmup_s = {of.warmup_s:g}; raise rate or duration_s"
            )
        return starts


def load(path: Path) -> Scenario:
    """Read the scenario at `path`.

    Raises DeclarationError: the file is missing or breaks the schema. Raises ScenarioError: it asks for no
    request.
    """
    scenario = read(path, Scenario)
    try:
        scenario.schedule()
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {error}") from None
    return scenario


def names() -> list[str]:
    """Return the names of the shipped scenarios."""
    return sorted(path.stem for path in SCENARIOS.glob("*.toml"))


def locate(name: str) -> Path:
    """Return the file of the scenario called `name`: a path to a TOML file, or the name of a shipped one.

    Raises ScenarioError: no such scenario.
    """
    if name in names():
        return SCENARIOS / f"{name}.toml"
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return path
    known = names()
    raise ScenarioError(
        f"scenario '{name}' is neither a TOML file nor one of {', '.join(known)}{near_miss(path.stem, known)}"
    )
