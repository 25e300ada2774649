"""An answer while it grows: what iterates, and what cancels when the loop is left."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from types import TracebackType

from tritonyard._generation import Delta, delta, unfinished
from tritonyard._transport import Answer, Answers, Refused

Typed = contextlib.AbstractContextManager[None]


class Stream:
    """The answer of a model while it grows: `for delta in stream`, once.

    The request is sent when the loop begins. The loop ends after the delta that has a `finish_reason`; leaving it
    before (break, return, an exception) cancels the request at once, and so does `close()`. Errors come out of the
    loop; they are those of `Client.embed`.
    """

    def __init__(self, send: Callable[[], Answers], typed: Typed):
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
                yield found
            if found.finish_reason:
                # To the call's own end: one that is complete is not to be cancelled.
                with contextlib.suppress(Refused):
                    list(answers)
                return
        raise unfinished()


class AsyncStream:
    """The asynchronous Stream: `async for delta in stream`, once; cancelling the task cancels the request.

    A loop that is left cancels in the event loop's next turn.
    """

    def __init__(self, send: Callable[[], AsyncGenerator[Answer, None]], typed: Typed):
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
            async with contextlib.aclosing(self._send()) as answers:
                async for answer in answers:
                    found = delta(answer)
                    if found.text or found.finish_reason:
                        yield found
                    if found.finish_reason:
                        with contextlib.suppress(Refused):
                            async for _ in answers:
                                pass
                        return
                raise unfinished()
