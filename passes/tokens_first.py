"""Convolutions over tokens as linears: channels first, [B, C, T], becomes tokens first, [B, T, C].

    Conv(xᵀ, W, b)  ->  ([x moved up by k/2 tokens, …, x moved down by k/2] W′ + b)ᵀ

Of one token (k = 1) that is a plain linear; SqueezeBERT has no others. The twin of each tensor is followed through what
acts on elements, head splits and reductions over tokens, until transposes cancel. Strides, other lengths than the
input's, and groups of more than one token are left to Conv.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from passes.flatten_tokens import BINARY, UNARY
from passes.graph import array, attribute, constant, dims, infer_shapes, ints, make, replace_output
from passes.options import Options
from passes.report import Outcome

SWAPPED = [0, 2, 1]
HEADS_OF_CHANNELS = [0, 2, 3, 1]
REDUCTIONS = {"ReduceMax": "ReduceMax", "ReduceMean": "ReduceMean", "ReduceSum": "ReduceSum", "ReduceMin": "ReduceMin"}
GLOBAL = {"GlobalMaxPool": "ReduceMax", "GlobalAveragePool": "ReduceMean"}
MOST_GROUPS = 8  # their weights become one matrix, with zeros


def tokens_first(model: ir.Model, options: Options) -> Outcome:
    if not any(node.op_type == "Conv" and len(dims(node.inputs[0])) == 3 for node in model.graph):
        return Outcome()
    walk = _Walk(model.graph)
    for node in list(model.graph):
        walk.visit(node)
    if walk.applied:
        walk.finish()
        RemoveUnusedNodesPass()(model)
        infer_shapes(model)
    return Outcome(walk.applied)


class _Walk:
    """twins: of values [B, C, T], the same as [B, T, C]; splits: of heads [B, H, d, T], the same as [B, T, H, d]."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.twins: dict[ir.Value, ir.Value] = {}
        self.splits: dict[ir.Value, ir.Value] = {}
        self.made: list[ir.Value] = []
        self.applied = 0

    def visit(self, node: ir.Node) -> None:
        output, x = node.outputs[0], node.inputs[0] if node.inputs else None
        if x is None or None in dims(x) or None in dims(output) or node.domain not in ("", "ai.onnx"):
            return
        if node.op_type == "Transpose":
            self.transpose(node, x, output)
        elif node.op_type == "Reshape":
            self.reshape(node, x, output)
        elif x in self.twins or any(value in self.twins for value in node.inputs if value is not None):
            twin = self.convolution(node) or self.element_wise(node)
            if twin is not None:
                self.add(output, twin)
            elif x in self.twins:
                self.reduction(node, x, output)

    def add(self, output: ir.Value, twin: ir.Value) -> None:
        self.twins[output] = twin
        self.made.append(output)

    def finish(self) -> None:
        """What still reads a value with channels first gets its twin transposed."""
        for value in self.made:
            node = value.producer()
            assert node is not None
            replace_output(value, self.transposed(self.twins[value], SWAPPED, node, value))

    def transposed(self, x: ir.Value, perm: list[int], before: ir.Node, like: ir.Value) -> ir.Value:
        shape = [dims(x)[axis] for axis in perm]
        return make("Transpose", [x], before=before, like=like, shape=shape, attributes=_perm(perm))

    def reshaped(self, x: ir.Value, shape: list[int | None], before: ir.Node) -> ir.Value:
        sizes = constant(self.graph, np.array(shape), "tokens_first", np.int64)
        return make("Reshape", [x, sizes], before=before, like=x, shape=shape)

    # --- operators

    def transpose(self, node: ir.Node, x: ir.Value, output: ir.Value) -> None:
        perm = ints(node, "perm")
        if perm == SWAPPED and x in self.twins:
            replace_output(output, self.twins[x])
        elif perm == SWAPPED:
            self.twins[output] = x
        elif perm and x in self.splits:
            replace_output(output, self.transposed(self.splits[x], [HEADS_OF_CHANNELS[a] for a in perm], node, output))

    def reshape(self, node: ir.Node, x: ir.Value, output: ir.Value) -> None:
        """Heads are split from the channels, or joined: [B, C, T] and [B, H, d, T]."""
        own, wanted = dims(x), dims(output)
        if x in self.twins and len(wanted) == 4 and [wanted[0], wanted[3]] == [own[0], own[2]]:
            batch, heads, size, tokens = wanted
            parts = self.reshaped(self.twins[x], [batch, tokens, heads, size], node)
            split = self.transposed(parts, HEADS_OF_CHANNELS, node, output)
            self.splits[split] = parts
            replace_output(output, split)
            return
        source = x.producer()
        if source is None or source.op_type != "Transpose" or ints(source, "perm") != [0, 1, 3, 2]:
            return
        if len(wanted) == 3 and [own[0], own[3]] == [wanted[0], wanted[2]]:
            assert source.inputs[0] is not None
            joined = self.transposed(source.inputs[0], [0, 2, 1, 3], node, x)
            self.add(output, self.reshaped(joined, [wanted[0], wanted[2], wanted[1]], node))

    def element_wise(self, node: ir.Node) -> ir.Value | None:
        output, shape = node.outputs[0], dims(node.outputs[0])
        if node.op_type not in UNARY | BINARY or len(shape) != 3 or len(node.outputs) != 1:
            return None
        operands: list[ir.Value | None] = []
        for value in node.inputs:
            values = array(value)
            if value in self.twins and dims(value) == shape:
                operands.append(self.twins[value])
            elif value is None or (values is not None and values.size == 1):
                operands.append(value)
            elif values is not None and values.ndim in (2, 3) and values.shape[-1] in (1, shape[2]):
                operands.append(
                    constant(self.graph, values.swapaxes(-1, -2), f"{value.name}.tokens", values.dtype.type)
                )
            else:
                return None
        attributes = dict(node.attributes)
        shape = [shape[axis] for axis in SWAPPED]
        return make(node.op_type, operands, before=node, like=output, shape=shape, attributes=attributes)

    def reduction(self, node: ir.Node, x: ir.Value, output: ir.Value) -> None:
        """Over the tokens."""
        op = GLOBAL.get(node.op_type) or REDUCTIONS.get(node.op_type)
        if op is None:
            return
        if node.op_type in REDUCTIONS:
            axes = array(node.inputs[1]) if len(node.inputs) > 1 else None
            if axes is None or axes.tolist() not in ([2], [-1]):
                return
        batch, channels, _ = dims(x)
        axis = constant(self.graph, np.array([1]), "tokens", np.int64)
        flags = {"keepdims": ir.AttrInt64("keepdims", 0)}
        shape = [batch, channels]
        result = make(op, [self.twins[x], axis], before=node, like=output, shape=shape, attributes=flags)
        replace_output(output, result if dims(output) == shape else self.reshaped(result, dims(output), node))

    def convolution(self, node: ir.Node) -> ir.Value | None:
        x, weights = node.inputs[0], array(node.inputs[1]) if node.op_type == "Conv" else None
        if x not in self.twins or weights is None or weights.ndim != 3:
            return None
        outs, ins, width = weights.shape
        groups, step = int(attribute(node, "group", 1)), (ints(node, "dilations") or [1])[0]
        before, after = ints(node, "pads") or [0, 0]
        if before + after != step * (width - 1) or (ints(node, "strides") or [1]) != [1]:
            return None  # auto_pad comes without pads
        if groups > 1 and (width > 1 or groups > MOST_GROUPS):
            return None
        twin = self.twins[x]
        if (tokens := dims(twin)[1]) is None or max(before, after) >= tokens:
            return None
        places = [j * step - before for j in reversed(range(width))]
        parts = [self.moved(twin, place, node) for place in places]
        if width > 1:
            shape = [*dims(twin)[:2], width * ins]
            axis = {"axis": ir.AttrInt64("axis", 2)}
            windows = make("Concat", parts, before=node, like=twin, shape=shape, attributes=axis)
        else:
            (windows,) = parts
        matrix = _matrix(weights[:, :, ::-1], groups)
        shape = [*dims(twin)[:2], outs]
        held = constant(self.graph, matrix, f"{node.inputs[1].name}.linear")  # type: ignore[union-attr]
        result = make("MatMul", [windows, held], before=node, like=twin, shape=shape)
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            result = make("Add", [result, node.inputs[2]], before=node, like=result)
        self.applied += 1
        return result

    def moved(self, x: ir.Value, place: int, node: ir.Node) -> ir.Value:
        """Row t + place of x (B, T, C) in row t, zeros beyond the ends."""
        if place == 0:
            return x
        batch, tokens, size = dims(x)
        assert tokens is not None
        bounds = (place, tokens) if place > 0 else (0, tokens + place)
        ends = [constant(self.graph, np.array([n]), "tokens", np.int64) for n in (*bounds, 1)]
        shape = [batch, tokens - abs(place), size]
        part = make("Slice", [x, *ends], before=node, like=x, shape=shape)
        zeros = constant(self.graph, np.zeros([batch or 1, abs(place), size or 1]), "beyond")
        parts = [part, zeros] if place > 0 else [zeros, part]
        return make("Concat", parts, before=node, like=x, attributes={"axis": ir.AttrInt64("axis", 1)})


def _perm(axes: list[int]) -> dict[str, ir.Attr]:
    return {"perm": ir.AttrInt64s("perm", axes)}


def _matrix(weights: np.ndarray, groups: int) -> np.ndarray:
    """(N, C / groups, k) as (k C, N), block by block where there are groups."""
    outs, ins, width = weights.shape
    if groups == 1:
        return weights.transpose(2, 1, 0).reshape(width * ins, outs)
    matrix = np.zeros((groups * ins, outs), weights.dtype)
    for group, part in enumerate(np.split(weights[:, :, 0], groups)):
        columns = slice(group * len(part), (group + 1) * len(part))
        matrix[group * ins : (group + 1) * ins, columns] = part.T
    return matrix
