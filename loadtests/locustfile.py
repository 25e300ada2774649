"""Traffic, nothing else: sends a scenario's requests at their intended starts and records one sample each.

An open loop: one Locust user computes nothing and waits for no answer; it sleeps until each intended start
and spawns a greenlet a request. A late request is sent late, never skipped, and its time counts from the
intended start, so a slow server cannot slow down what measures it. A scenario with `process = "closed"` alone has
callers who wait. Whether the samples keep an SLA is `loadtests.judging.verdict`'s.

    python -m locust -f loadtests/locustfile.py --host grpc://HOST:PORT [--scenario NAME | --scenario-file FILE]
    [--run-dir DIR] [--headless] [--processes N --users N]

Without --run-dir no samples are kept (Locust's own web page, where the shipped scenarios are a list). Under Locust's
master each of N workers has one such user, who sends every Nth request; the master says when all of them begin.
"""

import functools
import gc
import itertools
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
import grpc.experimental.gevent
import locust
from gevent.pool import Group
from gevent.queue import Queue
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from loadtests.samples import SampleWriter, worker_directory
from loadtests.traffic import corpus
from loadtests.traffic.arrivals import Closed
from loadtests.traffic.corpus import Call
from loadtests.traffic.flight import Flight
from loadtests.traffic.request import EmbedRequest, GenerateRequest
from loadtests.traffic.scenario import load, locate, names

if TYPE_CHECKING:
    from tritonyard import Client, Delta, Generation, Options

logger = logging.getLogger(__name__)

# The client's own timeout comes first; what is still out after this much longer will not be answered.
GRACE_S = 1.0
CLOSE_S = 5.0
BROKEN = 2
# From the master's word to the first request, so that every worker has heard it.
HEAD_START_S = 2.0
# Threads are made when they are needed.
MAX_AWAITED = 1000
# A dead server refuses thousands of times a second: a user of a closed loop waits this long after a failure.
FAILED_S = 0.1


@locust.events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_arguments(parser: Any) -> None:
    # Choices are a list on Locust's web page, where a run folder, good for one run, would be in the way.
    parser.add_argument("--scenario", choices=names(), default="embed_smoke", help="a shipped scenario")
    parser.add_argument("--scenario-file", default="", help="TOML file of another scenario")
    parser.add_argument(
        "--run-dir", default="", include_in_web_ui=False, help="folder that takes samples.jsonl; none keeps no samples"
    )


@dataclass(frozen=True)
class Part:
    """What one worker sends: every `workers`th request from the `place`th on.

    `begin_at` (time.time) is when the schedule begins for all of them; without it, when the one there is is ready.
    """

    place: int = 0
    workers: int = 1
    begin_at: float | None = None


@locust.events.init.add_listener  # type: ignore[untyped-decorator]
def _agree_on_messages(environment: Any, **_: Any) -> None:
    """A master deals out parts and hears of those that are done; a worker hears of its part."""
    runner = environment.runner
    environment.parts, environment.done = Queue(), []
    if isinstance(runner, WorkerRunner):
        runner.register_message("part", lambda msg, **_: environment.parts.put(Part(**msg.data)))
    if isinstance(runner, MasterRunner):
        runner.register_message("done", lambda msg, **_: _end_when_all_are_done(environment, msg.node_id))


@locust.events.test_start.add_listener  # type: ignore[untyped-decorator]
def _deal_out_parts(environment: Any, **_: Any) -> None:
    runner = environment.runner
    if isinstance(runner, MasterRunner):
        workers, begin_at = sorted(runner.clients), time.time() + HEAD_START_S
        OpenLoop.fixed_count, environment.done = len(workers), []
        for place, worker in enumerate(workers):
            runner.send_message("part", vars(Part(place, len(workers), begin_at)), client_id=worker)
    elif not isinstance(runner, WorkerRunner):
        environment.parts.put(Part())


def _end_when_all_are_done(environment: Any, worker: str) -> None:
    environment.done.append(worker)
    if len(environment.done) == OpenLoop.fixed_count:
        _end(environment)


def _end(environment: Any) -> None:
    runner = environment.runner
    # From a greenlet of its own: the runner stops its users, one of whom may be in its last call.
    gevent.spawn(runner.quit if environment.parsed_options.headless else runner.stop)


class OpenLoop(locust.User):  # type: ignore[misc] # locust comes without types
    """The one user of a process: dispatches its part of the schedule, waits for the last answers, ends the test."""

    fixed_count = 1

    def __init__(self, environment: Any):
        super().__init__(environment)
        self._writer: SampleWriter | None = None
        self._client: Client | None = None
        self._begun = 0.0
        # index -> requests that are not answered yet
        self._outstanding: dict[int, Flight] = {}

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
        if isinstance(self.environment.runner, WorkerRunner):
            self.environment.runner.send_message("done")
        else:
            _end(self.environment)

    def _prepare(self) -> None:
        # Once, and before the SDK imports tritonclient, which is why that is here: without it every call would
        # block the loop, and queueing go unseen. Not sooner: Locust forks its workers after it has read this file.
        _befriend_gevent_and_grpc()
        from tritonyard import Client, Retry

        options, self._part = self.environment.parsed_options, self.environment.parts.get()
        self._scenario = load(Path(options.scenario_file) if options.scenario_file else locate(options.scenario))
        if options.run_dir:
            self._writer = SampleWriter(worker_directory(Path(options.run_dir), self._part.place, self._part.workers))
        # A request that failed has failed: one sent again would hide it, and add to the traffic.
        self._client = Client(self.environment.host, retry=Retry(attempts=1))
        # A full collection would stop everything for 20 ms; what is there now stays, and need not be looked at again.
        gc.collect()
        gc.freeze()

    def _dispatch(self) -> None:
        of, requests, part = self._scenario.arrivals, Group(), self._part
        schedule = self._scenario.schedule()[part.place :: part.workers]
        self._calls = itertools.islice(enumerate(corpus.calls(self._scenario)), part.place, None, part.workers)
        self._begun = time.perf_counter() + (part.begin_at - time.time() if part.begin_at else 0.0)
        if self._writer:
            self._writer.begin(self._begun)
        for intended in schedule:
            self._sleep_until(intended)
            if isinstance(of, Closed):
                requests.spawn(self._ask_again_and_again, of)
            else:
                requests.spawn(self._send, *next(self._calls), intended)
        requests.join(timeout=max(of.duration_s - self._now(), 0.0) + self._scenario.timeout_s + GRACE_S)
        self._give_up()
        requests.kill(block=False)

    def _ask_again_and_again(self, of: Closed) -> None:
        """One user of a closed loop: free at 0, and again when it has read an answer and thought."""
        free_s = 0.0
        while free_s < of.duration_s:
            self._sleep_until(free_s)
            answered = self._send(*next(self._calls), free_s)
            free_s = self._now() + (of.think_s if answered else max(of.think_s, FAILED_S))

    def _sleep_until(self, intended: float) -> None:
        while True:
            # Also when late: sleeping lets the requests that were spawned start.
            gevent.sleep(max(intended - self._now(), 0.0))
            if self._now() >= intended:
                break

    def _now(self) -> float:
        return time.perf_counter() - self._begun

    def _send(self, index: int, call: Call, intended: float) -> bool:
        flight = self._outstanding[index] = Flight(call, intended, self._now())
        try:
            if isinstance(call.request, EmbedRequest):
                assert self._client
                self._client.embed(call.texts, model=call.request.model, timeout=call.request.timeout_s)
            else:
                self._generate(flight)
        except Exception as error:
            # Whatever it was, the request failed, and the schedule goes on.
            self._record(index, error)
            return False
        self._record(index, None)
        return True

    def _generate(self, flight: Flight) -> None:
        """Receive an answer of exactly the wanted tokens, each delta timed as it comes.

        Lengths are part of the load: an answer of another length is a failure.
        """
        request, tokens = flight.call.request, flight.call.output_tokens
        assert self._client
        assert isinstance(request, GenerateRequest)
        system = [{"role": "system", "content": request.system}] if request.system else []
        messages = [*system, {"role": "user", "content": flight.call.texts[0]}]
        options: Options = {"model": request.model, "timeout": request.timeout_s}
        options |= {"max_tokens": tokens, "min_tokens": tokens}
        deltas: Iterable[Delta | Generation]
        if request.stream:
            deltas = self._client.chat(messages, stream=True, **options)
        else:
            deltas = [self._client.chat(messages, **options)]
        for delta in deltas:
            if delta.num_input_tokens is None or delta.num_output_tokens is None:
                raise WrongLength(f"model '{request.model}' counts no tokens, and without them it cannot be judged")
            flight.deltas.append((self._now(), delta.num_output_tokens))
            flight.tokens_in = delta.num_input_tokens
        received = flight.deltas[-1][1] if flight.deltas else 0
        if received != tokens:
            raise WrongLength(f"{received} output tokens came, {tokens} were asked for")

    def _give_up(self) -> None:
        """Count what was never answered as errors."""
        for index in list(self._outstanding):
            self._record(index, Unanswered("no answer within the timeout"))

    def _record(self, index: int, error: Exception | None) -> None:
        if index not in self._outstanding:
            return  # given up before
        flight, finished = self._outstanding.pop(index), self._now()
        request, kind = flight.call.request, flight.call.kind
        if error is None and flight.deltas:
            # The answer was there with its last delta.
            finished = flight.deltas[-1][0]
        if self._writer:
            self._writer.add(flight.sample(index, finished, error))
        self.environment.events.request.fire(
            request_type=request.task,
            name=f"{request.model} ({kind})" if kind else request.model,
            response_time=(finished - flight.intended_s) * 1000,
            response_length=0,
            exception=error,
            context={},
        )


@functools.cache
def _befriend_gevent_and_grpc() -> None:
    grpc.experimental.gevent.init_gevent()
    # A call that is not streamed is read by a thread of gevent's pool. Were there 10, as by default, no answer would be
    # seen while 10 others are awaited.
    gevent.get_hub().threadpool.maxsize = MAX_AWAITED
    # grpcio lets whoever waits for a delta wake ten times a second, should it be the thread that takes signals. Here
    # that is the hub's: 500 streams would spend a third of a core on it.
    grpc._common.MAXIMUM_WAIT_TIMEOUT = 60.0


class Unanswered(Exception):
    """A request whose call had not returned when the run ended."""


class WrongLength(Exception):
    """An answer of another length than the scenario asked for: it would be another load."""
