"""Kernels that compute or load a tensor and apply element-wise steps to it: linears, lookups, and neither."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.importer.graph import Node
from compile.kernels import int8_reference
from compile.kernels.contract import KernelSpec
from compile.kernels.epilogue import TENSOR_STEPS, VECTOR_STEPS
from compile.kernels.gather_int8 import GatherInt8
from compile.kernels.linear import Linear, pack_weight
from compile.kernels.linear_int8 import LinearInt8, overflows_in_pairs, weight_operands
from compile.kernels.rowwise import Gather, Map, PadRows
from compile.kernels.tiles import default_tile
from compile.lowering.epilogues import Chain, find_chain
from compile.lowering.lowering import Lowering
from compile.lowering.patterns import (
    constant_of,
    match_quantized_weight,
    match_static_rows,
    match_windows,
    through_reshapes,
)
from compile.program import Call, Rows, Value, View, arguments_of


def fused(low: Lowering, node: Node) -> View | None:
    """A matrix product, a lookup or a load, with the element-wise steps after it."""
    if node.dtype != "float32" or not node.shape:
        return None
    chain = find_chain(node, low.kept)
    source = chain.source
    if chain.computes and source.op == "matmul":
        return _linear(low, node, chain)
    if chain.computes and source.op == "take":
        return _gather(low, node, chain)
    axis = low.tokens.leading(node.shape)
    if axis is not None and axis < len(node.shape) - 2 and low.tokens.index(node):
        return None  # heads side by side: as one row a token it is another kernel's
    if not (chain.steps or chain.casts) or math.prod(source.shape) != math.prod(node.shape):
        return None
    rows, columns = _map_rows(low, node, chain)
    x, operands = low.seen_as(source, rows, columns), _operands(low, chain, rows, columns, node)
    to = low.result(node, rows, columns)
    return low.emit(Map(columns, tuple(chain.steps), low.isa, source.dtype), {"x": x, **operands}, to, node)


def _map_rows(low: Lowering, node: Node, chain: Chain) -> tuple[int, int]:
    """Rows and columns for a kernel that only maps: one number a token where the tensor is a row of tokens."""
    tokens = low.program.tokens
    uniform = all(o is None or isinstance(o, Node) or (o == o[0]).all() for o in chain.operands)
    if node.shape[-1] == tokens == math.prod(node.shape) and uniform and low.tokens.index(node):
        return tokens, 1
    return math.prod(node.shape[:-1]), node.shape[-1]


def _linear(low: Lowering, node: Node, chain: Chain) -> View:
    source = chain.source.inputs[1]
    quantized = match_quantized_weight(source, axis=1)
    quantized = quantized if quantized and len(quantized.values) <= int8_reference.MAX_K else None
    weight: NDArray[Any] | None = quantized.values if quantized else constant_of(source)
    assert weight is not None
    (k, n), rows = weight.shape, math.prod(node.shape[:-1])
    x, weight = _linear_input(low, chain.source.inputs[0], rows, k, weight)
    bias = None
    if chain.steps and chain.steps[0] == "add_vector":
        bias = chain.operands[0]
        chain = Chain(chain.source, chain.steps[1:], chain.operands[1:])
    operands = _operands(low, chain, rows, n, node)
    has_bias, steps = bias is not None, tuple(chain.steps)
    if quantized:
        tile = default_tile(low.isa, f"i8_{low.isa.dot}")
        read = through_reshapes(chain.source.inputs[0])
        nonnegative, static = read.op == "nn.relu", match_static_rows(read)
        apart = overflows_in_pairs(weight)
        kernel = low.tiled(LinearInt8(k, n, has_bias, steps, tile, low.isa, (), nonnegative, apart, static is not None))
        if static:
            operands["extremes"] = low.vector(int8_reference.static_extremes(*static), node)
        constants = weight_operands(weight, quantized.scales)
    else:
        kernel = low.tiled(Linear(k, n, has_bias, steps, default_tile(low.isa), low.isa))
        constants = {"w": pack_weight(weight, kernel.tile)}
    packed = {name: low.whole(low.weight(data, source.name)) for name, data in constants.items()}
    to = low.result(node, rows, n)
    strides = [operands[p.name].stride for p in kernel.signature() if p.role == "rows" and p.name in operands]
    kernel = replace(kernel, strides=(x.view.stride, to.stride, *strides))
    if bias is not None:
        operands["bias"] = low.vector(bias, node)
    return low.emit(kernel, {"x": x, **packed, **operands}, to, node)


def _linear_input(low: Lowering, node: Node, rows: int, k: int, weight: NDArray[Any]) -> tuple[Rows, NDArray[Any]]:
    """A linear's operand and its weight. A convolution over tokens reads several rows of its input as one.

    With rows of zeros before the first token and after the last, [x_{t−1}, x_t, x_{t+1}] is contiguous: the
    concatenation need not exist, and the weight's parts are swapped at compile time instead.
    """
    windows = match_windows(through_reshapes(node))
    if windows is None or windows.source.shape[1] != low.program.tokens:
        return Rows(low.seen_as(node, rows, k)), weight
    x, before, count = windows.source, windows.before, windows.before + windows.after + 1
    width = k // count
    padded = Value(f"{node.name}.padded", "temporary", (rows + count - 1, width), "float32")
    place = View(padded, rows, width, width, offset=before * width)
    pad = PadRows(width, low.isa, before, windows.after)
    ends = arguments_of(pad, {"y": View.of(padded, rows + count - 1, width)}, 1, rows)
    low.program.calls.append(Call(pad, ends, (padded,), 1, node.name))
    if x not in low.views and x not in low.output_of:
        low.placed[x] = place
    if low.view(x).value is not padded:  # it is elsewhere, or no kernel of ours computes it
        low.copy(low.seen_as(x, rows, width), place, node)
    return Rows(View(padded, rows, k, width), neighbours=True), np.concatenate(np.split(weight, count)[::-1])


def _gather(low: Lowering, node: Node, chain: Chain) -> View:
    source, ids = chain.source.inputs
    quantized = match_quantized_weight(source, axis=0)
    table = quantized.values if quantized else constant_of(source)
    assert table is not None
    count, columns = table.shape
    low.require_ids_below(ids, count)
    rows = math.prod(node.shape[:-1])
    view, operands = low.seen_as(ids, rows, 1), _operands(low, chain, rows, columns, node)
    to = low.result(node, rows, columns)
    stored = {"table": low.whole(low.weight(table, source.name))}
    kernel: KernelSpec = Gather(count, columns, tuple(chain.steps), low.isa)
    if quantized:
        kernel = GatherInt8(count, columns, tuple(chain.steps), low.isa)
        stored["scales"] = low.whole(low.weight(quantized.scales, source.name))
    return low.emit(kernel, {"ids": view, **stored, **operands}, to, node)


def _operands(low: Lowering, chain: Chain, rows: int, columns: int, node: Node) -> dict[str, View]:
    """The epilogue's operands by their names in the kernel's signature."""
    views = {}
    for index, (step, operand) in enumerate(zip(chain.steps, chain.operands, strict=True)):
        if step in VECTOR_STEPS:
            views[f"{step}{index}"] = low.vector(operand[:columns], node)
        elif step in TENSOR_STEPS:
            views[f"{step}{index}"] = low.seen_as(operand, rows, columns)
    return views
