"""float16, bfloat16 and float64 become float32, in which all later passes and all kernels compute.

Constants, casts and every value between; in- and outputs keep their types, with a Cast behind or in front of them, but
for bfloat16, which NumPy lacks. What the file's own type rounds or overflows is not repeated, so the referee allows as
much as that type rounds (TOLERANCES), and forgives what is not finite in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from passes.graph import infer_shapes
from passes.options import Options
from passes.report import Outcome

FLOAT, ONE = ir.DataType.FLOAT, np.finfo(np.float32)
# How far outputs may be from those of the file as it is, as a share of their range; None: no more than float32 rounds.
TOLERANCES = {ir.DataType.FLOAT16: 2e-2, ir.DataType.BFLOAT16: 1e-1, ir.DataType.DOUBLE: None}
FED = (ir.DataType.FLOAT16, ir.DataType.DOUBLE)  # to ONNX Runtime from Python
TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "output_dtype")


def in_float32(model: ir.Model, options: Options) -> Outcome:
    counts: Counter[ir.DataType] = Counter(v.dtype for v in _values(model.graph) if v.dtype in TOLERANCES)
    counts += Counter(t.dtype for _, _, t in _tensors(model) if t.dtype in TOLERANCES)
    if not counts:
        return Outcome()
    if model.functions:
        InlinePass()(model)
    _keep_interface(model.graph)
    kept = {v for v in (*model.graph.inputs, *model.graph.outputs) if v.dtype in FED}
    for node, name, tensor in list(_tensors(model)):
        if tensor.dtype in TOLERANCES:
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(_rounded(tensor)))
    for value in _values(model.graph):
        if value.dtype in TOLERANCES and value not in kept:
            value.dtype = FLOAT
            if value.const_value is not None:
                value.const_value = ir.tensor(_rounded(value.const_value), name=value.name)
    for node in model.graph.all_nodes():
        for name in TYPE_ATTRIBUTES:
            attribute = node.attributes.get(name)
            if attribute is None or attribute.type != ir.AttributeType.INT or node.outputs[0] in kept:
                continue
            if attribute.value in TOLERANCES:
                node.attributes[name] = ir.AttrInt64(name, int(FLOAT))
    infer_shapes(model)
    tolerances = [tolerance for kind in counts if (tolerance := TOLERANCES[kind])]
    named = {kind.name.lower().replace("double", "float64"): count for kind, count in counts.items()}
    return Outcome(counts.total(), named, tolerance=max(tolerances, default=None))


def in_float32_throughout(model: onnx.ModelProto) -> onnx.ModelProto:
    """A file's model with this pass alone; as it is where it has nothing else."""
    copy = ir.from_proto(model)
    infer_shapes(copy)
    return ir.to_proto(copy) if in_float32(copy, Options()).applied else model


def has_other_floats(model: onnx.ModelProto) -> bool:
    """Whether something in the file is of a type in which ONNX Runtime lacks kernels for CPUs."""
    values = (*model.graph.input, *model.graph.output)
    kinds = {tensor.data_type for tensor in model.graph.initializer} | {v.type.tensor_type.elem_type for v in values}
    kinds |= {attribute.t.data_type for node in model.graph.node for attribute in node.attribute}
    return not kinds.isdisjoint(int(kind) for kind in TOLERANCES)


def _rounded(tensor: ir.TensorProtocol) -> np.ndarray:
    """float32; what is finite stays so, as the least number of a mask."""
    wide = tensor.numpy().astype(np.float64)
    return np.where(np.isfinite(wide), np.clip(wide, ONE.min, ONE.max), wide).astype(np.float32)


def _keep_interface(graph: ir.Graph) -> None:
    first = next(iter(graph), None)
    for value in graph.inputs:
        if value.dtype in FED and value.uses():
            wide = ir.Value(name=f"{value.name}.float32", type=ir.TensorType(FLOAT), shape=value.shape)
            value.replace_all_uses_with(wide)
            node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(FLOAT))], outputs=[wide])
            if first is None:
                graph.append(node)
            else:
                graph.insert_before(first, node)
    for index, value in enumerate(graph.outputs):
        if (kind := value.dtype) in FED and kind and not value.is_graph_input():
            narrow = ir.Value(name=value.name, type=ir.TensorType(kind), shape=value.shape)
            value.name = f"{value.name}.float32"
            graph.append(ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(kind))], outputs=[narrow]))
            graph.outputs[index] = narrow


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    for one in (graph, *graph.subgraphs()):
        yield from one.inputs
        yield from one.initializers.values()
    for node in graph.all_nodes():
        yield from node.outputs


def _tensors(model: ir.Model) -> Iterator[tuple[ir.Node, str, ir.TensorProtocol]]:
    """Constants in attributes: whose, under which name."""
    for node in model.graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR:
                yield node, name, attribute.as_tensor()
