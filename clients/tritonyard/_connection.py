"""How a server is reached: its address, TLS, compression, and the headers of every call. Opens no socket."""

import asyncio
import inspect
import os
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from tritonyard._errors import InvalidRequest
from tritonyard._transport import Deadline, Headers

DEFAULT_URL = "grpc://127.0.0.1:8001"
# tritonserver ends TLS itself for gRPC; for HTTP a proxy does, on the port of proxies.
DEFAULT_PORTS = {"grpc": 8001, "grpcs": 8001, "http": 8000, "https": 443}
FORM = "write grpc://host:port or http://host:port, with TLS grpcs:// or https://"

Token = str | Callable[[], str]
AsyncToken = str | Callable[[], str | Awaitable[str]]
AnyToken = TypeVar("AnyToken", bound=AsyncToken)
Compression = Literal["gzip", "deflate"]
COMPRESSIONS = ("gzip", "deflate")

# What gRPC and HTTP both carry unchanged.
HEADER_NAME = re.compile(r"[A-Za-z0-9_.-]+")
HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
# Headers that the transports themselves write, or that gRPC keeps for itself.
OWN_HEADERS = re.compile(
    r"connection|host|te|content-(length|type|encoding)|transfer-encoding|accept-encoding"
    r"|inference-header-content-length|triton_grpc_error|grpc-.*|.*-bin",
    re.IGNORECASE,
)

# What the libraries say of a TLS connection that does not come about -> what mends it; the first that fits.
TLS_MENDS = (
    (r"certificate has expired|not yet valid", "renew the server's certificate, or set this machine's clock"),
    (r"mismatch|[Hh]ostname", "write in url the name that the server's certificate is for"),
    (r"CERTIFICATE_VERIFY_FAILED", "name the CA that signed the server's certificate: tls=Tls(ca=...)"),
    (r"WRONG_VERSION_NUMBER|BAD_PACKET", "the server speaks none on this port; write grpc:// or http://"),
    (r"(?i)alert", "send a certificate that the server's CA signed: tls=Tls(certificate=..., key=...)"),
    # How a server that wants a certificate ends a connection without one, and one without TLS any of it.
    (
        r"Socket closed|[Rr]eset|EOF|closed connection|[Dd]isconnected|Broken pipe",
        "check that the server speaks it on this port, and whether it wants tls=Tls(certificate=..., key=...)",
    ),
)


@dataclass(frozen=True)
class Tls:
    """The PEM files of an encrypted connection (`grpcs://`, `https://`), as paths.

    `ca` holds the CAs one of which must have signed the server's certificate; None means the system's. `certificate`
    and `key` prove who the caller is, to a server that asks (mutual TLS); `key` may stand in the file `certificate`.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None


class Address:
    """Where a server is: `scheme` (grpc, grpcs, http or https), `host`, `port`; as text, a URL with all three."""

    def __init__(self, url: str):
        if not isinstance(url, str):
            raise InvalidRequest(f"url is {type(url).__name__}, not str; {FORM}")
        try:
            parts = urlsplit(url if "://" in url else f"grpc://{url}")
            self.scheme, self.host, port = parts.scheme, parts.hostname or "", parts.port
        except ValueError as error:
            raise InvalidRequest(f"url '{url}' cannot be read: {error}; {FORM}") from None
        if self.scheme not in DEFAULT_PORTS:
            known = ", ".join(DEFAULT_PORTS)
            raise InvalidRequest(f"url '{url}' has the scheme '{self.scheme}', which is not one of {known}")
        if not self.host or parts.path.strip("/") or parts.query or parts.username is not None:
            raise InvalidRequest(f"url '{url}' is not of the form grpc://host:port; {FORM}")
        self.port = DEFAULT_PORTS[self.scheme] if port is None else port

    @property
    def is_grpc(self) -> bool:
        """Whether gRPC is spoken there, else HTTP."""
        return self.scheme in ("grpc", "grpcs")

    @property
    def is_encrypted(self) -> bool:
        """Whether it is spoken over TLS."""
        return self.scheme in ("grpcs", "https")

    @property
    def netloc(self) -> str:
        """Host and port, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


class Connection:
    """What a transport needs to know besides the call: `address`, `compression`, and what every call is sent with.

    `tls`, and `ssl`, which Python's sockets make of it, are None where nothing is encrypted.

    Raises InvalidRequest: one of them cannot be.
    """

    def __init__(
        self,
        address: Address,
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        token: AsyncToken | None = None,
        compression: Compression | None = None,
    ):
        if tls is not None and not address.is_encrypted:
            raise InvalidRequest(f"tls is given, but '{address}' is not encrypted; write {_encrypted(address)}")
        if compression is not None and compression not in COMPRESSIONS:
            raise InvalidRequest(f"compression {compression!r} is not one of {', '.join(COMPRESSIONS)}")
        self.address, self.compression = address, compression
        self.tls = tls or Tls() if address.is_encrypted else None
        # gRPC reads the files by itself, but its words for a bad one come late, and on standard error.
        self.ssl = _ssl_context(self.tls) if self.tls is not None else None
        self._headers = _checked_headers(headers or {})
        if token is not None and "authorization" in dict(self._headers):
            raise InvalidRequest("both token and the header 'authorization' are given; leave one of them out")
        self._token: Callable[[], Any] | None = None
        # What a callable gives can only be checked when it gives it.
        if callable(token):
            self._token = token
        elif token is not None:
            self._headers = (*self._headers, _bearer(token))

    def headers(self) -> Headers:
        """Return the headers of one call, lower case; a callable token is asked, and what it raises comes out."""
        if self._token is None:
            return self._headers
        return (*self._headers, _bearer(self._token()))

    async def awaited_headers(self, deadline: Deadline) -> Headers:
        """Return the headers of one call, waiting for a token that has to be awaited; raise Refused at `deadline`."""
        if self._token is None:
            return self._headers
        token = self._token()
        if inspect.isawaitable(token):
            try:
                token = await asyncio.wait_for(token, deadline.left())
            except (TimeoutError, asyncio.TimeoutError):  # noqa: UP041 (two classes before 3.11)
                # Its own timeout is the callable's business.
                deadline.left()
                raise
        return (*self._headers, _bearer(token))


def _ssl_context(tls: Tls) -> ssl.SSLContext:
    """Return what makes Python's sockets speak TLS; raise InvalidRequest where a file is missing or not what it should.

    Certificate and name of the server are always verified.
    """
    if tls.key is not None and tls.certificate is None:
        raise InvalidRequest("tls has a key and no certificate; pass both, as PEM files")
    for name in ("ca", "certificate", "key"):
        path = getattr(tls, name)
        if path is not None and not Path(path).is_file():
            raise InvalidRequest(f"tls.{name} '{path}' is not a file; pass the path of a PEM file")
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except (ssl.SSLError, OSError) as error:
        raise InvalidRequest(f"tls.ca '{tls.ca}' holds no certificate that can be read: {error}") from None
    if tls.certificate is not None:
        try:
            # Without a password Python would ask for one at the terminal.
            context.load_cert_chain(tls.certificate, tls.key, password="")
        except (ssl.SSLError, OSError) as error:
            fact = f"tls.certificate '{tls.certificate}' and tls.key '{tls.key or tls.certificate}' are no pair"
            raise InvalidRequest(f"{fact}: {error}; pass PEM files that belong together, the key unencrypted") from None
    return context


def tls_mend(words: str) -> str | None:
    """Return what mends a TLS connection of which a library said `words`; None where they are not about TLS."""
    for pattern, mend in TLS_MENDS:
        if re.search(pattern, words):
            return f"this is about TLS: {mend}"
    return None


def _encrypted(address: Address) -> str:
    return f"{address.scheme}s://{address.netloc}"


def _checked_headers(headers: Mapping[str, str]) -> Headers:
    if not isinstance(headers, Mapping):
        raise InvalidRequest(f"headers is {type(headers).__name__}; pass a mapping of names to values")
    for name, value in headers.items():
        if not isinstance(name, str) or not HEADER_NAME.fullmatch(name):
            raise InvalidRequest(f"the header's name {name!r} is not of ASCII letters, digits and any of _.-")
        if OWN_HEADERS.fullmatch(name):
            raise InvalidRequest(f"the header '{name}' is written by the protocol itself; leave it out")
        _check_value(value, f"the value of header '{name}'")
    return tuple((name.lower(), value) for name, value in headers.items())


def _bearer(token: Any) -> tuple[str, str]:
    if inspect.iscoroutine(token):
        token.close()
        raise InvalidRequest("token is a coroutine function, which a Client cannot await; use AsyncClient")
    _check_value(token, "the token")
    return "authorization", f"Bearer {token}"


def _check_value(value: object, what: str) -> None:
    """Raise InvalidRequest where a header cannot carry `value`, which may be a secret: it is not shown."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{what} is {type(value).__name__}, not str")
    if not HEADER_VALUE.fullmatch(value):
        raise InvalidRequest(f"{what} is empty, or holds a line break, space around it or what is not ASCII; strip it")
