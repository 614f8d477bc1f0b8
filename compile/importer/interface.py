"""Types that a library's interface has: floats of any width are float32 there, small integers int32.

A library computes in float32 whatever the file's floats are, so that is what it takes and gives; integers of 8 and 16
bits become int32 and uint32 becomes int64, which have all their values; uint64 becomes int64 of the same bits. int32,
int64, bool and float32 stay.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from compile.errors import CompileError

FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
SMALL = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)
OWN: dict[int, int] = dict.fromkeys(FLOATS, TensorProto.FLOAT)
OWN |= dict.fromkeys(SMALL, TensorProto.INT32)
OWN |= {TensorProto.UINT32: TensorProto.INT64, TensorProto.UINT64: TensorProto.INT64}
# UNDEFINED: of an output whose type the file does not say.
TAKEN = {TensorProto.UNDEFINED, TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, *OWN}


def with_own_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with casts at its in- and outputs of other types; the one given is left as it is.

    Raises CompileError for what is no tensor, for text, complex numbers, numbers of fewer than 8 bits, 8-bit floats.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    for way, value in [*(("input", v) for v in model.graph.input), *(("output", v) for v in model.graph.output)]:
        if value.name not in weights and value.type.HasField("tensor_type") and _kind(value) not in TAKEN:
            found = TensorProto.DataType.Name(_kind(value)).lower()
            raise CompileError(f"{way} {value.name!r} has type {found}: cast it to float32, int32, int64 or bool")
        if value.type.WhichOneof("value") not in ("tensor_type", None):
            raise no_tensor(way, value)
    inputs = [value.name for value in model.graph.input if value.name not in weights and _kind(value) in OWN]
    outputs = [value.name for value in model.graph.output if _kind(value) in OWN]
    if not inputs and not outputs:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    inner = {name: f"{name}.as_in_the_file" for name in {*inputs, *outputs}}
    for node in graph.node:
        _rename(node, inner)
    before, after = [], []
    for value in graph.input:
        if value.name in inputs:
            kind = _kind(value)
            before.append(helper.make_node("Cast", [value.name], [inner[value.name]], to=kind))
            value.type.tensor_type.elem_type = OWN[kind]
    for value in graph.output:
        if value.name in outputs and value.name not in inputs:
            kind = OWN[_kind(value)]
            after.append(helper.make_node("Cast", [inner[value.name]], [value.name], to=kind))
            value.type.tensor_type.elem_type = kind
    for tensor in graph.initializer:
        tensor.name = inner.get(tensor.name, tensor.name)
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    return changed


def no_tensor(way: str, value: onnx.ValueInfoProto) -> CompileError:
    """What is wrong with an in- or output that no library can have."""
    return CompileError(f"{way} {value.name!r} is a sequence, a map or optional: give the model tensors alone")


def _kind(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def _rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for inside in graph.node:
                _rename(inside, names)
            for value in graph.output:
                value.name = names.get(value.name, value.name)
