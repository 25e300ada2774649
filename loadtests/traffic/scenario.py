"""A scenario: the traffic of a load test and the SLA it must keep, read from loadtests/scenarios/*.toml.

Declarations only. A scenario's name is its file's stem. Three tables: `[arrivals]` says when requests start,
`[request]` what one of them is, `[sla]` what the answers must keep. `arrivals.process` and `request.task` say which
keys their tables have. In place of `[request]` a mix has several `[[mix]]`, each with a name, a weight and a
`[mix.request]`. The protocol is the URL's: the same scenario runs over grpc:// and over http://.
"""

from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, model_validator

from ensembles.declaration import Declared, read
from ensembles.errors import YardError, near_miss
from loadtests.judging.sla import STREAM_LATENCIES, Limits, Sla
from loadtests.traffic import arrivals
from loadtests.traffic.arrivals import Arrivals, Closed, Trace
from loadtests.traffic.request import EmbedRequest, GenerateRequest, Request, Share, Words
from loadtests.traffic.texts import read_texts

SCENARIOS = Path(__file__).parent.parent / "scenarios"


class ScenarioError(YardError):
    """A load test cannot be run as it is written."""

    exit_code = 2


class _Scenario(Declared):
    """What every scenario has."""

    arrivals: Annotated[Arrivals, Field(discriminator="process")]
    sla: Sla

    def schedule(self) -> list[float]:
        """Return the intended starts in seconds; of a closed loop, each user's first.

        Raises ScenarioError: the schedule holds no request after the warm-up. Raises TraceError.
        """
        of = self.arrivals
        starts = of.schedule()
        if not isinstance(of, Closed) and (not starts or starts[-1] < of.warmup_s):
            raise ScenarioError(
                f"process '{of.process}' over duration_s = {of.duration_s:g} with seed = {of.seed} starts no "
                f"request after warmup_s = {of.warmup_s:g}; raise rate or duration_s, or take a longer trace"
            )
        return starts

    @property
    def timeout_s(self) -> float:
        """The longest that any request may take."""
        return max(share.request.timeout_s for share in self.shares)

    @property
    def shares(self) -> list[Share]:
        """The kinds of requests, each with its weight."""
        raise NotImplementedError

    def _refuse_kinds(self) -> None:
        if self.sla.kinds:
            raise ValueError("sla.kinds: there is one kind of request here; its limits are those of [sla]")


class EmbedScenario(_Scenario):
    """One load test of the embed task as declared."""

    request: EmbedRequest

    @property
    def shares(self) -> list[Share]:
        """The one kind of request that there is."""
        return [_all_of(self.request)]

    @model_validator(mode="after")
    def _has_no_limits_on_tokens(self) -> Self:
        self._refuse_kinds()
        _refuse_stream_limits(
            self.sla, "sla", "and task = 'embed' has none; remove it, or limit the whole answer by p95_ms"
        )
        if self.sla.min_output_tokens_per_s is not None:
            raise ValueError("sla.min_output_tokens_per_s: task = 'embed' puts out no tokens; use min_achieved_rate")
        if isinstance(self.arrivals, Trace):
            raise ValueError("arrivals.process = 'trace' tells lengths of prompts and answers; use task = 'generate'")
        return self


class GenerateScenario(_Scenario):
    """One load test of the generate task as declared."""

    request: GenerateRequest

    @property
    def shares(self) -> list[Share]:
        """The one kind of request that there is."""
        return [_all_of(self.request)]

    @model_validator(mode="after")
    def _limits_what_can_be_seen(self) -> Self:
        self._refuse_kinds()
        if not self.request.stream:
            _refuse_stream_limits(
                self.sla, "sla", "and request.stream is false; make it true, or limit the whole answer by p95_ms"
            )
        _check_lengths(self.request, self.arrivals, "request")
        return self


class MixScenario(_Scenario):
    """One load test of several kinds of requests as declared; each request's kind is drawn by weight.

    What the SLA limits over all of them together are the whole answers alone: percentiles of two kinds of streams say
    nothing of either. `[sla.kinds.NAME]` limits one kind.
    """

    mix: Annotated[list[Share], Field(min_length=2)]

    @property
    def shares(self) -> list[Share]:
        """Every kind of request."""
        return self.mix

    @model_validator(mode="after")
    def _is_a_mix(self) -> Self:
        names = [share.name for share in self.mix]
        if len(set(names)) < len(names):
            raise ValueError(f"mix.name: {', '.join(names)} are not all different; rename one")
        _refuse_stream_limits(self.sla, "sla", "and a mix has several kinds; limit one kind's, in [sla.kinds.NAME]")
        streamed = {share.name: share.is_streamed for share in self.mix}
        for kind, limits in self.sla.kinds.items():
            if kind not in streamed:
                raise ValueError(f"sla.kinds.{kind}: the mix has {', '.join(names)}{near_miss(kind, names)}")
            if not streamed[kind]:
                _refuse_stream_limits(limits, f"sla.kinds.{kind}", "and its answers are none; limit p95_ms")
        if isinstance(self.arrivals, Trace):
            raise ValueError("arrivals.process = 'trace' tells lengths of one kind; use [request] in place of [[mix]]")
        generated = [share for share in self.mix if isinstance(share.request, GenerateRequest)]
        if self.sla.min_output_tokens_per_s is not None and not generated:
            raise ValueError("sla.min_output_tokens_per_s: no request here puts out tokens; use min_achieved_rate")
        for share in generated:
            assert isinstance(share.request, GenerateRequest)
            _check_lengths(share.request, self.arrivals, f"mix.{share.name}.request")
        return self


def _refuse_stream_limits(limits: Limits, table: str, why: str) -> None:
    given = [f"{table}.{key}" for key in limits.latency_limits_ms() if key.startswith(STREAM_LATENCIES)]
    if given:
        raise ValueError(f"{', '.join(given)} can only be judged of a stream of tokens, {why}")


def _all_of(request: Request) -> Share:
    return Share(name=request.task, weight=1.0, request=request)


def _check_lengths(request: GenerateRequest, of: Arrivals, table: str) -> None:
    """Lengths come from the scenario or from a trace, from exactly one of them."""
    if not isinstance(of, Trace):
        if request.output_tokens is None:
            raise ValueError(f"key '{table}.output_tokens' is missing; only a trace brings lengths of its own")
    elif request.output_tokens or request.prompt != Words():
        raise ValueError(f"{table} has prompt or output_tokens, and the trace brings lengths of its own; remove them")


Named = TypeVar("Named", Trace, Words)

Scenario = EmbedScenario | GenerateScenario | MixScenario


class _Part(Declared):
    """A table of which only some keys are looked at."""

    model_config = ConfigDict(extra="ignore")


class _Process(_Part):
    process: arrivals.Process


class _Task(_Part):
    task: Literal["embed", "generate"]


class _Tagged(_Part):
    """What must be known of a file before its schema is."""

    arrivals: _Process
    request: _Task | None = None
    mix: list[object] | None = None


def load(path: Path) -> Scenario:
    """Read the scenario at `path`.

    Raises DeclarationError: the file is missing or breaks the schema. Raises ScenarioError: it asks for no
    request. Raises TraceError, TextsError: a file that it names cannot be read.
    """
    tags = read(path, _Tagged)
    scenario = _anchored(read(path, _schema(path, tags)), path.parent)
    try:
        scenario.schedule()
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {error}") from None
    return scenario


def _anchored(scenario: Scenario, folder: Path) -> Scenario:
    """The scenario with the files that it names as paths that hold wherever it is used; its texts are looked at."""
    changes: dict[str, object] = {}
    if isinstance(scenario.arrivals, Trace):
        changes["arrivals"] = _with_file(scenario.arrivals, folder)
    if isinstance(scenario, MixScenario):
        mix = [share.model_copy(update={"request": _with_texts(share.request, folder)}) for share in scenario.mix]
        changes["mix"] = mix
    else:
        changes["request"] = _with_texts(scenario.request, folder)
    return scenario.model_copy(update=changes)


def _with_texts(request: Request, folder: Path) -> Request:
    key = "words" if isinstance(request, EmbedRequest) else "prompt"
    words: Words = getattr(request, key)
    if words.file is None:
        return request
    words = _with_file(words, folder)
    read_texts(Path(words.file or ""))
    return request.model_copy(update={key: words})


def _with_file(declared: Named, folder: Path) -> Named:
    return declared.model_copy(update={"file": str((folder / (declared.file or "")).resolve())})


def _schema(path: Path, tags: _Tagged) -> type[Scenario]:
    if (tags.request is None) == (tags.mix is None):
        raise ScenarioError(f"{path}: give it one of [request] and [[mix]]")
    if tags.request is None:
        return MixScenario
    return EmbedScenario if tags.request.task == "embed" else GenerateScenario


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
