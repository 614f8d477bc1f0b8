"""Single operators where numbers end: as ONNX Runtime has them, or refused by node with what to do."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import compile

ENDS = np.resize(np.float32([np.inf, -np.inf, np.nan, 1, 1e-39, -3e-40, 2e38, 0]), (1, 4, 8))


@pytest.fixture
def built(tmp_path: Path) -> Callable[..., tuple[Any, Any]]:
    """built(op, constants, x): what ours and ONNX Runtime's make of x."""

    def run(op: str, *constants: Any, x: np.ndarray = ENDS) -> tuple[Any, Any]:
        names = [f"c{i}" for i in range(len(constants))]
        held = [numpy_helper.from_array(np.float32(c), n) for c, n in zip(constants, names, strict=True)]
        node = helper.make_node(op, ["x", *names], ["y"], name="the_node")
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8]) for name in "xy"]
        graph = helper.make_graph([node], "one", infos[:1], infos[1:], held)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, tmp_path / "one.onnx")
        folder = compile.build(tmp_path / "one.onnx", target="host", seq_len=4, out=tmp_path / "out").folder
        with compile.load(folder) as library:
            ours = library.run({"x": x})["y"]
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return ours, session.run(None, {"x": x})[0]

    return run


def test_clip_without_bounds_makes_infinities_the_greatest_numbers(built: Callable) -> None:
    """ONNX: min and max default to the least and the greatest finite number."""
    ours, theirs = built("Clip")
    np.testing.assert_array_equal(ours, theirs)
    assert ours[0, 0, 0] == np.finfo(np.float32).max


@pytest.mark.parametrize("divisor", [1e-39, 2e-45, -1e-40, 1e-38, 3e38, 0, np.inf])
def test_division_by_a_number_that_has_no_inverse_in_float32(divisor: float, built: Callable) -> None:
    ours, theirs = built("Div", np.full(8, divisor))
    np.testing.assert_allclose(ours, theirs, rtol=3e-7, atol=1e-45)


def test_atanh_of_a_small_number_is_that_number(built: Callable) -> None:
    values = np.resize(np.float32([1e-39, -1e-7, 3e-4, 0.1, -0.1249, 0.1251, 0.9, np.nan]), ENDS.shape)
    ours, theirs = built("Atanh", x=values)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("operator", ["Asinh", "Acosh"])
def test_inverses_of_small_and_large_numbers(operator: str, built: Callable) -> None:
    near = [1e-39, -1e-7, 0.0624, -0.0626, 0.9, np.nan] if operator == "Asinh" else [1.0, 1.0001, 1.5, 0.5, np.nan]
    values = np.resize(np.float32([*near, 3.0, 9e8, 2e9, 1e30, 3.4e38, np.inf, -np.inf]), ENDS.shape)
    ours, theirs = built(operator, x=values)
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=0 if operator == "Asinh" else 1e-4)


@pytest.mark.parametrize("operator", ["Sinh", "Cosh"])
def test_operator_without_code_is_refused_by_its_node_with_what_to_do(operator: str, built: Callable) -> None:
    wanted = f"operator {operator} (node 'the_node') cannot be lowered: rewrite it with other operators"
    with pytest.raises(compile.CompileError, match=f"^{re.escape(wanted)}( .*)?$") as raised:
        built(operator)
    assert "ir.Op" not in str(raised.value)
