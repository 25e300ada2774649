"""A run's samples as the series that its page draws: points, percentile curves, windows. Pure: draws nothing.

Times are seconds from the start of the schedule, latencies milliseconds from the intended start, infinite where a
request failed. A latency is named as the SLA's keys begin: "" end to end, `ttft_`, `itl_`, `tpot_`.
"""

import itertools
import math
import re
from collections.abc import Iterable, Sequence

from loadtests.judging.latencies import tpot_ms
from loadtests.judging.measure import Measure
from loadtests.samples import GenerateSample, Sample

Point = tuple[float, float]
Span = tuple[float, float]

LATENCIES = {
    "": "end to end",
    "ttft_": "time to first token",
    "itl_": "inter-token latency",
    "tpot_": "time per output token",
}
PERCENTILE = re.compile(rf"({'|'.join(LATENCIES)})p(\d+)_ms")

# What a plot of a page's width can show: columns of points, and points in one of them.
COLUMNS, IN_A_COLUMN = 150, 8
STEPS = 150
# A window is as long as it must be to hold some requests, so that its share of good ones says something.
WINDOWS, IN_A_WINDOW = 60, 8
# 0.3 / 0.1 is a little less than 3.
ROUNDING = 1e-9


def percentiles(measures: Iterable[Measure]) -> dict[str, dict[int, Measure]]:
    """Return the measures that are percentiles of a latency: latency -> percentile -> measure."""
    found: dict[str, dict[int, Measure]] = {}
    for measure in measures:
        if match := PERCENTILE.fullmatch(measure.name):
            found.setdefault(match[1], {})[int(match[2])] = measure
    return found


def values_ms(sample: Sample, latency: str) -> list[float]:
    """Return what `sample` has of `latency`: one value or none, of `itl_` as many as tokens came after the first delta.

    A request that brings no tokens has only the whole answer's.
    """
    if latency and not isinstance(sample, GenerateSample):
        return []
    if not sample.ok:
        return [math.inf]
    if not isinstance(sample, GenerateSample) or not latency:
        return [sample.latency_ms]
    if latency == "itl_":
        return sample.itl_ms
    if latency == "tpot_":
        pace = tpot_ms(sample)
        return [] if pace is None else [pace]
    return [math.inf if sample.ttft_ms is None else sample.ttft_ms]


def thin(points: Sequence[Point]) -> list[Point]:
    """Return at most COLUMNS * IN_A_COLUMN of (seconds, value), the same picture as all of them.

    Of each column of equal width the least and the greatest stay, and of the others every so-manyth.
    """
    if len(points) <= COLUMNS * IN_A_COLUMN:
        return list(points)
    begin = min(at for at, _ in points)
    width = (max(at for at, _ in points) - begin) / COLUMNS or 1.0
    columns: dict[int, list[Point]] = {}
    for point in points:
        columns.setdefault(min(int((point[0] - begin) / width), COLUMNS - 1), []).append(point)
    return [point for _, column in sorted(columns.items()) for point in _some(column)]


def _some(column: Sequence[Point]) -> list[Point]:
    ranked = sorted(range(len(column)), key=lambda index: column[index][1])
    others = IN_A_COLUMN - 2
    kept = {ranked[0], ranked[-1], *(step * len(column) // others for step in range(others))}
    return [column[index] for index in sorted(kept)]


def curve(groups: Sequence[Sequence[float]]) -> list[Point]:
    """Return (nines, value) of percentiles p, evenly spaced where nines = 1 / (1 - p) is on a logarithmic axis.

    A value of a group of m weighs 1 / m, as in `loadtests.judging.quantiles.Groups`. The last is the greatest value,
    where it is finite.
    """
    weighted = sorted((value, 1 / (len(groups) * len(group))) for group in groups for value in group)
    # The greatest of n values stands in the middle of the last n-th.
    ends = 2.0 * len(groups)
    points: list[Point] = []
    reached, step = 0.0, 0
    for value, weight in weighted:
        reached += weight
        while step <= STEPS and 1 - ends ** (-step / STEPS) < reached and math.isfinite(value):
            points.append((ends ** (step / STEPS), value))
            step += 1
    return points


def window_s(duration_s: float, requests: int) -> float:
    """Return the length of a window: the least 1, 2 or 5 times a power of ten that holds requests enough."""
    least = max(duration_s / WINDOWS, IN_A_WINDOW * duration_s / max(requests, 1))
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - ROUNDING))


def spans(duration_s: float, requests: int) -> list[Span]:
    """Return the windows of a run of `requests`; what is left over at its end belongs to the last one."""
    width = window_s(duration_s, requests)
    count = max(int(duration_s / width + ROUNDING), 1)
    return list(itertools.pairwise([*(index * width for index in range(count)), duration_s]))


def windows(samples: Sequence[Sample], duration_s: float) -> list[tuple[Span, list[Sample]]]:
    """Return the windows of a run in which a request was intended, each with its requests."""
    all_spans = spans(duration_s, len(samples))
    held: list[list[Sample]] = [[] for _ in all_spans]
    for sample in samples:
        held[_index(sample.intended_s, all_spans)].append(sample)
    return [(span, inside) for span, inside in zip(all_spans, held, strict=True) if inside]


def tokens_per_s(samples: Sequence[Sample], duration_s: float) -> list[tuple[Span, float]]:
    """Return the output tokens/s of good requests in each window of a run."""
    all_spans = spans(duration_s, len(samples))
    tokens = [0] * len(all_spans)
    for sample in samples:
        if isinstance(sample, GenerateSample) and sample.ok:
            for at, new in sample.arrivals:
                if at < duration_s:
                    tokens[_index(at, all_spans)] += new
    return [(span, count / (span[1] - span[0])) for span, count in zip(all_spans, tokens, strict=True)]


def _index(at: float, spans: Sequence[Span]) -> int:
    """The window that holds the time `at`; all but the last are of one length."""
    return min(int(at / spans[0][1] + ROUNDING), len(spans) - 1)
