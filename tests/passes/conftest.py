"""Builders shared by the tests of passes."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import passes
from passes.verify import compare, open_session


class Builder:
    """Writes small graphs one operator at a time: `b("MatMul", x, b.const(w))` returns the output's name."""

    def __init__(self, seed: int = 0, opset: int = 20) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.weights: list[onnx.TensorProto] = []

    def __call__(self, op: str, *inputs: str, outputs: int = 1, **attributes):
        names = [f"{op.lower()}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op}_{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def input(self, name: str, shape, kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def const(self, value, name: str | None = None) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        name = name or f"const_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def normal(self, *shape, scale: float = 1.0) -> str:
        return self.const(self.rng.standard_normal(shape) * scale)

    def norm(self, x: str, size: int, low: float = 0.5, high: float = 2.0) -> str:
        """NoNorm: γ∘x + β with random γ (random signs) and β."""
        gamma = self.rng.uniform(low, high, size) * self.rng.choice([-1.0, 1.0], size)
        return self("Add", self("Mul", x, self.const(gamma)), self.normal(size))

    def linear(self, x: str, rows: int, columns: int, *, gemm: bool = False, bias: bool = True) -> str:
        weight = self.rng.standard_normal((rows, columns)) / np.sqrt(rows)
        if gemm:
            return self("Gemm", x, self.const(weight.T), self.normal(columns), transB=1)
        y = self("MatMul", x, self.const(weight))
        return self("Add", y, self.normal(columns)) if bias else y

    def model(self, *outputs: str) -> onnx.ModelProto:
        infos = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "test", self.inputs, infos, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        inferred = onnx.shape_inference.infer_shapes(model)
        del inferred.graph.value_info[:]
        onnx.checker.check_model(inferred, full_check=True)
        return inferred


@pytest.fixture
def build() -> type[Builder]:
    return Builder


@pytest.fixture
def ops() -> Callable[..., int]:
    """ops(model, "Mul", "Add") counts nodes of these types."""
    return lambda model, *types: sum(node.op_type in types for node in model.graph.node)


@pytest.fixture
def check() -> Callable[..., tuple[onnx.ModelProto, passes.Report]]:
    """Run passes, compare the result in ONNX Runtime on three other seeds, run the ONNX checker."""

    def run(model: onnx.ModelProto, *only: str, bound: float = 1e-5, **options):
        result, report = passes.run(model, only=only or None, **options)
        onnx.checker.check_model(result, full_check=True)
        feeds = [passes.inputs.random_inputs(model, seed) for seed in (11, 12, 13)]
        before, after = ([dict(zip([o.name for o in m.graph.output], open_session(m).run(None, f), strict=True))
                          for f in feeds] for m in (model, result))  # fmt: skip
        assert compare(before, after) <= bound
        return result, report

    return run


@pytest.fixture
def applied() -> Callable[[passes.Report, str], int]:
    """applied(report, "fold_nonorm"): how often a pass fired."""
    return lambda report, name: next(entry.applied for entry in report.passes if entry.name == name)


@pytest.fixture
def third_party() -> Path:
    """Folder of BERT-like graphs that nobody here exported; POCKETBERT_ONNX names another."""
    return Path(os.environ.get("POCKETBERT_ONNX", Path(__file__).parents[2] / "../shared/data/onnx"))
