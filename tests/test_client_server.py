"""The clients against a real tritonserver: order of rows, threads, wrong ports, and what wears a server out.

What all transports have in common is in test_client_conformance_server.
"""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tritonyard import AccessDenied, Client, DeadlineExceeded, InvalidRequest, ServerUnavailable

pytestmark = pytest.mark.server


@pytest.fixture(params=["grpc", "http"])
def url(request, server):
    return getattr(server, f"{request.param}_url")


@pytest.fixture(scope="session")
def mixed(server):
    """300 texts of all lengths, and the embedding of each, asked for alone."""
    dice = random.Random(0)
    words = ["time", "person", "year", "way", "day", "thing", "man", "world", "life", "hand"]
    texts = [" ".join(dice.choices(words, k=int(dice.paretovariate(0.7) * 3) % 120 + 1)) for _ in range(300)]
    with Client(server.grpc_url, model="minilm") as client:
        return texts, np.concatenate([client.embed(text) for text in texts])


def test_all_transports_agree_and_order_is_restored(kind, url, mixed):
    texts, alone = mixed
    with kind(url, model="minilm") as client:
        embeddings = client.embed(texts)
    # An int8 engine's scales depend on what else is in the batch, so that equality is not to be had.
    cosines = (embeddings * alone).sum(axis=1)
    assert cosines.min() > 0.98
    assert cosines.mean() > 0.999


def test_the_other_protocols_port(server):
    for wrong in (server.grpc_url.replace("grpc", "http"), server.http_url.replace("http", "grpc")):
        with Client(wrong, model="minilm", timeout=3) as client:
            with pytest.raises((ServerUnavailable, DeadlineExceeded)):
                client.embed("a")
            assert not client.ready()


def test_32_threads_at_once(url, mixed):
    texts, alone = mixed
    with Client(url, model="minilm") as client, ThreadPoolExecutor(32) as pool:
        results = list(pool.map(lambda start: client.embed(texts[start : start + 4]), range(32)))
    for start, result in enumerate(results):
        assert (result * alone[start : start + 4]).sum(axis=1).min() > 0.98


def test_access_denied_is_what_the_restricted_endpoints_say(server):
    """The client asks nothing restricted; what such an endpoint answers must still be in the table."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    from tritonyard._errors import kind_of

    with grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=5)
    assert kind_of(raised.value.code().name, raised.value.details()) is AccessDenied


def test_refused_streams_leave_the_server_whole(server):
    # Told with gRPC's own statuses, a hundred of them crash tritonserver 2.51.
    with Client(server.grpc_url, model="smollm2", timeout=30) as client:
        for _ in range(400):
            with pytest.raises(InvalidRequest, match="temperature is -1; give a number"):
                list(client.generate("a", stream=True, temperature=-1.0))
        assert client.generate("a", max_tokens=1).num_output_tokens == 1
