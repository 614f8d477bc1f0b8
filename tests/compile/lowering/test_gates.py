"""Gated feed-forwards: two linears, of which the second multiplies by what the first has left."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

TOKENS, WIDTH, INNER = 8, 24, 40


def gated(b: Any, activation: str, bias: bool = True, swapped: bool = False) -> str:
    wide = b.linear(b.input("x", [1, TOKENS, WIDTH]), WIDTH, 2 * INNER, bias=bias)
    left, right = b("Split", wide, outputs=2, axis=-1, num_outputs=2)
    if activation == "Silu":
        left = b("Mul", left, b("Sigmoid", left))
    elif activation:
        left = b(activation, left)
    return b.linear(b("Mul", right, left) if swapped else b("Mul", left, right), INNER, WIDTH)


@pytest.mark.parametrize("activation", ["Gelu", "Silu", "Sigmoid", "Relu", ""])
@pytest.mark.parametrize("bias", [True, False])
def test_a_gate_is_part_of_its_linears(
    activation: str, bias: bool, graph: type, lowered: Callable, families: Callable, agree: Callable
) -> None:
    b = graph()
    model = b.model(gated(b, activation, bias, swapped=bias))
    program = lowered(model)
    assert families(program) == ["Linear"] * 3
    first, second, last = (call.kernel for call in program.calls)
    assert (first.n, second.n, last.k) == (INNER, INNER, INNER)
    assert sorted(first.steps + second.steps) == sorted(["mul", *[activation.lower()] * bool(activation)])
    agree(model)


def test_a_gate_of_int8_weights(graph: type, lowered: Callable, families: Callable, agree: Callable) -> None:
    b = graph()
    x = b.input("x", [1, TOKENS, WIDTH])
    values = b.const(b.rng.integers(-127, 128, (WIDTH, 2 * INNER)).astype(np.int8))
    scales, zeros = b.const(b.rng.uniform(0.001, 0.002, 2 * INNER)), b.const(np.zeros(2 * INNER, np.int8))
    weight = b("DequantizeLinear", values, scales, zeros, axis=1)
    left, right = b("Split", b("MatMul", x, weight), outputs=2, axis=-1, num_outputs=2)
    model = b.model(b("Mul", b("Gelu", left), right))
    assert families(lowered(model)) == ["LinearInt8"] * 2
    agree(model, bound=0.02)


def read_by_another(b: Any) -> tuple[str, ...]:
    wide = b.linear(b.input("x", [1, TOKENS, WIDTH]), WIDTH, 2 * INNER)
    left, right = b("Split", wide, outputs=2, axis=-1, num_outputs=2)
    return b("Mul", b("Gelu", left), right), wide


def of_two_products(b: Any) -> tuple[str, ...]:
    x = b.input("x", [1, TOKENS, WIDTH])
    halves = [b("Split", b.linear(x, WIDTH, 2 * INNER), outputs=2, axis=-1, num_outputs=2) for _ in range(2)]
    return b("Mul", b("Gelu", halves[0][0]), halves[1][1]), b("Add", halves[0][1], halves[1][0])


def along_the_tokens(b: Any) -> tuple[str, ...]:
    wide = b.linear(b.input("x", [1, TOKENS, WIDTH]), WIDTH, INNER)
    left, right = b("Split", wide, outputs=2, axis=1, num_outputs=2)
    return (b("Mul", b("Gelu", left), right),)


@pytest.mark.parametrize("form", [read_by_another, of_two_products, along_the_tokens])
def test_what_is_no_gate_keeps_its_product(form: Callable, graph: type, lowered: Callable, agree: Callable) -> None:
    b = graph()
    model = b.model(*form(b))
    widths = {call.kernel.n for call in lowered(model).calls if call.kernel.family == "linear"}
    assert widths == {INNER if form is along_the_tokens else 2 * INNER}
    agree(model)
