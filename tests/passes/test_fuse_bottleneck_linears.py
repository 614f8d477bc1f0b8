"""fuse_bottleneck_linears: what it merges, what it counts, what it leaves."""

import pytest

import passes

FUSE = "fuse_bottleneck_linears"


def bottlenecks(b, gemm):
    """The input, shared key/query and value linears of MobileBERT at a quarter of its size."""
    x = b.input("x", [12, 128])
    narrow, shared, value = (b.linear(x, 128, 32, gemm=gemm) for _ in range(3))
    query, key = (b.linear(shared, 32, 32, gemm=gemm) for _ in range(2))
    return [narrow, value, query, key]


@pytest.mark.parametrize("gemm", [False, True])
def test_linears_that_read_one_tensor_become_one(build, check, ops, gemm):
    b = build()
    result, report = check(b.model(*bottlenecks(b, gemm)), FUSE)
    assert ops(result, "MatMul", "Gemm") == ops(result, "Split") == 2
    assert report.passes[0].counts["fused"] == 5
    assert report.after.flops == report.before.flops
    assert report.after.parameters == report.before.parameters + 3 + 2  # the sizes of the two splits


def test_composing_is_refused_where_it_adds_work_and_says_how_much(build, check):
    b = build()
    _, report = check(b.model(*bottlenecks(b, True)), FUSE)
    assert "composed, 8,192 multiply-adds a token instead of 6,144" in [r.reason for r in report.passes[0].refusals]


def test_composing_can_be_asked_for(build, check, ops):
    b = build()
    options = passes.Options(vertical_cost=1.34)
    result, report = check(b.model(*bottlenecks(b, True)), FUSE, options=options)
    assert (ops(result, "Gemm"), ops(result, "Split")) == (1, 1)
    assert report.passes[0].counts["multiply_adds_saved_per_token"] == -2048


def test_horizontal_can_be_turned_off(build, check, ops):
    b = build()
    result, _ = check(b.model(*bottlenecks(b, True)), FUSE, options=passes.Options(horizontal=False))
    assert ops(result, "Split") == 0


def test_linears_in_a_row_compose_where_that_saves_work(build, check, ops):
    b = build()
    x = b.input("x", [7, 8])
    result, report = check(b.model(b.linear(b.linear(x, 8, 64, gemm=True), 64, 4, gemm=True)), FUSE)
    assert ops(result, "Gemm") == 1
    assert report.passes[0].counts["multiply_adds_saved_per_token"] == 8 * 64 + 64 * 4 - 8 * 4
    assert report.after.flops < report.before.flops


@pytest.mark.parametrize("between", ["relu", "output", "reader"])
def test_linears_with_something_between_do_not_compose(build, check, ops, between):
    b = build()
    middle = b.linear(b.input("x", [7, 8]), 8, 64, gemm=True)
    y = b.linear(b("Relu", middle) if between == "relu" else middle, 64, 4, gemm=True)
    others = [middle] if between == "output" else [b("Tanh", middle)] if between == "reader" else []
    result, report = check(b.model(y, *others), FUSE)
    assert ops(result, "Gemm") == 2
    assert report.passes[0].applied == 0


def test_linears_of_different_inputs_stay_apart(build, check, ops):
    b = build()
    x, y = b.input("x", [3, 8]), b.input("y", [3, 8])
    result, _ = check(b.model(b.linear(x, 8, 4), b.linear(y, 8, 4)), FUSE)
    assert ops(result, "Split") == 0


def test_a_weight_given_at_run_time_is_not_fused(build, check, ops):
    b = build()
    x, weight = b.input("x", [3, 8]), b.input("w", [8, 4])
    result, _ = check(b.model(b("MatMul", x, weight), b.linear(x, 8, 4)), FUSE)
    assert ops(result, "Split") == 0


def test_fused_outputs_that_are_graph_outputs_keep_their_names(build, check):
    b = build()
    x = b.input("x", [3, 8])
    names = [b.linear(x, 8, 4, gemm=True), b.linear(x, 8, 6, gemm=True)]
    result, _ = check(b.model(*names), FUSE)
    assert [output.name for output in result.graph.output] == names
