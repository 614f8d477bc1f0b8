"""fold_nonorm: streams of any shape keep their outputs, and their multiplies go where they can."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import passes


def stream(b, blocks, *, size=6, gemm=False, rank=3):
    """x → NoNorm(f(x) + x) for each block, f two linears with relu between."""
    x = b.input("x", [2, 5, size][3 - rank :])
    for _ in range(blocks):
        f = b.linear(b("Relu", b.linear(x, size, 8, gemm=gemm)), 8, size, gemm=gemm)
        x = b.norm(b("Add", f, x), size)
    return x


@pytest.mark.parametrize("gemm", [False, True])
def test_a_residual_stream_keeps_one_affine_at_the_output(build, check, ops, gemm):
    b = build()
    result, report = check(b.model(stream(b, 5, gemm=gemm, rank=2 if gemm else 3)), "fold_nonorm")
    assert ops(result, "Mul") == 1
    assert report.passes[0].counts == {"norms_folded": 4, "scales_left": 1, "restarts": 0}


@pytest.mark.parametrize("gemm", [False, True])
def test_a_head_takes_the_last_affine(build, check, ops, gemm):
    b = build()
    x = stream(b, 3, gemm=gemm, rank=2 if gemm else 3)
    result, _ = check(b.model(b.linear(x, 6, 4, gemm=gemm)), "fold_nonorm")
    assert ops(result, "Mul") == 0


def test_a_norm_between_linear_and_relu_goes_into_the_linear(build, check, ops):
    b = build()
    x = b.input("x", [4, 8])
    result, _ = check(b.model(b("Relu", b.norm(b.linear(x, 8, 6, gemm=True), 6))), "fold_nonorm")
    assert [node.op_type for node in result.graph.node] == ["Gemm", "Relu"]


def test_embeddings_take_the_norm(build, check, ops):
    b = build()
    ids = b.input("ids", [2, 5], 7)
    table, positions = b.normal(50, 6), b.normal(5, 6)
    x = b.norm(b("Add", b("Gather", table, ids), positions), 6)
    result, _ = check(b.model(x), "fold_nonorm")
    assert [node.op_type for node in result.graph.node] == ["Gather", "Add"]


def test_a_table_shared_with_another_reader_keeps_its_values(build, check):
    b = build()
    ids, others = b.input("ids", [3], 7), b.input("others", [3], 7)
    table = b.normal(50, 6)
    check(b.model(b.norm(b("Gather", table, ids), 6), b("Gather", table, others)), "fold_nonorm")


def test_shared_weights_fold_into_copies(build, check, ops):
    b = build()
    x, weight = b.input("x", [2, 5, 6]), b.normal(6, 6)
    for _ in range(3):
        x = b.norm(b("Add", b("MatMul", b("Relu", b("MatMul", x, weight)), weight), x), 6)
    result, _ = check(b.model(b("MatMul", x, weight)), "fold_nonorm", bound=3e-5)
    assert ops(result, "Mul") == 0


def test_zero_scales_restart_and_are_reported(build, check, ops):
    b = build()
    model = b.model(stream(b, 4))
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name in {node.input[1] for node in model.graph.node if node.op_type == "Mul"}:
            values[2] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    result, report = check(model, "fold_nonorm")
    assert report.passes[0].counts["restarts"] == ops(result, "Mul") == 4
    assert "are 0" in report.passes[0].refusals[0].reason


def test_scales_beyond_the_limit_restart(build, check):
    b = build()
    x = b.input("x", [2, 5, 6])
    for _ in range(6):
        x = b.norm(b("Add", b.linear(b("Relu", x), 6, 6), x), 6, 10, 20)
    _, report = check(b.model(b.linear(x, 6, 4)), "fold_nonorm", bound=5e-5, options=passes.Options(scale_limit=1000.0))
    assert report.passes[0].counts["restarts"] >= 1
    assert "outside" in report.passes[0].refusals[0].reason


def test_constants_that_overflow_are_not_carried(build):
    b = build()
    x = b.input("x", [2, 6])
    x = b("Add", b("Mul", b("Add", x, b.const(np.full(6, 1e20))), b.const(np.full(6, 1e20))), b.normal(6))
    result, _ = passes.run(b.model(b.linear(x, 6, 4)))
    assert all(np.isfinite(numpy_helper.to_array(tensor)).all() for tensor in result.graph.initializer)


@pytest.mark.parametrize("shape", [[5, 6], [2, 5, 6], [2, 5, 1], [6, 1]])
def test_only_vectors_along_the_last_axis_are_scales(build, check, shape):
    """Constants of other shapes, and any that broadcast x itself, must not fire."""
    b = build()
    x = b.input("x", [2, 5, 6] if shape != [6, 1] else [2, 6, 6])
    y = b("Add", b("Mul", b.linear(x, 6, 6), b.normal(*shape)), b.normal(*shape))
    _, report = check(b.model(b.linear(y, 6, 3)), "fold_nonorm")
    assert report.passes[0].counts["norms_folded"] == 0


def test_a_vector_that_widens_its_operand_is_no_scale(build, check):
    b = build()
    x = b("ReduceMean", b.input("x", [4, 6]), b.const(np.array([-1])), keepdims=1)
    _, report = check(b.model(b.linear(b.norm(x, 6), 6, 3)), "fold_nonorm")
    assert report.passes[0].applied == 0


def test_a_vector_that_adds_an_axis_is_no_scale(build, check):
    b = build()
    y = b("Mul", b.linear(b.input("x", [4, 6]), 6, 6, gemm=True), b.normal(1, 1, 6))
    _, report = check(b.model(b.linear(y, 6, 3)), "fold_nonorm")
    assert report.passes[0].counts["norms_folded"] == 0


def test_a_scale_given_at_run_time_is_no_scale(build, check, ops):
    b = build()
    x, scale = b.input("x", [4, 6]), b.input("scale", [6])
    result, _ = check(b.model(b.linear(b("Mul", x, scale), 6, 3)), "fold_nonorm")
    assert ops(result, "Mul") == 1


def test_an_output_in_the_middle_of_the_stream_is_written_out(build, check, ops):
    b = build()
    x = stream(b, 2)
    y = b.norm(b("Add", b.linear(b("Relu", x), 6, 6), x), 6)
    result, _ = check(b.model(x, b("Tanh", x), b.linear(y, 6, 2)), "fold_nonorm")
    assert result.graph.output[0].name == x
    assert ops(result, "Mul") == 1


def test_two_streams_of_different_scale_are_joined_with_one_multiply(build, check):
    b = build()
    x, y = b("Relu", b.input("x", [4, 6])), b.input("y", [4, 6])
    total = b("Add", b.norm(x, 6), b.norm(b("Tanh", y), 6))
    result, report = check(b.model(b.linear(total, 6, 3)), "fold_nonorm")
    assert any("different scale" in refusal.reason for refusal in report.passes[0].refusals)
    assert [node.input[0] for node in result.graph.node if node.op_type == "Mul"] == [x]  # brought to the other's


@pytest.mark.parametrize(("read_again", "biases"), [(False, 0), (True, 1)])
def test_a_bias_before_a_residual_add_travels_to_the_readers(build, check, ops, read_again, biases):
    """So that the product may accumulate onto the stream; one that something else reads keeps it."""
    b = build()
    x = b("Relu", b.input("x", [4, 6]))
    product = b("Gemm", x, b.normal(6, 6), b.normal(6))
    total = b("Add", product, b("Tanh", b.input("y", [4, 6])))
    model = b.model(b.linear(b.norm(total, 6), 6, 3, gemm=True), *([b("Exp", product)] if read_again else []))
    result, _ = check(model, "fold_nonorm")
    first = next(node for node in result.graph.node if node.op_type == "Gemm")
    assert len([name for name in first.input[2:] if name]) == biases


@pytest.mark.parametrize("order", [1, -1])
def test_a_linear_is_brought_to_the_streams_scale_without_a_word(build, check, ops, order):
    b = build()
    x = b.norm(b("Relu", b.input("x", [4, 6])), 6)
    total = b("Add", *[x, b.linear(b("Tanh", b.input("y", [4, 6])), 6, 6, gemm=True)][::order])
    result, report = check(b.model(b.linear(total, 6, 3)), "fold_nonorm")
    assert (ops(result, "Mul"), report.passes[0].refusals) == (0, ())


def test_a_column_added_to_every_channel_is_no_residual(build, check):
    b = build()
    x, y = b.input("x", [4, 6]), b.input("y", [4, 6])
    total = b("Add", b.norm(b("Relu", x), 6), b.linear(y, 6, 1))
    _, report = check(b.model(b.linear(total, 6, 3)), "fold_nonorm")
    assert report.passes[0].applied == 0


def test_control_flow_is_left_alone(build):
    from onnx import TensorProto, helper

    b = build()
    x, flag = b.input("x", [4, 6]), b.input("flag", [], TensorProto.BOOL)
    y = b.norm(b.linear(x, 6, 6), 6)
    branches = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Tanh")):
        output = helper.make_tensor_value_info(name, 1, [4, 6])
        branches[name] = helper.make_graph([helper.make_node(op, [y], [name])], name, [], [output])
    result, report = passes.run(b.model(b("If", flag, **branches)), only=["fold_nonorm"])
    assert report.passes[0].refusals[0].reason.startswith("the graph has control flow")
    assert len(result.graph.node) == len(b.nodes)


class Grower:
    """Grows a random graph: each draw adds one operator to a pool of values of one size."""

    def __init__(self, b, draw, size, zeros):
        self.b, self.draw, self.size = b, draw, size
        self.shared = [b.normal(size, size, scale=0.4) for _ in range(2)]
        self.zeros = zeros

    def step(self, pool):
        b, size = self.b, self.size
        x = pool[self.draw(st.integers(max(0, len(pool) - 3), len(pool) - 1))]
        kind = self.draw(
            st.sampled_from(["linear", "gemm", "shared", "norm", "norm", "residual", "relu", "sub", "view"])
        )
        if kind == "linear":
            return b.linear(x, size, size, bias=self.draw(st.booleans()))
        if kind == "gemm":
            return b("Gemm", x, b.normal(size, size, scale=0.4), b.normal(size), transB=self.draw(st.integers(0, 1)))
        if kind == "shared":
            return b("MatMul", x, self.shared[self.draw(st.integers(0, 1))])
        if kind == "residual":
            return b("Add", x, pool[self.draw(st.integers(0, len(pool) - 1))])
        if kind == "norm":
            gamma = b.rng.uniform(0.3, 3, size) * b.rng.choice([-1, 1], size)
            if self.zeros and self.draw(st.booleans()):
                gamma[0] = 0
            return b("Add", b("Mul", b.const(gamma), x), b.normal(size))
        if kind == "sub":
            return b("Sub", b.normal(size), x)
        if kind == "view":
            return b("Squeeze", b("Reshape", x, b.const(np.array([4, 1, size]))), b.const(np.array([1])))
        return b("Relu", x)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.data())
def test_random_stacks_agree(build, check, data):
    size = 5
    b = build(data.draw(st.integers(0, 2**16)))
    grower = Grower(b, data.draw, size, zeros=data.draw(st.booleans()))
    pool = [b.input("x", [4, size])]
    for _ in range(data.draw(st.integers(3, 14))):
        pool.append(grower.step(pool))
    middle = data.draw(st.integers(1, len(pool) - 1))
    outputs = list(dict.fromkeys([pool[middle], pool[-1]]))
    model = b.model(*outputs)
    only = data.draw(
        st.sampled_from([("fold_nonorm",), ("fold_nonorm", "fuse_bottleneck_linears", "fuse_residual_add"), ()])
    )
    check(model, *only, bound=3e-5)


@pytest.mark.parametrize(("scale", "restarts"), [(2.0**19.9, 0), (2.0**20.1, 1), (2.0**-19.9, 0), (2.0**-20.1, 1)])
def test_scales_are_carried_up_to_two_to_the_twenty(build, check, scale, restarts):
    b = build()
    x = b("Mul", b("Relu", b.input("x", [4, 6])), b.const(np.full(6, scale)))
    _, report = check(b.model(b.linear(b("Add", x, b.normal(6)), 6, 3)), "fold_nonorm", bound=5e-5)
    assert report.passes[0].counts["restarts"] == restarts


def test_a_norm_that_divides_goes_into_the_linear(build, check, ops):
    b = build()
    scaled = b("Div", b.linear(b.input("x", [2, 8]), 8, 8), b.const(b.rng.uniform(0.5, 2.0, 8)))
    result, _ = check(b.model(b("Relu", b("Add", scaled, b.normal(8)))), "fold_nonorm")
    assert ops(result, "Div") == 0
