"""Run everything that acts on each token alone on [tokens, channels], so that every linear is one Gemm with its bias.

    MatMul(x, W) + b          ->  Gemm(Reshape(x, [-1, K]), W, b)
    rowwise(Reshape(y, 3-D))  ->  Reshape(rowwise(y), 3-D)

A Reshape in front of the first linear and one behind the last operator of a run remain; attention's own reshapes read
and write the flat form directly. Leading dimensions that differ, or that nothing names, keep an operator as it is.
"""

import math

import numpy as np
import onnx_ir as ir

from passes.graph import (
    Refused,
    array,
    attempt,
    attribute,
    constant,
    dims,
    has_control_flow,
    ints,
    is_float,
    last_dim,
    make,
    scalar,
    used_once,
    write_outputs,
)
from passes.options import Options
from passes.report import Outcome, Refusals

UNARY = {"Relu", "Gelu", "Tanh", "Erf", "Sigmoid", "Neg", "Sqrt", "Abs", "Exp", "Reciprocal", "Identity", "Clip"}
BINARY = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"}

Dims = tuple[int | str, ...]
SLACK = 4  # nodes: a reshape at each end of two runs of operators, where there was no bias to merge


def flatten_tokens(model: ir.Model, options: Options) -> Outcome:
    refusals = Refusals()
    if has_control_flow(model.graph):
        refusals.add("the graph has control flow, which may read any value; run it on a graph without", "graph")
        return Outcome(refusals=refusals.all())
    if not any(_is_linear(node) for node in model.graph):
        return Outcome()
    unnamed = next((node for node in model.graph if _is_linear(node) and not _has_names(node.inputs[0])), None)
    if unnamed is not None:
        refusals.add("a dimension has neither size nor name; export with static or named axes", unnamed.name or "")
        return Outcome(refusals=refusals.all())
    nodes = len(model.graph)
    walk: list[_Walk] = []

    def rewrite(graph: ir.Graph) -> None:
        walk.append(_Walk(graph))
        for node in list(graph):
            walk[0].visit(node)
        walk[0].finish()

    try:
        if not attempt(model, rewrite, lambda graph: len(graph) <= nodes + SLACK):
            raise Refused("dimensions that cannot be told equal would need more reshapes than it saves")
    except Refused as reason:
        refusals.add(str(reason), "graph")
        return Outcome(refusals=refusals.all())
    return Outcome(walk[0].linears, {"operators_moved": walk[0].moved}, refusals.all())


class _Walk:
    """One pass, inputs to outputs. `flat` holds the [tokens, channels] form of values of the original graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.linears = 0
        self.moved = 0
        self.flat: dict[ir.Value, ir.Value] = {}
        self.native: set[ir.Value] = set()  # values in `flat` that their own node still makes
        self.full: dict[ir.Value, ir.Value] = {}  # values written back from `flat`
        self.sources: dict[Dims, ir.Value] = {}  # a value with these leading dimensions, to ask for them at run time
        self.shapes: dict[tuple[Dims, Dims], ir.Value] = {}

    def visit(self, node: ir.Node) -> None:
        standard = node.domain in ("", "ai.onnx")
        if standard and (self._linear(node) or self._absorbed_bias(node) or self._reshape(node)):
            return
        if any(value in self.flat for value in node.inputs) and not (standard and self._rowwise(node)):
            for index, value in enumerate(node.inputs):
                if value is not None and value in self.flat:
                    node.replace_input_with(index, self._unflatten(value, node))

    def finish(self) -> None:
        write_outputs(self.graph, self.flat.keys() - self.native, self._unflatten)

    def _linear(self, node: ir.Node) -> bool:
        """MatMul with a constant matrix, and the Add of its bias, become one Gemm."""
        if not _is_linear(node):
            return False
        x, output = node.inputs[0], node.outputs[0]
        weight, transposed = _matrix(node.inputs[1])
        lead = None if x is None else leading(x)
        if x is None or weight is None or lead is None:
            return False
        inputs: list[ir.Value] = [self._flatten(x, node), weight]
        bias = _bias(output)
        if bias is not None:
            output = output.consumers()[0].outputs[0]
            inputs.append(self._vector(bias))
        size = dims(weight)[0 if transposed else 1]
        flags = {"transB": ir.AttrInt64("transB", 1)} if transposed else None
        y = make("Gemm", inputs, before=node, like=output, shape=[_tokens(lead), size], attributes=flags)
        self.flat[output] = y
        self.linears += 1
        return True

    def _absorbed_bias(self, node: ir.Node) -> bool:
        return node.op_type == "Add" and node.outputs[0] in self.flat

    def _reshape(self, node: ir.Node) -> bool:
        """Note what is flat already, [tokens, C] -> [..., C]; let other reshapes read the flat form."""
        if node.op_type != "Reshape":
            return False
        x, output = node.inputs[0], node.outputs[0]
        if x is None or output.shape is None or x.shape is None:
            return False
        if x in self.flat:
            source = self.flat[x]
            if len(output.shape) == 2 and last_dim(output) == last_dim(x) is not None:
                self.flat[output] = source
                return True
            target = self._shape(leading(x), tuple(output.shape), node)
            if target is None:
                return False
            node.replace_input_with(0, source)
            node.replace_input_with(1, target)
            node.attributes.pop("allowzero", None)
            return True
        lead = leading(output)
        if lead and len(x.shape) == 2 and len(output.shape) > 2 and last_dim(output) == last_dim(x) is not None:
            self.flat[output] = x
            self.native.add(output)
            self.sources.setdefault(lead, output)
            return True
        return False

    def _rowwise(self, node: ir.Node) -> bool:
        """Move an operator that acts on each token alone to the flat form."""
        output = node.outputs[0]
        lead = leading(output)
        if lead is None or not _acts_on_rows(node) or (len(node.outputs) > 1 and node.op_type != "Split"):
            return False
        inputs = [self._operand(value, lead, output, node) if value is not None else None for value in node.inputs]
        if any(value is None for value in inputs[: len([v for v in node.inputs if v is not None])]):
            return False
        outputs = [
            ir.Value(shape=ir.Shape([_tokens(lead), last_dim(value)]), type=value.type) for value in node.outputs
        ]
        attributes = [a for a in node.attributes.values() if a.name != "axis"]
        if node.op_type in ("Split", "LayerNormalization"):
            attributes.append(ir.AttrInt64("axis", -1))
        self.graph.insert_before(node, ir.Node("", node.op_type, inputs, attributes, outputs=outputs, name=node.name))
        self.flat.update(zip(node.outputs, outputs, strict=True))
        self.moved += 1
        return True

    def _operand(self, value: ir.Value, lead: Dims, output: ir.Value, node: ir.Node) -> ir.Value | None:
        """An operand in its flat form, or None where it has none that is known to mean the same."""
        values = array(value)
        if values is not None:
            size = last_dim(output)
            if node.op_type == "Split":
                return value
            if values.size == 1 or (values.size == size == values.shape[-1]):
                return self._vector(value)
            rows = _tokens(lead)
            if size is not None and isinstance(rows, int) and values.size == rows * size and values.shape[-1] == size:
                return constant(self.graph, values.reshape(rows, size), f"{value.name}")
            return None
        if leading(value) == lead and (last_dim(value) is not None or value in self.flat):
            return self._flatten(value, node)
        return None

    def _flatten(self, value: ir.Value, before: ir.Node) -> ir.Value:
        if value.shape is not None and len(value.shape) == 2:
            return self.flat.get(value, value)
        if value not in self.flat:
            lead, size = leading(value), last_dim(value)
            assert lead is not None
            self.sources.setdefault(lead, value)
            producer, source = value.producer(), value
            if producer is not None and producer.op_type == "Reshape" and producer.inputs[0] is not None:
                source = producer.inputs[0]  # two reshapes in a row are one
            shape = constant(self.graph, np.array([-1, size]), "flat_shape", np.int64)
            self.flat[value] = make("Reshape", [source, shape], before=before, like=value, shape=[_tokens(lead), size])
            self.native.add(value)
        return self.flat[value]

    def _unflatten(self, value: ir.Value, before: ir.Node) -> ir.Value:
        if value in self.native:
            return value
        assert value.shape is not None
        if len(value.shape) == 2:
            return self.flat[value]
        if value not in self.full:
            target = self._shape(leading(value), tuple(value.shape), before)
            if target is None:
                raise Refused("a shape could not be written back; export with static or named axes")
            self.full[value] = make("Reshape", [self.flat[value], target], before=before, like=value)
        return self.full[value]

    def _shape(self, lead: Dims | None, dims: tuple[object, ...], before: ir.Node) -> ir.Value | None:
        """A shape for Reshape: a constant where one dimension at most is unknown, else asked for at run time."""
        sizes = [dim if isinstance(dim, int) else -1 for dim in dims]
        if sizes.count(-1) <= 1:
            return constant(self.graph, np.array(sizes), "shape", np.int64)
        names = tuple(_dim(dim) for dim in dims)
        if lead is None or lead not in self.sources or names[: len(lead)] != lead or -1 in sizes[len(lead) :]:
            return None
        tail = tuple(sizes[len(lead) :])
        if (lead, tail) not in self.shapes:
            source = self.sources[lead]
            end = {"end": ir.AttrInt64("end", -1), "start": ir.AttrInt64("start", 0)}
            like = ir.Value(type=ir.TensorType(ir.DataType.INT64))
            first = make("Shape", [source], before=before, like=like, shape=[len(lead)], attributes=end)
            last = constant(self.graph, np.array(tail), "shape_tail", np.int64)
            axis = {"axis": ir.AttrInt64("axis", 0)}
            made = make("Concat", [first, last], before=before, like=like, shape=[len(dims)], attributes=axis)
            self.shapes[lead, tail] = made
        return self.shapes[lead, tail]

    def _vector(self, value: ir.Value) -> ir.Value:
        """A constant without leading axes of 1, which would bring a third axis back."""
        values = array(value)
        if values is None or values.ndim <= 1:
            return value
        return constant(self.graph, values.reshape(-1), f"{value.name}")


def leading(value: ir.Value) -> Dims | None:
    """All dimensions but the last, or None where one has neither size nor name."""
    if value.shape is None or len(value.shape) < 2:
        return None
    dims = [_dim(dim) for dim in value.shape[:-1]]
    return None if None in dims else tuple(dim for dim in dims if dim is not None)


def _dim(dim: object) -> int | str | None:
    return dim if isinstance(dim, int) else getattr(dim, "value", None)


def _tokens(lead: Dims) -> int | str:
    sizes = [dim for dim in lead if isinstance(dim, int)]
    return math.prod(sizes) if len(sizes) == len(lead) else "*".join(map(str, lead))


def _matrix(value: ir.Value | None) -> tuple[ir.Value | None, bool]:
    """The constant matrix behind an operand, and whether the graph transposes it."""
    node = value.producer() if value is not None else None
    if node is not None and node.op_type == "Transpose" and ints(node, "perm") in (None, [1, 0]):
        return (node.inputs[0], True) if _is_matrix(node.inputs[0]) else (None, False)
    return (value, False) if _is_matrix(value) else (None, False)


def _is_matrix(value: ir.Value | None) -> bool:
    """A constant matrix, of floats or of integers behind a DequantizeLinear."""
    node = value.producer() if value is not None else None
    values = array(node.inputs[0] if node is not None and node.op_type == "DequantizeLinear" else value)
    return values is not None and values.ndim == 2


def _is_linear(node: ir.Node) -> bool:
    """MatMul of a computed float value and a constant matrix."""
    x = node.inputs[0] if node.op_type == "MatMul" and node.domain in ("", "ai.onnx") else None
    return x is not None and is_float(x) and array(x) is None and _matrix(node.inputs[1])[0] is not None


def _has_names(value: ir.Value | None) -> bool:
    return value is not None and leading(value) is not None and last_dim(value) is not None


def _bias(product: ir.Value) -> ir.Value | None:
    """The constant vector that the one reader of a product adds to it."""
    if not used_once(product) or product.consumers()[0].op_type != "Add":
        return None
    other = next((v for v in product.consumers()[0].inputs if v is not product), None)
    values, size = array(other), last_dim(product)
    if values is None or size is None or values.size != size or values.shape[-1:] != (size,):
        return None
    return other if product.shape is not None and values.ndim <= len(product.shape) else None


def _acts_on_rows(node: ir.Node) -> bool:
    if node.op_type in UNARY or node.op_type in BINARY:
        return True
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return scalar(node.inputs[1]) is not None
    rank = len(node.outputs[0].shape or ())
    if node.op_type == "LayerNormalization":
        return attribute(node, "axis", -1) in (-1, rank - 1)
    return node.op_type == "Split" and attribute(node, "axis", 0) in (-1, rank - 1)
