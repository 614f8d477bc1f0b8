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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.errors import CompileError
from compile.importer.graph import Graph, Node
from compile.kernels.attention import Attention
from compile.kernels.epilogue import TENSOR_STEPS, VECTOR_STEPS
from compile.kernels.generic import Generic
from compile.kernels.linear import Linear, pack_vector, pack_weight
from compile.kernels.rowwise import Gather, LayerNorm, Map, PadRows
from compile.kernels.tiles import TileTable
from compile.lowering.epilogues import Chain, find_chain
from compile.lowering.patterns import (
    RESHAPES,
    Part,
    as_vector,
    constant_of,
    match_attention,
    match_part,
    match_trigram,
    through_reshapes,
)
from compile.lowering.tied_embedding import share_tables
from compile.lowering.token_axis import Tokens
from compile.program import (
    Argument,
    Call,
    InputRange,
    Number,
    Program,
    RowCount,
    Rows,
    TokenCount,
    Value,
    View,
    Whole,
    Workspace,
)
from compile.targets import Isa


def lower(graph: Graph, tokens: int, isa: Isa, tiles: TileTable | None = None) -> Program:
    """tiles says which tile a kernel gets. Raises CompileError where a tensor cannot be computed by any kernel."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 20 * len(graph.nodes) + 1000))
    try:
        return _Lowering(graph, tokens, isa, tiles or TileTable()).run()
    finally:
        sys.setrecursionlimit(limit)


class _Lowering:
    def __init__(self, graph: Graph, tokens: int, isa: Isa, tiles: TileTable) -> None:
        self.graph = graph
        self.isa = isa
        self.tiles = tiles
        self.program = Program(tokens)
        self.views: dict[int, View] = {}
        self.weights: dict[str, Value] = {}
        self.output_of: dict[int, str] = {}
        self.placed: dict[int, View] = {}
        self.tokens = Tokens(tokens)

    def run(self) -> Program:
        for node in self.graph.inputs:
            value = Value(node.name, "input", node.shape, node.dtype)
            self.program.inputs.append(value)
            self.views[id(node)] = self.whole(value)
        for name, node in self.graph.outputs:
            home = through_reshapes(node)
            if id(home) not in self.output_of and home.op not in ("input", "const", "get_item", "strided_slice"):
                self.output_of[id(home)] = name
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
        return id(node) in self.output_of or id(node) in self.views

    def result(self, node: Node, rows: int, columns: int) -> View:
        """A fresh tensor for what `node` computes; an output's own buffer if it is one, or where it was wanted."""
        if id(node) in self.placed:
            return self.placed[id(node)]
        name = self.output_of.get(id(node))
        value = Value(name or node.name, "output" if name else "temporary", node.shape, node.dtype)
        return View.of(value, rows, columns)

    def emit(self, kernel: Any, arguments: list[Argument], to: View, node: Node, flops: int = 0) -> View:
        per_token = to.rows == self.program.tokens and self.tokens.index(node)
        self.program.calls.append(Call(kernel, tuple(arguments), (to.value,), to.rows, node.name, flops, per_token))
        return to

    # --- tensors

    def output(self, name: str, node: Node) -> Value:
        """`node` in an output of its own: where it already is one, or copied."""
        view = self.view(node)
        if (view.value.kind, view.value.name) == ("output", name) and view.whole:
            view.value.shape = node.shape
            return view.value
        if node.dtype != "float32":
            raise CompileError(f"output {name!r} is an input or has type {node.dtype}: only float32 results are copied")
        value = Value(name, "output", node.shape, node.dtype)
        to = View.of(value, view.rows, view.columns)
        self.emit(Map(view.columns, (), self.isa), [*_rows(view), *_rows(to), RowCount()], to, node)
        return value

    def view(self, node: Node) -> View:
        """Where `node` is in memory, computing it first if need be."""
        if id(node) not in self.views:
            self.views[id(node)] = self.compute(node)
        return self.views[id(node)]

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
        if node.dtype != "float32":
            raise CompileError(f"{node.op} {node.name!r} is part of a tensor of type {node.dtype}: not supported")
        to = View.of(Value(f"{node.name}.dense", "temporary", node.shape, node.dtype), view.rows, view.columns)
        return self.emit(Map(view.columns, (), self.isa), [*_rows(view), *_rows(to), RowCount()], to, node)

    def compute(self, node: Node) -> View:
        if (data := constant_of(node)) is not None:
            return self.whole(self.weight(data, node.name))
        if node.op in RESHAPES:
            return self.seen_as(node.inputs[0], *self.rows_columns(node.shape))
        if (part := match_part(node)) is not None and (view := self.part(part)) is not None:
            return view
        for attempt in (self.attention, self.layer_norm, self.fused):
            if (result := attempt(node)) is not None:
                return result
        return self.generic(node)

    def part(self, part: Part) -> View | None:
        """Columns of a tensor's rows, or one row of it, where they are."""
        if self.rows_columns(part.source.shape)[1] != part.source.shape[-1]:
            return None
        view = self.view(part.source)
        if part.axis == len(part.source.shape) - 1:
            return view.part(part.begin, part.count)
        if part.count == 1 and part.source.shape[part.axis] == view.rows:
            return view.row(part.begin)
        return None

    # --- kernel families

    def attention(self, node: Node) -> View | None:
        match = match_attention(node)
        tokens = self.program.tokens
        if match is None or match.query.shape[-1] != match.heads * match.head_size:
            return None
        width = match.heads * match.head_size
        q, k, v = (self.seen_as(part, tokens, width) for part in (match.query, match.key, match.value))
        tile = self.tiles.choose("attention", self.isa, "f32", match.head_size, tokens)
        kernel = Attention(match.heads, match.head_size, match.scale, match.mask is not None, tile, self.isa)
        mask: list[Argument] = [Whole(k), Number(0)]  # never read
        if match.mask is not None and match.mask.shape[2] == 1:
            mask = [Whole(self.view(match.mask)), Number(0)]
        elif match.mask is not None:
            mask = _rows(self.seen_as(match.mask, tokens, tokens))
        to = self.result(node, tokens, width)
        arguments = [*_rows(q), Whole(k), Number(k.stride), Whole(v), Number(v.stride), *mask, *_rows(to)]
        arguments += [Workspace(kernel.workspace_bytes(tokens)), TokenCount(), RowCount()]
        return self.emit(kernel, arguments, to, node, kernel.flops(tokens, tokens))

    def layer_norm(self, node: Node) -> View | None:
        if node.op != "nn.layer_norm" or [int(a) % len(node.shape) for a in node.attrs.axes] != [len(node.shape) - 1]:
            return None
        columns = node.shape[-1]
        gamma, beta = (as_vector(operand, columns) for operand in node.inputs[1:3])
        if gamma is None or beta is None:
            return None
        rows = math.prod(node.shape[:-1])
        x, to = self.seen_as(node.inputs[0], rows, columns), self.result(node, rows, columns)
        arguments = [*_rows(x), self.vector(gamma, node), self.vector(beta, node), *_rows(to), RowCount()]
        return self.emit(LayerNorm(columns, float(node.attrs.epsilon), self.isa), arguments, to, node)

    def vector(self, data: NDArray[np.float32], node: Node) -> Whole:
        """A vector operand, padded to 64 elements so that every ISA may read whole panels of it."""
        return Whole(self.whole(self.weight(pack_vector(data, 64), node.name)))

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
        if not (chain.steps or chain.casts) or math.prod(source.shape) != math.prod(node.shape):
            return None
        rows, columns = self.map_rows(node, chain)
        x, operands = self.seen_as(source, rows, columns), self.operands(chain, rows, columns, node)
        to = self.result(node, rows, columns)
        kernel = Map(columns, tuple(chain.steps), self.isa, source.dtype)
        return self.emit(kernel, [*_rows(x), *_rows(to), *operands, RowCount()], to, node)

    def map_rows(self, node: Node, chain: Chain) -> tuple[int, int]:
        """Rows and columns for a kernel that only maps: one number a token where the tensor is a row of tokens."""
        tokens = self.program.tokens
        uniform = all(o is None or isinstance(o, Node) or (o == o[0]).all() for o in chain.operands)
        if node.shape[-1] == tokens == math.prod(node.shape) and uniform and self.tokens.index(node):
            return tokens, 1
        return math.prod(node.shape[:-1]), node.shape[-1]

    def linear(self, node: Node, chain: Chain) -> View:
        weight = constant_of(chain.source.inputs[1])
        assert weight is not None
        (k, n), rows = weight.shape, math.prod(node.shape[:-1])
        x, weight = self.linear_input(chain.source.inputs[0], rows, k, weight)
        bias = None
        if chain.steps and chain.steps[0] == "addv":
            bias = chain.operands[0]
            chain = Chain(chain.source, chain.steps[1:], chain.operands[1:])
        operands = self.operands(chain, rows, n, node)
        tile = self.tiles.choose("linear", self.isa, "f32", k, n)
        packed = self.whole(self.weight(pack_weight(weight, tile), chain.source.inputs[1].name))
        to = self.result(node, rows, n)
        strides = [x.view.stride, to.stride, *(a.value for a in operands if isinstance(a, Number))]
        kernel = Linear(k, n, bias is not None, tuple(chain.steps), tile, self.isa, tuple(strides))
        arguments: list[Argument] = [x, Number(x.view.stride), Whole(packed), *_rows(to)]
        if bias is not None:
            arguments.append(self.vector(bias, node))
        arguments += [*operands, RowCount()]
        if size := kernel.workspace_bytes(rows):
            arguments.append(Workspace(size))
        return self.emit(kernel, arguments, to, node, kernel.flops(rows))

    def linear_input(self, node: Node, rows: int, k: int, weight: NDArray[Any]) -> tuple[Rows, NDArray[Any]]:
        """A linear's operand and its weight. A 3-convolution reads three rows of its input as one.

        With a row of zeros before the first token and one after the last, [x_{t−1}, x_t, x_{t+1}] is contiguous: the
        concatenation need not exist, and the weight's thirds are swapped at compile time instead.
        """
        x = match_trigram(through_reshapes(node))
        if x is None or x.shape[1] != self.program.tokens or id(x) in self.views or id(x) in self.output_of:
            return Rows(self.seen_as(node, rows, k)), weight
        width = k // 3
        padded = Value(f"{node.name}.padded", "temporary", (rows + 2, width), "float32")
        self.placed[id(x)] = View(padded, rows, width, width, offset=width)
        ends: list[Argument] = [Whole(View.of(padded, rows + 2, width)), TokenCount()]
        self.program.calls.append(Call(PadRows(width, self.isa), tuple(ends), (padded,), 1, node.name))
        if self.view(x).value is not padded:  # no kernel of ours computes x: copy it
            to = self.placed[id(x)]
            source = self.seen_as(x, rows, width)
            self.emit(Map(width, (), self.isa), [*_rows(source), *_rows(to), RowCount()], to, node)
        following, same, previous = np.split(weight, 3)
        return Rows(View(padded, rows, k, width), neighbours=True), np.concatenate([previous, same, following])

    def limit(self, ids: Node, count: int) -> None:
        """An input that indexes a table of `count` rows must lie inside it: the runtime refuses what does not."""
        while ids.op in RESHAPES or (ids.op == "astype" and ids.inputs[0].dtype in ("int32", "int64")):
            ids = ids.inputs[0]
        if ids.op == "input" and ids.dtype in ("int32", "int64"):
            known = self.program.ranges.get(ids.name)
            self.program.ranges[ids.name] = InputRange(0, min(count, known.high) if known else count)

    def gather(self, node: Node, chain: Chain) -> View:
        table = constant_of(chain.source.inputs[0])
        assert table is not None
        ids, (count, columns) = chain.source.inputs[1], table.shape
        self.limit(ids, count)
        rows = math.prod(node.shape[:-1])
        view, operands = self.seen_as(ids, rows, 1), self.operands(chain, rows, columns, node)
        to = self.result(node, rows, columns)
        kernel = Gather(count, columns, tuple(chain.steps), self.isa)
        arguments = [Rows(view), Whole(self.whole(self.weight(table, chain.source.inputs[0].name))), *_rows(to)]
        return self.emit(kernel, [*arguments, *operands, RowCount()], to, node)

    def operands(self, chain: Chain, rows: int, columns: int, node: Node) -> list[Argument]:
        arguments: list[Argument] = []
        for step, operand in zip(chain.steps, chain.operands, strict=True):
            if step in VECTOR_STEPS:
                arguments.append(self.vector(operand[:columns], node))
            elif step in TENSOR_STEPS:
                arguments += _rows(self.seen_as(operand, rows, columns))
        return arguments

    # --- everything else

    def generic(self, node: Node) -> View:
        """One operator by TVM's own library, over whole tensors."""
        kernel, parameters = Generic.of(node, self.graph.module)
        if node.op == "take" and node.attrs.axis is not None:
            self.limit(node.inputs[1], node.inputs[0].shape[int(node.attrs.axis)])
        views = [self.dense(p) for p in parameters]
        to = self.result(node, *self.rows_columns(node.shape))
        scratch = [
            Value(f"{node.name}.{i}", "temporary", shape, dtype)
            for i, (shape, dtype) in enumerate(kernel.intermediates)
        ]
        arguments = tuple(Whole(view) for view in (*views, to, *(self.whole(v) for v in scratch)))
        self.program.calls.append(Call(kernel, arguments, (to.value, *scratch), to.rows, node.name))
        self.program.generic.append((node.op, f"{node.name}: no kernel family takes it"))
        return to


def _rows(view: View) -> list[Argument]:
    """A row operand as kernels take it: pointer and stride."""
    return [Rows(view), Number(view.stride)]
