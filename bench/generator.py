"""Figures of the load generator: how much traffic it sends on time, and how late it sees what comes.

The other end is the tests' fake server, in a process of its own, which waits and computes nothing. It is Python too and
shares the cores: above a thousand requests/s it is what is slow. Lag is started - intended.
"""

import itertools
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.figure import Figure
from loadtests import samples
from loadtests.judging.quantiles import nearest_rank
from loadtests.judging.verdict import lag_p99_ms
from loadtests.traffic.run import run
from yard import checkout

sys.path.append(str(checkout.ROOT / "tests"))
from fake_triton import fake_triton
from recorded import recorded_run

ROUNDS = 3
MAX_LAG_MS = 5.0
WARMUP_S, WINDOW_S = 2.0, 6.0
LATENCY_S = 0.01
LEAST_RATE, STEP = 400, 200
WORKERS, WORKER_RATE = 2, 300
STREAMS, TOKENS, TOKEN_S = 500, 20, 0.5
EMBED = 'task = "embed", model = "minilm"'
# Of so many words that every prompt is another: it names the request in the server's record.
GENERATE = f'task = "generate", model = "smollm2", output_tokens = {TOKENS}'
GENERATE += ', prompt = { distribution = "uniform", min = 100, max = 200 }'


def figures(report: Callable[[str], None]) -> Iterator[Figure]:
    """Take every figure."""
    report("one process")
    yield one_process(report)
    report(f"{WORKERS} workers")
    yield workers()
    report(f"{STREAMS} streams")
    yield streams()


def one_process(report: Callable[[str], None]) -> Figure:
    """The highest of the rates, from LEAST_RATE on in steps, up to which the lag stays small."""
    kept, detail = [], {}
    for number in range(1, ROUNDS + 1):
        rate = LEAST_RATE
        while kept_up(seen := unary(rate)):
            report(f"round {number}: one process keeps up with {rate} requests/s")
            detail, rate = seen, rate + STEP
        kept.append(float(rate - STEP))
    value = statistics.median(kept)
    what = f"requests/s of one process, unary gRPC, up to which lag p99 is below {MAX_LAG_MS:g} ms"
    return Figure("one process", what, value, min(kept), max(kept), "at least 400", value >= LEAST_RATE, detail)


def kept_up(seen: dict[str, float]) -> bool:
    """Tell whether everything was sent on time, and answered."""
    return seen["lag_p99_ms"] < MAX_LAG_MS and not seen["failed"]


def workers() -> Figure:
    """The lag of workers that share a schedule."""
    rounds = [unary(WORKERS * WORKER_RATE, WORKERS) for _ in range(ROUNDS)]
    lags = [each["lag_p99_ms"] for each in rounds]
    value = statistics.median(lags)
    what = f"ms, lag p99 of {WORKERS} workers of {WORKER_RATE} requests/s each, unary gRPC"
    met = value < MAX_LAG_MS and not any(each["failed"] for each in rounds)
    return Figure("workers", what, value, min(lags), max(lags), f"under {MAX_LAG_MS:g}", met, rounds[-1])


def unary(rate: float, count: int = 1) -> dict[str, float]:
    """Send embeddings at a constant rate from `count` processes; return what became of the window."""
    with TemporaryDirectory() as folder, fake_triton(latency_s=LATENCY_S) as server:
        scenario = written(Path(folder), rate, WARMUP_S, WINDOW_S, EMBED)
        directory = run(scenario, server.url, Path(folder) / "runs", workers=count)
        found, taken = samples.read_run(directory)
    judged = samples.in_window(taken, WARMUP_S, WARMUP_S + WINDOW_S)
    added = [sample.latency_ms - sample.lag_ms - 1000 * LATENCY_S for sample in judged]
    return {
        "lag_p99_ms": lag_p99_ms(judged),
        "added_p50_ms": statistics.median(added),
        "failed": float(sum(not sample.ok for sample in judged)),
        "cpu_p95": found.cpu_p95 or math.nan,
    }


def streams() -> Figure:
    """The lag with STREAMS streams at once, and how late their deltas are seen."""
    length_s = TOKENS * TOKEN_S
    with TemporaryDirectory() as name:
        folder = Path(name)
        record = folder / "sent.jsonl"
        # By Little's law so many are open once the first has ended.
        scenario = written(folder, STREAMS / length_s, length_s, length_s, GENERATE)
        with fake_triton(record, latency_s=TOKEN_S, delta_s=TOKEN_S, sigma=0.1) as server:
            directory, sent = recorded_run(scenario, server, record, folder / "runs")
        cpu = samples.read_run(directory)[0].cpu_p95
    judged = [pair for pair in sent if pair[0].intended_s >= length_s]
    late = [
        [1000 * (at - sample.intended_s) - sent_ms for (at, _), sent_ms in zip(sample.deltas, times, strict=True)]
        for sample, times in judged
    ]
    firsts, every = sorted(each[0] for each in late), sorted(itertools.chain(*late))
    value = lag_p99_ms([sample for sample, _ in judged])
    detail = {
        "ttft_error_p50_ms": nearest_rank(firsts, 50),
        "ttft_error_p99_ms": nearest_rank(firsts, 99),
        "delta_error_p50_ms": nearest_rank(every, 50),
        "delta_error_p99_ms": nearest_rank(every, 99),
        "failed": float(sum(not sample.ok for sample, _ in judged)),
        "cpu_p95": cpu or math.nan,
    }
    what = f"ms, lag p99 with {STREAMS} streams of {1 / TOKEN_S:g} tokens/s each at once, one process"
    met = value < MAX_LAG_MS and not detail["failed"]
    return Figure("streams", what, value, value, value, f"under {MAX_LAG_MS:g}", met, detail)


def written(folder: Path, rate: float, warmup_s: float, window_s: float, request: str) -> Path:
    """Write a scenario of a constant rate."""
    path = folder / "generator.toml"
    path.write_text(f"""
        arrivals = {{ process = "constant", rate = {rate}, duration_s = {warmup_s + window_s}, warmup_s = {warmup_s} }}
        request = {{ timeout_s = 30, {request} }}
        sla = {{ p50_ms = 60000 }}
    """)
    return path
