"""A real tritonserver that is closed to strangers: mutual TLS on gRPC, a header for inferences, compressed requests."""

import time

import numpy as np
import pytest
from tls_front import make_certificates, tls_of

from serving.ports import free_ports
from serving.server import Server
from tritonyard import AccessDenied, Client, ServerUnavailable
from yard.checkout import BACKENDS

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def closed_server(repository, certificates, tmp_path_factory):
    """A tritonserver whose gRPC is encrypted, asks who calls, and wants a header for inferences, as its HTTP does."""
    extra = (
        "--grpc-use-ssl=true",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={certificates.pem('server')}",
        f"--grpc-server-key={certificates.key('server')}",
        f"--grpc-root-cert={certificates.pem('ca')}",
        "--grpc-restricted-protocol=inference:x-team=search",
        "--http-restricted-api=inference:x-team=search",
    )
    log = tmp_path_factory.mktemp("logs") / "tritonserver.log"
    with Server(repository, BACKENDS, free_ports(), log, extra=extra) as running:
        with Client(running.http_url, timeout=1) as client:
            until = time.monotonic() + 60
            while not client.ready():
                assert time.monotonic() < until, running.explain()
                time.sleep(0.1)
        yield running
        running.stop(at_once=True)


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("scheme", ["grpcs", "http"])
def test_tritonserver_takes_tls_headers_and_compression(closed_server, certificates, kind, scheme, compression):
    url, tls, header = closed_server.http_url, None, "X-Team"
    if scheme == "grpcs":
        url, tls = closed_server.grpc_url.replace("grpc", "grpcs"), tls_of(certificates, caller="caller")
        header = "triton-grpc-protocol-x-team"
    with kind(url, tls=tls, compression=compression, headers={header: "search"}) as client:
        assert client.ready()
        embeddings = client.embed(["a cat on a mat", "a feline on a rug"] * 8, model="minilm")
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
        answer = client.generate("The sea", model="smollm2", max_tokens=4)
        deltas = list(client.generate("The sea", model="smollm2", max_tokens=4, stream=True))
        assert "".join(delta.text for delta in deltas) == answer.text != ""
    with kind(url, tls=tls, compression=compression) as client:
        assert client.ready()
        for ask in (
            lambda: client.embed("a", model="minilm"),
            lambda: client.generate("The sea", model="smollm2", max_tokens=4),
            lambda: list(client.generate("The sea", model="smollm2", max_tokens=4, stream=True)),
        ):
            with pytest.raises(AccessDenied, match="restricted"):
                ask()


@pytest.mark.parametrize(("ca", "caller"), [("ca", None), ("ca", "impostor"), ("stranger", "caller")])
def test_tritonserver_and_caller_refuse_each_other(closed_server, certificates, kind, ca, caller):
    url = closed_server.grpc_url.replace("grpc", "grpcs")
    with kind(url, tls=tls_of(certificates, ca, caller), timeout=5) as client:
        with pytest.raises(ServerUnavailable, match="this is about TLS"):
            client.embed("a", model="minilm")
        assert client.ready() is False
