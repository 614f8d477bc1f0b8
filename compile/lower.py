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
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.errors import CompileError
from compile.frontend import Graph, Node
from compile.kernels.attention import Attention
from compile.kernels.epilogue import TENSOR_STEPS, VECTOR_STEPS
from compile.kernels.generic import Generic
from compile.kernels.linear import Linear, pack_vector, pack_weight
from compile.kernels.rowwise import Gather, LayerNorm, Map, PadRows
from compile.kernels.tiles import linear_tile
from compile.patterns import (
    RESHAPES,
    as_vector,
    match_attention,
    match_gelu,
    match_trigram,
    permutation,
    through_reshapes,
)
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
from compile.share_tables import share_tables
from compile.targets import Isa
from compile.tokens import Tokens

UNARY_OPERATORS = {"nn.relu": "relu", "nn.gelu": "gelu", "nn.gelu_tanh": "gelu_tanh", "tanh": "tanh"}


@dataclass
class Chain:
    """Element-wise steps found on the way up from a tensor to `source`, which a kernel computes or loads."""

    source: Node
    steps: list[str] = field(default_factory=list)
    operands: list[Any] = field(default_factory=list)  # a vector, a Node, or None; one per step
    computes: bool = False  # whether the kernel computes `source` too, rather than loading it
    casts: bool = False  # whether `source` holds integers that the kernel turns into float32


def lower(graph: Graph, tokens: int, isa: Isa) -> Program:
    """Raises CompileError where a tensor cannot be computed by any kernel."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 20 * len(graph.nodes) + 1000))
    try:
        return _Lowering(graph, tokens, isa).run()
    finally:
        sys.setrecursionlimit(limit)


class _Lowering:
    def __init__(self, graph: Graph, tokens: int, isa: Isa) -> None:
        self.graph = graph
        self.isa = isa
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

    def constant(self, node: Node) -> NDArray[Any] | None:
        """The value of a node that needs no input to be known, as far as layout operators go."""
        if node.is_const:
            return node.data
        parts = [self.constant(i) for i in node.inputs] if node.op in (*RESHAPES, "permute_dims", "concat") else []
        known = [p for p in parts if p is not None]
        if not known or len(known) != len(node.inputs):
            return None
        if node.op == "concat":
            return np.concatenate(known, int(node.attrs.axis))
        return known[0].reshape(node.shape) if node.op in RESHAPES else known[0].transpose(permutation(node))

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
        if not view.whole or view.value.size != rows * columns:
            raise CompileError(f"{node.op} {node.name!r} cannot be addressed as {rows} rows of {columns}")
        return View.of(view.value, rows, columns)

    def compute(self, node: Node) -> View:
        if (data := self.constant(node)) is not None:
            return self.whole(self.weight(data, node.name))
        if node.op in RESHAPES:
            return self.seen_as(node.inputs[0], *self.rows_columns(node.shape))
        if (part := self.slice(node)) is not None:
            return part
        for attempt in (self.attention, self.layer_norm, self.fused):
            view = attempt(node)
            if view is not None:
                return view
        return self.generic(node)

    def slice(self, node: Node) -> View | None:
        """Parts of a tensor that need no copy: columns of a split, and single rows."""
        if node.op == "get_item" and node.inputs[0].op == "split":
            split = node.inputs[0]
            source, axis = split.inputs[0], int(split.attrs.axis) % len(split.inputs[0].shape)
            starts = _split_starts(split.attrs.indices_or_sections, source.shape[axis])
            return self.range_of(source, axis, starts[node.static[0]], node.shape[axis])
        if node.op == "strided_slice" and len(node.static) >= 3:
            axes, begins, _ = node.static[:3]
            if len(axes) != 1 or (len(node.static) > 3 and node.static[3] != [1]):
                return None
            axis = axes[0] % len(node.shape)
            size = node.inputs[0].shape[axis]
            begin = begins[0] + size if begins[0] < 0 else min(begins[0], size)
            return self.range_of(node.inputs[0], axis, begin, node.shape[axis])
        if node.op == "take" and node.attrs.axis is not None and not node.inputs[0].is_const:
            indices = self.constant(node.inputs[1])
            if indices is not None and indices.size == 1:
                axis = int(node.attrs.axis) % len(node.inputs[0].shape)
                size = node.inputs[0].shape[axis]
                return self.range_of(node.inputs[0], axis, int(indices.reshape(-1)[0]) % size, 1)
        return None

    def range_of(self, source: Node, axis: int, begin: int, count: int) -> View | None:
        """Columns [begin, begin + count) of a tensor's rows, or its one row `begin`."""
        if self.rows_columns(source.shape)[1] != source.shape[-1]:
            return None
        view = self.view(source)
        if axis == len(source.shape) - 1:
            return view.part(begin, count)
        if count == 1 and source.shape[axis] == view.rows:
            return view.row(begin)
        return None

    # --- kernel families

    def attention(self, node: Node) -> View | None:
        match = match_attention(node)
        tokens = self.program.tokens
        if match is None or match.query.shape[-1] != match.heads * match.head_size:
            return None
        width = match.heads * match.head_size
        q, k, v = (self.seen_as(part, tokens, width) for part in (match.query, match.key, match.value))
        tile = linear_tile(self.isa, "f32", match.head_size, tokens)
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
        chain = self.chain(node)
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
        weight = self.constant(chain.source.inputs[1])
        assert weight is not None
        (k, n), rows = weight.shape, math.prod(node.shape[:-1])
        x, weight = self.linear_input(chain.source.inputs[0], rows, k, weight)
        bias = None
        if chain.steps and chain.steps[0] == "addv":
            bias = chain.operands[0]
            chain = Chain(chain.source, chain.steps[1:], chain.operands[1:])
        operands = self.operands(chain, rows, n, node)
        tile = linear_tile(self.isa, "f32", k, n)
        kernel = Linear(k, n, bias is not None, tuple(chain.steps), tile, self.isa)
        packed = self.whole(self.weight(pack_weight(weight, tile), chain.source.inputs[1].name))
        to = self.result(node, rows, n)
        arguments: list[Argument] = [x, Number(x.view.stride), Whole(packed), *_rows(to)]
        if bias is not None:
            arguments.append(self.vector(bias, node))
        return self.emit(kernel, [*arguments, *operands, RowCount()], to, node, kernel.flops(rows))

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

    def gather(self, node: Node, chain: Chain) -> View:
        table = self.constant(chain.source.inputs[0])
        assert table is not None
        ids, (count, columns) = chain.source.inputs[1], table.shape
        home = through_reshapes(ids)
        if home.op == "input":
            known = self.program.ranges.get(home.name)
            self.program.ranges[home.name] = InputRange(0, min(count, known.high) if known else count)
        rows = math.prod(node.shape[:-1])
        view, operands = self.seen_as(ids, rows, 1), self.operands(chain, rows, columns, node)
        to = self.result(node, rows, columns)
        kernel = Gather(count, columns, tuple(chain.steps), self.isa)
        arguments = [Rows(view), Whole(self.whole(self.weight(table, chain.source.inputs[0].name))), *_rows(to)]
        return self.emit(kernel, [*arguments, *operands, RowCount()], to, node)

    # --- element-wise chains

    def chain(self, node: Node) -> Chain:
        """Follow single-use element-wise operators up from `node`."""
        chain = Chain(node)
        columns = node.shape[-1] if node.shape else 1
        current, readers = node, 1
        while current is node or self.absorbable(current, readers):
            step = self.step(current, columns)
            if step is None:
                break
            steps, current_inputs = step
            chain.steps[:0] = [name for name, _ in steps]
            chain.operands[:0] = [operand for _, operand in steps]
            gelu = steps[0][0] == "gelu" and current.op == "multiply"
            current = current_inputs
            readers = 2 if gelu else 1  # a gelu that is spelt out reads its argument twice
            while self.absorbable(current, readers) and current.op in RESHAPES and _same_row(current, node):
                current, readers = current.inputs[0], 1
        chain.source = current
        if current.op == "astype" and current.inputs[0].dtype == "int64" and current.dtype == "float32":
            if current is node or self.absorbable(current, readers):
                chain.source, chain.casts = current.inputs[0], True
            return chain
        chain.computes = self.computable(current) and (current is node or self.absorbable(current, readers))
        return chain

    def computable(self, node: Node) -> bool:
        """Whether a kernel computes this and applies steps to it: a product with, or a lookup in, a constant."""
        if node.dtype != "float32" or node.op not in ("matmul", "take"):
            return False
        fixed = self.constant(node.inputs[1] if node.op == "matmul" else node.inputs[0])
        if fixed is None or fixed.ndim != 2 or fixed.dtype != np.float32:
            return False
        if node.op == "matmul":
            return len(node.inputs[0].shape) > 1
        ids = node.inputs[1]
        return node.attrs.axis is not None and int(node.attrs.axis) == 0 and ids.dtype == "int64" and not ids.is_const

    def absorbable(self, node: Node, readers: int = 1) -> bool:
        """Whether nobody but the kernel being made reads `node`."""
        return node.uses == readers and id(node) not in self.output_of and id(node) not in self.views

    def step(self, node: Node, columns: int) -> tuple[list[tuple[str, Any]], Node] | None:
        """One element-wise operator as epilogue steps with operands, and the tensor that they are applied to."""
        if node.dtype != "float32" or (node.shape[-1:] or (1,)) != (columns,):
            return None
        if node.op in UNARY_OPERATORS:
            return [(UNARY_OPERATORS[node.op], None)], node.inputs[0]
        if node.op == "multiply" and (x := match_gelu(node)) is not None:
            return [("gelu", None)], x
        if node.op not in ("add", "subtract", "multiply", "divide"):
            return None
        left, right = node.inputs
        if (vector := self.vector_of(right, columns)) is not None and left.shape == node.shape:
            if node.op in ("add", "subtract"):
                return [("addv", vector if node.op == "add" else -vector)], left
            return [("mulv", vector if node.op == "multiply" else np.float32(1.0) / vector)], left
        if (vector := self.vector_of(left, columns)) is not None and right.shape == node.shape:
            if node.op == "subtract":
                return [("mulv", np.full_like(vector, -1.0)), ("addv", vector)], right
            return None if node.op == "divide" else ([("addv" if node.op == "add" else "mulv", vector)], right)
        shape = _without_ones(node.shape)
        if node.op not in ("add", "multiply") or not _without_ones(left.shape) == _without_ones(right.shape) == shape:
            return None
        main, other = (left, right) if self.depth(left) >= self.depth(right) else (right, left)
        return [("add" if node.op == "add" else "mul", other)], main

    def vector_of(self, node: Node, columns: int) -> NDArray[np.float32] | None:
        return as_vector(node, columns) if node.is_const else None

    def depth(self, node: Node) -> int:
        """How late in the graph the product that `node` comes straight from is; −1 if it comes from none.

        Of the two sides of a residual add, the later product takes the other side as its epilogue's operand.
        """
        columns = node.shape[-1]
        while self.absorbable(node):
            if node.op == "matmul":
                return node.index if self.constant(node.inputs[1]) is not None else -1
            if node.op in RESHAPES or node.op in UNARY_OPERATORS:
                node = node.inputs[0]
            elif node.op in ("add", "subtract", "multiply", "divide"):
                if (x := match_gelu(node)) is not None:
                    node = x
                elif self.vector_of(node.inputs[1], columns) is not None:
                    node = node.inputs[0]
                elif self.vector_of(node.inputs[0], columns) is not None:
                    node = node.inputs[1]
                else:
                    return max(self.depth(i) for i in node.inputs)
            else:
                break
        return -1

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
        views = [self.view(p) for p in parameters]
        for view, parameter in zip(views, parameters, strict=True):
            if not view.whole:
                raise CompileError(
                    f"operator {node.op} ({node.name!r}) reads part of {parameter.name!r}: not supported"
                )
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


def _same_row(reshape: Node, node: Node) -> bool:
    return reshape.inputs[0].shape[-1:] == node.shape[-1:]


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without leading dimensions of 1, which change nothing about the memory."""
    first = next((i for i, d in enumerate(shape) if d != 1), len(shape))
    return shape[first:]


def _split_starts(sections: Any, size: int) -> list[int]:
    """Where the parts of a split begin: Relax gives their number or the inner boundaries."""
    if hasattr(sections, "__len__"):
        return [0, *(int(s) for s in sections)]
    count = int(sections)
    return [part * (size // count) for part in range(count)]
