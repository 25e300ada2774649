"""One plot on paper: axes in milliseconds, seconds and nines, and the finished SVG in the page's own colours.

Knows nothing of samples. Needs matplotlib.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from typing import Any

# The page has a light and a dark scheme, and matplotlib writes numbers: each role is drawn in a colour that nothing
# else has, and named in the finished SVG: var(--ink) and so on.
ROLES = ("ink", "muted", "grid", "shade", "first", "second", "third", "fourth", "bad")
INK, MUTED, GRID, SHADE, FIRST, SECOND, THIRD, FOURTH, BAD = (
    f"#0000{number:02x}" for number in range(1, 1 + len(ROLES))
)

STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}
INCHES = (5.4, 3.3)
FEW = 200
NINES = {1: "0", 2: "50", 10: "90", 20: "95", 100: "99", 1000: "99.9", 10_000: "99.99", 100_000: "99.999"}


def svg(name: str, fill: Callable[[Any], None]) -> str:
    """Return the plot that `fill` draws on matplotlib axes, as an SVG element whose ids begin with `name`."""
    import matplotlib
    from matplotlib.figure import Figure

    # The same run gives the same page: ids come from this salt, and no date is written.
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=INCHES, layout="constrained")
        fill(figure.subplots())
        file = StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _inline(file.getvalue(), name)


def _inline(document: str, name: str) -> str:
    """The <svg> element alone, with the page's colours, its ids unlike those of other plots."""
    element = document[document.index("<svg") :]
    element = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", element)
    element = re.sub(r"#0000(0[1-9])\b", lambda role: f"var(--{ROLES[int(role[1]) - 1]})", element)
    # Hidden from those who hear the page: the figure's words say it.
    return element.replace("<svg", '<svg aria-hidden="true"', 1)


def points(axes: Any, drawn: Sequence[tuple[float, float]], color: str, marker: str) -> None:
    """Draw (x, y) as one marker each, larger where there are few."""
    size = 5 if len(drawn) < FEW else 3
    axes.plot(*columns(drawn), marker, color=color, markersize=size, markeredgewidth=0, alpha=0.65)


def columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Return the first and the second of all pairs."""
    return [x for x, _ in pairs], [y for _, y in pairs]


def log_ms(axes: Any, values: Iterable[float]) -> None:
    """Make the y axis logarithmic milliseconds that hold all finite `values`."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    finite = [value for value in values if 0 < value < math.inf] or [1.0, 1000.0]
    low, high = min(finite), max(finite)
    axes.set_yscale("log")
    # Room for two marks at least, and above for what has no height.
    axes.set_ylim(min(low / 1.3, high / 4), high * (high / low) ** 0.12 * 1.3)
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.set_ylabel("ms, logarithmic")


def nines_axis(axes: Any, end: float) -> None:
    """Make the x axis percentiles by their nines, 1 / (1 - p), from 0 to that of `end`."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(1, max(end, 100) * 1.15)
    marks = {nines: label for nines, label in NINES.items() if nines <= max(end, 100)}
    axes.xaxis.set_major_locator(FixedLocator(list(marks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(list(marks.values()))
    axes.set_xlabel("percentile")


def time_axis(axes: Any, duration_s: float, warmup_s: float) -> None:
    """Make the x axis the schedule's seconds, with the warm-up shaded."""
    axes.set_xlim(0, duration_s)
    axes.set_xlabel("s from the start of the schedule")
    if warmup_s:
        axes.axvspan(0, warmup_s, color=SHADE, linewidth=0, zorder=0)
        place = {"xycoords": axes.transAxes, "textcoords": "offset points"}
        axes.annotate("warm-up", (0, 0), (3, 3), **place, color=MUTED, fontsize=8)


def limit_line(axes: Any, words: str, value: float) -> None:
    """Draw a limit as a dashed line with its words on it."""
    axes.axhline(value, color=BAD, linewidth=1.2, linestyle=(0, (5, 3)))
    place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
    axes.annotate(words, (1, value), (0, 3), **place, color=BAD, fontsize=9, ha="right", va="bottom")


def failures(axes: Any, xs: Sequence[float]) -> None:
    """Draw a cross at the upper edge for each of `xs`: what has no height."""
    place = axes.get_xaxis_transform()
    axes.plot(xs, [0.975] * len(xs), "x", color=BAD, markersize=6, markeredgewidth=1.4, transform=place, clip_on=False)
