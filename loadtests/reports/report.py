"""A verdict for readers: rows of a table, and the files of a run. Prints nothing; yard does.

verdict.json    everything that was measured and decided
junit.xml       a test case an objective, for CI            (loadtests.reports.junit)
metrics.prom    the numbers in Prometheus' text format      (loadtests.reports.exposition)
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ValidationError

from loadtests.judging.measure import Measure
from loadtests.judging.sla import Sla
from loadtests.judging.verdict import Facts, Verdict, judge
from loadtests.reports import exposition, junit
from loadtests.samples import RunError, read_run, write_whole
from loadtests.server.metrics import read_server
from loadtests.server.side import ServerSide, server_side
from loadtests.traffic.scenario import GenerateScenario, Scenario, ScenarioError

VERDICT = "verdict.json"
JUNIT = "junit.xml"
METRICS = "metrics.prom"

LEASTS = ("achieved_rate", "goodput", "output_tokens_per_s")


@dataclass(frozen=True)
class Row:
    """One line of the table, as text. `outcome` is empty where the SLA says nothing."""

    measure: str
    value: str
    interval: str
    limit: str
    outcome: str


def judge_run(directory: Path, sla: Sla | None = None) -> Verdict:
    """Judge the finished run in `directory` by its own SLA, or by another one.

    Raises RunError: the run is unfinished or damaged. Raises ScenarioError: `sla` limits what its requests do not have.
    """
    run, samples = read_run(directory)
    scenario = _under(sla, run.scenario) if sla else run.scenario
    streamed = isinstance(scenario, GenerateScenario) and scenario.request.stream
    of, kinds = scenario.arrivals, frozenset(share.name for share in scenario.shares if share.is_streamed)
    facts = Facts(run.scheduled, of.warmup_s, of.duration_s, streamed, kinds, run.cpu_p95, run.name)
    return judge(samples, facts, scenario.sla)


def server_of(directory: Path) -> ServerSide | None:
    """Return the server's own side of the finished run in `directory`, None where its metrics were not asked for.

    Raises RunError: the run is unfinished or damaged.
    """
    metrics = read_server(directory)
    return server_side(metrics, *read_run(directory)) if metrics else None


def _under(sla: Sla, scenario: Scenario) -> Scenario:
    """The scenario with another SLA, checked against its requests."""
    try:
        return type(scenario)(**(dict(scenario) | {"sla": sla}))
    except ValidationError as error:
        facts = ", ".join(detail["msg"].removeprefix("Value error, ") for detail in error.errors())
        raise ScenarioError(f"this SLA cannot be asked of the run: {facts}") from None


def rows(verdict: Verdict) -> list[Row]:
    """Return the table: a row a measure, then a row for each class of error."""
    table = [_row(measure) for measure in verdict.measures]
    return table + [Row(f"errors: {kind}", str(count), "", "", "") for kind, count in verdict.errors.items()]


def _row(measure: Measure) -> Row:
    bounded = measure.low is not None or measure.high is not None
    interval = f"{text(measure.name, measure.low)} to {text(measure.name, measure.high)}" if bounded else ""
    limit = "" if measure.limit is None else f"{_sense(measure)} {text(measure.name, measure.limit)}"
    return Row(measure.label, text(measure.name, measure.value), interval, limit, measure.outcome or "")


def _sense(measure: Measure) -> str:
    return "at least" if measure.name in LEASTS else "at most"


def text(name: str, value: float | None, signed: bool = False) -> str:
    """Return a value of the measure called `name`, or a `signed` difference of two, in its own unit.

    "?" is one that is not known, "never" a latency without end.
    """
    if value is None:
        return "?"
    if math.isinf(value):
        return "?" if signed else "never"
    sign = "+" if signed else ""
    if name.endswith("_ms"):
        return f"{value:{sign}.1f} ms"
    if name.endswith("_per_s"):
        return f"{value:{sign}.1f} {'tokens' if 'tokens' in name else 'requests'}/s"
    return f"{100 * value:+.2f} points" if signed else f"{value:.2%}"


def to_json(verdict: Verdict, server: ServerSide | None = None) -> str:
    """Return the verdict as JSON text, and under `server` what that one told of itself.

    A bound that does not exist and an infinite latency are both null.
    """
    document = {
        "scenario": verdict.name,
        "outcome": verdict.outcome,
        "exit_code": verdict.exit_code,
        "reasons": verdict.reasons,
        "judged": verdict.judged,
        "cut": verdict.cut,
        "errors": verdict.errors,
        "measures": [asdict(measure) for measure in verdict.measures],
    }
    if server:
        document["server"] = asdict(server)
    return json.dumps(_finite(document), indent=1, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def write_verdict(verdict: Verdict, directory: Path, server: ServerSide | None = None) -> None:
    """Write verdict.json, junit.xml and metrics.prom into `directory`, each through a temporary name.

    `server` is the server's own side of the run, whose numbers they hold too.

    Raises RunError: they cannot be written.
    """
    texts = {
        VERDICT: to_json(verdict, server),
        JUNIT: junit.to_xml(verdict),
        METRICS: exposition.to_text(verdict, server),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_whole(directory / name, text)
    except OSError as error:
        raise RunError(f"{directory} takes no verdict: {error.strerror}; choose another folder") from None
