"""Count what a graph costs: nodes, parameters, FLOPs (2 × multiply-adds of matmuls, biases not counted)."""

from collections.abc import Mapping

import numpy as np
import onnx

from passes.report import Size


def measure(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray] | None) -> Size:
    """The size of a graph; FLOPs at the shapes of `feeds`, or at the model's own where they are fixed."""
    parameters = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    for node in model.graph.node:
        if node.op_type == "Constant":
            parameters += sum(int(np.prod(a.t.dims)) for a in node.attribute if a.HasField("t"))
    nodes = sum(node.op_type != "Constant" for node in model.graph.node)
    return Size(nodes, parameters, flops(model, feeds or {}))


def flops(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> int | None:
    """2 × multiply-adds of every MatMul and Gemm; None where a shape is unknown or an operator hides its matmuls."""
    shapes = infer_shapes(model, feeds)
    total = 0
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            left, out = shapes.get(node.input[0]), shapes.get(node.output[0])
            if left is None or out is None:
                return None
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            total += 2 * int(np.prod(out)) * left[-2 if transposed else -1]
        elif node.op_type == "Attention" and node.domain in ("", "ai.onnx"):
            q, k, v = (shapes.get(name) for name in node.input[:3])
            if q is None or k is None or v is None:
                return None
            # Scores and weighted sum; with three dimensions the heads are side by side in the last.
            total += 2 * int(np.prod(q[:-1])) * k[-2] * (q[-1] + v[-1])
        elif node.op_type in ("Attention", "MultiHeadAttention", "QAttention", "FusedMatMul", "Einsum"):
            return None
    return total


def infer_shapes(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Static shapes by name, with the inputs' dimensions taken from `feeds`; values of unknown shape are left out.

    Works on a copy of the graph in which large weights are replaced by their shapes alone.
    """
    small = onnx.ModelProto()
    small.ir_version = model.ir_version
    small.opset_import.extend(model.opset_import)
    graph = small.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(value.name) for value in model.graph.output)
    for value in model.graph.input:
        shape = feeds[value.name].shape if value.name in feeds else None
        if shape is None:
            graph.input.append(value)
        else:
            kind = value.type.tensor_type.elem_type
            graph.input.append(onnx.helper.make_tensor_value_info(value.name, kind, shape))
    shapes = {}
    for tensor in model.graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
        if np.prod(tensor.dims) <= 64:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    try:
        inferred = onnx.shape_inference.infer_shapes(small, data_prop=True).graph
    except Exception:
        return shapes
    for value in [*inferred.value_info, *inferred.input, *inferred.output]:
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes
