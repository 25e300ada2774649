"""An answer while it grows: what iterates, and what cancels when the loop is left."""

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from types import TracebackType

from tritonyard._generation import Delta, Generation, Timing, Usage, delta, unfinished
from tritonyard._transport import Answer, Answers, Refused

Typed = contextlib.AbstractContextManager[None]


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

    def __init__(self, send: Callable[[], Answers], typed: Typed):
        super().__init__()
        self._send, self._typed = send, typed
        self._answers: Answers | None = None
        self._closed = False
        self._deltas = self._read()

    def __iter__(self) -> Iterator[Delta]:
        # A generator of the loop's own: Python closes it when the loop is left, whoever still holds the stream.
        yield from self._deltas

    def close(self) -> None:
        """Cancel the request if it is under way; may be called from any thread, whose loop then ends."""
        self._closed = True
        if self._answers is not None:
            self._answers.cancel()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> Generator[Delta, None, None]:
        if self._closed:
            return
        with self._typed:
            self._begin()
            self._answers = self._send()
            try:
                yield from self._until_finished(iter(self._answers))
            except Refused:
                if not self._closed:
                    raise
            finally:
                self._answers.cancel()

    def _until_finished(self, answers: Iterator[Answer]) -> Iterator[Delta]:
        for answer in answers:
            if self._closed:
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


class AsyncStream(Growth):
    """The asynchronous Stream: `async for delta in stream`, once; cancelling the task cancels the request.

    A loop that is left cancels in the event loop's next turn.
    """

    def __init__(self, send: Callable[[], AsyncGenerator[Answer, None]], typed: Typed):
        super().__init__()
        self._send, self._typed = send, typed
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
        with self._typed:
            self._begin()
            async with contextlib.aclosing(self._send()) as answers:
                async for answer in answers:
                    found = delta(answer)
                    if found.text or found.finish_reason:
                        yield self._grow(found)
                    if found.finish_reason:
                        with contextlib.suppress(Refused):
                            async for _ in answers:
                                pass
                        return
                raise unfinished()
