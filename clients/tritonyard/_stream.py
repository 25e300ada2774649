"""An answer while it grows: what iterates, and what cancels when the loop is left."""

import contextlib
import itertools
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from types import TracebackType
from typing import Any

from tritonyard._driver import AsyncDo, Do, async_until_answered, until_answered
from tritonyard._generation import Delta, deltas, unfinished
from tritonyard._growth import Growth
from tritonyard._policy import Send, Steps, Wait
from tritonyard._tracing import Operation
from tritonyard._transport import Answer, Answers, AsyncTransport, Generate, Refused, Transport


class Stream(Growth):
    """The answer of a model while it grows: `for delta in stream`, once.

    The request is sent when the loop begins. The loop ends after the delta that has a `finish_reason`, of several
    answers after the last of them; leaving it before (break, return, an exception) cancels the request at once, and so
    does `close()`. Errors come out of the loop; they are those of `Client.embed`. `text`, `usage`, `finish_reason`,
    `choices` and `timing` tell of the answer so far.
    """

    def __init__(self, steps: Steps[Transport], do: Do, operation: Operation, count: int):
        super().__init__(count)
        self._steps, self._do, self._operation = steps, do, operation
        self._answers: Answers | None = None
        # Who waits to send the request again is woken by it.
        self._closed = threading.Event()
        self._deltas = self._read()

    def __iter__(self) -> Iterator[Delta]:
        # A generator of the loop's own: Python closes it when the loop is left, whoever still holds the stream.
        yield from self._deltas

    def close(self) -> None:
        """Cancel the request if it is under way; may be called from any thread, whose loop then ends."""
        self._closed.set()
        if self._answers is not None:
            self._answers.cancel()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> Generator[Delta, None, None]:
        if self._closed.is_set():
            return
        with contextlib.suppress(_Closed), self._operation:
            self._begin()
            try:
                answers = until_answered(self._steps, next(self._steps), self._opened)
                yield from self._until_finished(answers)
                next(self._steps, None)
            except Refused as refused:
                if not self._closed.is_set():
                    self._steps.throw(refused)
            finally:
                self._steps.close()
                if self._answers is not None:
                    self._answers.cancel()
                self._operation.told(self)

    def _opened(self, step: Send[Transport] | Wait) -> Any:
        """Do one step towards the first answer; raise _Closed where the stream is."""
        if isinstance(step, Wait):
            self._closed.wait(step.seconds)
        if self._closed.is_set():
            raise _Closed
        if isinstance(step, Wait):
            return None
        if not isinstance(step.call, Generate):
            return self._do(step)
        self._answers = self._do(step)
        try:
            if self._closed.is_set():
                # While it was being sent: `close` had nothing to cancel yet.
                self._answers.cancel()
            answers = iter(self._answers)
            for first in answers:
                return itertools.chain((first,), answers)
            raise unfinished()
        except BaseException:
            self._answers.cancel()
            if self._closed.is_set():
                raise _Closed from None
            raise

    def _until_finished(self, answers: Iterator[Answer]) -> Iterator[Delta]:
        for answer in answers:
            if self._closed.is_set():
                return
            for found in deltas(answer):
                yield self._grow(found)
            if self._is_whole:
                # To the call's own end: one that is complete is not to be cancelled.
                with contextlib.suppress(Refused):
                    list(answers)
                return
        raise unfinished()


class _Closed(GeneratorExit):
    """The stream was closed before its first answer: it is left, as a loop is."""


class AsyncStream(Growth):
    """The asynchronous Stream: `async for delta in stream`, once; cancelling the task cancels the request.

    A loop that is left cancels in the event loop's next turn.
    """

    def __init__(self, steps: Steps[AsyncTransport], do: AsyncDo, operation: Operation, count: int):
        super().__init__(count)
        self._steps, self._do, self._operation = steps, do, operation
        self._answers: AsyncGenerator[Answer, None] | None = None
        self._deltas = self._read()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        async with contextlib.aclosing(self._deltas):
            async for found in self._deltas:
                yield found

    async def close(self) -> None:
        """Cancel the request if it is under way; to be awaited where the loop is, or after it."""
        await self._deltas.aclose()

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _read(self) -> AsyncGenerator[Delta, None]:
        with self._operation:
            self._begin()
            try:
                answer = await async_until_answered(self._steps, next(self._steps), self._opened)
                while True:
                    for found in deltas(answer):
                        yield self._grow(found)
                    if self._is_whole:
                        break
                    answer = await self._next()
                # To the call's own end: one that is complete is not to be cancelled.
                with contextlib.suppress(Refused):
                    while True:
                        await self._next()
                next(self._steps, None)
            except Refused as refused:
                self._steps.throw(refused)
            finally:
                self._steps.close()
                if self._answers is not None:
                    await self._answers.aclose()
                self._operation.told(self)

    async def _opened(self, step: Send[AsyncTransport] | Wait) -> Any:
        """Do one step towards the first answer, and return it."""
        outcome = await self._do(step)
        if isinstance(step, Wait) or not isinstance(step.call, Generate):
            return outcome
        self._answers = outcome
        try:
            return await self._next()
        except BaseException:
            await outcome.aclose()
            raise

    async def _next(self) -> Answer:
        assert self._answers is not None
        try:
            return await anext(self._answers)
        except StopAsyncIteration:
            raise unfinished() from None
