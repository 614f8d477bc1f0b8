"""Is a quantised file whole? Says no in words that name the tensor, before ONNX Runtime says it in its own."""

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from passes.check import describe
from passes.errors import PassError

INTEGERS: dict[int, tuple[int, int]] = {TensorProto.INT8: (-128, 127), TensorProto.UINT8: (0, 255)}
# Of a scale: what float32 holds in full, and of activations what kernels take, whose rows are at least 2⁻¹⁰⁰ long.
SMALLEST = {"DequantizeLinear": float(np.finfo(np.float32).tiny), "QuantizeLinear": 2.0**-100 / 254}
LARGEST = float(np.finfo(np.float32).max) / 256


def check_quantized(model: onnx.ModelProto) -> None:
    """Raise PassError for a scale that is missing or no positive number, a wrong axis, a zero point out of range."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.domain in ("", "ai.onnx"):
            _check(node, tensors)


def _check(node: onnx.NodeProto, tensors: dict[str, TensorProto]) -> None:
    names = [*node.input, "", "", ""][:3]
    where = f"{describe(node)} of {names[0]!r}"
    if not names[1]:
        raise PassError(f"{where} has no scale; quantise the model again")
    scale, zero, values = (tensors.get(name) for name in (names[1], names[2], names[0]))
    if scale is not None:
        numbers = numpy_helper.to_array(scale)
        if numbers.size == 0 or not (np.isfinite(numbers).all() and (numbers > 0).all()):
            raise PassError(f"{where}: scale {names[1]!r} holds zero, negative, infinite or no numbers; quantise again")
        if numbers.min() < SMALLEST[node.op_type] or numbers.max() > LARGEST:
            raise PassError(f"{where}: scale {names[1]!r} leaves float32's range with its integers; quantise again")
        if values is not None and numbers.size > 1:
            _check_axis(where, node, numbers, values)
        if zero is not None and numpy_helper.to_array(zero).size != numbers.size:
            shapes = f"{list(zero.dims)} for scales of shape {list(scale.dims)}"
            raise PassError(f"{where}: zero point {names[2]!r} has shape {shapes}; quantise the model again")
    if zero is not None and values is not None and node.op_type == "DequantizeLinear":
        _check_zero(where, zero, values)


def _check_axis(where: str, node: onnx.NodeProto, scales: np.ndarray, values: TensorProto) -> None:
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if next((a.i for a in node.attribute if a.name == "block_size"), 0):
        raise PassError(f"{where}: scales by block cannot be compiled; quantise with one scale a channel")
    rank = len(values.dims)
    if not -rank <= axis < rank or values.dims[axis] != scales.size:
        raise PassError(
            f"{where}: {scales.size} scales do not fit axis {axis} of shape {list(values.dims)}; correct the axis"
        )


def _check_zero(where: str, zero: TensorProto, values: TensorProto) -> None:
    low, high = INTEGERS.get(values.data_type, (0, 0))
    numbers = numpy_helper.to_array(zero)
    if ((numbers < low) | (numbers > high)).any() or zero.data_type != values.data_type:
        kind = TensorProto.DataType.Name(values.data_type).lower()
        raise PassError(
            f"{where}: zero point {zero.name!r} is no {kind} from {low} to {high}; quantise the model again"
        )
