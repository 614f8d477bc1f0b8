"""Is this a graph that passes may touch? Says no in words that name the node."""

from collections import Counter
from graphlib import CycleError, TopologicalSorter

import onnx

from passes.errors import PassError
from passes.files import external_tensors

STANDARD = ("", "ai.onnx")
RUNNABLE = (*STANDARD, "com.microsoft", "ai.onnx.ml")  # what ONNX Runtime brings kernels for


def check(model: onnx.ModelProto) -> None:
    """Raise PassError where the graph is malformed: equal names, a missing value, a cycle, an unknown operator."""
    external = external_tensors(model)
    if external:
        raise PassError(
            f"the weights of {external[0].name!r} lie in another file; pass the model's path, or load them first"
        )
    functions = {(function.domain, function.name) for function in model.functions}
    for node in model.graph.node:
        if node.domain not in RUNNABLE and (node.domain, node.op_type) not in functions:
            raise PassError(
                f"{describe(node)} uses the custom operator {node.domain}::{node.op_type}, which ONNX Runtime "
                "cannot run; export the model with standard operators"
            )
    _check_names(model.graph)
    _check_values(model.graph)
    _check_cycles(model.graph)


def describe(node: onnx.NodeProto) -> str:
    """A node's name, or its type and first output where it has none."""
    return f"node {node.name!r}" if node.name else f"{node.op_type} node making {node.output[0]!r}"


def reads(node: onnx.NodeProto) -> set[str]:
    """Names a node reads from its graph, those of its subgraphs included."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        graphs = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
        for graph in graphs:
            inner = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            inner |= {name for child in graph.node for name in child.output}
            names |= {name for child in graph.node for name in reads(child)} - inner
            names |= {value.name for value in graph.output} - inner
    return names


def _check_names(graph: onnx.GraphProto) -> None:
    """ONNX Runtime, the referee, takes no two nodes of one name."""
    times = Counter(node.name for node in graph.node if node.name)
    if repeated := next((name for name, count in times.items() if count > 1), None):
        raise PassError(f"{times[repeated]} nodes have the name {repeated!r}; give each its own, or none")


def _check_values(graph: onnx.GraphProto) -> None:
    value_names = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    value_names |= {tensor.values.name for tensor in graph.sparse_initializer}
    for node in graph.node:
        repeated = value_names.intersection(name for name in node.output if name)
        if repeated:
            raise PassError(f"{describe(node)} makes {min(repeated)!r}, which exists already; export the model again")
        value_names.update(node.output)
    for node in graph.node:
        missing = reads(node) - value_names
        if missing:
            raise PassError(
                f"{describe(node)} reads {min(missing)!r}, which no input, initializer or node provides; "
                "export the model again with its weights"
            )
    for value in graph.output:
        if value.name not in value_names:
            raise PassError(f"graph output {value.name!r} is made by no node; export the model again")


def _check_cycles(graph: onnx.GraphProto) -> None:
    producer = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = {i: {producer[name] for name in reads(node) & producer.keys()} for i, node in enumerate(graph.node)}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        node = graph.node[min(error.args[1])]
        raise PassError(f"the graph has a cycle through {describe(node)}; export the model again") from None
