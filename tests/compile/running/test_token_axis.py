"""Which axis of an in- or output a shorter sequence makes shorter."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import compile
from passes.verify import open_session

TOKENS = 4


def built(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "m.onnx")
    return compile.build(folder / "m.onnx", target="host", seq_len=TOKENS, out=folder / "artifact").folder


@pytest.mark.parametrize("tokens", [TOKENS, 3, 1])
def test_the_first_input_has_features_behind_its_tokens(graph: type, tmp_path: Path, tokens: int) -> None:
    b = graph()
    x, ids = b.input("x", [1, TOKENS, 8]), b.input("ids", [1, TOKENS], TensorProto.INT64)
    model = b.model(b("Add", x, b("Gather", b.normal(16, 8), ids)))
    inputs = {"x": np.ones((1, TOKENS, 8), np.float32), "ids": np.arange(TOKENS)[None]}
    (whole,) = open_session(model).run(None, inputs)
    with compile.load(built(model, tmp_path)) as library:
        (got,) = library.run({name: array[:, :tokens] for name, array in inputs.items()}).values()
    np.testing.assert_allclose(got, whole[:, :tokens], rtol=1e-6)


def test_an_output_without_an_axis_for_tokens_has_one_length(graph: type, tmp_path: Path) -> None:
    b = graph()
    y = b("Tanh", b("Gather", b.normal(16, 8), b.input("ids", [1, TOKENS], TensorProto.INT64)))
    model = b.model(b("Reshape", y, b.const(np.array([2, 16]))), y)
    ids = np.array([[3, 1, 4, 1]])
    with compile.load(built(model, tmp_path)) as library:
        assert not library.manifest.shorter_sequences
        for got, want in zip(
            library.run({"ids": ids}).values(), open_session(model).run(None, {"ids": ids}), strict=True
        ):
            np.testing.assert_allclose(got, want, atol=1e-6)
        with pytest.raises(compile.CompileError, match="shape"):
            library.run({"ids": ids[:, :3]})
