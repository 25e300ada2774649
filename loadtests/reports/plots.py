"""The plots of a run's page: what `series` works out, drawn on `canvas`, and said in words too."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtests.judging import rates
from loadtests.judging.measure import Measure, milliseconds
from loadtests.judging.sla import Sla
from loadtests.reports import canvas, series
from loadtests.reports.canvas import FIRST, FOURTH, SECOND, THIRD
from loadtests.samples import Sample, in_window
from loadtests.traffic.scenario import Scenario

# Latencies that stand in one plot differ in more than their colour: colour, line, marker.
LOOKS = {"": (FIRST, "-", "o"), "ttft_": (SECOND, "--", "s"), "itl_": (THIRD, ":", "D"), "tpot_": (FOURTH, "-.", "^")}


@dataclass(frozen=True)
class Plot:
    """One plot: what it is called, what it shows in words, and its SVG."""

    title: str
    words: str
    svg: str


@dataclass(frozen=True)
class Sketch:
    """A plot before it is drawn; `fill` draws it on matplotlib axes."""

    title: str
    words: str
    fill: Callable[[Any], None]


class Shown:
    """What is drawn: every sample, those of them that were judged, and what was measured of these."""

    def __init__(self, samples: Sequence[Sample], scenario: Scenario, sla: Sla, measures: Sequence[Measure]):
        self.samples = samples
        self.warmup_s, self.duration_s = scenario.arrivals.warmup_s, scenario.arrivals.duration_s
        self.judged = in_window(samples, self.warmup_s, self.duration_s)
        # By their indices; asked once, because big runs have many windows.
        loosest = sla.loosest_limits()
        self.good = {sample.index for sample in samples if rates.meets(sample, loosest)}
        self.latency_is_limited = bool(sla.latency_limits_ms())
        over_all = [measure for measure in measures if measure.kind is None]
        self.measures = {measure.name: measure for measure in over_all}
        self.percentiles = series.percentiles(over_all)

    def limits(self, latency: str) -> dict[int, float]:
        """Return the limits on `latency` by percentile."""
        measures = self.percentiles.get(latency, {}).items()
        return {percentile: measure.limit for percentile, measure in measures if measure.limit is not None}

    def good_share(self, samples: Sequence[Sample]) -> float:
        """Return the share of `samples` that met every latency limit."""
        return sum(sample.index in self.good for sample in samples) / len(samples)

    def time_axis(self, axes: Any) -> None:
        """Make the x axis this run's time."""
        canvas.time_axis(axes, self.duration_s, self.warmup_s)


def draw(
    samples: Sequence[Sample],
    scenario: Scenario,
    sla: Sla,
    measures: Sequence[Measure],
    queues: Mapping[str, Sequence[series.Point]],
) -> list[Plot]:
    """Return the plots of a run.

    `measures` are those of its verdict by `sla`, `queues` how many requests were where in the server over time.
    """
    shown = Shown(samples, scenario, sla, measures)
    sketches = [_over_time(shown, "")]
    if "ttft_" in shown.percentiles:
        sketches.append(_over_time(shown, "ttft_"))
    if shown.percentiles:
        sketches.append(_by_percentile(shown))
    sketches += [_goodput(shown), _against_rate(shown)]
    if "output_tokens_per_s" in shown.measures:
        sketches.append(_tokens(shown))
    if queues:
        sketches.append(_in_the_server(shown, queues))
    return [
        Plot(sketch.title, sketch.words, canvas.svg(f"plot{number}", sketch.fill))
        for number, sketch in enumerate(sketches)
    ]


def _over_time(shown: Shown, latency: str) -> Sketch:
    """Each request a point at its intended start; failed ones at the upper edge."""
    points = [(sample.intended_s, value) for sample in shown.samples for value in series.values_ms(sample, latency)]
    answered = [point for point in points if math.isfinite(point[1])]
    failed = [point for point in points if math.isinf(point[1])]
    drawn, crosses = series.thin(answered), series.thin(failed)
    limits = shown.limits(latency)

    def fill(axes: Any) -> None:
        color, _, marker = LOOKS[latency]
        canvas.log_ms(axes, [*(value for _, value in drawn), *limits.values()])
        canvas.points(axes, drawn, color, marker)
        canvas.failures(axes, [at for at, _ in crosses])
        for percentile, limit in limits.items():
            canvas.limit_line(axes, f"p{percentile} at most {limit:g} ms", limit)
        shown.time_axis(axes)

    words = f"{len(answered)} of {len(points)} requests were answered, each a point at its intended start"
    if answered:
        values = [value for _, value in answered]
        words += f", in {milliseconds(min(values))} to {milliseconds(max(values))}"
    if failed:
        words += f"; {len(failed)} failed, crosses at the upper edge"
    if len(drawn) < len(answered):
        words += f"; {len(drawn)} points are drawn, the fastest and the slowest of every moment among them"
    return Sketch(f"{_capital(series.LATENCIES[latency])} over time", f"{words}.", fill)


def _by_percentile(shown: Shown) -> Sketch:
    """Latency against percentile on an axis of nines, with the verdict's own intervals."""
    groups = {
        latency: [values for sample in shown.judged if (values := series.values_ms(sample, latency))]
        for latency in shown.percentiles
    }
    curves = {latency: series.curve(of) for latency, of in groups.items() if of}

    def fill(axes: Any) -> None:
        measured = [measure for of in shown.percentiles.values() for measure in of.values()]
        bounds = [each for m in measured if m.limit is not None for each in (m.low, m.high, m.limit) if each]
        # The fastest tenth may leave at the lower edge: tokens that come together are no time apart.
        seen = [value for points in curves.values() for nines, value in points if nines > 1 / 0.9]
        canvas.log_ms(axes, [*bounds, *seen])
        for latency, points in curves.items():
            color, line, _ = LOOKS[latency]
            axes.plot(*canvas.columns(points), line, color=color, linewidth=1.6, label=series.LATENCIES[latency])
        for latency, of in shown.percentiles.items():
            for percentile, measure in of.items():
                _interval(axes, 100 / (100 - percentile), measure, LOOKS[latency][0])
        canvas.nines_axis(axes, 2 * len(shown.judged))
        if len(curves) > 1:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=9)

    words = "Of the judged requests. Bars: the intervals that were judged, open where a bound does not exist"
    if not all(sample.ok for sample in shown.judged):
        words += "; a curve ends where failed requests begin"
    return Sketch("Latency by percentile", f"{words}; triangles: their limits.", fill)


def _interval(axes: Any, nines: float, measure: Measure, color: str) -> None:
    """The interval of a judged percentile, and its limit."""
    if measure.limit is None:
        return
    if measure.low is not None or measure.high is not None:
        bottom, top = axes.get_ylim()
        low = bottom if measure.low is None else measure.low
        high = top if measure.high is None else min(measure.high, top)
        if math.isfinite(low):
            axes.plot([nines, nines], [low, high], color=color, linewidth=6, alpha=0.3, solid_capstyle="butt")
    axes.plot(nines, measure.limit, "v", color=color, markersize=6)
    words, place = f"{measure.name.removesuffix('_ms')} {measure.limit:g} ms", (nines, measure.limit)
    axes.annotate(words, place, (0, 5), textcoords="offset points", ha="center", color=color, fontsize=9)


def _goodput(shown: Shown) -> Sketch:
    """The share of each window's requests that met every latency objective."""
    shares = [(span, 100 * shown.good_share(held)) for span, held in series.windows(shown.samples, shown.duration_s)]

    def fill(axes: Any) -> None:
        _steps(axes, shares, FIRST)
        axes.set_ylim(0, 105)
        axes.set_ylabel("% of requests")
        shown.time_axis(axes)

    objective = (
        "answered within every latency limit" if shown.latency_is_limited else "answered (the SLA limits no latency)"
    )
    words = f"The share of requests {objective}, by intended start, in windows of {_length(shown, shown.samples)}."
    if shown.judged:
        words += f" Of those judged: {shown.good_share(shown.judged):.1%}."
    return Sketch("Goodput over time", words, fill)


def _against_rate(shown: Shown) -> Sketch:
    """What load does to latency: each window a point."""
    latency = "ttft_" if "ttft_" in shown.percentiles else ""
    samples = [sample for sample in shown.samples if series.values_ms(sample, latency)]
    medians = [
        (len(held) / (end - begin), statistics.median_low(series.values_ms(sample, latency)[0] for sample in held))
        for (begin, end), held in series.windows(samples, shown.duration_s)
    ]
    answered = [(rate, median) for rate, median in medians if math.isfinite(median)]
    limit = shown.limits(latency).get(50)

    def fill(axes: Any) -> None:
        color, _, marker = LOOKS[latency]
        canvas.log_ms(axes, [*(median for _, median in answered), *([limit] if limit else [])])
        canvas.points(axes, answered, color, marker)
        canvas.failures(axes, [rate for rate, median in medians if math.isinf(median)])
        if limit:
            canvas.limit_line(axes, f"p50 at most {limit:g} ms", limit)
        axes.set_xlim(0, 1.08 * max((rate for rate, _ in medians), default=1.0))
        axes.set_xlabel("offered requests/s")

    words = f"Each point is a window of {_length(shown, samples)}: the median of its requests against their rate."
    return Sketch(f"{_capital(series.LATENCIES[latency])} against rate", words, fill)


def _tokens(shown: Shown) -> Sketch:
    """Output tokens per second over time."""
    found = series.tokens_per_s(shown.samples, shown.duration_s)
    measure = shown.measures["output_tokens_per_s"]

    def fill(axes: Any) -> None:
        _steps(axes, found, THIRD)
        axes.set_ylim(0, 1.15 * max(*(rate for _, rate in found), measure.limit or 0.0, 1.0))
        axes.set_ylabel("output tokens/s")
        if measure.limit:
            canvas.limit_line(axes, f"at least {measure.limit:g} tokens/s", measure.limit)
        shown.time_axis(axes)

    words = f"Of good requests, when they came, in windows of {_length(shown, shown.samples)}"
    return Sketch("Output tokens over time", f"{words}; {measure.value:.1f} tokens/s as judged.", fill)


def _in_the_server(shown: Shown, queues: Mapping[str, Sequence[series.Point]]) -> Sketch:
    """The server's own gauges, as they were read."""

    def fill(axes: Any) -> None:
        for (place, points), (color, line, marker) in zip(queues.items(), LOOKS.values(), strict=False):
            axes.plot(
                *canvas.columns(points), line, color=color, marker=marker, markersize=3, label=place, clip_on=False
            )
        axes.set_ylim(0, 1.15 * max(value for points in queues.values() for _, value in points))
        axes.set_ylabel("requests")
        shown.time_axis(axes)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=9)

    found = [
        f"{place} {statistics.fmean(values):.1f} on average, at most {max(values):g}"
        for place, points in queues.items()
        if (values := [value for _, value in points])
    ]
    return Sketch("Requests in the server", f"As the server's own metrics showed them: {'; '.join(found)}.", fill)


def _steps(axes: Any, values: Sequence[tuple[series.Span, float]], color: str) -> None:
    """One level a window, over what may be gaps."""
    for span, value in values:
        axes.fill_between(span, value, color=color, alpha=0.18, linewidth=0)
        axes.plot(span, [value, value], color=color, linewidth=2.2, solid_capstyle="butt")


def _length(shown: Shown, samples: Sequence[Sample]) -> str:
    """How long a window is, in words; a short run is one window."""
    return f"{min(series.window_s(shown.duration_s, len(samples)), shown.duration_s):g} s"


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]
