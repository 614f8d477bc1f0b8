"""ONNX operators that TVM gets wrong or has no kernel for, spelt with those that it gets right, and those to refuse.

Each is right in a definition of its own; what is wrong is what TVM makes of infinities, of what is not a number, or of
an attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

MOST_SUMMED = 1024  # numbers whose running sum is a product


class Known:
    """What a graph says of its values by name, looked up once: types, shapes (0 for what is open) and constants.

    read: names that a node or an output takes.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        values = (*graph.input, *graph.value_info, *graph.output)
        self.version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
        self.read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        self.constants = {value.name: value for value in graph.initializer}
        self.kinds: dict[str, int] = {value.name: value.type.tensor_type.elem_type for value in values}
        self.kinds |= {name: value.data_type for name, value in self.constants.items()}
        self.shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}

    def are_float32(self, names: Iterable[str]) -> bool:
        return all(self.kinds.get(name) == TensorProto.FLOAT for name in names)


class _Writer:
    """Collects nodes and constants whose names nothing else in the graph has."""

    def __init__(self, known: Known, node: NodeProto, number: int) -> None:
        self.known, self.node, self.number = known, node, number
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def __call__(self, op: str, *inputs: str, into: str = "", **attributes: Any) -> str:
        name = into or f"{self.node.output[0]}.{self.number}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=self.node.name, **attributes))
        return name

    def constant(self, value: float | NDArray[np.float32]) -> str:
        name = f"{self.node.output[0]}.{self.number}.constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name


def respelt(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with other operators in place of those that TVM's importer gets wrong."""
    if all(node.op_type not in SPELLINGS for node in model.graph.node):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    known = Known(model)
    for number, node in enumerate(model.graph.node):
        write = _Writer(known, node, number)
        if node.op_type in SPELLINGS and SPELLINGS[node.op_type](write, node):
            changed.graph.node.extend(write.nodes)
            changed.graph.initializer.extend(write.constants)
        else:
            changed.graph.node.append(node)
    return changed


def _clip(write: _Writer, node: NodeProto) -> bool:
    """Choices: TVM's own Clip makes a number of what is none. Only bounds of float32 are known here.

    A bound that is left out is the least or the greatest finite number, as ONNX defines it: infinite numbers are none.
    """
    low, high = [*node.input[1:], "", ""][:2]
    bounds = [bound for bound in (low, high) if bound] or [node.input[0]]
    if not write.known.are_float32(bounds):
        return False
    limit = float(np.finfo(np.float32).max)
    low, high = low or write.constant(-limit), high or write.constant(limit)
    above = write("Where", write("Less", node.input[0], low), low, node.input[0])
    write("Where", write("Greater", above, high), high, above, into=node.output[0])
    return True


def _atanh(write: _Writer, node: NodeProto) -> bool:
    """x (1 + x²/3 + x⁴/5 + x⁶/7) near 0, where x is lost in the 1 + x and 1 − x that TVM takes a logarithm of."""
    x, series = node.input[0], write.constant(1 / 7)
    square = write("Mul", x, x)
    for coefficient in (1 / 5, 1 / 3, 1.0):
        series = write("Add", write("Mul", series, square), write.constant(coefficient))
    near = write("Less", write("Abs", x), write.constant(1 / 8))
    write("Where", near, write("Mul", x, series), write("Atanh", x), into=node.output[0])
    return True


def _asinh(write: _Writer, node: NodeProto) -> bool:
    """x − x³/6 + 3 x⁵/40 near 0, else the logarithm of |x| + √(x² + 1) with x's sign: TVM asks the system for it."""
    x, one = node.input[0], write.constant(1.0)
    square, size = write("Mul", x, x), write("Abs", x)
    series = write("Add", write("Mul", square, write.constant(3 / 40)), write.constant(-1 / 6))
    series = write("Mul", x, write("Add", write("Mul", series, square), one))
    far = write("Mul", write("Sign", x), _log_of_sum(write, size, write("Sqrt", write("Add", square, one))))
    write("Where", write("Less", size, write.constant(1 / 16)), series, far, into=node.output[0])
    return True


def _acosh(write: _Writer, node: NodeProto) -> bool:
    """The logarithm of x + √((x − 1) (x + 1)); TVM asks the system for it."""
    x, one = node.input[0], write.constant(1.0)
    root = write("Sqrt", write("Mul", write("Sub", x, one), write("Add", x, one)))
    write("Identity", _log_of_sum(write, x, root), into=node.output[0])
    return True


def _log_of_sum(write: _Writer, x: str, root: str) -> str:
    """log(x + root), where squares overflow log 2 x, which root is as large as."""
    large = write("Add", write("Log", x), write.constant(np.log(2.0)))
    return write("Where", write("Greater", x, write.constant(1e9)), large, write("Log", write("Add", x, root)))


def _cum_sum(write: _Writer, node: NodeProto) -> bool:
    """Along the first axis a product with ones on one side of the diagonal: TVM has no kernel."""
    x, axis = node.input
    known = write.known
    shape = known.shapes.get(x, [])
    if axis not in known.constants or not known.are_float32([x]):
        return False
    axes = numpy_helper.to_array(known.constants[axis])
    if axes.size != 1 or axes.reshape(()) != 0:
        return False
    if len(shape) not in (1, 2) or not 0 < shape[0] <= MOST_SUMMED:
        return False
    attributes = _attributes(node)
    ones = np.tri(shape[0], k=-attributes.get("exclusive", 0), dtype=np.float32)
    write("MatMul", write.constant(ones.T if attributes.get("reverse", 0) else ones), x, into=node.output[0])
    return True


def _pow(write: _Writer, node: NodeProto) -> bool:
    """In float32 where one of both is not: TVM wants two numbers of one type, no integers."""
    kinds = [write.known.kinds.get(name, TensorProto.FLOAT) for name in node.input]
    if kinds == [TensorProto.FLOAT] * 2:
        return False
    x, y = (write("Cast", name, to=TensorProto.FLOAT) for name in node.input)
    power = write("Pow", x, y)
    whole = write("Round", power) if TensorProto.FLOAT not in kinds else power
    write("Cast", whole, to=kinds[0], into=node.output[0])
    return True


def _thresholded_relu(write: _Writer, node: NodeProto) -> bool:
    """A choice, where TVM multiplies with 0."""
    above = write("Greater", node.input[0], write.constant(_attributes(node).get("alpha", 1.0)))
    write("Where", above, node.input[0], write.constant(0.0), into=node.output[0])
    return True


def _log_sum_exp(write: _Writer, node: NodeProto) -> bool:
    """log Σ exp(x − m) + m where m is the greatest, or 0 where that is infinite, which TVM subtracts from itself."""
    if write.known.version < 18:  # axes are an attribute
        return False
    x, *axes = node.input
    attributes = {key: value for key, value in _attributes(node).items() if key != "keepdims"}
    kept = int(_attributes(node).get("keepdims", 1))

    def finite_greatest(keepdims: int) -> str:
        greatest = write("ReduceMax", x, *axes, keepdims=keepdims, **attributes)
        return write("Where", write("IsInf", greatest), write.constant(0.0), greatest)

    total = write("ReduceSum", write("Exp", write("Sub", x, finite_greatest(1))), *axes, keepdims=kept, **attributes)
    write("Add", write("Log", total), finite_greatest(kept), into=node.output[0])
    return True


def _is_inf(write: _Writer, node: NodeProto) -> bool:
    """Infinities of one sign, where TVM takes both."""
    x, attributes = node.input[0], _attributes(node)
    positive, negative = (attributes.get(f"detect_{sign}", 1) for sign in ("positive", "negative"))
    if positive and negative:
        return False
    zero = write.constant(0.0)
    sign = write("Greater", x, zero) if positive else write("Less", x, zero if negative else x)
    write("And", write("IsInf", x), sign, into=node.output[0])
    return True


def _mod(write: _Writer, node: NodeProto) -> bool:
    """The remainder with the divisor's sign, from C's fmod: TVM multiplies an infinite divisor with 0."""
    x, y = node.input
    if _attributes(node).get("fmod", 0) or not write.known.are_float32([x, y]):
        return False
    zero = write.constant(0.0)
    rest = write("Mod", x, y, fmod=1)
    other_sign = write("Xor", write("Less", rest, zero), write("Less", y, zero))
    moved = write("And", other_sign, write("Not", write("Equal", rest, zero)))
    write("Where", moved, write("Add", rest, y), rest, into=node.output[0])
    return True


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


# Whether it could: a form that is not known here is left to TVM.
SPELLINGS: dict[str, Callable[[_Writer, NodeProto], bool]] = {
    "Acosh": _acosh,
    "Asinh": _asinh,
    "Atanh": _atanh,
    "Clip": _clip,
    "CumSum": _cum_sum,
    "IsInf": _is_inf,
    "Mod": _mod,
    "Pow": _pow,
    "ThresholdedRelu": _thresholded_relu,
    "ReduceLogSumExp": _log_sum_exp,
}


def why_refused(node: NodeProto, known: Known) -> str | None:
    """What TVM gets wrong of this node and nothing else spells, or None."""
    attributes = _attributes(node)
    others = any(name in known.read for name in node.output[1:])
    wrong = {
        "BatchNormalization": (attributes.get("training_mode"), "it is in training mode"),
        "ConvTranspose": ("output_shape" in attributes, "TVM does not heed output_shape"),
        "Dropout": (others or len(node.input) > 2, "it is in training mode"),
        "LayerNormalization": (others, "TVM computes neither its mean nor its deviation"),
        "RMSNormalization": (attributes.get("axis", -1) != -1, "TVM takes one axis"),
        "Resize": (attributes.get("antialias"), "TVM does not heed antialias"),
        "SpaceToDepth": (attributes.get("mode", b"DCR") != b"DCR", "TVM does not heed its mode"),
    }
    applies, reason = wrong.get(node.op_type, (False, ""))
    if not applies and node.op_type == "Resize":
        applies, reason = _rounds_sizes(node, known), "TVM takes the scale from the sizes, which rounding has changed"
    return reason if applies else None


def _rounds_sizes(node: NodeProto, known: Known) -> bool:
    """Whether a size times its scale may not be whole."""
    name = [*node.input, "", ""][2]
    scales = numpy_helper.to_array(known.constants[name]) if name in known.constants else np.empty(0)
    if not scales.size:
        return False
    sizes = known.shapes.get(node.input[0], [])
    product = scales * np.array(sizes, np.float32) if len(sizes) == len(scales) else scales
    return bool((product != np.rint(product)).any())
