"""One view of the ways a graph writes a linear: MatMul with a constant matrix, and Gemm with it either way round."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from passes.graph import array, attribute, constant, is_float

LARGE = 1 << 21  # elements of a matrix that is not to be stored twice


@dataclass(frozen=True)
class Linear:
    """y = x W + b with constant W [K, N]. `transposed`: the graph stores Wᵀ. bias: constant [N], or None."""

    node: ir.Node
    x: ir.Value
    weight: ir.Value
    transposed: bool
    bias: ir.Value | None

    @property
    def output(self) -> ir.Value:
        return self.node.outputs[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(K, N)"""
        rows, columns = (int(size) for size in self.weight.const_value.shape)  # type: ignore[union-attr, arg-type]
        return (columns, rows) if self.transposed else (rows, columns)

    def matrix(self) -> np.ndarray:
        """W as float64 [K, N]."""
        stored = array(self.weight)
        assert stored is not None
        return (stored.T if self.transposed else stored).astype(np.float64)

    def vector(self) -> np.ndarray:
        """b as float64 [N], zeros where there is none."""
        stored = array(self.bias)
        if stored is None:
            return np.zeros(self.shape[1])
        return np.broadcast_to(stored.reshape(-1), self.shape[1]).astype(np.float64)

    def set_matrix(self, values: np.ndarray) -> None:
        """Give this node a W of its own; other readers of the old one keep it."""
        values = values.T if self.transposed else values
        self.node.replace_input_with(1, constant(_graph(self.node), values, f"{self.weight.name}"))

    def set_vector(self, values: np.ndarray) -> None:
        """Give this Gemm a b of its own."""
        if len(self.node.inputs) < 3:
            self.node.resize_inputs(3)
        name = self.bias.name if self.bias is not None else f"{self.weight.name}.bias"
        self.node.replace_input_with(2, constant(_graph(self.node), values, f"{name}"))


def match(node: ir.Node | None, *, onto_stream: bool = False) -> Linear | None:
    """The linear that a node computes, if it does; onto_stream: also where a Gemm adds it to a tensor, not a bias."""
    if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in ("MatMul", "Gemm"):
        return None
    x, weight = node.inputs[0], node.inputs[1]
    stored = array(weight)
    if x is None or weight is None or stored is None or stored.ndim != 2 or not is_float(weight):
        return None
    if node.op_type == "MatMul":
        return Linear(node, x, weight, False, None)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return None
    transposed = bool(attribute(node, "transB", 0))
    columns = stored.shape[0 if transposed else 1]
    if bias is not None:
        added = array(bias)
        if added is None or added.size not in (1, columns) or added.shape[-1:] not in ((), (1,), (columns,)):
            return Linear(node, x, weight, transposed, None) if onto_stream else None
    return Linear(node, x, weight, transposed, bias)


def may_change(linear: Linear) -> bool:
    """Whether W may be replaced: a large one with other readers (a tied embedding) would then be stored twice."""
    rows, columns = linear.shape
    return rows * columns < LARGE or len(linear.weight.uses()) == 1


def takes_bias(linear: Linear) -> bool:
    return linear.node.op_type == "Gemm"


def _graph(node: ir.Node) -> ir.Graph:
    assert node.graph is not None
    return node.graph
