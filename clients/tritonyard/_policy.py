"""How one call is attempted: at which address, when again, and what it comes to. Written once, driven twice.

Attempts are a generator of steps: it never waits and never touches a socket. A driver (`_client`, `_async_client`,
`_stream`) does each step, and sends in what came of it or throws in the Refused.
"""

import random
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, Generic

from tritonyard._connection import tls_mend
from tritonyard._endpoints import CHECK_S, CHECK_SHARE, Carrier, Endpoint, Endpoints
from tritonyard._errors import ClientClosed, DeadlineExceeded, ServerUnavailable, TritonyardError, kind_of
from tritonyard._event import Event, Kind
from tritonyard._retry import Retry, fate_of, hindrance
from tritonyard._tracing import Operation
from tritonyard._transport import Call, Deadline, Generate, Headers, Probe, Refused
from tritonyard._words import callers_words


@dataclass(slots=True)
class Send(Generic[Carrier]):
    """Send `call` to `endpoint`; what comes of it is the answer, of a Generate what all its answers come from."""

    endpoint: Endpoint[Carrier]
    call: Any
    deadline: Deadline
    headers: Headers


@dataclass(slots=True)
class Wait:
    """Wait so many seconds."""

    seconds: float


@dataclass(slots=True)
class Answered:
    """Take this answer: the last step. What breaks it later, as it may a stream, is to be thrown in."""

    answer: Any


Step = Send[Carrier] | Wait | Answered
Steps = Generator[Step[Carrier], Any, None]
OnEvent = Callable[[Event], None]


class Policy(Generic[Carrier]):
    """What a client holds of all its calls: its addresses, when to send again, and who is told."""

    def __init__(self, endpoints: Endpoints[Carrier], retry: Retry, on_event: OnEvent | None):
        self.endpoints, self.retry, self.on_event = endpoints, retry, on_event
        # Who waits to send something again is woken by it.
        self.closed = threading.Event()
        # The one address of a client where nobody hears of decisions: until something goes wrong there are none.
        self.alone = endpoints.all[0] if len(endpoints) == 1 and on_event is None else None

    def attempts(self, call: Call | Generate, operation: Operation) -> Steps[Carrier]:
        """Return the steps of `call`, the last of which has its answer; they raise TritonyardError."""
        return _Attempts(self, call, operation).steps()


class _Attempts(Generic[Carrier]):
    """One call on its way."""

    def __init__(self, policy: Policy[Carrier], call: Call | Generate, operation: Operation):
        self._policy, self._call, self._operation = policy, call, operation
        self._untried = policy.endpoints.turn()
        self._most = 1 if isinstance(call, Probe) else policy.retry.attempts
        self._number = self._spent = 0
        self._rounds = 1
        self._has_begun = False

    def steps(self) -> Steps[Carrier]:
        """Try one address after another, and all of them again, until one answers or the error stands."""
        while True:
            if self._policy.closed.is_set():
                raise ClientClosed("the client was closed", model=self._call.model, attempts=self._number)
            endpoint, is_doubtful = self._policy.endpoints.best(self._untried)
            self._untried.remove(endpoint)
            wait = 0.0
            try:
                if is_doubtful and not isinstance(self._call, Probe):
                    yield from self._checking(endpoint)
                if (yield from self._sending(endpoint)):
                    return
            except Refused as refused:
                # Whoever keeps the error would keep the transport's frames, and the connection that they hold.
                refused.__traceback__ = refused.__context__ = None
                wait = self._after(refused, endpoint)
            if not self._untried:
                self._untried = self._policy.endpoints.turn()
                self._rounds += 1
            if wait:
                yield Wait(wait)

    def _checking(self, endpoint: Endpoint[Carrier]) -> Generator[Send[Carrier], Any, None]:
        """Ask whether the model is ready there; raise Refused where it is not, and another address is left."""
        left = self._operation.deadline.left()
        probe = Probe(self._call.model)
        is_there, words = True, "the model is not ready there"
        try:
            is_ready = yield Send(endpoint, probe, Deadline(min(CHECK_S, left * CHECK_SHARE)), ())
        except Refused as refused:
            # Who answers, however badly, is there.
            is_there = is_ready = fate_of(refused) == "answered" and refused.status != "DEADLINE_EXCEEDED"
            words = refused.words or "it did not say in time whether it is ready"
        self._tell("address_up" if is_ready else "address_down", endpoint)
        if is_ready:
            endpoint.answered()
        if not is_ready and (self._untried or not is_there):
            raise Refused("UNAVAILABLE", words, unsent=True)

    def _sending(self, endpoint: Endpoint[Carrier]) -> Generator[Step[Carrier], Any, bool]:
        """Send the call; return whether that was all."""
        self._number += 1
        with self._operation.attempt(self._call, endpoint.connection.address, self._number) as span:
            self._tell("sent", endpoint)
            answer = yield Send(endpoint, self._call, self._operation.deadline, span.headers)
            self._tell("answered", endpoint)
            if answer is False and self._untried:
                # A client is ready where one of its addresses is.
                return False
            endpoint.answered()
            self._has_begun = True
            yield Answered(answer)
            return True

    def _after(self, refused: Refused, endpoint: Endpoint[Carrier]) -> float:
        """Return the seconds to wait before the next attempt; raise the error where there is none."""
        error, fate = self._error(refused, endpoint), fate_of(refused)
        now = self._policy.endpoints.clock()
        if isinstance(error, ServerUnavailable):
            endpoint.failed(now)
        elif isinstance(error, DeadlineExceeded):
            endpoint.suspected(now)
        is_passed_over = fate == "unsent" and bool(self._untried)
        self._spent += not is_passed_over
        pause = 0.0
        if not self._untried:
            pause = self._policy.retry.pause(self._rounds, random.random(), refused.retry_after)
        reason = self._reason(fate, error, pause)
        if reason is not None:
            self._tell("failed", endpoint, error, reason=reason)
            try:
                raise error from None
            finally:
                # An error whose traceback leads to itself stays until it is collected, and a transport's call with it.
                del error, refused
        self._tell("retrying", endpoint, error, wait=pause)
        if fate == "lost" and self._call.id is not None:
            # Who may still be busy with the first would refuse another request of the same name.
            name = self._call.id.split("-")[0]
            self._call = replace(self._call, id=f"{name}-{self._number + 1}")  # type: ignore[arg-type]
        return pause

    def _reason(self, fate: Any, error: TritonyardError, pause: float) -> str | None:
        """Return why the call is not sent again."""
        if self._has_begun:
            return "the answer had begun"
        if isinstance(error, ClientClosed):
            return "the client is closed"
        left = self._operation.deadline.remaining()
        if left <= 0:
            return "the time is up"
        if (reason := hindrance(fate, self._call.idempotent)) is not None:
            return reason
        if self._spent >= self._most:
            return "no attempt is left"
        return "the time is up before it could be sent again" if pause >= left else None

    def _error(self, refused: Refused, endpoint: Endpoint[Carrier]) -> TritonyardError:
        """Turn what a transport raised into an error of this package."""
        call, deadline = self._call, self._operation.deadline
        words = callers_words(call, refused.words)
        kind = ClientClosed if self._policy.closed.is_set() else kind_of(refused.status, words)
        fact = words or f"the server answered {refused.status}"
        if kind is DeadlineExceeded:
            what = "complete answer" if isinstance(call, Generate) else "answer"
            fact = f"no {what} within {deadline.timeout:g} s"
        error = kind(
            fact,
            model=call.model,
            url=endpoint.url,
            status=refused.status,
            words=refused.words or None,
            request_id=call.id,
            attempts=self._number,
            retry_after=refused.retry_after,
        )
        if kind is ServerUnavailable and endpoint.connection.tls is not None:
            error.mend = tls_mend(words) or error.mend
        return error

    def _tell(
        self, kind: Kind, endpoint: Endpoint[Carrier], error: TritonyardError | None = None, **facts: Any
    ) -> None:
        policy, operation = self._policy, self._operation
        if policy.on_event is None and not operation.is_traced:
            return
        event = Event(kind, self._call, endpoint.url, self._number, error, **facts)
        operation.decided(event)
        if policy.on_event is not None:
            policy.on_event(event)
