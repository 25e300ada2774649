"""A scenario at another load: what grows, what is stretched, and that it is the same scenario else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.traffic import scenario
from loadtests.traffic.load import at, key_of, load_of, to_toml

REQUEST = "request = { task = 'embed', model = 'minilm' }"


def written(folder, text):
    path = folder / "mine.toml"
    path.write_text(text)
    return scenario.load(path)


def an_embedding(folder, arrivals):
    return written(folder, f"arrivals = {{ {arrivals} }}\n{REQUEST}\nsla = {{ p50_ms = 9 }}")


@pytest.mark.parametrize("name", scenario.names())
def test_what_is_written_is_read_back(tmp_path, name):
    shipped = scenario.load(scenario.locate(name))
    assert written(tmp_path, to_toml(shipped)) == shipped
    half = at(shipped, max(load_of(shipped) // 2, 1.0), draw=3)
    assert written(tmp_path, to_toml(half)) == half
    assert half.sla == shipped.sla
    assert half.shares == shipped.shares


def test_foreign_text_is_written_as_it_is(tmp_path):
    text = 'say "hi" \\ 你好 🎈\n\ttwice'
    generate = scenario.load(scenario.locate("chat_prefix"))
    asked = generate.model_copy(update={"request": generate.request.model_copy(update={"system": text})})
    assert written(tmp_path, to_toml(asked)).request.system == text


@pytest.mark.parametrize(
    ("arrivals", "load", "changed"),
    [
        ("process = 'constant', rate = 8, duration_s = 10", 12, {"rate": 12.0}),
        ("process = 'poisson', rate = 8, duration_s = 10", 8, {}),
        ("process = 'gamma', rate = 8, cv = 3, duration_s = 10", 16, {"rate": 16.0}),
        ("process = 'ramp', rate = 8, end_rate = 20, duration_s = 10", 16, {"rate": 16.0, "end_rate": 40.0}),
        ("process = 'closed', users = 4, duration_s = 10", 6, {"users": 6}),
        # Below the own load as many requests are sent: in more time.
        ("process = 'constant', rate = 8, duration_s = 10, warmup_s = 2", 3, {"rate": 3.0, "duration_s": 27.0}),
        ("process = 'closed', users = 4, duration_s = 10", 1, {"users": 1, "duration_s": 40.0}),
        (
            "process = 'spike', rate = 8, spike_rate = 20, spike_start_s = 4, spike_s = 2, duration_s = 10",
            4,
            {"rate": 4.0, "spike_rate": 10.0, "spike_start_s": 8.0, "spike_s": 4.0, "duration_s": 20.0},
        ),
    ],
)
def test_every_process_at_another_load(tmp_path, arrivals, load, changed):
    before = an_embedding(tmp_path, arrivals)
    after = at(before, load)
    assert load_of(after) == load
    assert dict(after.arrivals) == dict(before.arrivals) | changed
    assert {key: type(value) for key, value in after.arrivals} == {key: type(value) for key, value in before.arrivals}


def test_a_trace_goes_faster_and_ends_sooner():
    before = scenario.load(scenario.locate("generate_trace"))
    assert (key_of(before), load_of(before)) == ("speedup", 1)
    every = before.arrivals.requests()
    faster, slower = at(before, 4), at(before, 0.5)
    assert [row.at_s for row in faster.arrivals.requests()] == [row.at_s / 4 for row in every]
    assert faster.arrivals.duration_s == pytest.approx(every[-1].at_s / 4, abs=2)
    assert len(slower.arrivals.requests()) == len(every)
    # Longer than the trace is no longer.
    assert at(before, 4, longer=2).arrivals.duration_s == faster.arrivals.duration_s


def test_another_draw_and_a_longer_one(tmp_path):
    before = an_embedding(tmp_path, "process = 'poisson', rate = 8, duration_s = 10, warmup_s = 2")
    again = at(before, 8, draw=2, longer=2)
    assert (again.arrivals.seed, again.arrivals.duration_s, again.arrivals.warmup_s) == (3, 20, 2)
    assert again.schedule() != before.schedule()


CONSTANT = scenario.load(scenario.locate("embed_batch"))


@given(st.floats(0.01, 100), st.integers(1, 4))
def test_no_load_leaves_fewer_requests_to_judge(load, longer):
    def judged(of):
        return sum(start >= of.arrivals.warmup_s for start in of.schedule())

    assert judged(at(CONSTANT, load, longer=longer)) >= judged(CONSTANT) - 1
