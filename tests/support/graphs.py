"""Small ONNX graphs for tests."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """Writes small graphs one operator at a time: `b("MatMul", x, b.const(w))` returns the output's name."""

    def __init__(self, seed: int = 0, opset: int = 20) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.weights: list[onnx.TensorProto] = []

    def __call__(self, op: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        names = [f"{op.lower()}_{len(self.nodes)}_{i}" for i in range(outputs)]
        name = name or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, **attributes))
        return names[0] if outputs == 1 else names

    def input(self, name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def const(self, value: Any, name: str | None = None) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        name = name or f"const_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        return self.const(self.rng.standard_normal(shape) * scale)

    def norm(self, x: str, size: int, low: float = 0.5, high: float = 2.0) -> str:
        """NoNorm: γ∘x + β with random γ (random signs) and β."""
        gamma = self.rng.uniform(low, high, size) * self.rng.choice([-1.0, 1.0], size)
        return self("Add", self("Mul", x, self.const(gamma)), self.normal(size))

    def linear(self, x: str, k: int, n: int, *, gemm: bool = False, bias: bool = True) -> str:
        weight = self.rng.standard_normal((k, n)) / np.sqrt(k)
        if gemm:
            return self("Gemm", x, self.const(weight.T), self.normal(n), transB=1)
        y = self("MatMul", x, self.const(weight))
        return self("Add", y, self.normal(n)) if bias else y

    def attention(self, x: str, tokens: int, heads: int, size: int, mask: str | None = None, scale: str = "scores"):
        """Self-attention over x (1, tokens, heads · size), with 1/√size on the scores, on q, on k, or on q and k."""
        width = heads * size
        parts = []
        for i, axes in enumerate(([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])):
            y = self("Reshape", self.linear(x, width, width), self.const(np.array([1, tokens, heads, size])))
            y = self("Transpose", y, perm=axes)
            if scale == "both" and i < 2:
                y = self("Mul", y, self.const(np.float32(size**-0.25)))
            elif scale == "qk"[i : i + 1]:
                y = self("Div", y, self.const(np.float32(size**0.5)))
            parts.append(y)
        q, k, v = parts
        scores = self("MatMul", q, k)
        if scale == "scores":
            scores = self("Mul", scores, self.const(np.float32(size**-0.5)))
        if mask:
            scores = self("Add", scores, mask)
        context = self("Transpose", self("MatMul", self("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        return self("Reshape", context, self.const(np.array([1, tokens, width])))

    def model(self, *outputs: str) -> onnx.ModelProto:
        """Checked by ONNX's checker where shape inference could give every output a type."""
        infos = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "test", self.inputs, infos, self.weights)
        domains = sorted({node.domain for node in self.nodes} - {""})
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        inferred = onnx.shape_inference.infer_shapes(model)
        del inferred.graph.value_info[:]
        if all(output.type.WhichOneof("value") for output in inferred.graph.output):
            onnx.checker.check_model(inferred, full_check=True)
        return inferred


def narrowed(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """`model` with another type in place of float32."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(kind))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*other.graph.input, *other.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = kind
    for node in other.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = kind
    return other
