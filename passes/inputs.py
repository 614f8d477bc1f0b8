"""Random inputs a model accepts, found by looking at what its graph does with each input."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from passes.errors import PassError
from pocketbert.numerics import random_input

# Operators that hand token ids on unchanged, as far as their range goes.
_SAME_IDS = {"Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Slice", "Identity", "Expand", "Concat"}
DYNAMIC_BATCH, DYNAMIC_LENGTH = 2, 12  # sizes given to symbolic dimensions: the first of an input, and the others


def random_inputs(model: onnx.ModelProto, seed: int) -> dict[str, np.ndarray]:
    """One set of valid inputs, as `random_input` makes them; ids lie in the smallest table that they index."""
    rng = np.random.default_rng(seed)
    weights = {tensor.name for tensor in model.graph.initializer}
    rows = dict(table_rows(model.graph))
    symbols: dict[str, int] = {}
    feeds = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        if not value.type.HasField("tensor_type"):
            raise PassError(f"input {value.name!r} is not a tensor; only tensors can be verified")
        shape = _shape(value, symbols)
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        ids = (0, rows[value.name]) if value.name in rows else None
        feeds[value.name] = random_input(rng, value.name, shape, kind, ids)
    return feeds


def _shape(value: onnx.ValueInfoProto, symbols: dict[str, int]) -> tuple[int, ...]:
    sizes = []
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        default = DYNAMIC_BATCH if axis == 0 else DYNAMIC_LENGTH
        if dim.HasField("dim_value"):
            sizes.append(dim.dim_value)
        else:
            sizes.append(symbols.setdefault(dim.dim_param, default) if dim.dim_param else default)
    return tuple(sizes)


def table_rows(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    """(input name, rows of the smallest table it indexes)."""
    tables = {tensor.name: tensor.dims for tensor in graph.initializer}
    producer = {name: node for node in graph.node for name in node.output}
    rows: dict[str, int] = {}
    for node in graph.node:
        table = _table_dims(node, tables, producer)
        if table is None:
            continue
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        name = node.input[1]
        while name in producer and producer[name].op_type in _SAME_IDS:
            name = producer[name].input[0]
        rows[name] = min(rows.get(name, table[axis]), table[axis])
    yield from rows.items()


def _table_dims(
    node: onnx.NodeProto, tables: Mapping[str, list[int]], producer: Mapping[str, onnx.NodeProto]
) -> list[int] | None:
    """The shape of the constant that a Gather reads, seen through the nodes that only rename it."""
    if node.op_type != "Gather":
        return None
    name = node.input[0]
    while name in producer and producer[name].op_type in ("Identity", "Cast", "DequantizeLinear"):
        name = producer[name].input[0]
    if name in producer and producer[name].op_type == "Constant":
        tensor = next((attribute.t for attribute in producer[name].attribute if attribute.name == "value"), None)
        return list(tensor.dims) if tensor is not None else None
    return list(tables[name]) if name in tables else None
