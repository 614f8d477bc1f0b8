"""A batch of sequences: the model for one of them, which the library runs for each.

Side by side they would share every product's weights, but each is as long as the longest, padding included; one after
the other they cost what they are, at any number up to the largest, and weights stay in the caches between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from compile.errors import CompileError
from passes.fix_shapes import fix_shapes
from passes.in_float32 import in_float32_throughout
from passes.inputs import random_inputs
from passes.verify import run_model
from pocketbert.errors import first_line
from pocketbert.numerics import TOLERANCE, relative_error

SHAPED = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}  # operators, and which input is a shape


def file_batch(model: onnx.ModelProto) -> int:
    """The first dimension that all inputs have; 1 where some have another, or none."""
    sizes = {_first(value) for value in _inputs(model)}
    return sizes.pop() or 1 if len(sizes) == 1 else 1


def one_sequence(model: onnx.ModelProto, batch: int, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """The model for one sequence, where a batch of `batch` gives for each what it gives alone in ONNX Runtime.

    shapes: of every input, for one sequence. A file for one alone is taken at its word. Raises CompileError where the
    sequences depend on each other.
    """
    if any(_first(value) == 1 for value in _inputs(model)):
        return model
    wide = in_float32_throughout(model)
    whole = {name: [batch, *shape[1:]] for name, shape in shapes.items()}
    many = fix_shapes(wide, whole)
    one = fix_shapes(_shrunk(model, batch) if file_batch(model) == batch else model, shapes)
    try:
        feeds = random_inputs(many, 0)
        (together,) = run_model(many, [feeds])
        rows = [{name: value[i : i + 1] for name, value in feeds.items()} for i in range(batch)]
        alone = run_model(in_float32_throughout(one), rows)
        stacked = {name: np.concatenate([np.atleast_1d(row[name]) for row in alone]) for name in together}
        error = relative_error(stacked, together)
    except Exception as failure:
        raise CompileError(
            f"--batch {batch}: ONNX Runtime cannot run one sequence of it alone ({first_line(failure)}): export the "
            "model with a dynamic batch, or with batch 1"
        ) from failure
    if not error <= TOLERANCE:
        raise CompileError(
            f"--batch {batch}: the model does not give for each sequence what it gives for it alone: leave --batch out"
        )
    return one


def require_batch(model: onnx.ModelProto, batch: int) -> None:
    """Raises CompileError where the inputs cannot have `batch` rows."""
    for value in _inputs(model):
        dims = value.type.tensor_type.shape.dim
        if not dims or dims[0].dim_value not in (0, 1, batch):
            shape = [d.dim_value or d.dim_param or "?" for d in dims]
            raise CompileError(
                f"--batch {batch}: input {value.name!r} has shape [{', '.join(map(str, shape))}]: export the model "
                "with a dynamic batch, or leave --batch out"
            )


def _shrunk(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """`model` for one sequence in place of `batch`, as far as constants say how many there are."""
    one = onnx.ModelProto()
    one.CopyFrom(model)
    graph = one.graph
    for value in _inputs(one):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    shapes = {node.input[at] for node in graph.node if (at := SHAPED.get(node.op_type)) is not None}
    for tensor in (*graph.initializer, *_constants(graph)):
        array = numpy_helper.to_array(tensor)
        is_shape = tensor.name in shapes and array.ndim == 1 and array.size > 1
        if is_shape and array[0] > 0 and array[0] % batch == 0:
            array = np.concatenate([array[:1] // batch, array[1:]])
        elif array.ndim > 1 and len(array) == batch and (array == array[:1]).all():
            array = array[:1]
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return one


def _constants(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Those of Constant nodes, named as what they make."""
    tensors = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            node.attribute[0].t.name = node.output[0]
            tensors.append(node.attribute[0].t)
    return tensors


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _first(value: onnx.ValueInfoProto) -> int:
    """The first dimension's size; 0 where that is open, or there is none."""
    dims = value.type.tensor_type.shape.dim
    return int(dims[0].dim_value) if dims else 0
