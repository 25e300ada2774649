"""The server's own side of a run: its metrics page read while traffic flows, and what is worked out from it."""

import contextlib
import http.server
import itertools
import json
import math
import threading
import time

import pytest
from finished_runs import finished_run
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from loadtests import samples
from loadtests.reports import exposition, page, report
from loadtests.samples import SampleWriter
from loadtests.server import metrics as server_metrics
from loadtests.server import snapshot
from loadtests.server import table as server_table
from loadtests.server.histogram import quantile
from loadtests.server.metrics import Reading, fold
from loadtests.server.scraper import Scraper, scraped
from loadtests.server.side import bounds, server_side
from loadtests.traffic.run import run
from yard.target import default_metrics_url

URL = "http://127.0.0.1:8002/metrics"
PARTS = ("request", "queue", "compute_input", "compute_infer", "compute_output")


def a_page(requests=0, model="minilm", steps=0, running=0, buckets=(0, 0, 0), failed=0):
    """What Triton shows after `requests`: of each a queue of 2 ms and 10 ms in all, two requests an execution."""
    labels = f'model="{model}",version="1"'
    durations = zip(PARTS, (10_000, 2_000, 1_000, 6_000, 1_000), strict=True)
    first = "tritonyard_time_to_first_token_seconds"
    counted = "".join(
        f'{first}_bucket{{model="engine",le="{bound}"}} {count}\n'
        for bound, count in zip(("0.1", "0.2", "+Inf"), buckets, strict=True)
    )
    return (
        "# HELP nv_inference_request_success Number of successful inference requests, all batch sizes\n"
        "# TYPE nv_inference_request_success counter\n"
        f"nv_inference_request_success{{{labels}}} {requests}\n"
        "# TYPE nv_inference_request_failure counter\n"
        f'nv_inference_request_failure{{reason="REJECTED",{labels}}} {failed}\n'
        f'nv_inference_request_failure{{reason="BACKEND",{labels}}} {failed}\n'
        "# TYPE nv_inference_count counter\n"
        f"nv_inference_count{{{labels}}} {requests}\n"
        "# TYPE nv_inference_exec_count counter\n"
        f"nv_inference_exec_count{{{labels}}} {requests // 2}\n"
        + "".join(
            f"# TYPE nv_inference_{part}_duration_us counter\n"
            f"nv_inference_{part}_duration_us{{{labels}}} {requests * each_us}\n"
            for part, each_us in durations
        )
        + f"# TYPE {first} histogram\n"
        + f'{first}_count{{model="engine"}} {buckets[-1]}\n'
        f'{first}_sum{{model="engine"}} {buckets[-1] * 0.15}\n{counted}'
        "# TYPE tritonyard_engine_steps counter\n"
        f'tritonyard_engine_steps{{model="engine"}} {steps}\n'
        "# TYPE tritonyard_requests_running gauge\n"
        f'tritonyard_requests_running{{model="engine"}} {running}\n'
        "# TYPE nv_cpu_memory_total_bytes gauge\n"
        "nv_cpu_memory_total_bytes 25276514304\n"
        "# TYPE nv_cpu_utilization gauge\n"
        f"nv_cpu_utilization {0.5 + running / 100}\n"
        "# TYPE nv_gpu_power_usage gauge\n"
        "nv_gpu_power_usage NaN\n"
        "# TYPE nv_inference_request_summary_us summary\n"
        f'nv_inference_request_summary_us{{quantile="0.5",{labels}}} 7\n'
    )


def readings(*pages):
    """Readings of pages, a second apart, from 3 s on."""
    return [Reading(3.0 + second, 2.0, snapshot.parse(text)) for second, text in enumerate(pages)]


def side_of(directory, *pages, failures=()):
    """What is shown of a finished run, of whose requests 1 to 13 s are full."""
    return server_side(fold(URL, readings(*pages), failures, 0.01), *samples.read_run(directory))


@pytest.fixture
def a_run(tmp_path):
    return finished_run(tmp_path / "run")


def test_counters_are_their_growth_and_gauges_their_course(a_run):
    pages = [a_page(), a_page(14, steps=20, running=3, buckets=(1, 2, 2)), a_page(24, steps=50, buckets=(4, 10, 10))]
    found = side_of(a_run, *pages)
    assert (found.begin_s, found.end_s, found.remarks) == (3, 5, ())
    (load,) = found.models
    assert vars(load) == {
        "model": "minilm",
        "requests": 24,
        "failed": 0,
        "batch": 2,
        "request_ms": 10,
        "queue_ms": 2,
        "compute_input_ms": 1,
        "compute_infer_ms": 6,
        "compute_output_ms": 1,
    }
    (first,) = found.distributions
    assert (first.name, first.count, first.mean) == ("tritonyard_time_to_first_token_seconds", 10, pytest.approx(0.15))
    assert first.quantiles[50].value == pytest.approx(0.1 + 0.1 / 6)
    # Of Triton's own gauges only what moves says anything.
    assert [(level.name, level.mean, level.highest) for level in found.levels] == [
        ("nv_cpu_utilization", pytest.approx(0.51), 0.53),
        ("tritonyard_requests_running", 1, 3),
    ]
    assert [(count.name, count.total, count.per_s) for count in found.counts] == [("tritonyard_engine_steps", 50, 25)]


def test_failures_are_summed_over_their_reasons(a_run):
    (load,) = side_of(a_run, a_page(), a_page(12, failed=3)).models
    assert (load.requests, load.failed) == (12, 6)
    (load,) = side_of(a_run, a_page(), a_page(0, failed=6)).models
    assert (load.requests, load.failed, load.queue_ms) == (0, 12, None)


@pytest.mark.parametrize(
    ("pages", "failures", "words"),
    [
        ([], ["Connection refused"], f"the metrics page {URL} could not be read: Connection refused; say where"),
        ([], [], "could not be read: the run had ended before"),
        ([a_page(5)], [], "was read only once"),
        ([a_page(5), a_page(9)], ["timed out"], f"1 of 3 readings of {URL} failed, the last one: timed out"),
        (
            [a_page(5), a_page(2)],
            [],
            "began anew between 3.0 s and 4.0 s, where nv_inference_request_success of minilm",
        ),
        # The first reading lies below the last one: only the one between them shows it.
        ([a_page(5), a_page(2), a_page(900)], [], "began anew between 3.0 s and 4.0 s"),
        # A page of something else.
        (["", ""], [], "counted no request of minilm while it answered"),
        # A model that is gone counts no more.
        ([a_page(5), a_page(5, "other")], [], "nv_inference_request_success of minilm fell"),
    ],
)
def test_what_cannot_be_told_is_said(a_run, pages, failures, words):
    found = side_of(a_run, *pages, failures=failures)
    assert any(words in remark for remark in found.remarks), found.remarks
    assert not any(load.requests < 0 for load in found.models)
    assert bool(found.models) == ("failed" in words)
    assert any(words in line for line in server_table.lines(found))


@pytest.mark.parametrize(
    ("counted", "model", "words"),
    [
        # Between 3 s and 6 s the run sent 36 requests of 20 ms.
        (36, "minilm", None),
        (30, "minilm", None),
        (43, "minilm", None),
        (20, "minilm", "counted 20 requests of minilm while 30 of this run's were answered: it is one of several"),
        (99, "minilm", "while this run had at most 43 on their way: others called it too"),
        (0, "minilm", "counted no request of minilm while it answered 30 of this run's: it is another server's"),
        (36, "else", "it is another server's; say where the server's own metrics are with --metrics-url"),
    ],
)
def test_a_page_is_held_against_the_samples(a_run, counted, model, words):
    found = side_of(a_run, a_page(7, model), a_page(7, model), a_page(7, model), a_page(7 + counted, model))
    assert len(found.remarks) == (words is not None)
    assert all(words in remark for remark in found.remarks)
    # Nothing is shown of a server that was not the one.
    assert bool(found.models) == (words is None or "another server's" not in words)


@given(
    st.lists(st.tuples(st.floats(0, 12), st.floats(0, 3)), max_size=40),
    st.floats(0, 12),
    st.floats(0, 6),
    st.floats(0, 1),
)
def test_the_bounds_hold_whatever_the_server_counted(requests, begin, length, when):
    """A request is counted at some moment between its sending and its answer."""
    taken = [
        samples.EmbedSample(index=index, intended_s=at, started_s=at, finished_s=at + took, ok=True, texts=1)
        for index, (at, took) in enumerate(requests)
    ]
    counted = sum(begin <= at + when * took < begin + length for at, took in requests)
    least, most = bounds(taken, (begin, begin + length))
    assert least <= counted <= most


@given(st.lists(st.floats(0, 2), min_size=1, max_size=200), st.integers(1, 99))
def test_a_quantile_lies_in_the_bucket_of_the_exact_one(values, percentile):
    edges = [0.01, 0.1, 0.25, 0.5, 1.0, math.inf]
    buckets = [(edge, float(sum(value <= edge for value in values))) for edge in edges]
    found = quantile(buckets, percentile)
    exact = sorted(values)[-(-percentile * len(values) // 100) - 1]
    assert found.low < exact <= found.high or exact == found.low == 0
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize(
    ("buckets", "percentile", "expected"),
    [
        ([(1.0, 0), (2.0, 10), (math.inf, 10)], 50, (1.5, 1, 2)),
        ([(1.0, 10), (2.0, 10), (math.inf, 10)], 50, (0.5, 0, 1)),
        ([(1.0, 5), (2.0, 5), (4.0, 10), (math.inf, 10)], 50, (1, 0, 1)),
        ([(1.0, 5), (2.0, 5), (4.0, 10), (math.inf, 10)], 95, (3.8, 2, 4)),
        # Beyond the last bound nothing is known.
        ([(1.0, 1), (math.inf, 10)], 95, (1, 1, math.inf)),
        ([(1.0, 0), (math.inf, 0)], 50, None),
        ([(math.inf, 3)], 50, None),
        ([], 50, None),
    ],
)
def test_quantiles_by_prometheus_rule(buckets, percentile, expected):
    found = quantile(buckets, percentile)
    assert found is None if expected is None else (found.value, found.low, found.high) == pytest.approx(expected)


class Served:
    """A metrics page on a real socket, whose text is that of `pages` in turn and then stays."""

    def __init__(self, pages, status=200):
        served, self.read_at = self, []
        left = itertools.chain(pages[:-1], itertools.repeat(pages[-1]))

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                served.read_at.append(time.perf_counter())
                self.send_response(status)
                self.end_headers()
                self.wfile.write(next(left).encode())

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/metrics"


@contextlib.contextmanager
def served(*pages, **rest):
    found = Served(pages, **rest)
    thread = threading.Thread(target=found.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        thread.join()
        found.server.server_close()


def begun(directory, workers=1):
    """A generator has said that its schedule begins now."""
    zero = time.perf_counter()
    for place in range(workers):
        SampleWriter(samples.worker_directory(directory, place, workers)).begin(zero)
    return zero


@pytest.mark.parametrize("workers", [1, 2])
def test_a_page_is_read_at_the_beginning_and_at_the_end_of_the_window(tmp_path, workers):
    with served(a_page(10), a_page(30)) as found:
        scraper = Scraper(tmp_path, found.url, (0.1, 0.3))
        zero = begun(tmp_path, workers)
        while len(found.read_at) < 2:
            time.sleep(0.01)
        scraper.stop()
    metrics = scraper.metrics()
    read_s = [at - zero for at in found.read_at]
    assert len(read_s) == len(metrics.times_s) == 2
    # In time or later, never sooner; the dates are those of the requests.
    for due_s, at_s, date_s in zip((0.1, 0.3), read_s, metrics.times_s, strict=True):
        assert due_s <= at_s
        assert abs(at_s - date_s) < 0.1
    assert {counter.grown for counter in metrics.counters if counter.name == "nv_inference_count"} == {20}
    assert metrics.cpu_s > 0
    assert metrics.reading_ms > 0


def test_a_generator_that_has_ended_ends_the_readings(tmp_path):
    with served(a_page(10), a_page(30)) as found:
        with scraped(tmp_path, found.url, (0.0, 60.0)):
            begun(tmp_path)
            while not found.read_at:
                time.sleep(0.01)
        metrics = server_metrics.read_server(tmp_path)
    assert len(metrics.times_s) == 2
    assert metrics.times_s[-1] < 30
    assert metrics.troubles == ()


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("nothing here", 404, "Not Found"),
        ("<html>\nno metrics\n", 200, "could not be read: "),
        ('a{le="x} 1\n', 200, "could not be read: "),
        ('# TYPE a histogram\na_bucket{le="x"} 1\n', 200, "could not be read: could not convert string to float"),
        ("", 200, None),
    ],
)
def test_a_page_that_is_none_is_said_and_breaks_nothing(tmp_path, text, status, words):
    with served(text, status=status) as found, scraped(tmp_path, found.url, (0.0, 60.0)):
        begun(tmp_path)
        while not found.read_at:
            time.sleep(0.01)
    troubles = server_metrics.read_server(tmp_path).troubles
    assert any(words in trouble for trouble in troubles) if words else troubles == ()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9/metrics", "metrics could not be read: Connection refused; say where"),
        ("http://:8002/metrics", "could not be read"),
        ("nonsense", "could not be read"),
    ],
)
def test_a_server_without_metrics_is_said_and_breaks_nothing(tmp_path, url, words):
    with scraped(tmp_path, url, (0.0, 0.01)):
        begun(tmp_path)
        time.sleep(0.1)
    (trouble,) = server_metrics.read_server(tmp_path).troubles
    assert words in trouble


def test_a_run_that_breaks_leaves_no_metrics_and_no_thread(tmp_path):
    with pytest.raises(KeyboardInterrupt), scraped(tmp_path, URL, (0.0, 60.0)):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "scraper"]


@given(st.text(alphabet='ab_{}="#,.1\n\\ +eNI'), st.binary(max_size=20))
def test_any_text_is_a_page_or_a_value_error(text, noise):
    for page_text in (text, a_page(3).replace("6000", text), noise.decode("latin-1")):
        with contextlib.suppress(ValueError):
            snapshot.parse(page_text)


def kept(directory, *pages):
    """A finished run with these pages read."""
    server_metrics.write_server(directory, fold(URL, readings(*pages), (), 0.01))
    return report.server_of(directory)


def test_what_was_read_is_shown_everywhere_and_changes_no_verdict(a_run, yard, tmp_path):
    verdict, before = report.judge_run(a_run), yard("verdict", a_run)
    server = kept(a_run, a_page(), a_page(24, running=2, steps=9, buckets=(4, 9, 10)))
    assert report.judge_run(a_run) == verdict
    code, out, _ = yard("verdict", a_run, "--out", tmp_path / "out")
    assert code == before[0]
    assert "  minilm: 24 requests, 10.0 ms each, of which queue 2.0 ms and compute 8.0 ms\n" in out
    assert "  engine: time to first token p50 120.0 ms, p95 over 200.0 ms, p99 over 200.0 ms; " in out
    assert "requests running 1 (at most 2)" in out

    told = json.loads((tmp_path / "out" / "verdict.json").read_text())["server"]
    assert (told["models"][0]["queue_ms"], told["begin_s"], told["end_s"]) == (2, 3, 4)
    assert told["distributions"][0]["quantiles"]["95"] == {"value": 0.2, "low": 0.2, "high": None}

    families = text_string_to_metric_families((tmp_path / "out" / "metrics.prom").read_text())
    numbers = {(each.name, each.labels.get("quantile")): each.value for of in families for each in of.samples}
    assert numbers["tritonyard_loadtest_server_queue_seconds", None] == pytest.approx(0.002)
    assert numbers["tritonyard_loadtest_server_quantile", "0.5"] == pytest.approx(0.12)

    text = page.write_page(a_run, verdict).read_text()
    assert "running in the engine 1.0 on average, at most 2." in text
    for table in server_table.tables(server):
        assert f"<caption>{table.title}</caption>" in text
        assert all(f">{cell}<" in text for row in table.rows for cell in row)


def test_a_run_without_metrics_says_nothing_of_them(a_run):
    verdict = report.judge_run(a_run)
    assert report.server_of(a_run) is None
    assert "server" not in json.loads(report.to_json(verdict))
    assert "server_" not in exposition.to_text(verdict)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "Field required"),
        ('{"url": "u", "times_s": [1], "gauges": [{"name": "g", "labels": {}, "values": []}]}', "as many values as"),
        ('{"url": "u"', "Invalid JSON"),
    ],
)
def test_damaged_metrics_are_said_and_change_no_verdict(a_run, text, words):
    verdict = report.judge_run(a_run)
    (a_run / "server.json").write_text(text)
    assert report.judge_run(a_run) == verdict
    (remark,) = report.server_of(a_run).remarks
    assert "server.json is damaged: " in remark
    assert words in remark


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("grpc://127.0.0.1:8001", URL),
        ("http://127.0.0.1:9000", URL),
        ("127.0.0.1:8001", URL),
        ("grpc://triton.example:1", "http://triton.example:8002/metrics"),
        ("grpc://[::1]:8001", "http://[::1]:8002/metrics"),
        ("grpc://[::1", "http://:8002/metrics"),
    ],
)
def test_metrics_are_where_triton_puts_them(url, expected):
    assert default_metrics_url(url) == expected


def test_the_metrics_of_a_server_of_ones_own_need_no_url(yard):
    code, _, err = yard("loadtest", "embed_smoke", "--metrics-url", URL)
    assert code == 2
    assert "--metrics-url is for a server given by --url" in err


@pytest.mark.server
@pytest.mark.load
@pytest.mark.alone
def test_a_real_server_counts_what_was_sent(server, tmp_path):
    path = tmp_path / "both.toml"
    path.write_text("""
        arrivals = { process = "constant", rate = 8, duration_s = 6, warmup_s = 1.5 }
        sla = { p50_ms = 2000, max_lag_ms = 500 }
        [[mix]]
        name = "search"
        weight = 1
        request = { task = "embed", model = "minilm" }
        [[mix]]
        name = "chat"
        weight = 1
        request = { task = "generate", model = "smollm2", output_tokens = 6 }
    """)
    directory = run(path, server.grpc_url, tmp_path / "runs", metrics_url=server.metrics_url)
    found, (described, taken) = report.server_of(directory), samples.read_run(directory)
    # Within the requests at the borders, for each of the two ensembles: else there were a remark.
    assert found.remarks == ()
    assert 1.5 <= found.begin_s < found.end_s
    counted = {load.model: load for load in found.models}
    for kind, model in (("search", "minilm"), ("chat", "smollm2")):
        own = [sample for sample in taken if sample.kind == kind]
        least, most = bounds(own, (found.begin_s, found.end_s))
        assert least <= counted[model].requests <= most
        # What the server took for a request is no more than its callers waited, the borders aside.
        waited_ms = sum(sample.latency_ms for sample in own)
        assert counted[model].request_ms * counted[model].requests <= waited_ms
    encoder = counted["minilm_encoder"]
    parts = (encoder.queue_ms, encoder.compute_input_ms, encoder.compute_infer_ms, encoder.compute_output_ms)
    assert sum(parts) <= encoder.request_ms + 1
    assert {each.name.removeprefix("tritonyard_") for each in found.distributions} == {
        "time_to_first_token_seconds",
        "inter_token_seconds",
    }
    assert described.scheduled == len(taken)
