"""HTTP for threads and greenlets: a pool of connections, each kept open between calls.

tritonclient.http has neither a deadline nor thread safety, and is slower.
"""

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

from tritonyard._connection import Connection
from tritonyard._http_codec import Body, decode
from tritonyard._http_connection import FAULTS, HttpConnection, refused
from tritonyard._transport import Answer, Call, Deadline, Generate, Headers


class HttpTransport:
    """Connections that are kept open between calls; each carries one call at a time."""

    def __init__(self, connection: Connection):
        self._to = connection
        self._idle: deque[HttpConnection] = deque()
        self._closed = False

    def ask(self, call: Call, deadline: Deadline, headers: Headers) -> Any:
        """Send and wait."""
        return self.start(call, deadline, headers).result()

    def start(self, call: Call, deadline: Deadline, headers: Headers) -> "HttpPending":
        """Send on an idle connection, or a new one; the answer waits in the socket."""
        connection = self._take()
        connection.send_call(call, deadline, headers)
        return HttpPending(self, connection, call)

    def stream(self, call: Generate, deadline: Deadline, headers: Headers) -> "HttpAnswers":
        """Send on a connection of its own, which is closed at the end: beside a generation it costs nothing."""
        connection = HttpConnection(self._to)
        connection.send_call(call, deadline, headers)
        return HttpAnswers(connection)

    def give_back(self, connection: HttpConnection) -> None:
        """Keep a connection whose answer has been read for the next call."""
        self._idle.append(connection)
        if self._closed:
            self.close()

    def close(self) -> None:
        """Close all idle connections, and each of the others when its call is over."""
        self._closed = True
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _take(self) -> HttpConnection:
        with contextlib.suppress(IndexError):
            while True:
                # The last one used is the one most likely to be alive.
                connection = self._idle.pop()
                if connection.alive():
                    return connection
                connection.close()
        return HttpConnection(self._to)


class HttpPending:
    """A request that was sent, and the connection that its answer comes on."""

    def __init__(self, transport: HttpTransport, connection: HttpConnection, call: Call):
        self._transport, self._connection, self._call = transport, connection, call

    def result(self) -> Any:
        """Read the answer; a connection that fails is not used again."""
        try:
            response = self._connection.response()
            body = response.read()
        except FAULTS as error:
            self._connection.close()
            raise refused(error) from None
        except BaseException:
            self._connection.close()
            raise
        if self._connection.sock is not None:
            self._transport.give_back(self._connection)
        return decode(self._call, response.status, response.fields, body)

    def cancel(self) -> None:
        """Close the connection: the server sees that nobody waits."""
        self._connection.close()


class HttpAnswers:
    """A request that was sent, and the connection that its answers come on."""

    def __init__(self, connection: HttpConnection):
        self._connection = connection
        self._sock = connection.sock

    def __iter__(self) -> Iterator[Answer]:
        try:
            with self._connection.response() as response:
                body = Body(response.status, response.fields)
                while data := response.read1():
                    yield from body.cut(data)
                yield from body.cut(b"")
        except FAULTS as error:
            raise refused(error) from None
        finally:
            self._connection.close()

    def cancel(self) -> None:
        """End the connection: the server sees that nobody waits, and who waits here is woken, to close it."""
        if self._sock is not None:
            self._sock.shutdown()
