"""The program that costs one kernel: how many calls, of what, and what each of them reads."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compile.program import Call, InputRange, Program, RowCount, Rows, Value, View, Whole
from tune.search.predictor import kernel_sum, kernels
from tune.search.probe import kernel_key, probe

KERNEL: Any = SimpleNamespace(name="gather_k8")


def rows(value: Value) -> Rows:
    return Rows(View.of(value, 16, value.size // 16))


def example(weights: int) -> tuple[Program, Call]:
    """A call that reads ids, what another call made, and so many bytes of weights; it has two outputs."""
    ids, other = Value("ids", "input", (16,), "int64"), Value("h", "temporary", (16, 8), "float32")
    data = np.arange(weights // 4, dtype=np.float32) if weights else None
    read = [Value("w", "weight", data.shape, "float32", data)] if data is not None else []
    outputs = (Value("y", "temporary", (16, 4), "float32"), Value("z", "output", (16, 2), "float32"))
    arguments = (rows(ids), rows(other), *(Whole(View.of(w, 1, w.size)) for w in read), *map(rows, outputs), RowCount())
    call = Call(KERNEL, arguments, outputs, 16, "node")
    return Program(16, inputs=[ids], outputs=[outputs[1]], calls=[call], ranges={"ids": InputRange(0, 50)}), call


@pytest.mark.parametrize(
    ("weights", "count"), [(0, 64), (4, 64), (64 << 10, 64), (100 << 10, 40), (512 << 10, 8), (8 << 20, 8)]
)
def test_calls_read_four_mebibytes_of_weights_together_but_are_8_to_64(weights: int, count: int) -> None:
    program, call = example(weights)
    made, calls = probe(call, program)
    assert calls == len(made.calls) == count


def test_every_call_has_weights_of_its_own_and_the_same_inputs() -> None:
    program, call = example(1 << 20)
    made, count = probe(call, program)
    assert (made.tokens, made.elastic, count) == (16, False, 8)
    assert [(v.name, v.kind, v.shape, v.dtype) for v in made.inputs] == [
        ("x0", "input", (16,), "int64"), ("x1", "input", (16, 8), "float32"),
    ]  # fmt: skip
    assert made.ranges == {"x0": InputRange(0, 50)}  # or ids out of bounds would be read
    assert len({id(v.data) for v in made.weights}) == len({v.name for v in made.weights}) == 8
    original = next(v for v, _ in call.reads() if v.kind == "weight")
    assert all(np.array_equal(v.data, original.data) and v.data is not original.data for v in made.weights)
    for each in made.calls:
        assert (each.kernel, each.rows) == (KERNEL, 16)
        assert [v for v, _ in each.reads() if v.kind == "input"] == made.inputs
        assert [a.view.value for a in each.arguments if isinstance(a, Rows)][2:] == list(each.outputs)
    *others, last = made.calls
    assert [v.kind for v in last.outputs] == ["output"] * 2
    assert list(last.outputs) == made.outputs
    assert {v.kind for one in others for v in one.outputs} == {"temporary"}
    assert len({v.name for one in made.calls for v in one.outputs}) == 16


def test_a_kernel_without_inputs_can_be_run_all_the_same() -> None:
    weight = Value("w", "weight", (4,), "float32", np.ones(4, np.float32))
    output = Value("y", "output", (16, 4), "float32")
    call = Call(KERNEL, (Whole(View.of(weight, 1, 4)), rows(output)), (output,), 16, "node")
    made, _ = probe(call, Program(16, outputs=[output], calls=[call]))
    assert [v.name for v in made.inputs] == ["unused"]


def test_kernels_are_told_apart_by_their_rows() -> None:
    program, call = example(4)
    once = Call(KERNEL, call.arguments, call.outputs, 1, "another node")
    program.calls += [call, once]
    assert list(map(kernel_key, program.calls)) == ["gather_k8@16", "gather_k8@16", "gather_k8@1"]
    assert kernels(program) == {"gather_k8@16": call, "gather_k8@1": once}
    assert kernel_sum(program, {"gather_k8@16": 2.0, "gather_k8@1": 0.5}) == 4.5
