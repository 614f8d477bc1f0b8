"""--fix-shape: open dimensions get sizes before anything else."""

import numpy as np
import pytest

from passes import PassError
from passes.__main__ import main
from passes.fix_shapes import fix_shapes, read_shapes


def opened(b, shape):
    x = b.input("x", shape)
    return b.model(b("Reshape", x, b("Concat", b("Shape", x, end=2), b.const(np.array([2, 3])), axis=0)))


def test_the_file_is_for_that_shape_and_computes_no_sizes(build, tmp_path, capsys):
    import onnx

    onnx.save(opened(build(), ["batch", "tokens", 6]), tmp_path / "open.onnx")
    arguments = [str(tmp_path / "open.onnx"), "-o", str(tmp_path / "fixed.onnx"), "--fix-shape", "x=1,4,6"]
    assert main(arguments) == 0, capsys.readouterr().err
    fixed = onnx.load(tmp_path / "fixed.onnx")
    assert [d.dim_value for d in fixed.graph.input[0].type.tensor_type.shape.dim] == [1, 4, 6]
    assert [node.op_type for node in fixed.graph.node] == ["Reshape"]


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "x=",
        "=1,2",
        "x=1,-2",
        "x=1,0",
        "x=1,two",
        "x=1,,2",
        "x=1.5",
        "x=²",
        "x=1,1000000000",
        pytest.param("x=1" + "0" * 5000, id="long"),
    ],
)
def test_what_is_no_shape_is_refused_by_its_text(text):
    with pytest.raises(PassError, match=r"--fix-shape .*NAME=DIM"):
        read_shapes([text])


def test_a_name_with_an_equals_sign():
    assert read_shapes(["a=b=1,2"]) == {"a=b": [1, 2]}


@pytest.mark.parametrize("shape", [[1, 4], [1, 4, 7], [1, 4, 6, 1]])
def test_a_shape_that_the_input_cannot_have(build, shape):
    with pytest.raises(PassError, match=r"no shape of an input that is \[batch, tokens, 6\]"):
        fix_shapes(opened(build(), ["batch", "tokens", 6]), {"x": shape})


def test_a_name_that_no_input_has(build):
    with pytest.raises(PassError, match="no such input; it has x"):
        fix_shapes(opened(build(), ["batch", "tokens", 6]), {"ids": [1, 4]})


def test_a_model_without_open_dimensions_is_returned_as_it_is(build):
    model = opened(build(), [1, 4, 6])
    assert fix_shapes(model, {"x": [1, 4, 6]}) is model
