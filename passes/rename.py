"""Names for nodes and values: equal ones are told apart by numbers, `dense/MatMul`, `dense/MatMul#2`, …"""

import re
from collections.abc import Iterable

import onnx_ir as ir

_NUMBER = re.compile(r"(#\d+)+$")


def rename_nodes(graph: ir.Graph) -> None:
    """Make the nodes' names unique, in graph order; a rewrite gives a new node the name of the one it replaces."""
    for node, name in zip(graph, _unique([node.name or node.op_type for node in graph], set()), strict=True):
        node.name = name


def rename_nodes_and_values(graph: ir.Graph) -> None:
    """Name every value after its node; constants, inputs and outputs keep their names except for the numbers."""
    names_in_use = {value.name for value in [*graph.inputs, *graph.outputs]}
    constants = [value for value in graph.initializers.values() if value.name not in names_in_use]
    computed = [value for node in graph for value in node.outputs if value.name and value.name not in names_in_use]
    bases = [_NUMBER.sub("", value.name or "constant") for value in constants]
    rename_nodes(graph)
    for index, value in enumerate(computed):  # out of the way of the names to come
        value.name = f"?{index}"
    for value in constants:  # out of the way of the names to come
        graph.initializers.pop(f"{value.name}")
    for value, name in zip(constants, _unique(bases, names_in_use), strict=True):
        value.name = name
        graph.register_initializer(value)
    names_in_use |= set(graph.initializers)
    own = [_own_name(value) for value in computed]
    for value, name in zip(computed, _unique(own, names_in_use), strict=True):
        value.name = name


def _own_name(value: ir.Value) -> str:
    node = value.producer()
    assert node is not None
    return f"{node.name}" if len(node.outputs) == 1 else f"{node.name}.{value.index()}"


def _unique(names: Iterable[str], names_in_use: set[str | None]) -> list[str]:
    """The names with their numbers taken off, and new ones put on where the same name comes again."""
    used, result = set(names_in_use), []
    last: dict[str, int] = {}  # for each name the number that it got last: all below it are taken
    for name in names:
        base = _NUMBER.sub("", name)
        count = last.get(base, 0) + 1
        while (candidate := base if count == 1 else f"{base}#{count}") in used:
            count += 1
        last[base] = count
        used.add(candidate)
        result.append(candidate)
    return result
