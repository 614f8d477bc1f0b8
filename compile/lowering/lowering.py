"""A program as it grows: where each tensor is, and which calls compute it, working back from the outputs.

Each tensor that must exist in memory becomes one kernel call of the first family that takes it. Reshapes move nothing,
nor do parts of a row. What no family takes goes to TVM's own operator library, one operator at a time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.cpus import Isa
from compile.errors import CompileError
from compile.importer.graph import TYPES, Graph, Node
from compile.kernels.contract import KernelSpec, TiledKernel, pack_vector
from compile.kernels.generic import Generic
from compile.kernels.pointwise import Pointwise, Source
from compile.kernels.rowwise import Map
from compile.kernels.tiles import TileTable
from compile.lowering.fold import fold_constants
from compile.lowering.gates import part_gates
from compile.lowering.patterns import RESHAPES, Part, constant_of, match_part, through_reshapes
from compile.lowering.scores import Choice
from compile.lowering.tied_embedding import share_tables
from compile.lowering.token_axis import Tokens
from compile.program import Call, InputRange, Operand, Program, Value, View, arguments_of

# Makes the call that computes a tensor, and says where it is; None where the family does not take it.
Family = Callable[["Lowering", Node], View | None]


class Lowering:
    """tiles: which tile a kernel gets; families: tried in this order on each tensor that must exist."""

    def __init__(self, graph: Graph, tokens: int, isa: Isa, tiles: TileTable, families: Sequence[Family]) -> None:
        self.graph = graph
        self.isa = isa
        self.tiles = tiles
        self.families = families
        self.program = Program(tokens)
        self.views: dict[Node, View] = {}
        self.weights: dict[str, Value] = {}
        self.output_of: dict[Node, str] = {}
        self.placed: dict[Node, View] = {}
        self.choices: dict[Choice, Node] = {}
        self.tokens = Tokens(tokens)

    def lower(self) -> Program:
        fold_constants(self.graph)
        part_gates(self.graph)
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

    def vector(self, data: NDArray[np.float32], node: Node) -> View:
        """A vector operand."""
        return self.whole(self.weight(pack_vector(data), node.name))

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
        for family in self.families:
            if (result := family(self, node)) is not None:
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

    def require_ids_below(self, ids: Node, count: int) -> None:
        """An input that indexes a table of `count` rows must lie inside it: the runtime refuses what does not."""
        while ids.op in RESHAPES or (ids.op == "astype" and ids.inputs[0].dtype in ("int32", "int64")):
            ids = ids.inputs[0]
        if ids.op == "input" and ids.dtype in ("int32", "int64"):
            previous = self.program.ranges.get(ids.name)
            self.program.ranges[ids.name] = InputRange(0, min(count, previous.high) if previous else count)

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
