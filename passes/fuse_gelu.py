"""Recognise GELU in its exported pieces.

    0.5 · x · (1 + erf(x / √2))                         ->  Gelu(x)
    0.5 · x · (1 + tanh(√(2/π) (x + 0.044715 x³)))      ->  Gelu(x, approximate="tanh")

in whatever order the factors are multiplied. No value between may have another reader.
"""

import math

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from passes.graph import is_float, make, replace_output, scalar, used_once
from passes.options import Options
from passes.report import Outcome, Refusals

OPSET = 20
TOLERANCE = 1e-3  # relative, on the constants: exporters write them with four digits at least


def fuse_gelu(model: ir.Model, options: Options) -> Outcome:
    refusals = Refusals()
    applied = 0
    for node in list(model.graph):
        x = _erf_argument(node) or _tanh_argument(node)
        if x is None or not is_float(x):
            continue
        end = _product(node.outputs[0], x)
        if end is None:
            refusals.add("a value inside the GELU has another reader or factor", node.name or "")
            continue
        if model.graph.opset_imports.get("", 0) < OPSET:
            refusals.add(f"Gelu needs opset {OPSET}; export with a newer one", node.name or "")
            continue
        kind = "tanh" if node.op_type == "Tanh" else "none"
        flags = {"approximate": ir.AttrString("approximate", kind)}
        replace_output(end, make("Gelu", [x], before=_node(end), like=end, attributes=flags))
        applied += 1
    RemoveUnusedNodesPass()(model)
    return Outcome(applied, refusals=refusals.all())


def _erf_argument(node: ir.Node) -> ir.Value | None:
    """x in erf(x / √2)"""
    if node.op_type != "Erf":
        return None
    x, factor = _scaled(node.inputs[0])
    return x if x is not None and _near(factor, math.sqrt(0.5)) else None


def _tanh_argument(node: ir.Node) -> ir.Value | None:
    """x in tanh(√(2/π) (x + 0.044715 x³))"""
    if node.op_type != "Tanh":
        return None
    total, factor = _scaled(node.inputs[0])
    if total is None or not _near(factor, math.sqrt(2 / math.pi)) or _op(total) != "Add":
        return None
    first, second = _node(total).inputs
    for x, cubic in ((first, second), (second, first)):
        cube, coefficient = _scaled(cubic)
        if x is not None and _near(coefficient, 0.044715) and _is_cube(cube, x):
            return x
    return None


def _is_cube(value: ir.Value | None, x: ir.Value) -> bool:
    if value is None or _op(value) not in ("Pow", "Mul"):
        return False
    first, second = _node(value).inputs
    if _op(value) == "Pow":
        return first is x and scalar(second) == 3
    square = second if first is x else first if second is x else None
    return square is not None and _op(square) == "Mul" and all(operand is x for operand in _node(square).inputs)


def _product(inner: ir.Value, x: ir.Value) -> ir.Value | None:
    """The value 0.5 · x · (1 + inner), where its factors have no other readers."""
    if not used_once(inner) or inner.consumers()[0].op_type != "Add":
        return None
    value = inner.consumers()[0].outputs[0]
    if not any(_near(scalar(operand), 1.0) for operand in inner.consumers()[0].inputs):
        return None
    half = whole = False
    while not (half and whole):
        if not used_once(value) or value.consumers()[0].op_type != "Mul":
            return None
        node = value.consumers()[0]
        other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
        if not half and _near(scalar(other), 0.5):
            half = True
        elif not whole and other is x:
            whole = True
        elif not half and not whole and other is not None and _scaled(other)[0] is x and _near(_scaled(other)[1], 0.5):
            half = whole = True
        else:
            return None
        value = node.outputs[0]
    return value


def _scaled(value: ir.Value | None) -> tuple[ir.Value | None, float | None]:
    """(y, s) where the value is s · y for a scalar constant s."""
    if value is None or _op(value) not in ("Mul", "Div"):
        return None, None
    first, second = _node(value).inputs
    if _op(value) == "Mul" and scalar(first) is not None:
        return second, scalar(first)
    number = scalar(second)
    if number is None or (_op(value) == "Div" and number == 0):
        return None, None
    return first, number if _op(value) == "Mul" else 1 / number


def _near(number: float | None, wanted: float) -> bool:
    return number is not None and math.isclose(number, wanted, rel_tol=TOLERANCE)


def _op(value: ir.Value) -> str | None:
    node = value.producer()
    return node.op_type if node is not None and node.domain in ("", "ai.onnx") else None


def _node(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node
