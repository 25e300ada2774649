"""A verdict for readers: rows of a table, and verdict.json. Prints nothing; yard does."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from loadtests.measure import Measure
from loadtests.samples import read_run
from loadtests.scenario import GenerateScenario
from loadtests.sla import Sla
from loadtests.verdict import Facts, Verdict, judge

VERDICT = "verdict.json"

LEASTS = ("achieved_rate", "output_tokens_per_s")


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

    Raises RunError: the run is unfinished or damaged.
    """
    run, samples = read_run(directory)
    scenario = run.scenario
    streamed = isinstance(scenario, GenerateScenario) and scenario.request.stream
    facts = Facts(run.scheduled, scenario.arrivals.warmup_s, scenario.arrivals.duration_s, streamed)
    return judge(samples, facts, sla or scenario.sla)


def rows(verdict: Verdict) -> list[Row]:
    """Return the table: a row a measure, then a row for each class of error."""
    table = [_row(measure) for measure in verdict.measures]
    return table + [Row(f"errors: {kind}", str(count), "", "", "") for kind, count in verdict.errors.items()]


def _row(measure: Measure) -> Row:
    bounded = measure.low is not None or measure.high is not None
    interval = f"{_text(measure, measure.low)} to {_text(measure, measure.high)}" if bounded else ""
    limit = "" if measure.limit is None else f"{_sense(measure)} {_text(measure, measure.limit)}"
    return Row(measure.name, _text(measure, measure.value), interval, limit, measure.outcome or "")


def _sense(measure: Measure) -> str:
    return "at least" if measure.name in LEASTS else "at most"


def _text(measure: Measure, value: float | None) -> str:
    """A value in the measure's own unit."""
    if value is None:
        return "?"
    if math.isinf(value):
        return "never"
    if measure.name.endswith("_ms"):
        return f"{value:.1f} ms"
    return f"{value:.1f} tokens/s" if measure.name == "output_tokens_per_s" else f"{value:.2%}"


def to_json(verdict: Verdict) -> str:
    """Return the verdict as JSON text. A bound that does not exist and an infinite latency are both null."""
    document = {
        "outcome": verdict.outcome,
        "exit_code": verdict.exit_code,
        "reasons": verdict.reasons,
        "judged": verdict.judged,
        "errors": verdict.errors,
        "measures": [{key: _finite(value) for key, value in vars(measure).items()} for measure in verdict.measures],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    return None if isinstance(value, float) and math.isinf(value) else value


def write_verdict(verdict: Verdict, directory: Path) -> Path:
    """Write verdict.json beside the samples, through a temporary name, and return its path."""
    path = directory / VERDICT
    part = path.with_suffix(".json.part")
    part.write_text(to_json(verdict), encoding="utf-8")
    return part.rename(path)
