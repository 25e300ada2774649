"""The clients against a real tritonserver that serves minilm: four transports, one behaviour."""

import asyncio
import random
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tritonyard import (
    AccessDenied,
    AsyncClient,
    Client,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ServerUnavailable,
)

pytestmark = pytest.mark.server

WIDTH = 384
SHORT = ["a cat sat on the mat", "", "東京は日本の首都です", "naïve café 🙂", "x\0y"]
TOO_LONG = "word " * 3000


@pytest.fixture(params=["grpc", "http"])
def url(request, server):
    return getattr(server, f"{request.param}_url")


@pytest.fixture(params=["sync", "async"])
def embed(request, url):
    """Embed on a client of one of the four transports."""

    def in_sync(*args, **kwargs):
        with Client(url, model="minilm") as client:
            return client.embed(*args, **kwargs)

    def in_async(*args, **kwargs):
        async def main():
            async with AsyncClient(url, model="minilm") as client:
                return await client.embed(*args, **kwargs)

        return asyncio.run(main())

    return in_sync if request.param == "sync" else in_async


@pytest.fixture(scope="session")
def mixed(server):
    """300 texts of all lengths, and the embedding of each, asked for alone."""
    dice = random.Random(0)
    words = ["time", "person", "year", "way", "day", "thing", "man", "world", "life", "hand"]
    texts = [" ".join(dice.choices(words, k=int(dice.paretovariate(0.7) * 3) % 120 + 1)) for _ in range(300)]
    with Client(server.grpc_url, model="minilm") as client:
        return texts, np.concatenate([client.embed(text) for text in texts])


def test_shape_and_scale(embed):
    embeddings = embed(SHORT)
    assert embeddings.shape == (len(SHORT), WIDTH)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_all_transports_agree_and_order_is_restored(embed, mixed):
    texts, alone = mixed
    embeddings = embed(texts)
    # An int8 engine's scales depend on what else is in the batch, so that equality is not to be had.
    cosines = (embeddings * alone).sum(axis=1)
    assert cosines.min() > 0.98
    assert cosines.mean() > 0.999


def test_no_texts(embed):
    assert embed([]).shape == (0, WIDTH)


def test_a_text_that_is_too_long_is_refused_with_both_lengths(embed):
    with pytest.raises(InvalidRequest, match=r"text 3 has 3002 tokens, the longest this model takes is \d+") as raised:
        embed(["a", "b", "c", TOO_LONG, "d"])
    assert raised.value.model == "minilm"


def test_a_text_that_is_too_long_is_cut_on_request(embed):
    embeddings = embed(["a", TOO_LONG], truncate=True)
    assert embeddings.shape == (2, WIDTH)
    assert embeddings[1] @ embed([TOO_LONG[:5000]], truncate=True)[0] > 0.999


def test_an_unknown_model(embed):
    with pytest.raises(ModelNotFound, match="minilmm"):
        embed("a", model="minilmm")


def test_a_step_is_not_an_embedding_model(embed):
    with pytest.raises(InvalidRequest, match="name the ensemble, not one of its steps"):
        embed("a", model="minilm_encoder")


def test_a_tiny_timeout(embed):
    with pytest.raises(DeadlineExceeded, match=re.escape("within 0.001 s")):
        embed(["word " * 100] * 100, timeout=0.001)


def test_a_wrong_port(url):
    wrong = url.rsplit(":", 1)[0] + ":1"
    with Client(wrong, model="minilm") as client:
        with pytest.raises(ServerUnavailable):
            client.embed("a")
        assert not client.ready()


def test_the_other_protocols_port(server):
    for wrong in (server.grpc_url.replace("grpc", "http"), server.http_url.replace("http", "grpc")):
        with Client(wrong, model="minilm", timeout=3) as client:
            with pytest.raises((ServerUnavailable, DeadlineExceeded)):
                client.embed("a")
            assert not client.ready()


def test_readiness(url):
    with Client(url) as client:
        assert client.ready()
        assert client.model_ready("minilm")
        assert not client.model_ready("minilmm")


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
