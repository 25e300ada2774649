"""How much load a scenario is, and the same scenario at another load. Pure, but for a trace, which it reads.

The load is one number: `rate` in requests/s, `users` of a closed loop, `speedup` of a trace.
"""

import json
import math
from pathlib import Path

from loadtests.traffic.arrivals import Arrivals, Trace
from loadtests.traffic.scenario import Scenario
from loadtests.traffic.trace import read_trace

# The key of [arrivals] that is the load, where it is not `rate`; what grows with a rate; what is time.
KEYS = {"closed": "users", "trace": "speedup"}
GROWING = ("end_rate", "spike_rate")
TIMES = ("spike_start_s", "spike_s")


def key_of(scenario: Scenario) -> str:
    """Return what the load of `scenario` is called."""
    return KEYS.get(scenario.arrivals.process, "rate")


def load_of(scenario: Scenario) -> float:
    """Return how much load `scenario` is as declared."""
    return float(getattr(scenario.arrivals, key_of(scenario)))


def at(scenario: Scenario, load: float, draw: int = 0, longer: float = 1.0) -> Scenario:
    """Return `scenario` at another load: `draw` seeds further on, its schedule `longer` times as long.

    All rates grow in proportion. Below the declared load the schedule is stretched besides, so that as many requests
    are judged. The warm-up stays as it is. A trace that is over sooner ends the schedule.
    """
    of, factor = scenario.arrivals, load / load_of(scenario)
    stretch = longer * max(1 / factor, 1.0)
    changes: dict[str, object] = {key: value * factor for key, value in of if key in GROWING}
    changes |= {key: value * stretch for key, value in of if key in TIMES}
    key = key_of(scenario)
    # Users stay whole, rates do not.
    changes |= {key: type(getattr(of, key))(load), "seed": of.seed + draw, "duration_s": _duration_s(of, load, stretch)}
    return scenario.model_copy(update={"arrivals": of.model_copy(update=changes)})


def _duration_s(of: Arrivals, load: float, stretch: float) -> float:
    stretched = of.duration_s if stretch == 1 else float(math.ceil(of.duration_s * stretch))
    if not isinstance(of, Trace):
        return stretched
    return min(stretched, math.ceil(read_trace(Path(of.file))[-1].at_s / load) + 1.0)


def to_toml(scenario: Scenario) -> str:
    """Return `scenario` as a TOML file from which `loadtests.traffic.scenario.load` reads the same."""
    tables = scenario.model_dump(mode="json", exclude_none=True)
    return "".join(f"{key} = {_inline(value)}\n" for key, value in tables.items())


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_inline(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    # Strings, numbers and booleans are written as in JSON.
    return json.dumps(value, ensure_ascii=False)
