"""Traffic, nothing else: sends a scenario's requests at their intended starts and records one sample each.

An open loop: one Locust user computes nothing and waits for no answer; it sleeps until each intended start
and spawns a greenlet a request. A late request is sent late, never skipped, and its time counts from the
intended start, so a slow server cannot slow down what measures it. Whether the samples keep an SLA is
`loadtests.verdict`'s.

    python -m locust -f loadtests/locustfile.py --host grpc://HOST:PORT --scenario FILE [--run-dir DIR]
    [--headless]

Without --run-dir no samples are kept (Locust's own web page).
"""

import logging
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
import grpc.experimental.gevent
import locust
from gevent.pool import Group
from locust.exception import StopUser

from loadtests import corpus
from loadtests.samples import Sample, SampleWriter
from loadtests.scenario import load

if TYPE_CHECKING:
    from tritonyard import Client

# Before the SDK imports tritonclient: without it every call would block the loop, and queueing go unseen.
grpc.experimental.gevent.init_gevent()

logger = logging.getLogger(__name__)

# The client's own timeout comes first; what is still out after this much longer will not be answered.
GRACE_S = 1.0
CLOSE_S = 5.0
BROKEN = 2


@locust.events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--scenario", required=True, help="TOML file of the scenario")
    parser.add_argument("--run-dir", default="", help="folder that takes samples.jsonl; none keeps no samples")


class OpenLoop(locust.User):  # type: ignore[misc] # locust comes without types
    """The one user: dispatches the whole schedule, waits for the last answers, ends the test."""

    fixed_count = 1

    def __init__(self, environment: Any):
        super().__init__(environment)
        self._writer: SampleWriter | None = None
        self._client: Client | None = None
        self._begun = 0.0
        # index -> (intended, started) of requests that are not answered yet
        self._outstanding: dict[int, tuple[float, float]] = {}

    @locust.task  # type: ignore[untyped-decorator]
    def traffic(self) -> None:
        """Send everything once. The user stops, because Locust starts a task that ends, or breaks, again."""
        try:
            self._prepare()
            self._dispatch()
            if self._writer:
                self._writer.finish()
        except Exception:
            logger.exception("the generator broke")
            self.environment.process_exit_code = BROKEN
        raise StopUser

    def on_stop(self) -> None:
        """Let go of everything and end the test; Locust calls this however the user ends."""
        if self._writer:
            self._writer.close()
        if self._client:
            # Without the close gRPC's threads keep the process from exiting.
            with gevent.Timeout(CLOSE_S, False):
                self._client.close()
        runner = self.environment.runner
        # From a greenlet of its own: the runner stops its users, and this one is still in its last call.
        gevent.spawn(runner.quit if self.environment.parsed_options.headless else runner.stop)

    def _prepare(self) -> None:
        from tritonyard import Client  # here, because gRPC must know of gevent first

        options = self.environment.parsed_options
        self._scenario = load(Path(options.scenario))
        if options.run_dir:
            self._writer = SampleWriter(Path(options.run_dir))
        request = self._scenario.request
        self._client = Client(self.environment.host, model=request.model, timeout=request.timeout_s)

    def _dispatch(self) -> None:
        arrivals, request = self._scenario.arrivals, self._scenario.request
        texts = corpus.requests(request.texts, request.words, arrivals.seed)
        requests = Group()
        self._begun = time.perf_counter()
        for index, intended in enumerate(self._scenario.schedule()):
            while True:
                # Also when late: sleeping lets the requests that were spawned start.
                gevent.sleep(max(intended - self._now(), 0.0))
                if self._now() >= intended:
                    break
            requests.spawn(self._send, index, intended, next(texts))
        requests.join(timeout=request.timeout_s + GRACE_S)
        self._give_up()
        requests.kill(block=False)

    def _now(self) -> float:
        return time.perf_counter() - self._begun

    def _send(self, index: int, intended: float, texts: list[str]) -> None:
        assert self._client
        self._outstanding[index] = intended, self._now()
        try:
            self._client.embed(texts)
        except Exception as error:
            # Whatever it was, the request failed, and the schedule goes on.
            self._record(index, error)
        else:
            self._record(index, None)

    def _give_up(self) -> None:
        """Count what was never answered as errors."""
        for index in list(self._outstanding):
            self._record(index, Unanswered("no answer within the timeout"))

    def _record(self, index: int, error: Exception | None) -> None:
        if index not in self._outstanding:
            return  # given up before
        intended, started = self._outstanding.pop(index)
        request, finished = self._scenario.request, self._now()
        if self._writer:
            sample = Sample(
                index=index,
                intended_s=round(intended, 6),
                started_s=round(started, 6),
                finished_s=round(finished, 6),
                ok=error is None,
                error=type(error).__name__ if error else None,
                texts=request.texts,
            )
            self._writer.add(sample)
        self.environment.events.request.fire(
            request_type=request.task,
            name=request.model,
            response_time=(finished - intended) * 1000,
            response_length=0,
            exception=error,
            context={},
        )


class Unanswered(Exception):
    """A request whose call had not returned when the run ended."""
