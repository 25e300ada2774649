"""HTTP/1.1 on the wire: what is sent, and the answers of servers and proxies that each write it their own way."""

import pytest
from fake_kserve import raw_socket

from tritonyard import Client
from tritonyard._http_codec import SMALL, Request, written

KEPT = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length:2\r\nX-Colon: a:b\r\n\r\n{}",
    b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
]
CLOSED = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nuntil the end",
]
REFUSED = [
    b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    b"HTTP/1.1 200 OK\r\na: " + b"b" * 70_000 + b"\r\n\r\n",
    b"HTTP/1.1 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nshor",
    b"",
]


def asked_twice(answer, closes):
    """Ask a server that answers so whether it is ready, twice; return what it said, and over how many connections."""
    connections = []

    def behave(connection):
        connections.append(connection)
        while connection.recv(65536):
            connection.sendall(answer)
            if closes:
                return

    with raw_socket(behave) as address, Client(f"http://{address}", timeout=5) as client:
        return [client.ready(), client.ready()], len(connections)


@pytest.mark.wire
@pytest.mark.parametrize(
    ("answers", "closes", "wanted"),
    [(KEPT, False, ([True, True], 1)), (CLOSED, True, ([True, True], 2)), (REFUSED, True, ([False, False], 2))],
)
def test_answers(answers, closes, wanted):
    assert {answer[:40]: asked_twice(answer, closes) for answer in answers} == {
        answer[:40]: wanted for answer in answers
    }


@pytest.mark.parametrize("body", [None, b"", b"a body", b"b" * SMALL])
def test_what_is_sent(body):
    request = Request("POST", "/v2/models/m/infer", {"Content-Type": "application/json"}, body)
    sent = written(request, "here:8000", (("authorization", "Bearer me"),))
    head, _, rest = b"".join(sent).partition(b"\r\n\r\n")
    line, *headers = head.split(b"\r\n")
    assert line == b"POST /v2/models/m/infer HTTP/1.1"
    assert dict(each.split(b": ") for each in headers) == {
        b"Host": b"here:8000",
        b"Accept-Encoding": b"identity",
        b"Content-Type": b"application/json",
        b"authorization": b"Bearer me",
        **({} if body is None else {b"Content-Length": str(len(body)).encode()}),
    }
    assert rest == (body or b"")
    assert len(sent) == 1 + (len(rest) >= SMALL)
