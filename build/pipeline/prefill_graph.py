"""The prefill graph of a decoder: prompts through int8 matrix products whose activations are int8 too.

It is a function of the int8 graph that onnxruntime-genai's model builder wrote, and lies beside it: equal inputs,
outputs and caches, other arithmetic in between. The builder's `MatMulNBits` is best for a few rows, where reading the
weights is what takes time; from some ten rows on a product of 8-bit integers with one scale a column is 1.5 to 2.5
times faster. Three things let it keep the quality, none of which needs calibration:

- The residual stream is turned by a fixed random orthogonal matrix, folded into the weights at both its ends (QuaRot,
  Ashkboos et al. 2024). Behind an RMS norm whose gain is folded away as well, a row is then much like 576 draws from a
  standard normal distribution, whatever the token: one fixed scale quantises every row.
- Other inputs (attention's, the MLP's inner ones) are divided by the largest of their row, the latter after a Hadamard
  turn of blocks, so that no outlier takes the whole range.
- A row's result depends on nothing but the row: a prompt cut otherwise leaves the same bits (but chunks of one token).

Behind the last attention only the last position is computed, for no other has logits.

It is for CPUs with VNNI: on others such products overflow, and a server leaves the graph aside. Embeddings and logits'
weights are those of the first graph, in its own data file.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.onnx_encoder import MODEL
from pipeline.rotation import block_of, hadamard, in_blocks, orthogonal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]

PREFILL = "prefill.onnx"
PREFILL_DATA = "prefill.onnx.data"
MICROSOFT = "com.microsoft"
LOGITS = "logits"
ATTENTION = "GroupQueryAttention"
NORMS = ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")
# Of a standard normal row so much is kept, in standard deviations: less clips more than finer steps win back.
CLIP = 4.1
STEPS = 127
ZERO_POINT = 128
# A column's or row's step is never zero.
LEAST = 1e-12
# Of a column's largest weight, what its step may be for.
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)
ALIGNMENT = 4096
# Smaller tensors lie in the graph itself.
INLINE = 1024


def write_prefill_graph(folder: Path) -> bool:
    """Write prefill.onnx and prefill.onnx.data beside model.onnx in `folder`; tell whether there is one.

    There is none, and nothing is written, where the residual stream is more than a sum of embeddings and of products
    (Gemma's), or where weights are not symmetric int8.
    """
    import onnx

    model = onnx.load(folder / MODEL, load_external_data=False)
    found = _Graph(model.graph, folder)
    if not found.can_turn():
        return False
    nodes = list(last_rows(list(found.nodes())))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    used = {name for node in nodes for name in node.input}
    kept = [each for each in model.graph.initializer if each.name in used and each.name not in found.new]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept + _stored(found.new, folder / PREFILL_DATA))
    onnx.save(model, folder / PREFILL)
    return True


def graphs_here(folder: Path) -> list[str]:
    """Return the names of an engine's graphs on this machine: the one that decodes, and perhaps one for prompts."""
    vnni = not {"avx512_vnni", "avx_vnni"}.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    return [MODEL, PREFILL] if vnni and (folder / PREFILL).exists() else [MODEL]


def last_rows(nodes: Sequence[Any]) -> Iterator[Any]:
    """Yield `nodes`, which work on all positions up to the last attention, and behind it on the last one alone."""
    from onnx import helper

    end = max(index for index, node in enumerate(nodes) if node.op_type == ATTENTION) + 1
    yield from nodes[:end]
    positions = {node.output[0] for node in nodes[:end] if node.op_type == ATTENTION}
    positions |= {name for node in nodes[:end] if node.op_type in NORMS for name in node.output if name}
    cut = {name: f"{name}/last" for node in nodes[end:] for name in node.input if name in positions}
    for name, last in cut.items():
        yield helper.make_node("Slice", [name, "from_last", "to_end", "positions"], [last])
    for node in nodes[end:]:
        node.input[:] = [cut.get(name, name) for name in node.input]
        yield node


class _Graph:
    """The first graph, its residual stream, and the tensors that the second one has of its own."""

    def __init__(self, graph: Any, folder: Path):
        self._graph, self._folder = graph, folder
        self._stored = {each.name: each for each in graph.initializer}
        self._made_by = {name: node for node in graph.node for name in node.output if name}
        self._used_by: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self._used_by.setdefault(name, []).append(node)
        norms = [node for node in graph.node if node.op_type in NORMS]
        self._gains = {node.output[0]: node.input[_gain(node)] for node in norms}
        self._stream = {name for node in norms for name in (node.input[0], *node.output[3:]) if name}
        self._branches = {node.input[1] for node in norms if node.op_type == NORMS[1]}
        self._rows: set[str] = set()
        self.new: dict[str, NDArray[Any]] = {}

    def can_turn(self) -> bool:
        """Whether the stream begins at one embedding, and all that is added to it or reads it is known."""
        starts = [name for name in self._stream if self._op(name) == "Gather"]
        rest = self._stream - set(starts)
        products = [node for node in self._graph.node if node.op_type == "MatMulNBits"]
        return (
            len(starts) == 1
            and all(self._op(name) == NORMS[1] for name in rest)
            and all(self._op(name) == "MatMulNBits" for name in self._branches)
            and all(user.op_type in NORMS for name in self._stream for user in self._used_by.get(name, ()))
            and all(len(self._used_by[name]) == 1 for name in self._branches)
            and all(_attributes(node).get("bits") == 8 and not any(node.input[3:]) for node in products)
        )

    def _op(self, name: str) -> str:
        return self._made_by[name].op_type if name in self._made_by else ""

    def nodes(self) -> Iterator[Any]:
        """Yield the second graph's nodes in order."""
        import numpy as np
        from onnx import helper

        hidden = int(self._stored[next(iter(self._gains.values()))].dims[0])
        turn = orthogonal(hidden)
        self.new |= {"turn": turn.astype(np.float32), "ones": np.ones(hidden, np.float32)}
        self.new |= {"zero_point": np.array(ZERO_POINT, np.uint8), "norm_step": np.array(CLIP / STEPS, np.float32)}
        self.new["row_step"] = np.array(1 / STEPS, np.float32)
        self.new |= {"from_last": np.array([-1]), "to_end": np.array([2**31]), "positions": np.array([1])}
        for node in self._graph.node:
            if node.op_type == "MatMulNBits" and node.output[0] != LOGITS:
                yield from self._product(node, turn)
                continue
            if node.op_type in NORMS:
                yield from self._norm(node, turn)
                continue
            if node.output[0] in self._stream:
                name = node.output[0]
                node.output[0] = f"{name}/straight"
                yield node
                yield helper.make_node("MatMul", [node.output[0], "turn"], [name])
                continue
            yield node

    def _norm(self, node: Any, turn: "Array") -> Iterator[Any]:
        """A norm without its gain; what reads it is quantised once, and turned back for all but inner products."""
        import numpy as np
        from onnx import helper

        name, gain = node.output[0], self._array(node.input[_gain(node)])
        node.input[_gain(node)] = "ones"
        readers = self._used_by.get(name, ())
        inner = [reader for reader in readers if reader.op_type == "MatMulNBits" and reader.output[0] != LOGITS]
        if len(inner) < len(readers):
            node.output[0] = f"{name}/turned"
            self.new[f"{name}/back"] = (turn.T * gain).astype(np.float32)
        yield node
        if inner:
            yield helper.make_node("QuantizeLinear", [node.output[0], "norm_step", "zero_point"], [f"{name}/int8"])
        if len(inner) < len(readers):
            yield helper.make_node("MatMul", [node.output[0], f"{name}/back"], [name])

    def _product(self, node: Any, turn: "Array") -> Iterator[Any]:
        """A product of integers: its weights dequantised, turned at the stream's side, and quantised by column."""
        from onnx import helper

        source, result, name = node.input[0], node.output[0], node.input[1]
        weights = self._weights(node)
        if result in self._branches:
            weights = weights @ turn
        scale, scaled = "norm_step", result
        if source in self._gains:
            weights = turn.T @ (self._array(self._gains[source])[:, None] * weights)
        else:
            scale, scaled = "row_step", f"{result}/of_rows"
            # Attention's result has no outliers to spread.
            block = 1 if self._op(source) == ATTENTION else block_of(len(weights))
            weights = in_blocks(weights, block)
            if source not in self._rows:
                self._rows.add(source)
                yield from self._by_largest(source, len(weights), block)
        self.new[f"{name}/int8"], self.new[f"{name}/steps"] = by_column(weights)
        inputs = [f"{source}/int8", f"{name}/int8", scale, f"{name}/steps", "zero_point"]
        yield helper.make_node("MatMulIntegerToFloat", inputs, [scaled], name=node.name, domain=MICROSOFT)
        if scaled != result:
            yield helper.make_node("Mul", [scaled, f"{source}/largest"], [result])

    def _by_largest(self, name: str, width: int, block: int) -> Iterator[Any]:
        """Rows turned in blocks, divided by their largest number, and quantised."""
        import numpy as np
        from onnx import helper

        source, turn, split, whole = name, f"hadamard_{block}", f"blocks_{width}_{block}", f"row_{width}"
        if block > 1:
            self.new |= {turn: hadamard(block).astype(np.float32), whole: np.array([0, 0, width])}
            self.new[split] = np.array([0, 0, width // block, block])
            yield helper.make_node("Reshape", [name, split], [f"{name}/blocks"])
            yield helper.make_node("MatMul", [f"{name}/blocks", turn], [f"{name}/turned_blocks"])
            source = f"{name}/turned"
            yield helper.make_node("Reshape", [f"{name}/turned_blocks", whole], [source])
        self.new |= {"last_axis": np.array([-1]), "least": np.array(LEAST, np.float32)}
        yield helper.make_node("Abs", [source], [f"{name}/sizes"])
        yield helper.make_node("ReduceMax", [f"{name}/sizes", "last_axis"], [f"{name}/max"], keepdims=1)
        yield helper.make_node("Max", [f"{name}/max", "least"], [f"{name}/largest"])
        yield helper.make_node("Div", [source, f"{name}/largest"], [f"{name}/share"])
        yield helper.make_node("QuantizeLinear", [f"{name}/share", "row_step", "zero_point"], [f"{name}/int8"])

    def _array(self, name: str) -> "Array":
        """A stored tensor's numbers."""
        import numpy as np
        from onnx import numpy_helper

        array: Array = numpy_helper.to_array(self._stored[name], base_dir=str(self._folder)).astype(np.float64)
        return array

    def _weights(self, node: Any) -> "Array":
        """The weights [K, N] of a MatMulNBits, whose blocks lie along K."""
        facts = _attributes(node)
        blocks = self._array(node.input[1]).reshape(facts["N"], -1, facts["block_size"]) - ZERO_POINT
        steps = self._array(node.input[2]).reshape(facts["N"], -1, 1)
        return (blocks * steps).reshape(facts["N"], -1)[:, : facts["K"]].T


def by_column(weights: "Array") -> "tuple[NDArray[np.int8], NDArray[np.float32]]":
    """Weights [K, N] as int8 and a step for each column, the one of a few that errs least."""
    import numpy as np

    full = np.abs(weights).max(axis=0).clip(LEAST) / STEPS
    steps, least = full, np.full(full.shape, np.inf)
    for share in SHARES:
        tried = full * share
        errors = ((_rounded(weights, tried) * tried - weights) ** 2).sum(axis=0)
        steps, least = np.where(errors < least, tried, steps), np.minimum(errors, least)
    return _rounded(weights, steps).astype(np.int8), steps.astype(np.float32)


def _rounded(weights: "Array", steps: "Array") -> "Array":
    import numpy as np

    rounded: Array = np.clip(np.rint(weights / steps), -STEPS, STEPS)
    return rounded


def _gain(norm: Any) -> int:
    """Which input of a norm is its gain."""
    return NORMS.index(norm.op_type) + 1


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _stored(arrays: "Mapping[str, NDArray[Any]]", file: Path) -> list[Any]:
    """Write `arrays` into `file`, the small ones aside; return the tensors that say where each lies."""
    from onnx import TensorProto, external_data_helper, numpy_helper

    tensors = []
    with file.open("wb") as out:
        for name, array in arrays.items():
            tensor = numpy_helper.from_array(array, name)
            if array.nbytes > INLINE:
                out.write(b"\0" * (-out.tell() % ALIGNMENT))
                external_data_helper.set_external_data(tensor, file.name, out.tell(), array.nbytes)
                out.write(array.tobytes())
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
            tensors.append(tensor)
    return tensors
