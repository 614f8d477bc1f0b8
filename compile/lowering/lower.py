"""Graph -> Program: which kernel computes what.

Working back from the outputs, each tensor that must exist in memory becomes one kernel call that swallows as much of
what leads to it as its family can: a matrix product with everything element-wise after it, an attention with its head
splits and its softmax. Reshapes move nothing. What no family takes goes to TVM's own operator library, one operator at
a time, and is listed in the program's `generic`.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.errors import CompileError
from compile.importer.graph import TYPES, Graph, Node
from compile.kernels import int8_reference
from compile.kernels.attention import Attention, Bias
from compile.kernels.contract import KernelSpec, TiledKernel, pack_vector
from compile.kernels.epilogue import TENSOR_STEPS, VECTOR_STEPS
from compile.kernels.gather_int8 import GatherInt8
from compile.kernels.generic import Generic
from compile.kernels.linear import Linear, pack_weight
from compile.kernels.linear_int8 import LinearInt8, overflows_in_pairs, weight_operands
from compile.kernels.pointwise import Pointwise, Source
from compile.kernels.rowwise import Gather, LayerNorm, Map, OverTokens, PadRows, RunningSum
from compile.kernels.tiles import TileTable, default_tile
from compile.lowering.attention import AttentionMatch, Choice, Constant, Relative, match_attention
from compile.lowering.epilogues import Chain, find_chain
from compile.lowering.fold import fold_constants
from compile.lowering.patterns import (
    RESHAPES,
    Part,
    as_vector,
    constant_of,
    match_part,
    match_quantized_weight,
    match_rms_norm,
    match_static_rows,
    match_windows,
    through_reshapes,
)
from compile.lowering.tied_embedding import share_tables
from compile.lowering.token_axis import Tokens, along_tokens
from compile.lowering.trees import find_tree
from compile.program import Call, InputRange, Operand, Program, Rows, Shared, Value, View, arguments_of
from compile.targets import Isa


def lower(graph: Graph, tokens: int, isa: Isa, tiles: TileTable | None = None) -> Program:
    """tiles says which tile a kernel gets. Raises CompileError where a tensor cannot be computed by any kernel."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 20 * len(graph.nodes) + 1000))
    try:
        return _Lowering(graph, tokens, isa, tiles or TileTable()).lower()
    finally:
        sys.setrecursionlimit(limit)


class _Lowering:
    def __init__(self, graph: Graph, tokens: int, isa: Isa, tiles: TileTable) -> None:
        self.graph = graph
        self.isa = isa
        self.tiles = tiles
        self.program = Program(tokens)
        self.views: dict[Node, View] = {}
        self.weights: dict[str, Value] = {}
        self.output_of: dict[Node, str] = {}
        self.placed: dict[Node, View] = {}
        self.choices: dict[Choice, Node] = {}
        self.tokens = Tokens(tokens)

    def lower(self) -> Program:
        fold_constants(self.graph)
        for node in self.graph.inputs:
            value = Value(node.name, "input", node.shape, node.dtype)
            self.program.inputs.append(value)
            self.views[node] = self.whole(value)
        for name, node in self.graph.outputs:
            home = through_reshapes(node)
            if home not in self.output_of and home.op not in ("input", "const", "strided_slice"):
                self.output_of[home] = name
        self.program.outputs = [self.output(name, node) for name, node in self.graph.outputs]
        share_tables(self.program)
        return self.program

    # --- values and weights

    def rows_columns(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """How kernels address a tensor: one row a token where its leading dimensions are the tokens."""
        size, leading = math.prod(shape), 1
        for dimension in shape:
            leading *= dimension
            if leading == self.program.tokens:
                return leading, size // leading
            if leading > 1:
                break
        columns = shape[-1] if shape else 1
        return size // columns, columns

    def whole(self, value: Value) -> View:
        return View.of(value, *self.rows_columns(value.shape))

    def weight(self, data: NDArray[Any], name: str) -> Value:
        """A constant in the library; equal bytes are stored once."""
        data = np.ascontiguousarray(data)
        key = hashlib.sha256(repr((data.shape, str(data.dtype))).encode() + data.tobytes()).hexdigest()
        if key not in self.weights:
            self.weights[key] = Value(name, "weight", data.shape, str(data.dtype), data)
        return self.weights[key]

    def kept(self, node: Node) -> bool:
        return node in self.output_of or node in self.views

    def result(self, node: Node, rows: int, columns: int) -> View:
        """A fresh tensor for what `node` computes; an output's own buffer if it is one, or where it was wanted."""
        if node in self.placed:
            return self.placed[node]
        name = self.output_of.get(node)
        value = Value(name or node.name, "output" if name else "temporary", node.shape, node.dtype)
        return View.of(value, rows, columns)

    def emit(self, kernel: KernelSpec, operands: Mapping[str, Operand], to: View, node: Node) -> View:
        """Call `kernel` on operands by name; its result `y` goes to `to`."""
        per_token = to.rows == self.program.tokens and self.tokens.index(node)
        arguments = arguments_of(kernel, {**operands, "y": to}, to.rows, self.program.tokens)
        flops = kernel.flops(to.rows, self.program.tokens)
        self.program.calls.append(Call(kernel, arguments, (to.value,), to.rows, node.name, flops, per_token))
        return to

    def copy(self, view: View, to: View, node: Node) -> View:
        kernel: KernelSpec = Map(view.columns, (), self.isa)
        name, dtype = "x", view.value.dtype
        if dtype != "float32":
            name = "x0"
            kernel = Pointwise((view.columns,), ("operand", 0), (Source(dtype, True, (1,)),), dtype, self.isa)
        return self.emit(kernel, {name: view}, to, node)

    def tiled(self, kernel: TiledKernel) -> Any:
        """`kernel` with the tile that was chosen for its shape."""
        return kernel.with_tile(self.tiles.choose(kernel.tile_key(self.program.tokens)))

    # --- tensors

    def output(self, name: str, node: Node) -> Value:
        """`node` in an output of its own: where it already is one, or copied."""
        view = self.view(node)
        if (view.value.kind, view.value.name) == ("output", name) and view.whole:
            view.value.shape = node.shape
            return view.value
        value = Value(name, "output", node.shape, node.dtype)
        to = View.of(value, view.rows, view.columns)
        self.copy(view, to, node)
        return value

    def view(self, node: Node) -> View:
        """Where `node` is in memory, computing it first if need be."""
        if node not in self.views:
            self.views[node] = self.compute(node)
        return self.views[node]

    def seen_as(self, node: Node, rows: int, columns: int) -> View:
        """`node` addressed as rows × columns. Raises CompileError where its memory does not allow that."""
        view = self.view(node)
        if (view.rows, view.columns) == (rows, columns):
            return view
        if math.prod(node.shape) == rows * columns:
            view = self.dense(node)
        if not view.whole or view.value.size != rows * columns:
            raise CompileError(f"{node.op} {node.name!r} cannot be addressed as {rows} rows of {columns}")
        return View.of(view.value, rows, columns)

    def dense(self, node: Node) -> View:
        """A tensor in memory of its own: what is part of another is copied out of it."""
        view = self.view(node)
        if view.whole:
            return view
        to = View.of(Value(f"{node.name}.dense", "temporary", node.shape, node.dtype), view.rows, view.columns)
        return self.copy(view, to, node)

    def compute(self, node: Node) -> View:
        if (data := constant_of(node)) is not None:
            return self.whole(self.weight(data, node.name))
        if 0 in node.shape:
            raise CompileError(f"{node.op} {node.name!r} has shape {list(node.shape)}: nothing is computed of it")
        if node.op in RESHAPES:
            return self.seen_as(node.inputs[0], *self.rows_columns(node.shape))
        if (part := match_part(node)) is not None and (view := self.part(node, part)) is not None:
            return view
        for attempt in (
            self.attention,
            self.layer_norm,
            self.rms_norm,
            self.fused,
            self.pointwise,
            self.running_sum,
            self.over_tokens,
            self.widened,
            self.side_by_side,
        ):
            if (result := attempt(node)) is not None:
                return result
        return self.generic(node)

    def part(self, node: Node, part: Part) -> View | None:
        """Columns of a tensor's rows, or one row of it, where they are; copied where they lie apart."""
        shape, axis = part.source.shape, part.axis
        rows, _ = self.rows_columns(shape)
        before = next((i for i in range(len(shape)) if math.prod(shape[:i]) == rows), len(shape))
        if axis < before:
            if part.count == 1 and shape[axis] == rows == math.prod(shape[:before]):
                return self.view(part.source).row(part.begin)
            return None
        view, inner, groups = self.view(part.source), math.prod(shape[axis + 1 :]), math.prod(shape[before:axis])
        if (view.rows, view.columns) != self.rows_columns(shape):
            return None
        if groups == 1:
            return view.part(part.begin * inner, part.count * inner)
        if view.value.dtype not in TYPES:
            return None
        step, width = shape[axis] * inner, part.count * inner
        source = Source(view.value.dtype, True, (step, 1))
        kernel = Pointwise((groups, width), ("operand", 0), (source,), view.value.dtype, self.isa)
        operand = view.part(part.begin * inner, (groups - 1) * step + width)
        return self.emit(kernel, {"x0": operand}, self.result(node, rows, groups * width), node)

    # --- kernel families

    def attention(self, node: Node) -> View | None:
        match, tokens = match_attention(node), self.program.tokens
        if match is None or node.shape[1] != tokens:
            return None
        key_width = match.key_heads * match.head_size
        operands: dict[str, Operand] = {
            name: self.seen_as(part, tokens, width)
            for name, part, width in (
                ("q", match.query, match.width), ("k", match.key, key_width), ("v", match.value, key_width),
            )
        }  # fmt: skip
        mask, others = self.masks(match)
        operands["mask"] = Shared(operands["k"])  # type: ignore[arg-type]  # never read
        if mask is not None:
            own = mask.shape[-2] != 1
            operands["mask"] = self.seen_as(mask, tokens, tokens) if own else Shared(self.view(mask))
        biases = []
        for index, term in enumerate([*match.biases, *others]):
            bias, operands[f"bias{index}"] = self.bias(term, match, node)
            biases.append(bias)
        key_heads = 0 if match.key_heads == match.heads else match.key_heads
        kernel = Attention(
            match.heads, match.head_size, match.scale, mask is not None, default_tile(self.isa), self.isa,
            match.guarded, tuple(biases), key_heads,
        )  # fmt: skip
        return self.emit(self.tiled(kernel), operands, self.result(node, tokens, match.width), node)

    def masks(self, match: AttentionMatch) -> tuple[Node | None, list[Node]]:
        """The mask, and what else is added to scores: a choice becomes a mask, the same node for the same choice."""
        nodes = [] if match.mask is None else [match.mask]
        for choice in match.choices:
            if choice not in self.choices:
                name, shape = f"{choice.condition.name}.mask", choice.condition.shape
                numbers = [
                    Node(f"{name}.{i}", "const", (), "float32", data=np.array(value, np.float32))
                    for i, value in enumerate((choice.value, 0.0))
                ]
                inputs = [choice.condition, *(numbers if choice.where else reversed(numbers))]
                self.choices[choice] = Node(name, "where", shape, "float32", inputs, uses=2)
            nodes.append(self.choices[choice])
        return (nodes[0] if nodes else None), [*nodes[1:], *match.others]

    def bias(self, term: Constant | Relative | Node, match: AttentionMatch, node: Node) -> tuple[Bias, Operand]:
        """How the attention reads what is added to its scores, and from where."""
        tokens = self.program.tokens
        if isinstance(term, Relative):
            return self.relative(term, match, node)
        if isinstance(term, Constant):
            table = term.by_distance
            if table is not None:
                value = self.weight(table, f"{node.name}.distances")
                step = table.shape[1] if len(table) > 1 else 0
                return Bias(step), Rows(View(value, tokens, tokens, -1, tokens - 1))
            value, shape = self.weight(term.values, f"{node.name}.bias"), term.values.shape
        else:
            value, shape = self.dense(term).value, (*[1] * (3 - len(term.shape)), *term.shape)[-3:]
        step = shape[1] * tokens if shape[0] > 1 else 0
        row = View(value, tokens, tokens, tokens if shape[1] > 1 else 0)
        return Bias(step), Rows(row, neighbours=True)

    def relative(self, term: Relative, match: AttentionMatch, node: Node) -> tuple[Bias, Operand]:
        """A linear for each head makes a row a token, an entry a distance: read from there, shifted by one a token."""
        tokens, size, distances = self.program.tokens, match.head_size, term.vectors.shape[-1]
        x = self.seen_as(term.source, tokens, match.width)
        width = match.heads * distances
        value = Value(f"{node.name}.distances", "temporary", (tokens, width), "float32")
        for head in range(match.heads):
            kernel = self.tiled(Linear(size, distances, False, (), default_tile(self.isa), self.isa))
            vectors = np.ascontiguousarray(term.vectors[head % len(term.vectors)])
            to = View(value, tokens, distances, width, head * distances)
            kernel = replace(kernel, strides=(x.stride, width))
            weight = self.whole(self.weight(pack_weight(vectors, kernel.tile), f"{node.name}.distances"))
            operands = {"x": x.part(head * size, size), "w": weight, "y": to}
            arguments = arguments_of(kernel, operands, tokens, tokens)
            flops = kernel.flops(tokens, tokens)
            self.program.calls.append(Call(kernel, arguments, (value,), tokens, node.name, flops, True))
        if term.by_key:
            return Bias(distances, width - 1), Rows(View(value, tokens, tokens, 1, tokens - 1), neighbours=True)
        return Bias(distances), Rows(View(value, tokens, tokens, width - 1, tokens - 1), neighbours=True)

    def layer_norm(self, node: Node) -> View | None:
        if node.op != "nn.layer_norm" or [int(a) % len(node.shape) for a in node.attrs.axes] != [len(node.shape) - 1]:
            return None
        columns = node.shape[-1]
        gamma, beta = (as_vector(operand, columns) for operand in node.inputs[1:3])
        if gamma is None or beta is None:
            return None
        rows = math.prod(node.shape[:-1])
        x, to = self.seen_as(node.inputs[0], rows, columns), self.result(node, rows, columns)
        operands = {"x": x, "gamma": self.vector(gamma, node), "beta": self.vector(beta, node)}
        return self.emit(LayerNorm(columns, float(node.attrs.epsilon), self.isa), operands, to, node)

    def rms_norm(self, node: Node) -> View | None:
        """With the vector that it is multiplied with, if it is."""
        columns, match, gamma = node.shape[-1] if node.shape else 1, match_rms_norm(node), None
        if match is None and node.op == "multiply":
            for operand, other in (node.inputs, node.inputs[::-1]):
                gamma = as_vector(other, columns)
                if gamma is not None and operand.uses == 1 and operand.shape == node.shape and not self.kept(operand):
                    match = match_rms_norm(operand)
                    break
        if match is None or node.dtype != "float32":
            return None
        x, epsilon = match
        rows = math.prod(node.shape[:-1])
        gamma = np.ones(columns, np.float32) if gamma is None else gamma
        operands = {"x": self.seen_as(x, rows, columns), "gamma": self.vector(gamma, node)}
        return self.emit(LayerNorm(columns, epsilon, self.isa, False), operands, self.result(node, rows, columns), node)

    def vector(self, data: NDArray[np.float32], node: Node) -> View:
        """A vector operand."""
        return self.whole(self.weight(pack_vector(data), node.name))

    def fused(self, node: Node) -> View | None:
        """A matrix product, a lookup or a load, with the element-wise steps after it."""
        if node.dtype != "float32" or not node.shape:
            return None
        chain = find_chain(node, self.kept)
        source = chain.source
        if chain.computes and source.op == "matmul":
            return self.linear(node, chain)
        if chain.computes and source.op == "take":
            return self.gather(node, chain)
        axis = self.tokens.leading(node.shape)
        if axis is not None and axis < len(node.shape) - 2 and self.tokens.index(node):
            return None  # heads side by side: as one row a token it is another kernel's
        if not (chain.steps or chain.casts) or math.prod(source.shape) != math.prod(node.shape):
            return None
        rows, columns = self.map_rows(node, chain)
        x, operands = self.seen_as(source, rows, columns), self.operands(chain, rows, columns, node)
        to = self.result(node, rows, columns)
        return self.emit(Map(columns, tuple(chain.steps), self.isa, source.dtype), {"x": x, **operands}, to, node)

    def map_rows(self, node: Node, chain: Chain) -> tuple[int, int]:
        """Rows and columns for a kernel that only maps: one number a token where the tensor is a row of tokens."""
        tokens = self.program.tokens
        uniform = all(o is None or isinstance(o, Node) or (o == o[0]).all() for o in chain.operands)
        if node.shape[-1] == tokens == math.prod(node.shape) and uniform and self.tokens.index(node):
            return tokens, 1
        return math.prod(node.shape[:-1]), node.shape[-1]

    def linear(self, node: Node, chain: Chain) -> View:
        source = chain.source.inputs[1]
        quantized = match_quantized_weight(source, axis=1)
        quantized = quantized if quantized and len(quantized.values) <= int8_reference.MAX_K else None
        weight: NDArray[Any] | None = quantized.values if quantized else constant_of(source)
        assert weight is not None
        (k, n), rows = weight.shape, math.prod(node.shape[:-1])
        x, weight = self.linear_input(chain.source.inputs[0], rows, k, weight)
        bias = None
        if chain.steps and chain.steps[0] == "add_vector":
            bias = chain.operands[0]
            chain = Chain(chain.source, chain.steps[1:], chain.operands[1:])
        operands = self.operands(chain, rows, n, node)
        has_bias, steps = bias is not None, tuple(chain.steps)
        if quantized:
            tile = default_tile(self.isa, f"i8_{self.isa.dot}")
            read = through_reshapes(chain.source.inputs[0])
            nonnegative, static = read.op == "nn.relu", match_static_rows(read)
            apart = overflows_in_pairs(weight)
            kernel = self.tiled(
                LinearInt8(k, n, has_bias, steps, tile, self.isa, (), nonnegative, apart, static is not None)
            )
            if static:
                operands["extremes"] = self.vector(int8_reference.static_extremes(*static), node)
            constants = weight_operands(weight, quantized.scales)
        else:
            kernel = self.tiled(Linear(k, n, has_bias, steps, default_tile(self.isa), self.isa))
            constants = {"w": pack_weight(weight, kernel.tile)}
        packed = {name: self.whole(self.weight(data, source.name)) for name, data in constants.items()}
        to = self.result(node, rows, n)
        strides = [operands[p.name].stride for p in kernel.signature() if p.role == "rows" and p.name in operands]
        kernel = replace(kernel, strides=(x.view.stride, to.stride, *strides))
        if bias is not None:
            operands["bias"] = self.vector(bias, node)
        return self.emit(kernel, {"x": x, **packed, **operands}, to, node)

    def linear_input(self, node: Node, rows: int, k: int, weight: NDArray[Any]) -> tuple[Rows, NDArray[Any]]:
        """A linear's operand and its weight. A convolution over tokens reads several rows of its input as one.

        With rows of zeros before the first token and after the last, [x_{t−1}, x_t, x_{t+1}] is contiguous: the
        concatenation need not exist, and the weight's parts are swapped at compile time instead.
        """
        windows = match_windows(through_reshapes(node))
        if windows is None or windows.source.shape[1] != self.program.tokens:
            return Rows(self.seen_as(node, rows, k)), weight
        x, before, count = windows.source, windows.before, windows.before + windows.after + 1
        width = k // count
        padded = Value(f"{node.name}.padded", "temporary", (rows + count - 1, width), "float32")
        place = View(padded, rows, width, width, offset=before * width)
        pad = PadRows(width, self.isa, before, windows.after)
        ends = arguments_of(pad, {"y": View.of(padded, rows + count - 1, width)}, 1, rows)
        self.program.calls.append(Call(pad, ends, (padded,), 1, node.name))
        if x not in self.views and x not in self.output_of:
            self.placed[x] = place
        if self.view(x).value is not padded:  # it is elsewhere, or no kernel of ours computes it
            self.copy(self.seen_as(x, rows, width), place, node)
        return Rows(View(padded, rows, k, width), neighbours=True), np.concatenate(np.split(weight, count)[::-1])

    def require_ids_below(self, ids: Node, count: int) -> None:
        """An input that indexes a table of `count` rows must lie inside it: the runtime refuses what does not."""
        while ids.op in RESHAPES or (ids.op == "astype" and ids.inputs[0].dtype in ("int32", "int64")):
            ids = ids.inputs[0]
        if ids.op == "input" and ids.dtype in ("int32", "int64"):
            previous = self.program.ranges.get(ids.name)
            self.program.ranges[ids.name] = InputRange(0, min(count, previous.high) if previous else count)

    def gather(self, node: Node, chain: Chain) -> View:
        source, ids = chain.source.inputs
        quantized = match_quantized_weight(source, axis=0)
        table = quantized.values if quantized else constant_of(source)
        assert table is not None
        count, columns = table.shape
        self.require_ids_below(ids, count)
        rows = math.prod(node.shape[:-1])
        view, operands = self.seen_as(ids, rows, 1), self.operands(chain, rows, columns, node)
        to = self.result(node, rows, columns)
        stored = {"table": self.whole(self.weight(table, source.name))}
        kernel: KernelSpec = Gather(count, columns, tuple(chain.steps), self.isa)
        if quantized:
            kernel = GatherInt8(count, columns, tuple(chain.steps), self.isa)
            stored["scales"] = self.whole(self.weight(quantized.scales, source.name))
        return self.emit(kernel, {"ids": view, **stored, **operands}, to, node)

    def operands(self, chain: Chain, rows: int, columns: int, node: Node) -> dict[str, View]:
        """The epilogue's operands by their names in the kernel's signature."""
        views = {}
        for index, (step, operand) in enumerate(zip(chain.steps, chain.operands, strict=True)):
            if step in VECTOR_STEPS:
                views[f"{step}{index}"] = self.vector(operand[:columns], node)
            elif step in TENSOR_STEPS:
                views[f"{step}{index}"] = self.seen_as(operand, rows, columns)
        return views

    def pointwise(self, node: Node) -> View | None:
        """Element-wise operators that are no step of an epilogue, a row a token."""
        tree = find_tree(node, self.tokens, self.kept)
        if tree is None:
            return None
        tokens = self.program.tokens
        columns = math.prod(c or tokens for c in tree.columns)
        kernel = Pointwise(tree.columns, tree.expression, tuple(tree.sources), node.dtype, self.isa)
        operands: dict[str, Operand] = {}
        for index, (leaf, source) in enumerate(zip(tree.leaves, tree.sources, strict=True)):
            width = math.prod(leaf.shape) // tokens
            operands[f"x{index}"] = self.seen_as(leaf, tokens, width) if source.by_row else self.dense(leaf)
        return self.emit(kernel, operands, self.result(node, tokens, columns), node)

    def running_sum(self, node: Node) -> View | None:
        tokens = self.program.tokens
        if node.op != "cumsum" or not along_tokens(node, tokens):
            return None
        x = self.dense(node.inputs[0])
        return self.emit(RunningSum(node.dtype), {"x": x}, self.result(node, tokens, 1), node)

    def over_tokens(self, node: Node) -> View | None:
        """A sum, a mean or an extreme over the tokens of what has a row a token."""
        if node.op not in ("sum", "mean", "max", "min") or node.attrs.axis is None or node.dtype == "bool":
            return None
        x, tokens = node.inputs[0], self.program.tokens
        axis = self.tokens.leading(x.shape)
        if axis is None or [int(a) % len(x.shape) for a in node.attrs.axis] != [axis] or not self.tokens.index(x):
            return None
        if node.dtype not in TYPES or (node.op == "mean" and node.dtype != "float32"):
            return None
        columns = math.prod(x.shape[axis + 1 :])
        kernel = OverTokens(node.op, columns, node.dtype, self.isa)
        return self.emit(kernel, {"x": self.seen_as(x, tokens, columns)}, self.result(node, 1, columns), node)

    def widened(self, node: Node) -> View | None:
        """One number a token, as a mask is, repeated along a row."""
        x, tokens = node.inputs[0] if node.inputs else node, self.program.tokens
        if node.op != "broadcast_to" or math.prod(x.shape) != tokens or not self.tokens.index(node):
            return None
        columns = math.prod(node.shape) // tokens
        kernel = Pointwise((columns,), ("operand", 0), (Source(node.dtype, True, (0,)),), node.dtype, self.isa)
        return self.emit(kernel, {"x0": self.seen_as(x, tokens, 1)}, self.result(node, tokens, columns), node)

    def side_by_side(self, node: Node) -> View | None:
        """Columns of several tensors in one row a token, or in one row."""
        if node.op != "concat" or node.dtype not in TYPES:
            return None
        tokens, shape, axis = self.program.tokens, node.shape, int(node.attrs.axis) % len(node.shape)
        leading = self.tokens.leading(shape)
        by_token = leading is not None and axis == leading + 1 and self.tokens.index(node)
        if not by_token and math.prod(shape[:axis]) != 1:
            return None
        rows, at = tokens if by_token else 1, 0
        to = self.result(node, rows, math.prod(shape) // rows)
        for part in node.inputs:
            width = math.prod(part.shape) // rows
            self.copy(self.seen_as(part, rows, width), to.part(at, width), node)
            at += width
        return to

    # --- everything else

    def generic(self, node: Node) -> View:
        """One operator by TVM's own library, over whole tensors."""
        kernel, parameters = Generic.of(node, self.graph.module)
        if node.op == "take" and node.attrs.axis is not None:
            self.require_ids_below(node.inputs[1], node.inputs[0].shape[int(node.attrs.axis)])
        views = [self.dense(p) for p in parameters]
        to = self.result(node, *self.rows_columns(node.shape))
        scratch = [
            Value(f"{node.name}.{i}", "temporary", shape, dtype)
            for i, (shape, dtype) in enumerate(kernel.intermediates)
        ]
        names = [p.name for p in kernel.signature()]
        places = dict(zip(names, (*views, to, *map(self.whole, scratch)), strict=True))
        arguments = arguments_of(kernel, places, to.rows, self.program.tokens)
        self.program.calls.append(Call(kernel, arguments, (to.value, *scratch), to.rows, node.name))
        self.program.generic.append((node.op, f"{node.name}: no kernel family takes it"))
        return to
