"""`infer` over real sockets, against models that a test declares: what goes, what comes, what is refused unsent."""

import asyncio
import re
import sys

import ml_dtypes
import numpy as np
import pytest
from fake_kserve import Fault, Model
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tritonyard import AsyncClient, InvalidRequest, ModelNotFound, ServerFailed
from tritonyard._datatype import DTYPES, dtype_of
from tritonyard._infer import infer_call, one_mapping
from tritonyard._transport import ModelConfig, TensorConfig, tensor

DATATYPES = [*DTYPES, "BF16"]


def declared(name, datatype, dims, **more):
    data_type = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
    return {"name": name, "data_type": data_type, "dims": dims, **more}


# One tensor of each datatype, of any shape in three dimensions, back as it came.
ECHO = [declared(datatype, datatype, [-1, -1, -1]) for datatype in DATATYPES]
# What most tests ask: rows of whole numbers and a text each, a batch of 4 at most.
SCORER = Model(
    inputs=[
        declared("input_ids", "INT64", [-1]),
        declared("attention_mask", "INT64", [3]),
        declared("text", "BYTES", [1], optional=True),
        declared("temperature", "FP32", [1], optional=True),
    ],
    outputs=[declared("input_ids", "INT64", [-1]), declared("attention_mask", "INT64", [3])],
    max_batch_size=4,
)
ROWS = {"input_ids": np.ones((2, 5), np.int64), "attention_mask": np.zeros((2, 3), np.int64)}


def config_of(model):
    def tensors(side):
        return {
            each["name"]: TensorConfig(
                each["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES"),
                tuple(each["dims"]),
                each.get("optional", False),
            )
            for each in side
        }

    return ModelConfig(model.max_batch_size, tensors(model.inputs), tensors(model.outputs), model.decoupled)


@pytest.fixture
def scorer(fake):
    fake.models["minilm"] = Model(SCORER.inputs, SCORER.outputs, SCORER.max_batch_size)
    return fake.models["minilm"]


# --- there and back


def arrays(datatype):
    """Arrays of any content and of up to three dimensions' sizes, those of 0 too; floats with all their NaNs."""
    shapes = npst.array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=3)
    if datatype == "BYTES":
        # numpy's own strategy of bytes cannot end in zero bytes.
        return shapes.flatmap(
            lambda shape: st.lists(
                st.binary(max_size=6), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))
            ).map(lambda texts: np.array([*texts, None], object)[:-1].reshape(shape))
        )
    dtype = dtype_of(datatype)
    bits = np.dtype(f"u{dtype.itemsize}") if datatype != "BOOL" else dtype
    return shapes.flatmap(lambda shape: npst.arrays(bits, shape)).map(lambda array: array.view(dtype))


GIVEN = st.sets(st.sampled_from(DATATYPES), min_size=1).flatmap(
    lambda names: st.fixed_dictionaries({name: arrays(name) for name in names})
)


def same(one, other):
    """Tell whether two arrays are the same bit for bit, NaNs and zeros by their bits."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.tolist() == other.tolist() if one.dtype == object else one.tobytes() == other.tobytes()


@pytest.fixture(scope="module")
def echoes():
    """Ask an echo model over both protocols, sync and async in turns; one set of servers for all examples."""
    from contextlib import ExitStack

    from client_kinds import CLIENTS, FAKES

    with ExitStack() as stack:
        clients = []
        for start in FAKES.values():
            fake = stack.enter_context(start())
            fake.models["echo"] = Model([{**each, "optional": True} for each in ECHO], ECHO)
            clients += [stack.enter_context(kind(fake.url, model="echo")) for kind in CLIENTS.values()]
        yield clients


@settings(max_examples=40, deadline=None)
@given(GIVEN)
def test_every_array_comes_back_bit_for_bit(echoes, given):
    for client in echoes:
        found = client.infer(inputs=given)
        assert found.keys() == given.keys()
        for name, array in given.items():
            assert same(found[name], array), name


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(DATATYPES))
def test_lists_are_their_arrays(data, datatype):
    array = data.draw(arrays(datatype).filter(lambda array: array.size))
    model = ModelConfig(0, {"x": TensorConfig(datatype, (-1, -1, -1))}, {"y": TensorConfig("BOOL", (1,))})
    (sent,) = infer_call("m", model, {"x": array.tolist()}, None, {}).inputs
    back = tensor("x", datatype, list(sent.shape), sent.raw)
    # A NaN's own bits do not survive Python's floats.
    assert repr(back.tolist()) == repr(array.tolist())


@pytest.mark.parametrize(
    "order", [np.asfortranarray, lambda array: array[::-1, ::2], lambda array: array.astype(">i8")]
)
def test_any_layout_of_an_array(client, scorer, order):
    rows = order(np.arange(2 * 8, dtype=np.int64).reshape(2, 8))
    found = client.infer(**{**ROWS, "input_ids": rows})
    np.testing.assert_array_equal(found["input_ids"], rows)


def test_the_answer_has_the_outputs_that_were_named_in_their_order(client, scorer):
    assert list(client.infer(**ROWS)) == ["input_ids", "attention_mask"]
    assert list(client.infer(**ROWS, outputs=["attention_mask", "input_ids"])) == ["attention_mask", "input_ids"]
    assert list(client.infer(**ROWS, outputs="attention_mask")) == ["attention_mask"]


def test_an_answer_without_a_single_byte(client, fake):
    tensors = [declared("x", "FP32", [-1]), declared("y", "BYTES", [2, -1])]
    fake.models["empty"] = Model(tensors, tensors)
    found = client.infer("empty", x=[], y=[[], []])
    assert {name: (array.dtype, array.shape) for name, array in found.items()} == {
        "x": (np.float32, (0,)),
        "y": (object, (2, 0)),
    }


def test_the_model_is_named_by_position_so_that_a_tensor_may_be_called_model(client, fake):
    names = ["model", "self", "timeout", "my tensor"]
    tensors = [declared(name, "INT32", [1]) for name in names]
    fake.models["odd"] = Model(tensors, tensors)
    found = client.infer("odd", model=[1], self=[2], inputs={"timeout": [3], "my tensor": [4]})
    assert {name: array.tolist() for name, array in found.items()} == dict(
        zip(names, [[1], [2], [3], [4]], strict=True)
    )


@pytest.mark.parametrize(
    ("value", "shape", "datatype"),
    [
        ("a cat", [1, 1], "text"),
        (["a", "bé"], [2, 1], "text"),
        ([["a"], [b"\xff\0"]], [2, 1], "text"),
        (np.array(["a", "b"])[:, None], [2, 1], "text"),
        (0.1, [1, 1], "temperature"),
        ([0.5, 2], [2, 1], "temperature"),
        (np.float64(0.5), [1, 1], "temperature"),
        ([[float("inf")]], [1, 1], "temperature"),
    ],
)
def test_lists_and_scalars_may_leave_dimensions_of_one_out(value, shape, datatype):
    model = config_of(Model([declared(datatype, "BYTES" if datatype == "text" else "FP32", [1])], ECHO, 4))
    (sent,) = infer_call("m", model, {datatype: value}, None, {}).inputs
    assert list(sent.shape) == shape


def test_parameters_travel_as_what_they_are(client, scorer):
    given = {
        "a": True,
        "b": -(2**63),
        "c": 0.25,
        "d": "é",
        "e": np.int32(3),
        "f": np.float32(0.5),
        "g": np.bool_(False),
    }
    client.infer(**ROWS, parameters=given)
    client.infer(**ROWS)
    assert scorer.parameters == [given, {}]
    kinds = {key: type(value) for key, value in scorer.parameters[0].items()}
    assert kinds == dict(zip("abcdefg", [bool, int, float, str, int, float, bool], strict=True))


# --- what is refused before it is sent


def refusal(given, words):
    return pytest.param(given, words, id=words[:40])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        refusal({"input_idz": 1}, "there is no input 'input_idz'; did you mean 'input_ids'?"),
        refusal({"xyz": 1}, "no input 'xyz'; its inputs are input_ids, attention_mask, text, temperature"),
        refusal({"outputs": ["input_id"]}, "there is no output 'input_id'; did you mean 'input_ids'?"),
        refusal({"outputs": [7]}, "there is no output 7; its outputs are input_ids, attention_mask"),
        refusal({"outputs": []}, "outputs is empty; name some of input_ids, attention_mask"),
        refusal({"outputs": [["input_ids"]]}, "there is no output ['input_ids']"),
        refusal({"parameters": ["a"]}, "parameters is list; pass a mapping from their names"),
        refusal({"parameters": {"a": "\ud800"}}, "the parameter 'a' cannot be sent as UTF-8"),
        refusal({"outputs": 7}, "outputs is int; pass a list of names"),
        refusal({"inputs": [1]}, "inputs is list; pass a mapping"),
        refusal({"inputs": {"text": "a"}, "text": "a"}, "'text' came in inputs and as a keyword; pass it once"),
        refusal(
            {"input_ids": np.ones((2, 5), np.int32)},
            "input 'input_ids' wants INT64 [batch, -1], and got an array of int32; convert it with .astype('int64')",
        ),
        refusal({"input_ids": [[1, 2], [3, 4.0]]}, "wants INT64 [batch, -1], and got float 4.0 at [1, 1]"),
        refusal({"input_ids": [[1], [True]]}, "and got bool True at [1, 0]"),
        refusal({"input_ids": [[1], [2**63]]}, "and got int 9223372036854775808 at [1, 0]"),
        refusal({"input_ids": [[1], ["2"]]}, "and got str '2' at [1, 0]"),
        refusal({"input_ids": [[1], [2, 3]]}, "and got a list whose rows differ in length"),
        refusal({"input_ids": None}, "and got NoneType None"),
        refusal({"input_ids": [1, 2]}, "and got the shape [2]; the first dimension is the batch"),
        refusal({"input_ids": np.ones(2, np.int64)}, "and got the shape [2]; the first dimension is the batch"),
        refusal({"input_ids": np.ones((2, 5, 1), np.int64)}, "and got the shape [2, 5, 1]"),
        refusal({"attention_mask": [[1, 2]]}, "wants INT64 [batch, 3], and got the shape [1, 2]"),
        refusal({"input_ids": [[1]]}, "which is the batch: 1 of 'input_ids', 2 of 'attention_mask'"),
        refusal({"input_ids": [[1]] * 5}, "'input_ids' has a batch of 5, the model takes 1 to 4; send it in parts"),
        refusal({"input_ids": np.ones((0, 5), np.int64)}, "'input_ids' has a batch of 0"),
        refusal({"text": [b"a", 7]}, "wants BYTES [batch, 1], and got int 7 at [1]"),
        refusal({"text": ["a", "b\ud800"]}, "at [1], which holds a lone surrogate U+D800"),
        refusal({"text": np.ones((2, 1))}, "and got an array of float64; pass str or bytes"),
        refusal({"text": np.ones((2, 1), "S1")[:, 0]}, "and got the shape [2]"),
        refusal({"temperature": [1e39, 0]}, "wants FP32 [batch, 1], and got float 1e+39 at [0]"),
        refusal({"temperature": [0, 2**24 + 1]}, "and got int 16777217 at [1]"),
        refusal({"temperature": 10**400}, "and got int 1000"),
        refusal({"parameters": {"a": None}}, "the parameter 'a' is None, not a bool"),
        refusal({"parameters": {"a": 2**63}}, "the parameter 'a' is 9223372036854775808"),
        refusal({"parameters": {"a": float("nan")}}, "the parameter 'a' is nan"),
        refusal({"parameters": {7: "a"}}, "a parameter's name is int"),
    ],
)
def test_what_cannot_be_right_is_named(given, words):
    def asked(inputs=None, outputs=None, parameters=None, **arrays):
        return infer_call("m", config_of(SCORER), one_mapping(inputs, arrays), outputs, parameters or {})

    asked(**ROWS)
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        asked(**{**ROWS, **given})


def test_what_is_refused_is_not_sent(client, scorer):
    with pytest.raises(
        InvalidRequest, match=re.escape("input 'attention_mask' (INT64 [batch, 3]) is missing")
    ) as raised:
        client.infer(input_ids=[[1]])
    assert raised.value.model == "minilm"
    assert scorer.requests == []


def test_a_decoupled_model_is_refused(client, scorer):
    scorer.decoupled = True
    with pytest.raises(InvalidRequest, match=r"decoupled.*for generate and chat"):
        client.infer(**ROWS)


def test_a_datatype_that_numpy_does_not_hold(monkeypatch):
    half = config_of(Model([declared("x", "INT32", [1])], [declared("y", "BF16", [1])]))
    new = config_of(Model([declared("x", "INVALID", [1])], []))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(InvalidRequest, match="'y' is BF16, which numpy does not hold; pip install ml_dtypes"):
        infer_call("m", half, {"x": [1]}, None, {})
    with pytest.raises(InvalidRequest, match="'x' is INVALID, which numpy does not hold"):
        infer_call("m", new, {"x": [1]}, None, {})


def test_bf16_is_that_of_ml_dtypes():
    half = config_of(Model([declared("x", "BF16", [2])], [declared("y", "FP32", [2])]))
    (sent,) = infer_call("m", half, {"x": [0.1, -3]}, None, {}).inputs
    assert sent.raw == np.array([0.1, -3], ml_dtypes.bfloat16).tobytes()


# --- what the server says


def test_the_config_is_remembered_until_an_error(client, fake, scorer):
    for _ in range(3):
        client.infer(**ROWS)
    assert fake.configs == 1
    # The model is replaced by one that wants something else.
    scorer.inputs = [declared("input_ids", "INT32", [-1])]
    scorer.outputs = scorer.inputs
    with pytest.raises(InvalidRequest):
        client.infer(input_ids=np.ones((1, 2), np.int32))
    assert client.infer(input_ids=np.ones((1, 2), np.int32))["input_ids"].tolist() == [[1, 1]]
    assert fake.configs == 2


def test_a_model_that_turns_into_one_that_embeds_is_looked_at_again(client, fake, scorer):
    client.infer(**ROWS)
    with pytest.raises(InvalidRequest, match="an embedding model turns text into embedding"):
        client.embed("a")
    del fake.models["minilm"]
    assert client.embed("a").shape == (1, 4)


def test_a_fault_of_the_server_is_of_its_kind(client, scorer):
    def run(inputs, outputs):
        raise Fault("INTERNAL", 500, "text 0 went up in smoke")

    scorer.run = run
    with pytest.raises(ServerFailed, match="text 0 went up in smoke"):
        client.infer(**ROWS)


def test_a_named_output_that_never_comes_is_the_servers_fault(client, scorer):
    scorer.run = lambda inputs, outputs: {"input_ids": inputs["input_ids"]}
    assert list(client.infer(**ROWS)) == ["input_ids"]
    with pytest.raises(ServerFailed, match="asked for 'attention_mask', and left it out"):
        client.infer(**ROWS, outputs=["attention_mask", "input_ids"])


def test_an_output_that_contradicts_itself_is_the_servers_fault(client, scorer):
    scorer.run = lambda inputs, outputs: {"input_ids": ("INT64", [2, 5], b"1234")}
    with pytest.raises(ServerFailed, match="'input_ids' is INT64"):
        client.infer(**ROWS)


def test_an_unknown_model(client):
    with pytest.raises(ModelNotFound):
        client.infer("nobody", x=[1])


def test_many_tasks_share_what_is_known(fake, scorer):
    async def main():
        async with AsyncClient(fake.url, model="minilm") as client:
            await client.infer(**ROWS)
            return await asyncio.gather(*(client.infer(**{**ROWS, "input_ids": [[i], [i]]}) for i in range(16)))

    found = asyncio.run(main())
    assert [each["input_ids"].tolist() for each in found] == [[[i], [i]] for i in range(16)]
    assert fake.configs == 1
