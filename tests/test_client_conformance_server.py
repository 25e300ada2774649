"""One suite over {sync, async} x {gRPC, HTTP} against a real tritonserver: what one of them says, all say.

A row of a table is asked of all four clients, and what comes of it, a result or an error, must be the same.
Generations, streamed and not, are in test_client_conformance_generate_server.
"""

import json
from contextlib import ExitStack

import numpy as np
import pytest
from four_clients import by_all, opened, outcome, same

from tritonyard import (
    ClientClosed,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ServerFailed,
    ServerUnavailable,
)

pytestmark = pytest.mark.server

SHORT = ["a cat sat on the mat", "", "東京は日本の首都です", "naïve café 🙂", "x\0y"]
TOO_LONG = "word " * 3000
MASKS = {"attention_mask": [[1, 1]], "token_type_ids": [[0, 0]]}
TALK = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": "Say héllo 🙂"}]


@pytest.fixture(scope="module")
def four(server):
    with ExitStack() as stack:
        yield opened(stack, grpc=server.grpc_url, http=server.http_url)


def told(arrays):
    return {name: (array.dtype.name, array.shape, array.tolist()) for name, array in arrays.items()}


# --- embed, infer, ready


def embed(*args, model="minilm", **options):
    return lambda client: told({"embedding": client.embed(*args, model=model, **options)})


def infer(*args, **options):
    return lambda client: told(client.infer(*args, **options))


def readiness(client):
    return client.ready(), client.model_ready("minilm"), client.model_ready("nobody")


def steps(client):
    """The steps of minilm's ensemble one by one: the embedding, as the whole of it."""
    tokens = client.infer("minilm_tokenizer", text=SHORT)
    counts = tokens.pop("num_input_tokens")
    assert counts.tolist() == tokens["attention_mask"].sum(axis=1, keepdims=True).tolist()
    states = client.infer("minilm_encoder", inputs=tokens)["last_hidden_state"]
    pooled = client.infer("minilm_pooler", last_hidden_state=states, attention_mask=tokens["attention_mask"])
    whole = client.infer("minilm", text=SHORT, outputs="embedding")["embedding"]
    np.testing.assert_allclose(pooled["embedding"], whole, atol=1e-5)
    return told({**tokens, **pooled})


def stream_context(client):
    """BYTES that a model writes, each of its three inputs an optional one."""
    given = {"messages": [[json.dumps(TALK)]], "stop_words": [["é", "🙂"]], "stream": [[True]]}
    found = client.infer("smollm2_tokenizer", inputs=given, outputs=["stream_context", "input_lengths"])
    assert list(found) == ["stream_context", "input_lengths"]
    ((context,),) = found["stream_context"].tolist()
    assert isinstance(context, bytes)
    # The request's id is its own.
    return {name: said for name, said in json.loads(context).items() if name != "id"}


UNARY = {
    "embed": (embed(SHORT), (5, 384)),
    "embed one": (embed("one text"), (1, 384)),
    "embed nothing": (embed([]), (0, 384)),
    "embed cut": (embed(["a", TOO_LONG], truncate=True), (2, 384)),
    "parameters": (infer("minilm", text=TOO_LONG, parameters={"truncate": True, "a": 3, "b": 0.5, "c": "é"}), (1, 384)),
}


@pytest.mark.parametrize(("ask", "shape"), UNARY.values(), ids=UNARY)
def test_embeddings(four, ask, shape):
    found = by_all(four, ask)
    dtype, found_shape, rows = found["embedding"]
    assert (dtype, found_shape) == ("float32", shape)
    np.testing.assert_allclose(np.linalg.norm(np.array(rows).reshape(shape), axis=1), 1, atol=1e-5)


def test_a_text_that_is_cut_is_its_beginning(four):
    whole, cut = (
        client.embed(text, model="minilm", truncate=True)[0]
        for client, text in zip(four.values(), [TOO_LONG, TOO_LONG[:5000]], strict=False)
    )
    assert whole @ cut > 0.999


@pytest.mark.parametrize(
    ("ask", "wanted"),
    [
        (readiness, (True, True, False)),
        (stream_context, {"stream": True, "stop": ["é", "🙂"], "input_tokens": 24}),
        (
            infer("minilm_tokenizer", text=["a"], outputs="input_ids"),
            {"input_ids": ("int64", (1, 8), [[101, 1037, 102, 0, 0, 0, 0, 0]])},
        ),
        (
            infer("minilm_tokenizer", text=np.array([[b"a"]]), outputs=["num_input_tokens"]),
            {"num_input_tokens": ("int32", (1, 1), [[3]])},
        ),
    ],
)
def test_answers(four, ask, wanted):
    assert by_all(four, ask) == wanted


def test_the_steps_of_an_ensemble_one_by_one(four):
    found = by_all(four, steps)
    assert {name: (dtype, len(shape)) for name, (dtype, shape, _) in found.items()} == {
        "input_ids": ("int64", 2),
        "attention_mask": ("int64", 2),
        "token_type_ids": ("int64", 2),
        "embedding": ("float32", 2),
    }


REFUSED = [
    (embed("a", model="nobody"), ModelNotFound, "unknown model: 'nobody'"),
    (embed("a", model=None), InvalidRequest, "no model is named"),
    (embed("a", model="minilm_encoder"), InvalidRequest, "name the ensemble, not one of its steps"),
    (embed(["a", "b", "c", TOO_LONG, "d"]), InvalidRequest, "text 3 has 3002 tokens, the longest this model takes"),
    (embed(["a", 3]), InvalidRequest, "text 1 is int, not str"),
    (embed(["a", "\ud800"]), InvalidRequest, "text 1 cannot be sent as UTF-8"),
    (embed("a", timeout=0), InvalidRequest, "timeout 0 is not a number of seconds above 0"),
    (infer("nobody", text="a"), ModelNotFound, "unknown model: 'nobody'"),
    (infer("minilm_tokenizer", txt="a"), InvalidRequest, "no input 'txt'; did you mean 'text'?"),
    (infer("minilm", text="a", outputs="embeding"), InvalidRequest, "did you mean 'embedding'?"),
    (infer("minilm_encoder", input_ids=[[1, 2]]), InvalidRequest, "input 'attention_mask' (INT64 [batch, -1])"),
    (infer("minilm_encoder", input_ids=np.ones((1, 2), np.int32), **MASKS), InvalidRequest, "wants INT64 [batch, -1]"),
    (infer("minilm_encoder", input_ids=[[[1]]], **MASKS), InvalidRequest, "got the shape [1, 1, 1]"),
    (infer("minilm_encoder", input_ids=[[1], [1]], **MASKS), InvalidRequest, "differ in their first dimension"),
    (infer("minilm_encoder", input_ids=[[10**6, 1]], **MASKS), ServerFailed, "input index out of range"),
    (infer("minilm_tokenizer", text=["a"] * 65), InvalidRequest, "a batch of 65, the model takes 1 to 64"),
    (infer("minilm_tokenizer", text=[b"caf\xe9"]), InvalidRequest, "text 0 is not UTF-8: byte 0xe9 at position 3"),
    (infer("smollm2_tokenizer"), InvalidRequest, "neither text_input nor messages was sent"),
    (infer("smollm2", text_input="hi"), InvalidRequest, "(decoupled), and infer reads one answer"),
    (infer("minilm", text="a", parameters={"a": None}), InvalidRequest, "the parameter 'a' is None"),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "kind", "words"), REFUSED, ids=[words for _, _, words in REFUSED])
def test_refusals(four, ask, kind, words):
    failure = by_all(four, ask)
    assert failure.kind is kind
    assert words in failure.words
    assert failure.attempts <= 1


def test_a_parameter_of_a_type_that_is_not_tritons(four):
    # In words of its own over each protocol.
    ask = infer("minilm", text="a", parameters={"priority": "high"})
    assert {outcome(ask, client).kind for client in four.values()} == {InvalidRequest}


def test_a_tiny_timeout(four):
    ask = embed(["word " * 100] * 100, timeout=0.001)
    # Whether the first request was under way by then is by chance.
    kind, _, words = same({name: outcome(ask, client)[:3] for name, client in four.items()})
    assert kind is DeadlineExceeded
    assert "no answer within 0.001 s" in words


# --- what is not a request's own


def test_an_error_names_its_request_as_the_server_does(four):
    errors = []
    for client in four.values():
        for ask in (embed(TOO_LONG), infer("minilm", text=TOO_LONG)):
            with pytest.raises(InvalidRequest) as raised:
                ask(client)
            errors.append(raised.value)
        for stream in (False, True):
            with pytest.raises(InvalidRequest) as raised:
                list(client.generate("a", model="smollm2", max_tokens=0, stream=stream))
            errors.append(raised.value)
    assert len({error.request_id for error in errors}) == len(errors) == 16
    for error in errors:
        assert (error.model in ("minilm", "smollm2"), error.attempts) == (True, 1)
        assert error.words
        assert error.words in str(error)
        assert error.url in str(error)


def calls(client):
    return {
        "embed": lambda: client.embed("a", model="minilm"),
        "infer": lambda: client.infer("minilm", text="a"),
        "generate": lambda: client.generate("a", model="smollm2"),
        "streamed": lambda: list(client.generate("a", model="smollm2", stream=True)),
    }


def test_a_closed_client(server):
    with ExitStack() as stack:
        for client in opened(stack, grpc=server.grpc_url, http=server.http_url).values():
            client.embed("a", model="minilm")
            client.close()
            failure = same({name: outcome(call) for name, call in calls(client).items()})
            assert failure.kind is ClientClosed
            assert "the client is closed; make a new client" in failure.words


def test_a_server_that_is_not_there():
    with ExitStack() as stack:
        for client in opened(stack, grpc="grpc://127.0.0.1:1", http="http://127.0.0.1:1").values():
            # The words are those of the machine that refused.
            failures = {name: outcome(call) for name, call in calls(client).items()}
            assert same({name: (each.kind, each.attempts) for name, each in failures.items()}) == (ServerUnavailable, 3)
            assert client.ready() is False
            assert client.model_ready("minilm") is False
