"""An answer while it grows: what iterates, and what cancels when the loop is left."""

import contextlib
import itertools
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from types import TracebackType
from typing import Any

from tritonyard._driver import AsyncDo, Do, async_until_answered, until_answered
from tritonyard._generation import Delta, Generation, Timing, Usage, delta, unfinished
from tritonyard._policy import Send, Steps, Wait
from tritonyard._tracing import Operation
from tritonyard._transport import Answer, Answers, AsyncTransport, Generate, Refused, Transport


class Growth:
    """What a stream tells of its answer, while its loop runs and after it; all of it is empty before."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._last: Delta | None = None
        self._sent = self._seen = 0.0
        # When the first text came and when the count of tokens grew last, each with that count.
        self._first: tuple[float, int] | None = None
        self._grown: tuple[float, int] | None = None

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended: stop, length or cancelled; None before its last delta, and where it never came."""
        return self._last.finish_reason if self._last else None

    @property
    def usage(self) -> Usage:
        """How many tokens were read and written so far."""
        return Usage(self._last.num_input_tokens, self._last.num_output_tokens) if self._last else Usage()

    @property
    def timing(self) -> Timing:
        """How long the answer took so far."""
        if self._last is None:
            return Timing()
        total = self._seen - self._sent
        if self._first is None:
            return Timing(total=total)
        first, count = self._first
        grown, counted = self._grown or self._first
        between = (grown - first) / (counted - count) if counted > count else None
        return Timing(first - self._sent, total, between)

    def _begin(self) -> None:
        """Note that the request is being sent."""
        self._sent = time.monotonic()

    def _grow(self, found: Delta) -> Delta:
        """Take note of the next delta, and return it."""
        self._seen = time.monotonic()
        count = found.num_output_tokens or 0
        if found.text:
            self._texts.append(found.text)
            self._first = self._first or (self._seen, count)
        if count > (self._grown[1] if self._grown else 0):
            self._grown = (self._seen, count)
        self._last = found
        return found


def generation(answer: Growth) -> Generation:
    """Return the whole of an answer that was not streamed and has ended."""
    usage, timing = answer.usage, Timing(total=answer.timing.total)
    return Generation(answer.text, str(answer.finish_reason), usage.input_tokens, usage.output_tokens, timing)


class Stream(Growth):
    """The answer of a model while it grows: `for delta in stream`, once.

    The request is sent when the loop begins. The loop ends after the delta that has a `finish_reason`; leaving it
    before (break, return, an exception) cancels the request at once, and so does `close()`. Errors come out of the
    loop; they are those of `Client.embed`. `text`, `usage`, `finish_reason` and `timing` tell of the answer so far.
    """

    def __init__(self, steps: Steps[Transport], do: Do, operation: Operation):
        super().__init__()
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
            found = delta(answer)
            if found.text or found.finish_reason:
                yield self._grow(found)
            if found.finish_reason:
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

    def __init__(self, steps: Steps[AsyncTransport], do: AsyncDo, operation: Operation):
        super().__init__()
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
                    found = delta(answer)
                    if found.text or found.finish_reason:
                        yield self._grow(found)
                    if found.finish_reason:
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
