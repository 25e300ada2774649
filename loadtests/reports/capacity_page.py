"""A finished capacity search on disk: the folder RUNS/<id>-capacity, beside the runs that were its trials.

capacity.json    the answer, and every trial with what was measured
capacity.html    the same for readers: the sentence, plots of each limited latency and of the goodput against the
                 load, a table whose rows lead to the trials' own pages; self-contained but for these links
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.judging.capacity import Bound, Capacity, Trial, deciding, limited, sentence, worded
from loadtests.judging.measure import Measure, Outcome
from loadtests.reports import canvas
from loadtests.reports.canvas import BAD, FIRST, MUTED
from loadtests.reports.page import PAGE, SIGNS
from loadtests.reports.plots import Plot
from loadtests.reports.report import rows
from loadtests.reports.settings import settings
from loadtests.reports.template import render
from loadtests.samples import RunError, run_id
from loadtests.traffic.load import key_of
from loadtests.traffic.scenario import Scenario

JSON = "capacity.json"
HTML = "capacity.html"
TEMPLATE = "capacity.html.j2"
GOODPUT = "goodput_per_s"

# Colour, marker and filling: the three differ without colour too.
LOOKS = {Outcome.PASS: (FIRST, "o", FIRST), Outcome.FAIL: (BAD, "X", BAD), Outcome.INCONCLUSIVE: (MUTED, "s", "none")}


@dataclass(frozen=True)
class Search:
    """A finished search: the scenario, its name, every trial in its order, and the answer."""

    scenario: Scenario
    name: str
    trials: Sequence[Trial]
    capacity: Capacity

    @property
    def key(self) -> str:
        """What the load is called."""
        return key_of(self.scenario)

    @property
    def headline(self) -> str:
        """The answer in a few words."""
        if self.capacity.load is None:
            return "no capacity found"
        at_least = "" if self.capacity.bound is Bound.SERVER else "at least "
        return at_least + worded(self.capacity.load, self.key)

    @property
    def sentence(self) -> str:
        """The answer in words."""
        return sentence(self.capacity, self.trials, self.key)

    @property
    def measures(self) -> list[str]:
        """The names of the latencies that the SLA limits, and of the goodput where there is one."""
        names = [measure.label for trial in self.trials for measure in [*limited(trial.verdict), *_goodput(trial)]]
        return list(dict.fromkeys(names))

    def table(self) -> list[tuple[Trial, list[str]]]:
        """Return the trials by their load, each with what `measures` names, as text."""
        ordered = sorted(self.trials, key=lambda trial: trial.load)
        texts = [{row.measure: row.value for row in rows(trial.verdict)} for trial in ordered]
        return [(trial, [of.get(name, "") for name in self.measures]) for trial, of in zip(ordered, texts, strict=True)]


def write_search(search: Search, runs: Path) -> Path:
    """Write the folder of `search` into `runs`, whole or not at all, and return its page.

    Raises RunError: it cannot be written.
    """
    directory = runs / run_id(f"{search.name}-capacity")
    part = directory.with_name(f"{directory.name}.part")
    try:
        part.mkdir(parents=True)
        (part / JSON).write_text(to_json(search), encoding="utf-8")
        (part / HTML).write_text(_page(search), encoding="utf-8")
        part.rename(directory)
    except OSError as error:
        raise RunError(f"{directory} cannot be written: {error.strerror}; choose another folder for runs") from None
    return directory / HTML


def to_json(search: Search) -> str:
    """Return the search as JSON text; an infinite latency is null, as is a capacity that was not found."""
    document = {
        "scenario": search.name,
        "load": search.key,
        "capacity": search.capacity.load,
        "outcome": search.capacity.outcome,
        "exit_code": search.capacity.exit_code,
        "bound": search.capacity.bound,
        "sentence": search.sentence,
        "trials": [_document(trial) for trial in search.trials],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _document(trial: Trial) -> dict[str, object]:
    measures = {each.label: each.value if math.isfinite(each.value) else None for each in trial.verdict.measures}
    return {
        "load": trial.load,
        "outcome": trial.verdict.outcome,
        "generator_bound": trial.verdict.generator_bound,
        "reasons": trial.verdict.reasons,
        "run": trial.run,
        "measures": measures,
    }


def _page(search: Search) -> str:
    return render(
        TEMPLATE,
        search=search,
        signs=SIGNS,
        report=PAGE,
        deciding=deciding,
        plots=[_plot(search, name, place) for place, name in enumerate(search.measures)],
        settings=settings(search.scenario),
    )


def _plot(search: Search, name: str, place: int) -> Plot:
    """One measure of every trial against its load."""
    found = [(trial, each) for trial in search.trials for each in trial.verdict.measures if each.label == name]
    limit = found[0][1].limit

    def fill(axes: Any) -> None:
        ends = [end for _, each in found for end in (each.low, each.value, each.high) if end is not None]
        if name == GOODPUT:
            axes.set_ylim(0, 1.12 * max(*ends, 1.0))
            axes.set_ylabel("requests/s")
        else:
            canvas.log_ms(axes, [*ends, *([limit] if limit else [])])
        _marks(axes, found)
        if limit:
            canvas.limit_line(axes, f"at most {limit:g} ms", limit)
        if search.capacity.load is not None:
            axes.axvline(search.capacity.load, color=FIRST, linewidth=1.2, linestyle=":")
        axes.set_xlim(0, 1.08 * max(trial.load for trial in search.trials))
        axes.set_xlabel(f"{search.key}{', requests/s' if search.key == 'rate' else ''}")

    words = "Each mark is a trial"
    if name != GOODPUT:
        words += ", its bar the interval that was judged"
    if any(math.isinf(each.value) for _, each in found):
        words += "; crosses at the upper edge: too many requests failed"
    if search.capacity.load is not None:
        words += "; dotted: the answer"
    return Plot(f"{_title(name)} against load", f"{words}.", canvas.svg(f"capacity{place}", fill))


def _title(name: str) -> str:
    return "Goodput" if name == GOODPUT else name.removesuffix("_ms")


def _marks(axes: Any, found: Sequence[tuple[Trial, Measure]]) -> None:
    for outcome, (color, marker, filling) in LOOKS.items():
        at = [(trial.load, each) for trial, each in found if trial.verdict.outcome is outcome]
        for load, each in at:
            ends = [end for end in (each.low, each.high) if end is not None and math.isfinite(end)]
            if len(ends) == 2:
                axes.plot([load, load], ends, color=color, linewidth=5, alpha=0.3, solid_capstyle="butt")
        seen = [(load, each.value) for load, each in at if math.isfinite(each.value)]
        if at:
            style = {"markersize": 7, "markerfacecolor": filling, "linestyle": "none", "label": str(outcome)}
            axes.plot(*canvas.columns(seen), marker, color=color, **style)
        canvas.failures(axes, [load for load, each in at if math.isinf(each.value)])
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=9)


def _goodput(trial: Trial) -> list[Measure]:
    return [measure for measure in trial.verdict.measures if measure.label == GOODPUT]
