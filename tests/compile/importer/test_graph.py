"""What cannot be compiled is refused in one line that names it."""

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compile.errors import CompileError
from compile.importer.graph import file_tokens, import_model, input_shapes
from compile.linking import symbols
from compile.lowering.lower import lower
from compile.pipeline import BuildOptions, build_library
from compile.targets import Target
from passes.fix_shapes import fix_shapes
from passes.verify import open_session


def refused(model: onnx.ModelProto, *words: str, tokens: int = 8) -> None:
    with pytest.raises(CompileError) as caught:
        import_model(model, tokens)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_operator_that_tvm_does_not_know(graph: type) -> None:
    b = graph()
    x = b.input("x", [1, 8, 16])
    refused(b.model(b("StringNormalizer", b("DFT", x, name="spectrum"))), "DFT", "'spectrum'")


def test_operator_of_another_domain(graph: type) -> None:
    b = graph()
    y = b("FusedMatMul", b.input("x", [1, 8, 16]), b.normal(16, 16), domain="com.microsoft", name="product")
    refused(b.model(y), "com.microsoft::FusedMatMul", "'product'", "standard")


def test_subgraph(graph: type) -> None:
    b = graph()
    x = b.input("x", [1, 8, 16])
    branch = helper.make_graph(
        [helper.make_node("Identity", [x], ["y"])], "branch", [], [helper.make_tensor_value_info("y", 1, [1, 8, 16])]
    )
    condition = b.input("condition", [1, 1], TensorProto.BOOL)
    refused(b.model(b("If", condition, then_branch=branch, else_branch=branch, name="choice")), "If", "'choice'")


def test_another_sequence_length_than_exported(graph: type) -> None:
    b = graph()
    refused(b.model(b.linear(b.input("x", [1, 12, 16]), 16, 4)), "'x'", "12 tokens", "--seq-len 12")


def test_more_dimensions_than_a_tensor_has_in_the_library(graph: type) -> None:
    b = graph()
    refused(b.model(b("Neg", b.input("x", [1, 8, 2, 2, 2]))), "input 'x' has shape [1, 8, 2, 2, 2]", "at most 4")


def test_integers_without_bounds_are_not_clipped_to_floats(graph: type, agree: Callable) -> None:
    b = graph()
    agree(b.model(b("Clip", b.input("x", [1, 8], TensorProto.INT32))))


def test_the_greatest_of_nothing_but_infinities(graph: type, agree: Callable) -> None:
    b = graph()
    x = b.input("x", [1, 8, 4])
    least, most = (b("Add", x, b.const(np.full((1, 1, 4), value, np.float32))) for value in (-np.inf, np.inf))
    agree(b.model(b("ReduceMax", least, b.const([-1])), b("ReduceMin", most, b.const([-1]))))


def test_what_python_says_of_a_mistake_is_told_to_nobody(
    graph: type, host: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TVM trips over an operator that it has imported."""
    from tvm import relax

    def trip(*_: object, **__: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'args'")

    monkeypatch.setattr(relax.transform, "LegalizeOps", trip)
    b = graph()
    y = b("Cos", b.input("x", [1, 8, 4]))
    with pytest.raises(CompileError, match="cannot be lowered: TVM has no kernel for it") as refusal:
        lower(import_model(b.model(y), 8), 8, host.isa)
    assert "NoneType" not in str(refusal.value)


def test_an_input_that_is_no_tensor(graph: type) -> None:
    b = graph()
    b.inputs.append(helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, [1, 8]))
    refused(b.model(b("SequenceAt", "list", b.const(0))), "input 'list' is a sequence")


def test_a_file_says_its_own_length(graph: type) -> None:
    b = graph()
    fixed = b.model(b("Gather", b.normal(9, 4), b.input("ids", [1, 12], TensorProto.INT64)))
    b = graph()
    dynamic = b.model(b("Gather", b.normal(9, 4), b.input("ids", ["batch", "tokens"], TensorProto.INT64)))
    assert (file_tokens(fixed, 128), file_tokens(dynamic, 128)) == (12, 128)


def test_inputs_of_any_rank(graph: type, agree: Callable) -> None:
    b = graph()
    x = b("Add", b.input("x", [1, 8, 16]), b.input("s", []))
    agree(b.model(b("Add", x, b.input("v", [16])), b("Transpose", b.input("w", [3, 2, 1, 4]), perm=[1, 3, 0, 2])))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8])
def test_output_of_a_type_that_no_library_has(kind: int, graph: type) -> None:
    b = graph()
    refused(b.model(b("Cast", b.input("x", [1, 8, 16]), to=kind)), "output 'cast_0_0' has type")


def test_input_of_a_type_that_no_library_has(graph: type) -> None:
    b = graph()
    refused(b.model(b("Cast", b.input("x", [1, 8], TensorProto.UINT8), to=1)), "input 'x' has type uint8")


def test_empty_output(graph: type) -> None:
    b = graph()
    ends = (b.const(np.array([v])) for v in (3, 3, 1))
    refused(b.model(b("Slice", b.input("x", [1, 8, 16]), *ends)), "output 'slice_0_0' has shape [1, 0, 16]")


def test_shape_that_depends_on_values(graph: type) -> None:
    b = graph()
    refused(b.model(b("NonZero", b.input("x", [1, 8, 16]))), "nonzero")


def test_open_dimensions_become_batch_1_and_the_length(graph: type) -> None:
    b = graph()
    x = b.input("x", ["batch", "sequence", 16])
    model = b.model(b.linear(x, 16, 4))
    assert input_shapes(model, 40) == {"x": [1, 40, 16]}
    assert import_model(model, 40).outputs[0][1].shape == (1, 40, 4)


def test_initializers_that_are_listed_as_inputs_are_constants(graph: type) -> None:
    """Older exporters list every weight among the inputs."""
    b = graph()
    model = b.model(b.linear(b.input("x", [1, 8, 16]), 16, 4))
    for weight in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    assert [node.name for node in import_model(model, 8).inputs] == ["x"]


def test_constant_negative_index_counts_from_the_end(graph: type, agree: Callable) -> None:
    b = graph()
    y = b("Gather", b.normal(8, 16), b.const(np.array([-1, 0, -8, 3, 2, 1, -2, 7])))
    agree(b.model(b("Add", b.input("x", [1, 8, 16]), y)))


def test_computed_negative_index_counts_from_the_end(graph: type, agree: Callable) -> None:
    b = graph()
    ids = b("Cast", b("Clip", b.input("x", [1, 8]), b.const(-4.0), b.const(3.0)), to=TensorProto.INT64)
    agree(b.model(b("Gather", b.normal(4, 16), ids)))


def test_a_choice_that_looks_like_a_wrapped_index_is_a_choice(graph: type, agree: Callable) -> None:
    b = graph()
    ids = b("Cast", b.input("x", [1, 8]), to=TensorProto.INT64)
    below = b("Less", ids, b.const(np.array(0)))
    y = b("Where", below, b("Add", ids, b.const(np.array(7))), ids)
    agree(b.model(b("Cast", y, to=TensorProto.FLOAT)))


def test_importer_says_nothing_of_its_own(graph: type, capfd: pytest.CaptureFixture) -> None:
    """TVM prints from Python and from C++ what it then raises; one line is for the user, the rest for nobody."""
    b = graph()
    shape = b("Cast", b("ReduceMax", b.input("x", [1, 8, 16]), keepdims=0), to=TensorProto.INT64)
    shape = b("Reshape", shape, b.const(np.array([1])))
    model = b.model(b("Reshape", b.normal(8, 16), shape, name="culprit"))
    refused(model, "Reshape", "'culprit'")
    gc.collect()
    assert capfd.readouterr() == ("", "")


def transform(b, x: str) -> str:
    return b("DFT", b("Unsqueeze", x, b.const(np.array([-1]))), name="culprit")


def values_that_differ(b, x: str) -> str:
    return b("Unique", x, outputs=1, name="culprit")


def inverse(b, x: str) -> str:
    return b("Atan", x, name="culprit")


@pytest.mark.parametrize("operator", [transform, values_that_differ, inverse])
def test_whatever_stage_fails_the_node_is_named(
    operator: Callable, graph: type, host: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Operators that TVM cannot import or legalise, and one whose kernel calls what a system lacks, in a fine model."""
    monkeypatch.setattr(symbols, "LIBM", symbols.LIBM - {"atanf"})
    b = graph()
    y = b("Relu", b.linear(b.input("x", [1, 8, 16]), 16, 16))
    model = b.model(b("Tanh", operator(b, y)))
    with pytest.raises(CompileError, match=r"operator \w+ .*'culprit(#2)?'") as caught:
        build_library(model, "case", host, tmp_path / "artifact", BuildOptions(seq_len=8))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_open_axes_are_fixed_before_anything_is_computed_of_them(graph: type) -> None:
    b = graph()
    x = b.input("x", ["batch", "tokens", 16])
    lead = b("Slice", b("Shape", x), b.const(np.array([0])), b.const(np.array([2])))
    model = b.model(b("Reshape", x, b("Concat", lead, b.const(np.array([4, 4])), axis=0)))
    fixed = fix_shapes(model, input_shapes(model, 8))
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    shapes = [
        [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*inferred.graph.input, *inferred.graph.output)
    ]
    assert shapes == [[1, 8, 16], [1, 8, 4, 4]]
    assert model.graph.input[0].type.tensor_type.shape.dim[1].dim_param == "tokens"
    assert fix_shapes(fixed, input_shapes(fixed, 8)) is fixed


@pytest.mark.parametrize("bounds", [(-0.5, 0.5), (0.0, None), (None, 1.0), (1.0, -1.0)])
def test_clip_keeps_what_is_not_a_number(graph: type, agree: Callable, bounds: tuple) -> None:
    import compile

    b = graph()
    x = b.input("x", [1, 8, 16])
    limits = [b.const(np.float32(bound)) if bound is not None else "" for bound in bounds]
    model = b.model(b("Clip", x, *limits))
    values = np.linspace(-2, 2, 128, dtype=np.float32).reshape(1, 8, 16)
    values[0, 3, 5], values[0, 4, 0], values[0, 4, 1] = np.nan, np.inf, -np.inf
    want = open_session(model).run(None, {"x": values})[0]
    with compile.load(agree(model)) as library:
        (got,) = library.run({"x": values}).values()
    assert np.array_equal(got, want, equal_nan=True)


EXTREMES = np.array([[[np.nan, np.inf, -np.inf, 0.5], [-np.inf] * 4, [np.inf, 1e38, -1e38, 2.0]]], np.float32)


@pytest.mark.parametrize(
    "operators",
    [
        ("Sign", "ThresholdedRelu", "HardSigmoid", "HardSwish"),
        ("Clip", "ArgMax", "ArgMin", "ReduceLogSumExp"),
    ],
)
def test_infinities_and_what_is_not_a_number(operators: tuple[str, ...], graph: type, agree: Callable) -> None:
    """As ONNX Runtime has it; the graph makes them of its input, as random samples have none."""
    b = graph()
    x = b("Mul", b("Exp", b("Mul", b.input("x", [1, 3, 4]), b.const(0.0))), b.const(EXTREMES))
    without_nan = b("Where", b("IsNaN", x), b.const(0.0), x)  # the first or last of others and NaN is not defined
    outputs = []
    for op in operators:
        operands = {"Clip": (x, b.const(-1.0)), "ReduceLogSumExp": (without_nan, b.const(np.array([-1])))}
        operands |= {"ArgMax": (without_nan,), "ArgMin": (without_nan,)}
        attributes = {"keepdims": 0, "axis": -1} if op.startswith("Arg") else {}
        outputs.append(b("Cast", b(op, *operands.get(op, (x,)), **attributes), to=TensorProto.FLOAT))
    agree(b.model(*outputs), tokens=3)


@pytest.mark.parametrize("repeats", [(1, 6, 4, 2), (7, 6, 4, 2), (1, 1, 16, 1), (3, 1, 1, 8)])
def test_repeats_come_round(repeats: tuple[int, ...], graph: type, agree: Callable) -> None:
    """The loop vectoriser of LLVM 22 took the remainder by a power of two for the number itself."""
    b = graph()
    agree(b.model(b("Tile", b.input("x", [1, 3, 4, 5]), b.const(np.array(repeats)))), tokens=3)


def test_operators_that_tvm_has_no_kernel_for(graph: type, agree: Callable) -> None:
    b = graph()
    x = b.input("x", [1, 3, 4])
    wide = b("Mul", x, b.const(np.exp(np.linspace(-9, 3, 12)).reshape(3, 4).astype(np.float32)))
    outputs = [b("Asinh", wide), b("Acosh", b("Add", b("Abs", wide), b.const(1.0)))]
    whole = b("Cast", b("Round", b("Mul", x, b.const(3.0))), to=TensorProto.INT64)
    exponents = b.const(np.array([0, 1, 2, 3]))
    outputs += [b("Pow", b("Abs", x), exponents), b("Pow", b("Abs", whole), b.const(0.5)), b("Pow", whole, exponents)]
    for shape in ([12], [3, 4], [4, 3]):
        flat = b("Reshape", x, b.const(np.array(shape)))
        for flags in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
            outputs.append(b("CumSum", flat, b.const(np.array(0)), **flags))
    agree(b.model(*outputs), tokens=3)


def test_infinities_of_one_sign_and_infinite_divisors(graph: type, agree: Callable) -> None:
    b = graph(opset=28)
    zero = b("Mul", b("Exp", b.input("x", [1, 3, 4])), b.const(0.0))
    x, y = b("Add", zero, b.const(EXTREMES)), b("Add", zero, b.const(EXTREMES[:, ::-1, ::-1].copy()))
    flags = [{"detect_positive": p, "detect_negative": n} for p in (0, 1) for n in (0, 1)]
    found = [b("Cast", b("IsInf", x, **each), to=TensorProto.FLOAT) for each in flags]
    agree(b.model(*found, *(b("Mod", x, y, fmod=c) for c in (0, 1)), b("Mod", x, b.const(-0.3))), tokens=3)


@pytest.mark.parametrize(
    ("operator", "word"),
    [
        (lambda b, x: b("LayerNormalization", x, b.normal(16), outputs=2, name="culprit")[1], "mean"),
        (lambda b, x: b("Resize", x, "", b.normal(3), mode="linear", antialias=1, name="culprit"), "antialias"),
        (lambda b, x: b("Resize", x, "", b.const(np.float32([1, 0.7, 1])), mode="linear", name="culprit"), "rounding"),
        (lambda b, x: b("Dropout", x, b.const(0.5), b.const(np.array(True)), name="culprit"), "training"),
    ],
)
def test_operator_that_tvm_gets_wrong(operator: Callable, word: str, graph: type) -> None:
    b = graph()
    refused(b.model(operator(b, b.input("x", [1, 8, 16]))), "'culprit'", word)


def test_dropout_that_is_out_of_training_is_taken(graph: type) -> None:
    b = graph()
    y, _ = b("Dropout", b.input("x", [1, 8, 16]), b.const(0.5), outputs=2)
    assert import_model(b.model(y), 8).outputs[0][1].shape == (1, 8, 16)


def test_an_open_dimension_that_is_not_the_tokens_is_asked_for(graph: type) -> None:
    b = graph()
    ids = b.input("input_ids", ["batch", "tokens"], TensorProto.INT64)
    boxes = b.input("boxes", ["batch", "tokens", "corners"])
    model = b.model(b("Add", b("Gather", b.normal(9, 4), ids), boxes))
    with pytest.raises(CompileError, match=r"'corners' of input 'boxes' is open.*--fix-shape boxes=1,8,N"):
        input_shapes(model, 8)
    assert input_shapes(fix_shapes(model, {"boxes": [1, 8, 4]}), 8) == {"input_ids": [1, 8], "boxes": [1, 8, 4]}
