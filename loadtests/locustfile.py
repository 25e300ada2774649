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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
import grpc.experimental.gevent
import locust
from gevent.pool import Group
from locust.exception import StopUser

from loadtests import corpus
from loadtests.samples import EmbedSample, GenerateSample, Sample, SampleWriter
from loadtests.scenario import EmbedRequest, GenerateRequest, load

if TYPE_CHECKING:
    from tritonyard import Client, Delta, Generation

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


@dataclass
class Flight:
    """A request on its way, and what of its answer is there. Times in seconds of the schedule."""

    intended_s: float
    started_s: float
    tokens_in: int | None = None
    deltas: list[tuple[float, int]] = field(default_factory=list)


class OpenLoop(locust.User):  # type: ignore[misc] # locust comes without types
    """The one user: dispatches the whole schedule, waits for the last answers, ends the test."""

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
        request, contents = self._scenario.request, self._contents()
        requests = Group()
        self._begun = time.perf_counter()
        for index, intended in enumerate(self._scenario.schedule()):
            while True:
                # Also when late: sleeping lets the requests that were spawned start.
                gevent.sleep(max(intended - self._now(), 0.0))
                if self._now() >= intended:
                    break
            requests.spawn(self._send, index, intended, next(contents))
        requests.join(timeout=request.timeout_s + GRACE_S)
        self._give_up()
        requests.kill(block=False)

    def _now(self) -> float:
        return time.perf_counter() - self._begun

    def _contents(self) -> Iterator[Any]:
        """What each request asks for, drawn from the scenario's seed."""
        request, seed = self._scenario.request, self._scenario.arrivals.seed
        if isinstance(request, EmbedRequest):
            return corpus.requests(request.texts, request.words, seed)
        return corpus.prompts(request.prompt, request.output_tokens, seed)

    def _send(self, index: int, intended: float, content: Any) -> None:
        assert self._client
        request = self._scenario.request
        flight = self._outstanding[index] = Flight(intended, self._now())
        try:
            if isinstance(request, EmbedRequest):
                self._client.embed(content)
            else:
                self._generate(request, flight, *content)
        except Exception as error:
            # Whatever it was, the request failed, and the schedule goes on.
            self._record(index, error)
        else:
            self._record(index, None)

    def _generate(self, request: GenerateRequest, flight: Flight, prompt: str, tokens: int) -> None:
        """Receive an answer of exactly `tokens` tokens, each delta timed as it comes.

        Lengths are part of the load: an answer of another length is a failure.
        """
        assert self._client
        system = [{"role": "system", "content": request.system}] if request.system else []
        messages = [*system, {"role": "user", "content": prompt}]
        deltas: Iterable[Delta | Generation]
        if request.stream:
            deltas = self._client.chat(messages, stream=True, max_tokens=tokens, min_tokens=tokens)
        else:
            deltas = [self._client.chat(messages, max_tokens=tokens, min_tokens=tokens)]
        for delta in deltas:
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
        flight, request, finished = self._outstanding.pop(index), self._scenario.request, self._now()
        if error is None and flight.deltas:
            # The answer was there with its last delta.
            finished = flight.deltas[-1][0]
        if self._writer:
            self._writer.add(self._sample(index, flight, finished, error))
        self.environment.events.request.fire(
            request_type=request.task,
            name=request.model,
            response_time=(finished - flight.intended_s) * 1000,
            response_length=0,
            exception=error,
            context={},
        )

    def _sample(self, index: int, flight: Flight, finished_s: float, error: Exception | None) -> Sample:
        request = self._scenario.request
        common: dict[str, Any] = {
            "index": index,
            "intended_s": round(flight.intended_s, 6),
            "started_s": round(flight.started_s, 6),
            "finished_s": round(finished_s, 6),
            "ok": error is None,
            "error": type(error).__name__ if error else None,
        }
        if isinstance(request, EmbedRequest):
            return EmbedSample(**common, texts=request.texts)
        deltas = tuple((round(at, 6), tokens) for at, tokens in flight.deltas)
        return GenerateSample(**common, tokens_in=flight.tokens_in, deltas=deltas)


class Unanswered(Exception):
    """A request whose call had not returned when the run ended."""


class WrongLength(Exception):
    """An answer of another length than the scenario asked for: it would be another load."""
