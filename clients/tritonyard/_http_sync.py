"""HTTP for threads and greenlets: the standard library's client, a pool of connections, one deadline a call.

tritonclient.http has neither a deadline nor thread safety, and is no faster.
"""

import contextlib
import http.client
import io
import ipaddress
import queue
import socket
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from tritonyard._connection import Connection
from tritonyard._http_codec import Body, compressed, decode, encode
from tritonyard._transport import Answer, Call, Deadline, Generate, Headers, Refused

# Whatever http.client and sockets raise: http.client turns some nonsense on the wire into ValueError.
FAULTS = (OSError, http.client.HTTPException, ValueError)


def _refused(error: Exception, unsent: bool = False) -> Refused:
    if isinstance(error, TimeoutError):
        return Refused("DEADLINE_EXCEEDED", str(error))
    return Refused("UNAVAILABLE", f"{type(error).__name__}: {error}", unsent=unsent)


class HttpTransport:
    """Connections that are kept open between calls; each carries one call at a time."""

    def __init__(self, connection: Connection):
        self._to = connection
        self._idle: deque[_Connection] = deque()
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
        connection = _Connection(self._to)
        connection.send_call(call, deadline, headers)
        return HttpAnswers(connection)

    def give_back(self, connection: "_Connection") -> None:
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

    def _take(self) -> "_Connection":
        with contextlib.suppress(IndexError):
            while True:
                # The last one used is the one most likely to be alive.
                connection = self._idle.pop()
                if connection.alive():
                    return connection
                connection.close()
        return _Connection(self._to)


class HttpPending:
    """A request that was sent, and the connection that its answer comes on."""

    def __init__(self, transport: HttpTransport, connection: "_Connection", call: Call):
        self._transport, self._connection, self._call = transport, connection, call

    def result(self) -> Any:
        """Read the answer; a connection that fails is not used again."""
        try:
            response = self._connection.getresponse()
            body = response.read()
        except FAULTS as error:
            self._connection.close()
            raise _refused(error) from None
        except BaseException:
            self._connection.close()
            raise
        if self._connection.sock is not None:
            self._transport.give_back(self._connection)
        return decode(self._call, response.status, _lower(response), body)

    def cancel(self) -> None:
        """Close the connection: the server sees that nobody waits."""
        self._connection.close()


class HttpAnswers:
    """A request that was sent, and the connection that its answers come on."""

    def __init__(self, connection: "_Connection"):
        self._connection = connection
        self._sock = connection.sock

    def __iter__(self) -> Iterator[Answer]:
        try:
            with self._connection.getresponse() as response:
                body = Body(response.status, _lower(response))
                while data := response.read1():
                    yield from body.cut(data)
                yield from body.cut(b"")
        except FAULTS as error:
            raise _refused(error) from None
        finally:
            self._connection.close()

    def cancel(self) -> None:
        """End the connection: the server sees that nobody waits, and who waits here is woken, to close it."""
        self._sock.shutdown()


class _Connection(http.client.HTTPConnection):
    """One connection whose every wait ends at `deadline`."""

    deadline: Deadline
    # The server sent its last byte.
    has_ended = False

    def __init__(self, to: Connection):
        super().__init__(to.address.host, to.address.port)
        self._to = to

    def send_call(self, call: Call | Generate, deadline: Deadline, headers: Headers) -> None:
        """Send the request of a call; raise Refused, and be closed, where that fails."""
        self.deadline = deadline
        request = compressed(encode(call), self._to.compression)
        try:
            self.request(request.method, request.path, request.body, {**request.headers, **dict(headers)})
        except FAULTS as error:
            # Without a socket it has not come to sending.
            unsent = self.sock is None
            self.close()
            raise _refused(error, unsent) from None
        except BaseException:
            self.close()
            raise

    def getresponse(self) -> http.client.HTTPResponse:
        """Wait for the answer's head; one that breaks off is whole to http.client."""
        response = super().getresponse()
        if self.has_ended:
            response.close()
            raise http.client.RemoteDisconnected("the server closed the connection in the head of its answer")
        return response

    def connect(self) -> None:
        """Connect to the first address that answers."""
        fault: OSError = OSError(f"no address for {self.host}")
        for address in _resolved(self.host, self.deadline):
            try:
                sock = self._open(address)
            except OSError as error:
                fault = error
            else:
                self.sock: Any = _DeadlineSocket(sock, self)
                return
        raise fault

    def _open(self, address: str) -> socket.socket:
        sock = socket.create_connection((address, self.port), _seconds(self.deadline))
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._to.ssl is None:
                return sock
            sock.settimeout(_seconds(self.deadline))
            return self._to.ssl.wrap_socket(sock, server_hostname=self.host)
        except BaseException:
            sock.close()
            raise

    def alive(self) -> bool:
        """Tell whether an idle connection is still open; one with something to read is not."""
        return self.sock is not None and self.sock.quiet()


class _DeadlineSocket:
    """What http.client uses of a socket, whose own timeout is for one wait: a slow drip never meets it."""

    def __init__(self, sock: socket.socket, connection: _Connection):
        self._sock, self.connection = sock, connection

    def arm(self) -> None:
        """Let the next wait end at the deadline."""
        self._sock.settimeout(_seconds(self.connection.deadline))

    def sendall(self, data: bytes) -> None:
        """Send all of `data` before the deadline."""
        self.arm()
        self._sock.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return a reader that keeps the deadline at every wait."""
        return io.BufferedReader(_DeadlineReader(self, self._sock.makefile("rb", buffering=0)))

    def quiet(self) -> bool:
        """Tell whether the socket is open and has nothing to read."""
        try:
            self._sock.settimeout(0)
            # Below TLS, which cannot peek.
            socket.socket.recv(self._sock, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def shutdown(self) -> None:
        """End the connection on the wire, and any wait on it; another thread's reader must not be closed."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket once its reader is closed too."""
        self._sock.close()


class _DeadlineReader(io.RawIOBase):
    def __init__(self, sock: _DeadlineSocket, raw: Any):
        self._sock, self._raw = sock, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.arm()
        read: int | None = self._raw.readinto(buffer)
        self._sock.connection.has_ended = read == 0
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()


def _resolved(host: str, deadline: Deadline) -> list[str]:
    """Return the IP addresses of `host`; raise TimeoutError at the deadline, OSError where it has none."""
    with contextlib.suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    # In a thread: nothing ends a question that no name server answers.
    answers: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.put(OSError(f"'{host}' cannot be resolved: {error}"))

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=_seconds(deadline))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, OSError):
        raise answer
    return [str(address[0]) for *_, address in answer]


def _lower(response: http.client.HTTPResponse) -> dict[str, str]:
    """Return the headers by their names in lower case: proxies write them as they like."""
    return {name.lower(): value for name, value in response.headers.items()}


def _seconds(deadline: Deadline) -> float:
    try:
        return deadline.left()
    except Refused:
        raise TimeoutError from None
