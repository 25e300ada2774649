"""The integer graphs of a decoder, decode.onnx and prefill.onnx: its matrix products with int8 activations too.

They are functions of the int8 graph that onnxruntime-genai's model builder wrote, and lie beside it: equal inputs,
outputs and caches, other arithmetic in between. The builder's `MatMulNBits` is best for a few rows, where reading the
weights is what takes time; from some eight rows on a product of 8-bit integers with one scale a column is 1.5 to 2.5
times faster. Three things let it keep the quality, none of which needs calibration:

- The residual stream is turned by a fixed random orthogonal matrix, folded into the weights at both its ends (QuaRot,
  Ashkboos et al. 2024). Behind an RMS norm whose gain is folded away as well, a row is then much like 576 draws from a
  standard normal distribution, whatever the token: one fixed scale quantises every row.
- Other inputs (attention's, the MLP's inner ones) have a step for each row, from its largest number, the latter after a
  Hadamard turn of blocks, so that no outlier takes the whole range. That takes many small operators, which are dear for
  a few rows: prefill.onnx does it, decode.onnx has `MatMulNBits` there, as the builder's graph has it everywhere.
- A row's result depends on nothing but the row: whatever else a step carries, decoding gives the same bits, and so does
  a prompt cut otherwise (but into chunks of one token).

In prefill.onnx only the last position is computed behind the last attention, for no other has logits.

They are for CPUs with VNNI: on others such products overflow, and a server runs the builder's graph. Its embeddings are
used from its own data file, and prefill.onnx has what it shares with decode.onnx in that one's.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.onnx_encoder import MODEL
from pipeline.rotation import block_of, hadamard, in_blocks, orthogonal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]

DECODE = "decode.onnx"
PREFILL = "prefill.onnx"
MICROSOFT = "com.microsoft"
LOGITS = "logits"
ATTENTION = "GroupQueryAttention"
# Of rows and quantised weights: the builder's, and the one of integers.
PRODUCT, OF_INTEGERS = "MatMulNBits", "MatMulIntegerToFloat"
# The orthogonal matrix by which embeddings are turned.
TURN = "turn"
NORMS = ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")
# The last position's rows are taken by these, between the last norm and the logits.
PRUNING = ("Gather", "Unsqueeze")
# Of a standard normal row so much is kept, in standard deviations: less clips more than finer steps win back.
CLIP = 4.1
STEPS = 127
ZERO_POINT = 128
ZERO_POINTS = "zero_points"
# A column's step is never zero.
LEAST = 1e-12
# Of a column's largest weight, what its step may be for.
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)
# So many columns are tried at once: a vocabulary's take gigabytes.
COLUMNS = 4096
ALIGNMENT = 4096
# Smaller tensors lie in the graph itself.
INLINE = 1024


def write_integer_graphs(folder: Path) -> bool:
    """Write decode.onnx and prefill.onnx, each with its .data, beside model.onnx in `folder`; tell whether there are.

    There are none, and nothing is written, where the residual stream is more than a sum of embeddings and of products
    (Gemma's), or where weights are not symmetric int8.
    """
    import onnx

    model = onnx.load(folder / MODEL, load_external_data=False)
    if not _Graph(model.graph, folder, False, ()).can_turn():
        return False
    stored: dict[str, Any] = {}
    for name in (DECODE, PREFILL):
        made = onnx.ModelProto()
        made.CopyFrom(model)
        found = _Graph(made.graph, folder, name == PREFILL, stored)
        nodes = list(found.nodes())
        new = {each: array for each, array in found.new.items() if each not in stored}
        stored |= {tensor.name: tensor for tensor in _stored(new, folder / f"{name}.data")}
        used = {each for node in nodes for each in node.input}
        tensors = {each.name: each for each in made.graph.initializer} | stored
        for field in ("node", "initializer", "value_info"):
            made.graph.ClearField(field)
        made.graph.node.extend(nodes)
        made.graph.initializer.extend(tensor for each, tensor in tensors.items() if each in used)
        onnx.save(made, folder / name)
    return True


def graphs_here(folder: Path) -> list[str]:
    """Return the names of an engine's graphs on this machine: the one that decodes, and perhaps one for prompts."""
    vnni = not {"avx512_vnni", "avx_vnni"}.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    return [DECODE, PREFILL] if vnni and (folder / PREFILL).exists() else [MODEL]


def last_rows(nodes: Sequence[Any], of_rows: Collection[str]) -> Iterator[Any]:
    """Yield `nodes`, which work on all positions up to the last attention, and behind it on the last one alone.

    Behind it they read its result and, of what comes before, tensors that have a row for each position: `of_rows`.
    """
    from onnx import helper

    end = max(index for index, node in enumerate(nodes) if node.op_type == ATTENTION) + 1
    yield from nodes[:end]
    positions = {name for node in nodes[:end] for name in node.output if name in of_rows}
    positions.add(nodes[end - 1].output[0])
    cut = {name: f"{name}/last" for node in nodes[end:] for name in node.input if name in positions}
    for name, last in cut.items():
        yield helper.make_node("Slice", [name, "from_last", "to_end", "positions"], [last])
    for node in nodes[end:]:
        node.input[:] = [cut.get(name, name) for name in node.input]
        yield node


def before_pruning(name: str, made_by: Mapping[str, Any]) -> str:
    """Return the tensor of all positions of which `name` is the last one's; `made_by` has each tensor's node."""
    while name in made_by and made_by[name].op_type in PRUNING:
        name = made_by[name].input[0]
    return name


class _Graph:
    """The builder's graph, its residual stream, and the tensors that what is made of it has of its own.

    Those named in `stored` are there already.
    """

    def __init__(self, graph: Any, folder: Path, is_prefill: bool, stored: Collection[str]):
        self._graph, self._folder, self._is_prefill, self._stored = graph, folder, is_prefill, stored
        self._tensors = {each.name: each for each in graph.initializer}
        self._made_by = {name: node for node in graph.node for name in node.output if name}
        self._used_by: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self._used_by.setdefault(name, []).append(node)
        first = [
            node.input[0] for node in graph.node if node.op_type == NORMS[0] and self._op(node.input[0]) == "Gather"
        ]
        self._stream, self._branches, self._gains = set(first), set[str](), dict[str, str]()
        for node in graph.node:
            if node.op_type in NORMS and node.input[0] in self._stream:
                self._gains[node.output[0]] = node.input[_gain(node)]
                self._stream.update(name for name in node.output[3:] if name)
                self._branches.update(node.input[1:2] if node.op_type == NORMS[1] else ())
        self._turn: Array
        self._quantised: set[str] = set()
        self.new: dict[str, NDArray[Any]] = {}

    def can_turn(self) -> bool:
        """Whether the stream begins at one embedding, and all that is added to it or reads it is known."""
        products = [node for node in self._graph.node if node.op_type == PRODUCT]
        readers = [user for name in self._gains for user in self._used_by.get(name, ())]
        return (
            sum(self._op(name) == "Gather" for name in self._stream) == 1
            and all(self._op(name) == PRODUCT for name in self._branches)
            and all(user.output[0] in self._gains for name in self._stream for user in self._used_by.get(name, ()))
            and all(len(self._used_by[name]) == 1 for name in self._branches)
            and all(user.op_type in (PRODUCT, *PRUNING) for user in readers)
            and bool(self._norm_behind(self._made_by[LOGITS].input[0]))
            and all(_attributes(node).get("bits") == 8 and not any(node.input[3:]) for node in products)
        )

    def _op(self, name: str) -> str:
        return self._made_by[name].op_type if name in self._made_by else ""

    def _norm_behind(self, name: str) -> str:
        """The norm of the stream that `name` comes from, for the last position perhaps; nothing if from none."""
        whole = before_pruning(name, self._made_by)
        return whole if whole in self._gains else ""

    def nodes(self) -> Iterator[Any]:
        """Yield the new graph's nodes in order."""
        import numpy as np

        hidden = int(self._tensors[next(iter(self._gains.values()))].dims[0])
        self._turn = orthogonal(hidden)
        self.new |= {TURN: self._turn.astype(np.float32), "ones": np.ones(hidden, np.float32)}
        self.new |= {"norm_step": np.array(CLIP / STEPS, np.float32), "row_step": np.array(1 / STEPS, np.float32)}
        self.new |= {"from_last": np.array([-1]), "to_end": np.array([2**31]), "positions": np.array([1])}
        self.new |= {"zero_point": np.array(ZERO_POINT, np.uint8)}
        nodes = [made for node in self._graph.node for made in self._instead_of(node)]
        if not self._is_prefill:
            yield from nodes
            return
        yield from last_rows([*self._zero_points(), *nodes], {*self._stream, ZERO_POINTS})

    def _zero_points(self) -> Iterator[Any]:
        """One for every row."""
        import numpy as np
        from onnx import helper, numpy_helper

        self.new |= {"one": np.array(1, np.float32), "one_each": np.array([1])}
        value = numpy_helper.from_array(np.array([ZERO_POINT], np.uint8))
        yield helper.make_node("Shape", ["input_ids"], ["input_ids/shape"])
        yield helper.make_node("Concat", ["input_ids/shape", "one_each"], [f"{ZERO_POINTS}/shape"], axis=0)
        yield helper.make_node("ConstantOfShape", [f"{ZERO_POINTS}/shape"], [ZERO_POINTS], value=value)

    def _instead_of(self, node: Any) -> Iterator[Any]:
        """What stands for `node` of the builder's graph."""
        from onnx import helper

        if node.op_type == PRODUCT:
            yield from self._product(node)
            return
        if (name := node.output[0]) in self._gains:
            node.input[_gain(node)] = "ones"
            yield from self._apart(node) if self._is_prefill and node.op_type == NORMS[1] else (node,)
            return
        yield node
        if name in self._stream:
            node.output[0] = f"{name}/straight"
            yield helper.make_node("MatMul", [node.output[0], TURN], [name])

    def _apart(self, node: Any) -> Iterator[Any]:
        """A sum and the norm of it, which take less than both in one for many rows."""
        from onnx import helper

        stream, branch, gain = node.input
        total = node.output[3] if len(node.output) > 3 else f"{node.output[0]}/sum"
        yield helper.make_node("Add", [stream, branch], [total])
        epsilon = _attributes(node)["epsilon"]
        yield helper.make_node(NORMS[0], [total, gain], node.output[:1], epsilon=epsilon)

    def _product(self, node: Any) -> Iterator[Any]:
        """A product, of integers where its rows can be had as such; turned where it meets the stream."""
        from onnx import helper

        source, result = node.input[0], node.output[0]
        if norm := self._norm_behind(source):
            if self._is_first(source):
                yield self._quantise(source)
            gain = self._array(self._gains[norm])[:, None]
            yield self._of_integers(node, "norm_step", result, lambda: self._turn.T @ (gain * self._weights(node)))
        elif not self._is_prefill:
            yield self._of_blocks(node)
        else:
            # Attention's result has no outliers to spread.
            width = _attributes(node)["K"]
            block = 1 if self._op(source) == ATTENTION else block_of(width)
            if self._is_first(source):
                yield from self._by_largest(source, width, block)
            scaled = f"{result}/of_rows"
            yield self._of_integers(node, "one", scaled, lambda: in_blocks(self._weights(node), block))
            yield helper.make_node("Mul", [scaled, f"{source}/steps"], [result])

    def _is_first(self, source: str) -> bool:
        """Whether no product has asked for `source` as integers before."""
        is_first = source not in self._quantised
        self._quantised.add(source)
        return is_first

    def _of_integers(self, node: Any, step: str, result: str, weights: "Callable[[], Array]") -> Any:
        """The product of a source's integers and `weights` [K, N] by column."""
        from onnx import helper

        source, name = node.input[0], node.input[1]
        if f"{name}/int8" not in self._stored:
            self.new[f"{name}/int8"], self.new[f"{name}/steps"] = by_column(weights())
        inputs = [f"{source}/int8", f"{name}/int8", step, f"{name}/steps", "zero_point"]
        return helper.make_node(OF_INTEGERS, inputs, [result], name=node.name, domain=MICROSOFT)

    def _of_blocks(self, node: Any) -> Any:
        """The builder's product with other weights, those into the stream."""
        name, steps = node.input[1:3]
        rounded, found = by_block(self._weights(node), _attributes(node)["block_size"])
        self.new |= {f"{name}/turned": rounded, f"{steps}/turned": found.reshape(self._tensors[steps].dims)}
        node.input[1:3] = [f"{name}/turned", f"{steps}/turned"]
        return node

    def _quantise(self, name: str) -> Any:
        """Rows behind a norm as integers, all by one step."""
        from onnx import helper

        return helper.make_node("QuantizeLinear", [name, "norm_step", "zero_point"], [f"{name}/int8"])

    def _by_largest(self, name: str, width: int, block: int) -> Iterator[Any]:
        """Rows turned in blocks, and quantised by steps of their own, which their largest number gives."""
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
        self.new |= {"last_axis": np.array([-1])}
        yield helper.make_node("Abs", [source], [f"{name}/sizes"])
        yield helper.make_node("ReduceMax", [f"{name}/sizes", "last_axis"], [f"{name}/largest"], keepdims=1)
        yield helper.make_node("Mul", [f"{name}/largest", "row_step"], [f"{name}/steps"])
        # One block a row: that is as fast as one step for all, and dividing first is another pass.
        inputs = [source, f"{name}/steps", ZERO_POINTS]
        yield helper.make_node("QuantizeLinear", inputs, [f"{name}/int8"], axis=2, block_size=width)

    def _array(self, name: str) -> "Array":
        """A stored tensor's numbers."""
        import numpy as np
        from onnx import numpy_helper

        array: Array = numpy_helper.to_array(self._tensors[name], base_dir=str(self._folder)).astype(np.float64)
        return array

    def _weights(self, node: Any) -> "Array":
        """The weights [K, N] of a product, whose blocks lie along K; turned where its result goes into the stream."""
        facts = _attributes(node)
        blocks = self._array(node.input[1]).reshape(facts["N"], -1, facts["block_size"]) - ZERO_POINT
        steps = self._array(node.input[2]).reshape(facts["N"], -1, 1)
        weights: Array = (blocks * steps).reshape(facts["N"], -1)[:, : facts["K"]].T
        return weights @ self._turn if node.output[0] in self._branches else weights


def by_column(weights: "Array") -> "tuple[NDArray[np.int8], NDArray[np.float32]]":
    """Weights [K, N] as int8 and a step for each column, the one of a few that errs least."""
    import numpy as np

    full = np.abs(weights).max(axis=0).clip(LEAST) / STEPS
    rounded, steps = np.empty(weights.shape, np.int8), np.empty(full.shape, np.float32)
    for start in range(0, len(full), COLUMNS):
        part = slice(start, start + COLUMNS)
        some, best, least = weights[:, part], full[part], np.full(full[part].shape, np.inf)
        for share in SHARES:
            tried = full[part] * share
            errors = ((_rounded(some, tried) * tried - some) ** 2).sum(axis=0)
            best, least = np.where(errors < least, tried, best), np.minimum(errors, least)
        rounded[:, part], steps[part] = _rounded(some, best), best
    return rounded, steps


def by_block(weights: "Array", size: int) -> "tuple[NDArray[np.uint8], NDArray[np.float32]]":
    """Weights [K, N] as `MatMulNBits` has them: uint8 [N, blocks, size] around 128, and a step [N, blocks] for each."""
    import numpy as np

    padded = np.pad(weights.T, ((0, 0), (0, -len(weights) % size)))
    blocks = padded.reshape(len(padded), -1, size)
    steps = np.abs(blocks).max(axis=2).clip(LEAST) / STEPS
    return (_rounded(blocks, steps[:, :, None]) + ZERO_POINT).astype(np.uint8), steps.astype(np.float32)


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


def _stored(arrays: "Mapping[str, NDArray[Any]]", file: Path) -> Iterator[Any]:
    """Write `arrays` into `file`, the small ones aside; yield the tensors that say where each lies."""
    from onnx import TensorProto, external_data_helper, numpy_helper

    with file.open("wb") as out:
        for name, array in arrays.items():
            tensor = numpy_helper.from_array(array, name)
            if array.nbytes > INLINE:
                out.write(b"\0" * (-out.tell() % ALIGNMENT))
                external_data_helper.set_external_data(tensor, file.name, out.tell(), array.nbytes)
                out.write(array.tobytes())
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
            yield tensor
