"""Builders shared by the tests of passes."""

import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import passes
from passes.verify import compare, open_session
from tests.support.graphs import Builder


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
