"""The verify graph of a decoder: a few drafted tokens of one row at once, each as if it were decoded alone.

Speculative decoding (Leviathan et al. 2023) wants the logits behind several tokens for little more than the price of
one. The graph that decodes gives them too, but not the same ones: `GroupQueryAttention` sums in another order where a
row has several tokens, by 3e-8, which int8 products behind it turn into differences of up to 1.4 in logits. The
products themselves give each token the same whatever is beside it. So in this graph, a function of that one which lies
beside it, attention is done one token after the other over the same caches, and all else at once: bit for bit what
decoding gives, in logits and in caches.

Its inputs are those of the graph that decodes, with B = 1 and S = TOKENS; `logits` is [1, TOKENS, vocabulary]. Each
layer's attention writes its caches TOKENS times: `present.N.key|value`, then `present.N.key|value.1` and so on, all of
which must be bound to the memory of `past_key_values.N.key|value`. Weights are those of the other graph, in its data
file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.integer_graphs import ATTENTION, DECODE, LOGITS, OF_INTEGERS, PRODUCT, TURN, before_pruning
from pipeline.onnx_encoder import MODEL

VERIFY = "verify.onnx"
# The last token that was sampled and three drafted ones.
TOKENS = 4
# Inputs of GroupQueryAttention (onnxruntime, ContribOperators.md): what comes of the new tokens, queries maybe with
# keys and values in one; a row's length without its last token; positions and the like, which would have to be cut too.
OF_TOKENS, LENGTHS, OTHERS = slice(0, 3), 5, slice(9, None)


def write_verify_graph(folder: Path) -> bool:
    """Write verify.onnx beside decode.onnx in `folder`, or else beside model.onnx; tell whether there is one.

    There is none, and nothing is written, where a product is none of quantised weights, or attention is not all that
    knows of positions.
    """
    import onnx

    decodes = DECODE if (folder / DECODE).exists() else MODEL
    model = onnx.load(folder / decodes, load_external_data=False)
    found = _Graph(model.graph)
    if not found.can_verify():
        return False
    nodes = list(found.nodes())
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    onnx.save(model, folder / VERIFY)
    return True


class _Graph:
    """The graph that decodes, and what of it is another in the one that verifies."""

    def __init__(self, graph: Any):
        self._graph = graph
        self._attention = [node for node in graph.node if node.op_type == ATTENTION]
        self._outputs = {each.name: each for each in graph.output}
        self._made_by = {name: node for node in graph.node for name in node.output}

    def can_verify(self) -> bool:
        """Whether all but attention takes each token for itself, and attention its own lengths for positions."""
        products = [node for node in self._graph.node if node.op_type.startswith(("MatMul", "Gemm"))]
        return (
            all(node.op_type in (PRODUCT, OF_INTEGERS) or node.input[1] == TURN for node in products)
            and not any(node.op_type == "RotaryEmbedding" for node in self._graph.node)
            and len({node.input[LENGTHS] for node in self._attention}) == 1
            and not any(any(node.input[OTHERS]) for node in self._attention)
        )

    def nodes(self) -> Iterator[Any]:
        """Yield the second graph's nodes in order; add the tensor and the outputs that it has of its own."""
        import numpy as np
        from onnx import helper, numpy_helper

        lengths, pruned = self._attention[0].input[LENGTHS], self._pruned()
        whole = before_pruning(pruned, self._made_by)
        self._graph.initializer.append(numpy_helper.from_array(np.array([TOKENS - 1], np.int32), "drafted"))
        for node in list(self._graph.node):
            if node.op_type == ATTENTION:
                yield from self._token_by_token(node)
                continue
            node.input[:] = [whole if name == pruned else name for name in node.input]
            yield node
            if node.output[0] == lengths:
                yield helper.make_node("Sub", [lengths, "drafted"], [f"{lengths}/0"])
        self._outputs[LOGITS].type.tensor_type.shape.dim[1].dim_value = TOKENS

    def _pruned(self) -> str:
        """The hidden state of the last token, which logits are made of."""
        name: str = self._made_by[LOGITS].input[0]
        return str(self._made_by[name].input[0]) if self._made_by[name].op_type == "QuantizeLinear" else name

    def _token_by_token(self, node: Any) -> Iterator[Any]:
        """One attention for each token, behind that of the token before it, whose result is one row long."""
        from onnx import NodeProto, helper

        result, *caches = node.output
        parts: dict[int, list[str]] = {}
        for place, name in enumerate(node.input[OF_TOKENS]):
            if name:
                parts[place] = [f"{result}/of_{place}/{token}" for token in range(TOKENS)]
                yield helper.make_node("Split", [name], parts[place], axis=1, num_outputs=TOKENS)
        length = f"{node.input[LENGTHS]}/0"
        for token in range(TOKENS):
            one = NodeProto()
            one.CopyFrom(node)
            one.name, one.input[LENGTHS] = f"{node.name}/{token}", length
            one.output[:] = [f"{result}/{token}", *(self._cache(name, token) for name in caches)]
            for place, names in parts.items():
                one.input[place] = names[token]
            yield one
            length = f"{result}/length/{token + 1}"
            if token < TOKENS - 1:
                one_row = f"{result}/one/{token}"
                yield helper.make_node("Shape", [one.output[0]], [f"{one_row}/long"], end=1)
                yield helper.make_node("Cast", [f"{one_row}/long"], [one_row], to=6)  # INT32
                yield helper.make_node("Add", [one.input[LENGTHS], one_row], [length])
        yield helper.make_node("Concat", [f"{result}/{token}" for token in range(TOKENS)], [result], axis=1)

    def _cache(self, name: str, token: int) -> str:
        """The name of the output by which attention to the token at `token` writes the cache `name`."""
        if token == 0:
            return name
        output = type(self._outputs[name])()
        output.CopyFrom(self._outputs[name])
        output.name = f"{name}.{token}"
        self._graph.output.append(output)
        made: str = output.name
        return made
