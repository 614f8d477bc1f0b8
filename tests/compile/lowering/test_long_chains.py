"""Long chains of element-wise operators: work that grows with their length and no faster, shown by counting."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from compile.cpus import AVX2
from compile.kernels.rowwise import Map
from compile.lowering import epilogues


def chain(graph: type, kind: str, length: int) -> Any:
    b = graph()
    x = b.input("x", [1, 8, 16])
    for _ in range(length):
        if kind == "functions":
            x = b("Relu", b("Tanh", x))
        elif kind == "vectors":
            x = b("Add", b("Mul", x, b.normal(16)), b.normal(16))
        elif kind == "tensors":
            x = b("Add", b("Add", x, "x"), b("Relu", "x"))
        else:
            x = b("Add", b("Relu", x), b("Tanh", x))
    return b.model(x)


@pytest.mark.parametrize("kind", ["functions", "vectors", "tensors", "doubled"])
def test_lowering_looks_at_each_operator_a_few_times(
    kind: str, graph: type, lowered: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    absorbable = epilogues._absorbable

    def counted(*arguments: Any) -> bool:
        nonlocal looks
        looks += 1
        return absorbable(*arguments)

    monkeypatch.setattr(epilogues, "_absorbable", counted)
    counts = []
    for length in (100, 400):
        looks = 0
        program = lowered(chain(graph, kind, length))
        counts.append(looks)
        assert max(len(getattr(call.kernel, "steps", ())) for call in program.calls) <= epilogues.MOST_STEPS + 1
    assert counts[1] <= 4.2 * counts[0]


def test_functions_are_not_nested_for_the_simplifier() -> None:
    """TVM's simplifier takes three times as long for each max around another, through names given to parts too."""

    def nested(pairs: int) -> int:
        lines = Map(16, ("tanh", "relu") * pairs, AVX2).build().script().splitlines()
        return max(len(re.findall(r"T\.(max|min)\(", line)) for line in lines)

    text = Map(16, ("tanh", "relu") * 6, AVX2).build().script()
    assert nested(6) == nested(2) <= 2
    # Each function's argument comes out of a variable.
    assert text.count("alloc_local") == 11


@pytest.mark.parametrize("kind", ["functions", "vectors", "tensors", "doubled"])
def test_long_chains_compute_what_onnx_runtime_does(kind: str, graph: type, agree: Callable) -> None:
    agree(chain(graph, kind, 6 if kind == "doubled" else 20))
