"""Arrays like those of an earlier `infer` are not looked at again; all others are, as the first ones were."""

import numpy as np
import pytest
from test_client_infer import ROWS, SCORER, config_of

from tritonyard import InvalidRequest, ModelConfig, TensorConfig
from tritonyard._infer import infer_call


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    ("name", "odd", "words"),
    [
        ("input_ids", np.ones((2, 5), np.int32), "got an array of int32"),
        ("input_ids", np.ones((9, 5), np.int64), "has a batch of 9"),
        ("input_ids", np.ones((1, 5), np.int64), "differ in their first dimension"),
        ("attention_mask", np.zeros((2, 4), np.int64), r"the shape \[2, 4\]"),
        ("text", np.array([[b"a"], [None]], object), r"NoneType None at \[1, 0\]"),
        ("temperature", np.ones((2, 2), np.float32), r"the shape \[2, 2\]"),
        ("temperature", [["1"], ["2"]], "str '1' at"),
        ("unknown", np.ones((2, 5), np.int64), "there is no input 'unknown'"),
    ],
)
def test_what_fitted_does_not_let_others_by(times, name, odd, words):
    config = config_of(SCORER)
    for _ in range(times):
        call = infer_call("m", config, ROWS, None, None)
        assert [(each.shape, each.raw) for each in call.inputs] == [
            (each.shape, each.tobytes()) for each in ROWS.values()
        ]
        infer_call("m", config, {**ROWS, "text": np.array([[b"a"], ["b"]], object)}, None, None)
        with pytest.raises(InvalidRequest, match=words):
            infer_call("m", config, {**ROWS, name: odd}, None, None)
        with pytest.raises(InvalidRequest, match=r"'attention_mask' .* is missing"):
            infer_call("m", config, {"input_ids": ROWS["input_ids"]}, None, None)


@pytest.mark.parametrize(
    "like",
    [np.full((2, 5), 7, np.int64), np.full((2, 5), 7, ">i8"), np.full((5, 2), 7, np.int64).T, [[7] * 5] * 2],
    ids=["same", "big-endian", "transposed", "list"],
)
def test_each_array_is_sent_with_its_own_content(like):
    config = config_of(SCORER)
    for ids in (ROWS["input_ids"], like, ROWS["input_ids"], like):
        first, _ = infer_call("m", config, {**ROWS, "input_ids": ids}, None, None).inputs
        assert (first.shape, first.raw) == ((2, 5), np.array(ids, np.int64).tobytes())


def test_outputs_and_parameters_are_looked_at_each_time():
    config = config_of(SCORER)
    for _ in range(2):
        assert infer_call("m", config, ROWS, "input_ids", {"a": 1}).outputs == ("input_ids",)
        for outputs, parameters in (("nothing", None), (None, {"a": None})):
            with pytest.raises(InvalidRequest):
                infer_call("m", config, ROWS, outputs, parameters)


def test_no_more_is_remembered_than_is_likely_to_come_again():
    config = ModelConfig(0, {"x": TensorConfig("FP32", (-1,))}, {})
    for size in range(1100):
        infer_call("m", config, {"x": np.zeros(size, np.float32)}, None, None)
    assert len(config.fitting) == 1000
