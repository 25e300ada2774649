"""What ends TLS in front of a fake server, as a proxy does, and certificates to do it with."""

import asyncio
import contextlib
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tritonyard import Tls

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Certificates:
    """A folder of two CAs, `ca` and `stranger`, and of what they signed: NAME.pem and NAME.key."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("ca", "stranger"):
            self._run("req", "-x509", *KEY, *self._out(name), "-days", "2", "-subj", f"/CN={name}")

    def sign(self, name: str, alternative: str, ca: str = "ca", days: int = 2) -> None:
        """Make a certificate for `alternative`, such as IP:127.0.0.1; one of -1 days has expired."""
        request, (_, key, _, certificate) = self.folder / f"{name}.csr", self._out(name)
        self._run("req", *KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative}")
        signing = ("-CA", self.pem(ca), "-CAkey", self.key(ca), "-CAcreateserial", "-extfile", extensions)
        self._run("x509", "-req", "-in", request, *signing, "-out", certificate, "-days", str(days))

    def pem(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def _out(self, name: str) -> tuple[str, Path, str, Path]:
        return "-keyout", self.key(name), "-out", self.pem(name)

    def _run(self, *arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def make_certificates(folder: Path) -> Certificates:
    """Make those of a server and a caller that the CA signed, and some that will not do."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates, and is not there")
    made = Certificates(folder)
    made.sign("server", "IP:127.0.0.1,DNS:localhost")
    made.sign("elsewhere", "DNS:elsewhere.example")
    made.sign("expired", "IP:127.0.0.1", days=-1)
    made.sign("caller", "DNS:caller")
    made.sign("impostor", "DNS:caller", ca="stranger")
    return made


def tls_of(certificates: Certificates, ca: str = "ca", caller: str | None = None) -> Tls:
    """Return what a client goes by: the CA that it trusts, and the certificate that it shows."""
    if caller is None:
        return Tls(certificates.pem(ca))
    return Tls(certificates.pem(ca), certificates.pem(caller), certificates.key(caller))


class Front:
    """Where TLS is ended: `url`, and how many bytes callers `sent`, decrypted."""

    def __init__(self, url: str):
        self.url, self.sent = url, 0


@contextlib.contextmanager
def tls_front(behind: str, certificates: Certificates, name: str = "server", mutual: bool = False) -> Iterator[Front]:
    """End TLS with the certificate `name` in front of the fake at the URL `behind`, in a thread."""
    address = urlsplit(behind)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.pem(name), certificates.key(name))
    context.set_alpn_protocols(["h2"] if address.scheme == "grpc" else ["http/1.1"])
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates.pem("ca"))
    front = Front("")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_callers: bool) -> None:
        try:
            while data := await reader.read(65536):
                front.sent += len(data) * is_callers
                writer.write(data)
                await writer.drain()
            writer.close()
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(address.hostname, address.port)
        await asyncio.gather(pump(reader, there_writer, True), pump(there_reader, writer, False))

    ready = threading.Event()
    stops: list[Callable[[], object]] = []

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        # A handshake that was refused is not news.
        loop.set_exception_handler(lambda *_: None)
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        front.url = f"{address.scheme}s://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))
        ready.set()
        await stop.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert ready.wait(5)
        yield front
    finally:
        for stop in stops:
            stop()
        thread.join()
