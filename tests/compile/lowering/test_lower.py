"""Which kernels a graph becomes, in the spellings that exporters use; and that the result is ONNX Runtime's."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import compile
import passes
from compile.errors import CompileError
from compile.program import Rows


def gelu_with_erf(b, x: str, spelling: str) -> str:
    half, one, root = (b.const(np.float32(v)) for v in (0.5, 1.0, 2.0**0.5))
    if spelling == "½((1+erf)x), √½x":
        gate = b("Add", one, b("Erf", b("Mul", b.const(np.float32(0.5**0.5)), x)))
        return b("Mul", half, b("Mul", gate, x))
    gate = b("Add", b("Erf", b("Div", x, root)), one)
    if spelling == "x(1+erf)/2":
        return b("Mul", b("Mul", x, gate), half)
    if spelling == "(x/2)(1+erf)":
        return b("Mul", b("Mul", x, half), gate)
    return b("Mul", x, b("Mul", gate, half))


@pytest.mark.parametrize("spelling", ["x(1+erf)/2", "(x/2)(1+erf)", "x((1+erf)/2)", "½((1+erf)x), √½x"])
def test_gelu_spelt_out_with_erf_is_part_of_the_linear(
    spelling: str, graph: type, lowered: Callable, families: Callable, agree: Callable
) -> None:
    b = graph()
    y = gelu_with_erf(b, b.linear(b.input("x", [1, 8, 24]), 24, 40), spelling)
    model = b.model(b.linear(y, 40, 24))
    program = lowered(model)
    assert families(program) == ["Linear", "Linear"]
    assert program.calls[0].kernel.steps == ("gelu",)
    agree(model)


def test_gelu_operator_and_its_approximation(graph: type, lowered: Callable, families: Callable) -> None:
    b = graph()
    y = b("Gelu", b.linear(b.input("x", [1, 8, 24]), 24, 24))
    z = b("Gelu", b.linear(y, 24, 24), approximate="tanh")
    program = lowered(b.model(z))
    assert [call.kernel.steps for call in program.calls] == [("gelu",), ("gelu_tanh",)]


@pytest.mark.parametrize("operands", [("x", 1.5), (0.5**0.5, "x")], ids=["another number", "upside down"])
def test_almost_a_gelu_is_not_one(operands: tuple, graph: type, lowered: Callable, agree: Callable) -> None:
    b = graph()
    x = b.linear(b.input("x", [1, 8, 24]), 24, 24)
    inner = b("Div", *(x if operand == "x" else b.const(np.float32(operand)) for operand in operands))
    gate = b("Add", b("Erf", inner), b.const(np.float32(1.0)))
    model = b.model(b("Mul", b("Mul", x, gate), b.const(np.float32(0.5))))
    assert not any("gelu" in call.kernel.name for call in lowered(model).calls)
    agree(model)


@pytest.mark.parametrize("scale", ["scores", "q", "k", "both"])
@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no mask"])
def test_scale_of_attention_wherever_it_is(
    scale: str, masked: bool, graph: type, lowered: Callable, families: Callable
) -> None:
    b = graph()
    x = b.input("x", [1, 8, 32])
    mask = b.input("mask", [1, 1, 1, 8]) if masked else None
    program = lowered(b.model(b.attention(x, 8, 4, 8, mask, scale)))
    assert families(program) == ["Linear"] * 3 + ["Attention"]
    assert program.calls[-1].kernel.scale == pytest.approx(8**-0.5)
    assert program.calls[-1].kernel.has_mask == masked


def test_keys_in_two_transposes_are_an_attention_with_passes_and_without(
    graph: type, lowered: Callable, families: Callable
) -> None:
    b = graph()
    y = b.attention(b.input("x", [1, 8, 32]), 8, 4, 8, b.input("mask", [1, 1, 1, 8]))
    keys = next(node for node in b.nodes if list(node.attribute[0].ints if node.attribute else ()) == [0, 2, 3, 1])
    keys.attribute[0].ints[:] = [0, 2, 1, 3]
    turned = onnx.helper.make_node("Transpose", keys.output, ["keys"], name="turned", perm=[0, 1, 3, 2])
    product = next(node for node in b.nodes if node.op_type == "MatMul" and keys.output[0] in node.input)
    product.input[1] = "keys"
    b.nodes.insert(b.nodes.index(product), turned)
    model = b.model(y)
    assert "Attention" in families(lowered(model))
    assert "Attention" in families(lowered(passes.run(model, options=passes.Options(attention="matmuls"))[0]))


@pytest.mark.parametrize(("heads", "size"), [(3, 26), (1, 5), (4, 32)])
def test_attention_of_odd_sizes_computes_what_onnx_runtime_does(
    heads: int, size: int, graph: type, agree: Callable
) -> None:
    b, width = graph(), heads * size
    x, mask = b.input("x", [1, 11, width]), b.input("mask", [1, 1, 11, 11])
    y = b.attention(b.linear(x, width, width), 11, heads, size, mask, "both")
    agree(b.model(b("Add", b.linear(y, width, width), x), y), tokens=11)


def test_mask_of_every_head_as_an_input(graph: type, lowered: Callable, families: Callable, agree: Callable) -> None:
    """Of a shorter sequence it would lie otherwise: the compiled length alone."""
    b = graph()
    x = b("Gather", b.normal(30, 32), b.input("ids", [1, 8], TensorProto.INT64))
    model = b.model(b.attention(x, 8, 4, 8, b.input("mask", [1, 4, 8, 8])))
    program = lowered(model)
    assert families(program)[-1] == "Attention"
    assert not program.elastic
    agree(model)


def test_parts_of_a_split_are_views(graph: type, lowered: Callable, families: Callable, agree: Callable) -> None:
    b = graph()
    wide = b.linear(b.input("x", [1, 8, 16]), 16, 60)
    one, two, three = b("Split", wide, b.const(np.array([30, 10, 20])), outputs=3, axis=2)
    model = b.model(b.linear(one, 30, 16), b.linear(two, 10, 16), b.linear(three, 20, 16))
    program = lowered(model)
    assert families(program) == ["Linear"] * 4
    views = [call.arguments[0].view for call in program.calls[1:]]
    assert {(v.offset, v.columns, v.stride) for v in views} == {(0, 30, 60), (30, 10, 60), (40, 20, 60)}
    agree(model)


@pytest.mark.parametrize("row", [0, 3, -1])
def test_one_row_is_a_view(row: int, graph: type, lowered: Callable, families: Callable, agree: Callable) -> None:
    b = graph()
    y = b.linear(b.input("x", [1, 8, 16]), 16, 24)
    first = b("Gather", y, b.const(np.array(row)), axis=1)
    model = b.model(y, b("Tanh", b.linear(first, 24, 24)))
    program = lowered(model)
    assert families(program) == ["Linear", "Linear"]
    view = program.calls[1].arguments[0].view
    assert (view.rows, view.columns, view.offset) == (1, 24, 24 * (row % 8))
    agree(model)


def test_columns_by_slice_are_a_view(graph: type, lowered: Callable, families: Callable, agree: Callable) -> None:
    b = graph()
    y = b.linear(b.input("x", [1, 8, 16]), 16, 24)
    bounds = [b.const(np.array([v])) for v in (5, -3, 2)]
    model = b.model(b.linear(b("Slice", y, *bounds), 16, 8))
    assert families(lowered(model)) == ["Linear", "Linear"]
    agree(model)


@pytest.mark.parametrize("axis", [1, 2], ids=["tokens", "columns"])
def test_slice_takes_the_entries_that_it_says(axis: int, graph: type, agree: Callable) -> None:
    """With a step they do not lie side by side."""
    b = graph()
    wide = b.linear(b.input("x", [1, 8, 16]), 16, 8)
    outputs = [wide]
    for begin, end, step in ((0, 8, 2), (1, 8, 3), (7, -20, -1), (6, 0, -2), (2, 6, 1)):
        part = b("Slice", wide, *(b.const(np.array([v])) for v in (begin, end, axis, step)))
        count = len(range(8)[slice(begin, end if end >= -8 else None, step)])
        outputs.append(b.linear(part, 8 if axis == 1 else count, 4))
    agree(b.model(*outputs))


def test_slice_along_two_axes(graph: type, agree: Callable) -> None:
    b = graph()
    wide = b.linear(b.input("x", [1, 8, 16]), 16, 8)
    part = b("Slice", wide, *(b.const(np.array(v)) for v in ([1, 2], [7, 6], [1, 2])))
    agree(b.model(b.linear(part, 4, 4)))


def test_entries_by_constant_index(graph: type, agree: Callable) -> None:
    """One is part of the tensor where it is, several are not."""
    b = graph()
    wide = b.linear(b.input("x", [1, 8, 16]), 16, 8)
    places = [(0, [-1]), (0, [0, 0]), (1, [5]), (1, [5, 1, -1]), (2, [5]), (2, [5, 1, -1])]
    agree(b.model(*(b("Tanh", b("Gather", wide, b.const(np.array(p)), axis=axis)) for axis, p in places)))


def test_part_that_an_operator_wants_whole_is_copied(graph: type, lowered: Callable, agree: Callable) -> None:
    b = graph()
    parts = b("Split", b.linear(b.input("x", [1, 8, 16]), 16, 40), b.const(np.array([30, 10])), outputs=2, axis=2)
    heads = b("Reshape", parts[0], b.const(np.array([1, 8, 5, 6])))
    rows = b("Reshape", parts[0], b.const(np.array([1, 16, 15])))
    agree(b.model(b("Softmax", parts[0], axis=1), b("ReduceMax", heads, b.const(np.array([2]))), b.linear(rows, 15, 4)))


def test_no_norm_after_a_residual_is_part_of_the_linear(graph: type, lowered: Callable, families: Callable) -> None:
    b = graph()
    x = b.input("x", [1, 8, 16])
    y = b("Add", b.linear(b("Relu", b.linear(x, 16, 32)), 32, 16), x)
    program = lowered(b.model(b("Add", b("Mul", y, b.normal(16)), b.normal(16))))
    assert [call.kernel.steps for call in program.calls] == [("relu",), ("add", "mul_vector", "add_vector")]


def test_what_two_operators_read_is_kept(graph: type, lowered: Callable, agree: Callable) -> None:
    """A linear that the residual and the next linear both read cannot swallow either."""
    b = graph()
    y = b.linear(b.input("x", [1, 8, 16]), 16, 16)
    model = b.model(b("Add", b("Relu", y), b("Tanh", b.linear(y, 16, 16))))
    assert lowered(model).calls[0].kernel.steps == ()
    agree(model)


def test_one_output_inside_anothers_chain(graph: type, agree: Callable) -> None:
    b = graph()
    y = b.linear(b.input("x", [1, 8, 16]), 16, 16)
    z = b("Relu", y)
    agree(b.model(z, y, b("Reshape", z, b.const(np.array([8, 16])))))


def test_output_that_is_the_only_row_of_another(graph: type, agree: Callable) -> None:
    b = graph()
    y = b.linear(b.input("x", [1, 1, 16]), 16, 16)
    agree(b.model(y, b("Gather", y, b.const(np.array(0)), axis=1)), tokens=1)


def test_output_that_is_an_input(graph: type, agree: Callable) -> None:
    b = graph()
    x = b.input("x", [1, 8, 16])
    agree(b.model(b("Identity", x), b.linear(x, 16, 4)))


def test_operators_without_a_kernel_of_ours_are_listed(graph: type, lowered: Callable, agree: Callable) -> None:
    b = graph()
    x = b.input("x", [1, 8, 30])
    y = b("Softmax", b("Sin", b.linear(x, 30, 30)), axis=1)
    y = b("Where", b("Greater", y, b.const(np.float32(0.1))), y, b("Neg", y))
    y = b("ReduceMean", b("Pow", y, b.const(np.float32(2.0))), b.const(np.array([2])), keepdims=1)
    model = b.model(b("Concat", y, b("Exp", y), axis=2))
    listed = {operator for operator, why in lowered(model).generic if why}
    assert {"sin", "nn.softmax", "where", "concat"} <= listed
    agree(model)


def test_ids_have_the_range_of_the_smallest_table(graph: type, lowered: Callable, agree: Callable) -> None:
    b = graph()
    ids = b.input("ids", [1, 8], TensorProto.INT64)
    model = b.model(b("Add", b("Gather", b.normal(50, 16), ids), b("Gather", b.normal(30, 16), ids)))
    program = lowered(model)
    assert (program.ranges["ids"].low, program.ranges["ids"].high) == (0, 30)
    agree(model)


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
@pytest.mark.parametrize("shape", [(30, 16), (30, 4, 4)], ids=["rows", "matrices"])
def test_ids_outside_their_table_are_refused_whatever_their_type(
    kind: int, shape: tuple, graph: type, agree: Callable
) -> None:
    b = graph()
    ids = b("Cast", b.input("ids", [1, 8], kind), to=TensorProto.INT64)
    with compile.load(agree(b.model(b("Gather", b.normal(*shape), ids)))) as library:
        for wrong in (-1, 30, 2**31 - 1):
            given = np.zeros((1, 8), np.int64)
            given[0, 5] = wrong
            with pytest.raises(CompileError, match="outside its table"):
                library.run({"ids": given})


def test_computed_ids_stay_inside_their_table(graph: type, agree: Callable) -> None:
    b = graph()
    ids = b("Cast", b("Clip", b.input("x", [1, 8]), b.const(0.0), b.const(3.0)), to=TensorProto.INT64)
    agree(b.model(b("Gather", b.normal(4, 16), ids)))


def test_every_row_argument_fits_its_value(exported: Callable, lowered: Callable) -> None:
    """No view reaches outside the tensor that it shows."""
    for call in lowered(onnx.load(exported("mobilebert")), 128).calls:
        for argument in call.arguments:
            if isinstance(argument, Rows):
                view = argument.view
                assert view.offset + (view.rows - 1) * view.stride + view.columns <= view.value.size


def test_uneven_split(graph: type, agree: Callable) -> None:
    """7 columns in 2 parts: 4 and 3."""
    b = graph()
    agree(b.model(*b("Split", b.linear(b.input("x", [1, 8, 16]), 16, 7), axis=2, num_outputs=2, outputs=2)))


def test_slice_that_begins_before_the_first_column(graph: type, agree: Callable) -> None:
    b = graph()
    ends = (b.const(np.array([v])) for v in (-20, 5, 2))
    agree(b.model(b("Slice", b.linear(b.input("x", [1, 8, 16]), 16, 7), *ends)))


def test_empty_part_of_a_graph_is_refused(graph: type, lowered: Callable) -> None:
    b = graph()
    x = b("Relu", b.input("x", [1, 8, 16]))
    ends = (b.const(np.array([v])) for v in (3, 3, 1))
    with pytest.raises(CompileError, match=r"has shape \[1, 0, 16\]"):
        lowered(b.model(b("Concat", b("Slice", x, *ends), x, axis=1)))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("first", [False, True], ids=["x, vector", "vector, x"])
def test_a_vector_on_either_side_of_an_operator(
    op: str, first: bool, graph: type, lowered: Callable, agree: Callable
) -> None:
    b = graph()
    vector = b.const(np.linspace(0.5, 2, 16, dtype=np.float32))
    x = b("Relu", b.linear(b.input("x", [1, 8, 16]), 16, 16))
    y = b("Add", b("Sigmoid", x), x)
    model = b.model(b(op, vector, y) if first else b(op, y, vector))
    assert bool(lowered(model).generic) == (op == "Div" and first)
    agree(model)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_lookup_along_either_axis_of_a_table(axis: int, graph: type, agree: Callable) -> None:
    b = graph()
    ids = b.input("ids", [1, 8], TensorProto.INT64)
    agree(b.model(b("Relu", b("Gather", b.normal(8, 8), ids, axis=axis))))


@pytest.mark.parametrize(
    ("divisor", "exact"), [(1e-39, False), (3e38, False), (0.0, True), (np.inf, True), (7.0, True)]
)
def test_a_divisor_without_an_inverse_in_float32_divides(
    divisor: float, exact: bool, graph: type, lowered: Callable, agree: Callable
) -> None:
    b = graph()
    vector = np.ones(16, np.float32)
    vector[5] = divisor
    x = b("Sigmoid", b.input("x", [1, 8, 16]))
    model = b.model(b("Mul", b("Div", x, b.const(vector)), b.const(np.float32(1e-3))))
    assert bool(lowered(model).generic) != exact
    agree(model)


LOWEST = float(np.finfo(np.float32).min)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(
    ("chosen", "other", "steps"),
    [
        (0.0, -np.inf, ("log_is_nonzero",)),
        (-np.inf, 0.0, ("log_is_zero",)),
        (0.0, LOWEST, ("is_nonzero", "mul_vector", "add_vector")),
        (1.0, 0.0, ("is_nonzero", "mul_vector")),
        (0.1, 1e30, ("is_zero", "mul_vector", "add_vector")),  # 1e30 + (0.1 − 1e30) is 0
        (np.inf, 1.0, None),
        (np.nan, 0.0, None),
    ],
)
def test_a_choice_by_an_integer_mask_is_an_epilogue_where_that_is_exact(
    chosen: float, other: float, steps: tuple[str, ...] | None, inverted: bool, graph: type, lowered: Callable,
    agree: Callable,
) -> None:  # fmt: skip
    b = graph()
    test = b("Unsqueeze", b("Cast", b.input("mask", [1, 8], TensorProto.INT64), to=9), b.const(np.array([1, 2])))
    test = b("Not", test) if inverted else test
    mask = b("Where", test, b.const(np.float32(chosen)), b.const(np.float32(other)))
    model = b.model(b("Add", b.attention(b.input("x", [1, 8, 16]), 8, 2, 8, mask), b.const(np.float32(0.0))))
    program = lowered(model)
    found = [call.kernel.steps for call in program.calls if call.kernel.family == "map"]
    if steps is None:
        assert not any("zero" in step for found_steps in found for step in found_steps)
    else:
        assert inverted or found[:1] == [steps]
        assert found[0][0].endswith(("is_nonzero", "is_zero"))
        assert not program.generic
    agree(model)
