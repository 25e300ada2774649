"""A server that is a function, for callers' own tests: no socket, no waiting."""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import Any

from tritonyard._generation import Delta, answer_of
from tritonyard._transport import (
    Answer,
    Call,
    Deadline,
    Generate,
    GetConfig,
    Headers,
    ModelConfig,
    Probe,
    Refused,
    TensorConfig,
)

# What `embed` looks for in a model; any width will do.
EMBEDS = ModelConfig(64, {"text": TensorConfig("BYTES", (1,))}, {"embedding": TensorConfig("FP32", (-1,))})


class MockTransport:
    """Answers the calls of a client: `Client(transport=MockTransport(handler))`, and AsyncClient as well.

    `handler` gets each call and returns its answer: to an Infer (whose `arrays` are its inputs) the outputs as a dict
    of numpy arrays, to a Generate an iterable of Delta (of several answers, each with its `index`), to a Probe a bool,
    to a GetConfig a ModelConfig. Of the last two it may return None: the model is then ready, and one that embeds. What
    it raises, best an error of this package, comes out of the client's method; what the iterable raises, out of the
    stream.
    """

    def __init__(self, handler: Callable[[Call | Generate], Any]):
        self._handler = handler

    def ask(self, call: Call, deadline: Deadline, headers: Headers) -> Any:
        """Return the handler's answer; raise Refused where it took longer than the deadline."""
        answer = self._answer(call)
        deadline.left()
        return answer

    def start(self, call: Call, deadline: Deadline, headers: Headers) -> "_MockPending":
        """Return what asks the handler when it is waited for."""
        return _MockPending(lambda: self.ask(call, deadline, headers))

    def stream(self, call: Generate, deadline: Deadline, headers: Headers) -> "_MockAnswers":
        """Return what iterates over the handler's answer."""
        return _MockAnswers(self._answer(call), deadline)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def awaited(self) -> "_AwaitedMock":
        """Return the same for an AsyncClient, which calls this by itself."""
        return _AwaitedMock(self)

    def _answer(self, call: Call | Generate) -> Any:
        answer = self._handler(call)
        if answer is not None:
            return answer
        match call:
            case Probe():
                return True
            case GetConfig():
                return EMBEDS
        raise TypeError(f"the handler of MockTransport returned None for {call}; let it answer, or raise")


class _MockPending:
    def __init__(self, result: Callable[[], Any]):
        self.result = result

    def cancel(self) -> None:
        """Never ask."""


class _MockAnswers:
    def __init__(self, deltas: Iterable[Delta], deadline: Deadline):
        self._deltas, self._deadline = deltas, deadline
        self._cancelled = False

    def __iter__(self) -> Iterator[Answer]:
        for each in self._deltas:
            if self._cancelled:
                raise Refused("CANCELLED", "the call was cancelled")
            self._deadline.left()
            yield answer_of(each)

    def cancel(self) -> None:
        self._cancelled = True


class _AwaitedMock:
    def __init__(self, mock: MockTransport):
        self._mock = mock

    async def ask(self, call: Call, deadline: Deadline, headers: Headers) -> Any:
        return self._mock.ask(call, deadline, headers)

    async def stream(self, call: Generate, deadline: Deadline, headers: Headers) -> AsyncGenerator[Answer, None]:
        for answer in self._mock.stream(call, deadline, headers):
            yield answer

    async def close(self) -> None:
        self._mock.close()
