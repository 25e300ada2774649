"""A call that is under way beside others of the same method, in one thread."""

from typing import Any

from tritonyard._driver import Do, advanced, carried_out
from tritonyard._policy import Send, Steps
from tritonyard._transport import Headers, Pending, Probe, Refused, Transport


class Flight:
    """A call under way beside others: sent, and waited for later."""

    def __init__(self, steps: Steps[Transport], do: Do):
        self._steps, self._do = steps, do
        self._step = next(steps)
        # An address may have to be asked first whether it is ready.
        while not isinstance(self._step, Send) or isinstance(self._step.call, Probe):
            self._step = advanced(steps, self._step, do)
        self._pending = _started(self._step)

    def result(self) -> Any:
        """Wait for the answer, and send the call again where that is due; raise TritonyardError."""
        step = advanced(self._steps, self._step, lambda _: self._pending.result())
        return carried_out(self._steps, step, self._do)

    def cancel(self) -> None:
        """Give the call up at once; nothing happens where it is over."""
        self._pending.cancel()
        self._steps.close()


class _Unsent:
    """A call that could not be sent."""

    def __init__(self, refused: Refused):
        self._refused = refused

    def result(self) -> Any:
        raise self._refused

    def cancel(self) -> None:
        pass


def _started(step: Send[Transport]) -> Pending:
    try:
        return step.endpoint.transport.start(step.call, step.deadline, headers_of(step))
    except Refused as refused:
        return _Unsent(refused)


def headers_of(step: Send[Transport]) -> Headers:
    """Return what a call is sent with; what a token of the caller's own raises comes out."""
    return step.endpoint.connection.headers() + step.headers
