"""A scenario: the traffic of a load test and the SLA it must keep, read from loadtests/scenarios/*.toml.

Declarations only. A scenario's name is its file's stem. Three tables: `[arrivals]` says when requests start,
`[request]` what one of them is, `[sla]` what the answers must keep. `request.task` says which keys `[request]`
has: a new task is a new table of its own, a new arrival process a new value of `process`.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from ensembles.declaration import Declared, read
from ensembles.errors import YardError, near_miss
from loadtests import arrivals
from loadtests.sla import STREAM_LATENCIES, Positive, Sla

SCENARIOS = Path(__file__).parent / "scenarios"

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


class Lengths(Declared):
    """A length drawn uniformly from [`min`, `max`]."""

    min: Count
    max: Count

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min = {self.min} is above max = {self.max}; swap them")
        return self


def _number_or_table(value: object) -> object:
    """One number stands for a range of one length."""
    if isinstance(value, dict | Lengths):
        return value
    if type(value) is not int or value < 1:
        raise ValueError("give a whole number of at least 1, or a table with min and max")
    return {"min": value, "max": value}


class EmbedRequest(Declared):
    """What one request is: the model it goes to, `texts` of `words` each, and its timeout in seconds.

    A request is one call of the SDK, as a user makes it; the SDK may cut many texts into several requests to Triton.
    """

    task: Literal["embed"]
    model: Annotated[str, Field(min_length=1)]
    texts: Count = 1
    words: Words = Words()
    timeout_s: Positive = 5.0


class GenerateRequest(Declared):
    """What one request is: the model it goes to, a prompt, how long the answer is, and its timeout in seconds.

    The prompt is one user's message of `prompt` words in the model's own chat template, after the message `system`
    where there is one. `output_tokens` is a number, or a range to draw from; it is asked for as the least and the
    most, so that lengths do not depend on what the model says. Answers are greedy. With `stream` they come in deltas.
    """

    task: Literal["generate"]
    model: Annotated[str, Field(min_length=1)]
    stream: bool = True
    prompt: Words = Words()
    system: Annotated[str, Field(min_length=1)] | None = None
    output_tokens: Annotated[Lengths, BeforeValidator(_number_or_table)]
    timeout_s: Positive = 30.0


class _Scenario(Declared):
    """What every task's scenario has."""

    arrivals: Arrivals
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

    def _refuse_stream_limits(self, why: str) -> None:
        given = [f"sla.{key}" for key in self.sla.latency_limits_ms() if key.startswith(STREAM_LATENCIES)]
        if given:
            raise ValueError(f"{', '.join(given)} can only be judged of a stream of tokens, {why}")


class EmbedScenario(_Scenario):
    """One load test of the embed task as declared."""

    request: EmbedRequest

    @model_validator(mode="after")
    def _has_no_limits_on_tokens(self) -> Self:
        self._refuse_stream_limits("and task = 'embed' has none; remove it, or limit the whole answer by p95_ms")
        if self.sla.min_output_tokens_per_s is not None:
            raise ValueError("sla.min_output_tokens_per_s: task = 'embed' puts out no tokens; use min_achieved_rate")
        return self


class GenerateScenario(_Scenario):
    """One load test of the generate task as declared."""

    request: GenerateRequest

    @model_validator(mode="after")
    def _limits_what_can_be_seen(self) -> Self:
        if not self.request.stream:
            self._refuse_stream_limits("and request.stream is false; make it true, or limit the whole answer by p95_ms")
        return self


Scenario = EmbedScenario | GenerateScenario


class _Task(Declared):
    model_config = ConfigDict(extra="ignore")

    task: Literal["embed", "generate"]


class _Tagged(Declared):
    """What must be known of a file before its schema is."""

    model_config = ConfigDict(extra="ignore")

    request: _Task


def load(path: Path) -> Scenario:
    """Read the scenario at `path`.

    Raises DeclarationError: the file is missing or breaks the schema. Raises ScenarioError: it asks for no
    request.
    """
    task = read(path, _Tagged).request.task
    scenario: Scenario = read(path, EmbedScenario) if task == "embed" else read(path, GenerateScenario)
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
