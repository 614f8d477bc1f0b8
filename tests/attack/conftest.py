"""A model small enough to be compiled in a second, under whatever names an attacker gives it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

TOKENS = 4


def tiny_model(inputs: Sequence[str] = ("x",), outputs: Sequence[str] = ("y",), node: str = "node") -> onnx.ModelProto:
    """One linear for each output, of the input with its number."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.standard_normal((16, 8), np.float32), f"w{i}") for i in range(len(outputs))]
    nodes = [
        helper.make_node("MatMul", [inputs[i % len(inputs)], f"w{i}"], [name], name=f"{node}{i}")
        for i, name in enumerate(outputs)
    ]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, TOKENS, 16]) for name in inputs]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, TOKENS, 8]) for name in outputs]
    graph = helper.make_graph(nodes, "tiny", given, made, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., onnx.ModelProto]:
    return tiny_model


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    path = tmp_path / "given" / "tiny.onnx"
    path.parent.mkdir()
    onnx.save(tiny_model(), path)
    return path
