"""Small helpers on onnx-ir graphs that several rewrites share."""

import logging
from collections.abc import Callable, Container, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass


def array(value: ir.Value | None) -> np.ndarray | None:
    """The constant behind a value, or None: not for a graph input, whose default a caller may replace."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def scalar(value: ir.Value | None) -> float | None:
    """The number behind a constant of one element, or None."""
    constant = array(value)
    return float(constant.reshape(-1)[0]) if constant is not None and constant.size == 1 else None


def last_dim(value: ir.Value) -> int | None:
    """The size of the last axis where it is known."""
    if value.shape is None or not len(value.shape):
        return None
    size = value.shape[-1]
    return size if isinstance(size, int) else None


def dims(value: ir.Value | None) -> list[int | None]:
    """The sizes of the axes, None for those that are not fixed; empty where not even the rank is known."""
    if value is None or value.shape is None:
        return []
    return [size if isinstance(size, int) else None for size in value.shape]


def used_once(value: ir.Value) -> bool:
    """Whether one input of one node reads the value and nobody outside the graph sees it."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def attribute(node: ir.Node, name: str, default: int | float) -> int | float:
    """A number among the node's attributes."""
    attr = node.attributes.get(name)
    return default if attr is None else attr.value


def ints(node: ir.Node, name: str) -> list[int] | None:
    """A list of integers among the node's attributes."""
    attr = node.attributes.get(name)
    return None if attr is None else list(attr.as_ints())


def make(
    op: str,
    inputs: Sequence[ir.Value | None],
    *,
    before: ir.Node,
    like: ir.Value,
    shape: ir.Shape | Sequence[int | str | None] | Sequence[int | None] | None = None,
    attributes: dict[str, ir.Attr] | None = None,
) -> ir.Value:
    """Insert a node before another, under its name; its one output has `like`'s type, and shape unless one is given."""
    shape = like.shape if shape is None else ir.Shape(shape)
    output = ir.Value(shape=None if shape is None else shape.copy(), type=like.type)
    node = ir.Node("", op, inputs, list((attributes or {}).values()), outputs=[output], name=before.name)
    graph = before.graph
    assert graph is not None
    graph.insert_before(before, node)
    return output


def constant(graph: ir.Graph, values: np.ndarray, name: str, dtype: type = np.float32) -> ir.Value:
    """Register an initializer under `name`, or `name` with a number where that is taken."""
    name = name.partition("#")[0]  # numbers tell apart what has the same name
    unique, count = name, 1
    while unique in graph.initializers:
        count += 1
        unique = f"{name}#{count}"
    tensor = ir.tensor(np.asarray(values, dtype=dtype, order="C"), name=unique)
    value = ir.Value(name=unique, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def dequantized(graph: ir.Graph, name: str, values: np.ndarray, scales: np.ndarray, axis: int) -> ir.Value:
    """DequantizeLinear of an int8 constant, made once for each `name`; zero points are 0."""
    name = name.replace("#", "-")  # a number that tells equal names apart is part of this one
    stored = graph.initializers.get(f"{name}.int8")
    if stored is not None and attribute(stored.consumers()[0], "axis", 1) == axis:
        return stored.consumers()[0].outputs[0]
    inputs = [constant(graph, values, f"{name}.int8", np.int8), constant(graph, scales, f"{name}.scale")]
    output = ir.Value(shape=ir.Shape(values.shape), type=ir.TensorType(ir.DataType.FLOAT))
    attributes = [ir.AttrInt64("axis", axis)]
    node = ir.Node("", "DequantizeLinear", inputs, attributes, outputs=[output], name=f"{name}.dequantize")
    graph.insert_before(next(iter(graph)), node)
    return output


def replace_output(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of `old` read `new`; a graph output keeps its name."""
    if not old.is_graph_output():
        old.replace_all_uses_with(new)
        return
    node = old.producer()
    assert node is not None
    if new.is_graph_output() or new.is_graph_input() or new.is_initializer():
        new = make("Identity", [new], before=node, like=old)
    name = old.name
    old.name = f"{name}_before"
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name = name


def write_outputs(graph: ir.Graph, wanted: Container[ir.Value], write: Callable[[ir.Value, ir.Node], ir.Value]) -> None:
    """Replace the graph outputs among `wanted` by what `write(output, before)` makes of them; names stay."""
    for index, output in enumerate(graph.outputs):
        if output not in wanted:
            continue
        end = ir.Node("", "Identity", [output])
        graph.append(end)
        value = write(output, end)
        graph.remove(end, safe=True)
        name = output.name
        output.name = f"{name}_before"
        value.name = name
        graph.outputs[index] = value


def has_control_flow(graph: ir.Graph) -> bool:
    """Whether a node holds a subgraph, which may read values of this graph."""
    return any(True for _ in graph.subgraphs()) and any(
        attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for node in graph
        for attr in node.attributes.values()
    )


def infer_shapes(model: ir.Model) -> None:
    """Infer shapes where ONNX can; a model it cannot infer (an operator it does not know) stays as it is."""
    log = logging.getLogger("onnx_ir.passes.common")
    level = log.level
    log.setLevel(logging.CRITICAL)
    ShapeInferencePass(check_type=False, strict_mode=False)(model)
    log.setLevel(level)


class Refused(Exception):
    """Raised inside `attempt` by a rewrite that cannot go on; the message is the reason."""


def attempt(model: ir.Model, rewrite: Callable[[ir.Graph], None], keep: Callable[[ir.Graph], bool]) -> bool:
    """Rewrite a copy of the graph and keep it only if `keep` says so; whether it did."""
    trial = model.clone()
    rewrite(trial.graph)
    RemoveUnusedNodesPass()(trial)
    if not keep(trial.graph):
        return False
    model.graph = trial.graph
    return True
