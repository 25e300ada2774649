"""One connection of HTTP/1.1, every wait on which ends at a deadline: the standard library's sockets and answers."""

import contextlib
import http.client
import io
import ipaddress
import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any

from tritonyard._connection import Connection
from tritonyard._http_codec import compressed, encode, written
from tritonyard._transport import Call, Deadline, Generate, Headers, Refused

# What http.client takes at most.
MOST_HEADERS, LONGEST_HEADER = 100, 65536
# Whatever http.client and sockets raise: http.client turns some nonsense on the wire into ValueError.
FAULTS = (OSError, http.client.HTTPException, ValueError)


def refused(error: Exception, unsent: bool = False) -> Refused:
    """Return what a transport raises for one of FAULTS."""
    if isinstance(error, TimeoutError):
        return Refused("DEADLINE_EXCEEDED", str(error))
    return Refused("UNAVAILABLE", f"{type(error).__name__}: {error}", unsent=unsent)


class HttpConnection:
    """One connection whose every wait ends at `deadline`."""

    deadline: Deadline

    def __init__(self, to: Connection):
        self._to = to
        self.sock: _DeadlineSocket | None = None

    def send_call(self, call: Call | Generate, deadline: Deadline, headers: Headers) -> None:
        """Send the request of a call; raise Refused, and be closed, where that fails."""
        self.deadline = deadline
        request = compressed(encode(call), self._to.compression)
        try:
            sock = self.sock or self.connect()
            for part in written(request, self._to.address.netloc, headers):
                sock.sendall(part)
        except FAULTS as error:
            # Without a socket it has not come to sending.
            unsent = self.sock is None
            self.close()
            raise refused(error, unsent) from None
        except BaseException:
            self.close()
            raise

    def response(self) -> "_Response":
        """Wait for the beginning of the answer; a connection that the server will close is not used again."""
        assert self.sock is not None
        response = _Response(self.sock)  # type: ignore[arg-type]
        try:
            response.begin()
        except BaseException:
            response.close()
            raise
        if response.will_close:
            self.close()
        return response

    def connect(self) -> "_DeadlineSocket":
        """Connect to the first address that answers."""
        host = self._to.address.host
        fault: OSError = OSError(f"no address for {host}")
        for address in _resolved(host, self.deadline):
            try:
                self.sock = _DeadlineSocket(self._open(address), self)
            except OSError as error:
                fault = error
            else:
                return self.sock
        raise fault

    def close(self) -> None:
        """Close the connection, once its answer is closed too."""
        sock, self.sock = self.sock, None
        if sock is not None:
            sock.close()

    def _open(self, address: str) -> socket.socket:
        sock = socket.create_connection((address, self._to.address.port), _seconds(self.deadline))
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._to.ssl is None:
                return sock
            sock.settimeout(_seconds(self.deadline))
            return self._to.ssl.wrap_socket(sock, server_hostname=self._to.address.host)
        except BaseException:
            sock.close()
            raise

    def alive(self) -> bool:
        """Tell whether an idle connection is still open; one with something to read is not."""
        return self.sock is not None and self.sock.quiet()


class _Response(http.client.HTTPResponse):
    """http.client's, but for its headers, `fields`: the parser of e-mails takes longer for them than all else here."""

    fields: dict[str, str]

    def begin(self) -> None:
        """Read status and headers, names in lower case."""
        while True:
            version, self.status, self.reason = self._read_status()  # type: ignore[attr-defined]
            self.fields = dict(self._read_fields())
            if self.status >= 200:
                break
        size = self.fields.get("content-length", "")
        self.chunked = self.fields.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        self.length = int(size) if size.isdigit() and not self.chunked else None
        if self.status in (204, 304):
            self.length = 0
        keeps = "close" if version == "HTTP/1.0" else "keep-alive"
        is_endless = self.length is None and not self.chunked
        self.will_close = is_endless or self.fields.get("connection", keeps).lower() == "close"

    def _read_fields(self) -> Iterator[tuple[str, str]]:
        for _ in range(MOST_HEADERS):
            line = self.fp.readline(LONGEST_HEADER + 1)
            if line in (b"\r\n", b"\n"):
                return
            if not line:
                raise http.client.RemoteDisconnected("the server closed the connection in the head of its answer")
            if len(line) > LONGEST_HEADER:
                break
            name, _, value = line.decode("latin-1").partition(":")
            yield name.strip().lower(), value.strip()
        raise http.client.HTTPException("the headers are too many, or too long")


class _DeadlineSocket:
    """What http.client uses of a socket, whose own timeout is for one wait: a slow drip never meets it."""

    def __init__(self, sock: socket.socket, connection: HttpConnection):
        self._sock, self._connection = sock, connection

    def arm(self) -> None:
        """Let the next wait end at the deadline."""
        self._sock.settimeout(_seconds(self._connection.deadline))

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


def _seconds(deadline: Deadline) -> float:
    try:
        return deadline.left()
    except Refused:
        raise TimeoutError from None
