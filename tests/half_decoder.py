"""A random float16 decoder of one layer, with all that the model builder's graphs have at their edges; made at once."""

import json
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY, HIDDEN, HEAD = 61, 32, 16
# Of unequal length. The two best tokens are never nearer than 4 in their answers: any right arithmetic gives these.
PROMPTS = [[34, 9, 52, 27, 54], [27, 17], [25, 0, 53, 59, 5, 49, 43]]
ANSWER = 12
PAST, PRESENT = ([f"{name}.0.{each}" for each in ("key", "value")] for name in ("past_key_values", "present"))


def write_half_decoder(folder: Path) -> Path:
    """Write model.onnx and decoder.json into `folder`; no token ends an answer."""
    import onnx
    from onnx import TensorProto, helper

    half, whole, tensor = TensorProto.FLOAT16, TensorProto.INT64, helper.make_tensor_value_info
    cache = ["B", 1, "L", HEAD]
    inputs = [tensor("input_ids", whole, ["B", "S"]), tensor("attention_mask", whole, ["B", "T"])]
    inputs += [tensor(name, half, cache) for name in PAST]
    outputs = [tensor("logits", half, ["B", 1, VOCABULARY]), *(tensor(name, half, cache) for name in PRESENT)]
    graph = helper.make_graph(_nodes(), "decoder", inputs, outputs, _weights())
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / "model.onnx")
    facts = {"end_ids": [], "vocab_size": VOCABULARY, "head_size": HEAD}
    (folder / "decoder.json").write_text(json.dumps(facts))
    return folder


def _nodes() -> list[Any]:
    from onnx import TensorProto, helper

    node, attention = helper.make_node, {"num_heads": HIDDEN // HEAD, "kv_num_heads": 1, "domain": "com.microsoft"}
    fed = ["hidden", "key", "value", *PAST, "seqlens_k", "total_length"]
    return [
        node("Gather", ["embed", "input_ids"], ["hidden"]),
        node("MatMul", ["hidden", "to_key"], ["key"]),
        node("MatMul", ["hidden", "to_value"], ["value"]),
        node("ReduceSum", ["attention_mask", "first"], ["tokens"], keepdims=0),
        node("Sub", ["tokens", "one"], ["before"]),
        node("Cast", ["before"], ["seqlens_k"], to=TensorProto.INT32),
        node("Shape", ["attention_mask"], ["size"]),
        node("Gather", ["size", "one"], ["total"], axis=0),
        node("Cast", ["total"], ["total_length"], to=TensorProto.INT32),
        node("GroupQueryAttention", fed, ["attended", *PRESENT], **attention),
        node("Add", ["hidden", "attended"], ["sum"]),
        node("Gather", ["sum", "last"], ["final"], axis=1),
        node("Unsqueeze", ["final", "first"], ["wide"]),
        node("MatMul", ["wide", "head"], ["logits"]),
    ]


def _weights() -> list[Any]:
    from onnx import numpy_helper

    random = np.random.default_rng(4)
    shapes = {"embed": (VOCABULARY, HIDDEN), "to_key": (HIDDEN, HEAD), "to_value": (HIDDEN, HEAD)}
    shapes["head"] = (HIDDEN, VOCABULARY)
    values = {name: random.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
    numbers = {"one": np.int64(1), "first": np.array([1]), "last": np.int64(-1)}
    return [numpy_helper.from_array(np.asarray(value), name) for name, value in (values | numbers).items()]


def answer_together(slots: Any) -> list[list[int]]:
    """The greedy answers to PROMPTS by the Decoder `slots`, decoded as a batch.

    The second leaves in the middle, with half its answer, and the last one takes its row.
    """
    said = [[int(slots.prefill(row, np.array(prompt)).argmax())] for row, prompt in enumerate(PROMPTS)]
    running = list(said)
    for step in range(1, ANSWER):
        if step == ANSWER // 2:
            slots.swap(2, 1)
            running[1] = running.pop()
        best = slots.decode(np.array([each[-1] for each in running])).argmax(axis=1)
        for each, token in zip(running, best.tolist(), strict=True):
            each.append(token)
    return said
