"""Graphs of very many nodes: what a build takes grows as they do. `benchmarks/build.py` measures whole builds."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import compile
from compile.codegen import plan_source
from passes.rename import rename_nodes, rename_nodes_and_values


def chain(count: int) -> onnx.ModelProto:
    """x + x, + x, …: each sum is an output too, so that none is computed inside another's kernel."""
    values = ["x", *(f"y{i}" for i in range(count))]
    nodes = [helper.make_node("Add", [values[i], "x"], [values[i + 1]]) for i in range(count)]
    x, *sums = (helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, 4, 16]) for value in values)
    graph = helper.make_graph(nodes, "chain", [x], sums)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("rename", [rename_nodes, rename_nodes_and_values])
def test_twenty_thousand_nodes_of_one_name_are_told_apart_in_a_second(rename: Callable) -> None:
    graph = ir.from_proto(chain(20_000)).graph
    begun = time.process_time()
    rename(graph)
    assert time.process_time() - begun < 4  # trying every number anew took 36 s
    names = [node.name for node in graph]
    assert names[:3] == ["Add", "Add#2", "Add#3"]
    assert names[-1] == "Add#20000"


def test_name_with_a_number_of_its_own_is_not_given_twice() -> None:
    graph = ir.from_proto(chain(4)).graph
    for node, name in zip(graph, ["a", "a#3", "a", "b"], strict=True):
        node.name = name
    rename_nodes(graph)
    assert [node.name for node in graph] == ["a", "a#2", "a#3", "b"]


def test_stage_with_many_calls_is_several_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler's time for one function of a thousand calls is quadratic in them."""
    monkeypatch.setattr(plan_source, "MOST_CALLS", 2)
    onnx.save(chain(7), tmp_path / "chain.onnx")
    built = compile.build(
        tmp_path / "chain.onnx", target="host", seq_len=4, out=tmp_path / "out", dump=tmp_path / "dump"
    )
    assert "_6(const pb_context" in (tmp_path / "dump" / "plan.c").read_text()
    x = np.arange(64, dtype=np.float32).reshape(1, 4, 16)
    with compile.load(built.folder, threads=2) as library:
        for _ in range(2):
            for number, result in enumerate(library.run({"x": x}).values()):
                np.testing.assert_array_equal(result, (number + 2) * x)
