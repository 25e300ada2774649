"""A TCP proxy in front of a real server, whose behaviour a test changes while it runs."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

DRIP_S = 0.02
RESET = struct.pack("ii", 1, 0)  # what SO_LINGER takes for "no FIN, a RST"
Fault = Literal["pass", "hold", "drip", "reset", "end"]


@dataclass
class Way:
    """One direction: `after` bytes more pass, and then `fault` befalls the rest.

    It is held (read, and never seen again), drips a byte at a time, or brings a reset of the connection, or the end
    (FIN) of this direction alone.
    """

    fault: Fault = "pass"
    after: int = 0

    def free(self, data: bytes) -> int:
        """Return how many of these bytes pass, and count them."""
        if self.fault == "pass":
            return len(data)
        passing = min(self.after, len(data))
        self.after -= passing
        return passing


class FaultProxy:
    """Where it listens (`url`), and what befalls what callers send (`up`) and what is answered (`down`).

    `connections` counts all that were made; `sent` and `answered` the bytes that were forwarded.
    """

    def __init__(self, behind: str):
        address = urlsplit(behind)
        self._behind = (address.hostname, address.port)
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self.up, self.down = Way(), Way()
        self.connections = self.sent = self.answered = 0
        self._thread.start()
        self.listen()
        self.url = f"{address.scheme}://127.0.0.1:{self._port}"

    def listen(self) -> None:
        """Accept connections, on the same port as before."""
        self._listener = self._wait(asyncio.start_server(self._serve, "127.0.0.1", self._port))
        self._port = self._listener.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Stop to listen, and end what is open, as a server that has gone."""

        async def close() -> None:
            if self._listener is not None:
                # What was just accepted is served in the next turns. A server that is closed meanwhile never closes it.
                for sock in self._listener.sockets:
                    self._loop.remove_reader(sock)
                await asyncio.sleep(0.001)
                self._listener.close()
            self._reset_all()

        self._wait(close())

    def reset(self) -> None:
        """Reset all connections now."""

        async def cut() -> None:
            self._reset_all()

        self._wait(cut())

    def heal(self) -> None:
        """Let everything pass; what was held stays lost."""
        self.up, self.down = Way(), Way()
        if self._listener is not None and not self._listener.is_serving():
            self.listen()

    def close(self) -> None:
        """End all of it."""
        self.refuse()

        async def finish() -> None:
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)
            # Transports close their sockets in the loop's next turns.
            await asyncio.sleep(0.01)

        self._wait(finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task
        self._serving.add(task)
        both = {writer}
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._behind)
            both.add(there_writer)
            self._writers |= both
            pumps = [self._pump(reader, there_writer, is_up=True), self._pump(there_reader, writer, is_up=False)]
            await asyncio.gather(*pumps)
        except (OSError, asyncio.CancelledError):
            _reset(*both)
        finally:
            self._writers -= both
            self._serving.discard(task)
            for each in both:
                each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_up: bool) -> None:
        while data := await reader.read(65536):
            way = self.up if is_up else self.down
            free = way.free(data)
            await self._forward(data[:free], writer, is_up)
            if free < len(data):
                match way.fault:
                    case "reset":
                        raise ConnectionResetError
                    case "hold" | "end":
                        if way.fault == "end":
                            writer.write_eof()
                        while await reader.read(65536):
                            pass
                        break
                    case "drip":
                        for byte in data[free:]:
                            await self._forward(bytes([byte]), writer, is_up)
                            await asyncio.sleep(DRIP_S)
        if writer.can_write_eof():
            writer.write_eof()

    async def _forward(self, data: bytes, writer: asyncio.StreamWriter, is_up: bool) -> None:
        if is_up:
            self.sent += len(data)
        else:
            self.answered += len(data)
        writer.write(data)
        await writer.drain()

    def _reset_all(self) -> None:
        _reset(*self._writers)


def _reset(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        with contextlib.suppress(OSError):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()


@contextlib.contextmanager
def fault_proxy(behind: str) -> Iterator[FaultProxy]:
    """Stand in front of the server at the URL `behind`."""
    proxy = FaultProxy(behind)
    try:
        yield proxy
    finally:
        proxy.close()
