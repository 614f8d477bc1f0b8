"""spell_integers: quantised operators of ONNX Runtime's, as its own kernels compute them."""

import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

import passes
from passes.fix_shapes import fix_shapes
from passes.inputs import random_inputs
from passes.verify import compare, run_model

T, H, HEADS = 5, 8, 2
MS = "com.microsoft"
STEP = 1 / 100  # the scale of outputs in integers


def integers(*shape, low=0, high=255, kind=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape).astype(kind)


def scale(*values):
    return np.array(values[0] if len(values) == 1 else values, np.float32)


def zero(value=0, kind=np.uint8):
    return np.array(value, kind)


def table(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


def model_of(op, inputs, domain, kind, **attributes):
    """One node; its first input is given at run time where it is a float or an integer tensor, all others constants."""
    names, given, constants = [], [], []
    for number, value in enumerate(inputs):
        names.append("" if value is None else f"x{number}")
        if number == 0:
            given.append(helper.make_tensor_value_info("x0", helper.np_dtype_to_tensor_dtype(value.dtype), value.shape))
        elif value is not None:
            constants.append(numpy_helper.from_array(value, f"x{number}"))
    node = helper.make_node(op, names, ["y"], "fused", domain=domain, **attributes)
    graph = helper.make_graph([node], "g", given, [helper.make_tensor_value_info("y", kind, None)], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


X, WEIGHT = integers(T, H), integers(H, 6, low=-127, high=127, kind=np.int8)
Y = (scale(STEP), zero(128))
U8, F32 = TensorProto.UINT8, TensorProto.FLOAT
PAIR = [X, scale(0.02), zero(100), integers(T, H, seed=1), scale(0.01), zero(7)]
CASES = {
    "QLinearMatMul": ([X, scale(0.02), zero(100), WEIGHT, scale(0.005), zero(0, np.int8), *Y], "", U8, {}),
    "QLinearMatMul by columns": ([X, scale(0.02), zero(100), WEIGHT, scale(*np.linspace(0.001, 0.006, 6)),
                                  np.zeros(6, np.int8), *Y], "", U8, {}),
    "QLinearAdd": ([*PAIR, *Y], MS, U8, {}),
    "QLinearMul": ([*PAIR, *Y], MS, U8, {}),
    "QLinearSigmoid": ([X, scale(0.02), zero(100), scale(1 / 256), zero(0)], MS, U8, {}),
    "QLinearLeakyRelu": ([X, scale(0.02), zero(100), *Y], MS, U8, {"alpha": 0.3}),
    "QLinearSoftmax": ([X, scale(0.02), zero(100), scale(1 / 256), zero(0)], MS, U8, {"axis": -1, "opset": 17}),
    "QGemm": ([X, scale(0.02), zero(100), WEIGHT.T.copy(), scale(0.005), zero(0, np.int8),
               integers(6, low=-4000, high=4000, kind=np.int32), *Y], MS, U8, {"transB": 1}),
    "QGemm in floats": ([X, scale(0.02), zero(100), WEIGHT, scale(0.005), zero(0, np.int8)], MS, F32, {}),
    "MatMulIntegerToFloat": ([X, WEIGHT, scale(0.02), scale(0.005), zero(100), zero(0, np.int8), table(6)], MS, F32,
                             {}),
    "QAttention": ([integers(1, T, H), integers(H, 3 * H, low=-127, high=127, kind=np.int8), table(3 * H), scale(0.02),
                    scale(0.005), np.array([4], np.int32), zero(100), zero(0, np.int8)], MS, F32, {"num_heads": HEADS}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_operator(name):
    inputs, domain, kind, attributes = CASES[name]
    model = model_of(name.split()[0], inputs, domain, kind, **attributes)
    spelt, report = passes.run(model, only=["spell_fused"])
    assert report.passes[0].applied == 1
    assert not {node.domain for node in spelt.graph.node} - {""}
    feeds = [{"x0": inputs[0]}]
    (wanted,), (got,) = run_model(model, feeds), run_model(spelt, feeds)
    if kind == F32:
        assert compare([wanted], [got]) < 1e-6
    else:  # one step where a sum is almost a tie
        difference = np.abs(wanted["y"].astype(int) - got["y"].astype(int))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.1


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("rows", [64, 72])
def test_weights_of_few_bits_in_blocks(rows, symmetric, bits):
    w = table(rows, 6)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    x, y = (helper.make_tensor_value_info(name, F32, shape) for name, shape in (("x", [1, T, rows]), ("y", None)))
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(w, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    quantizer = MatMulNBitsQuantizer(model, block_size=32, is_symmetric=symmetric, bits=bits)
    quantizer.process()
    model = quantizer.model.model
    assert [node.op_type for node in model.graph.node] == ["MatMulNBits"]
    spelt, _ = passes.run(model, only=["spell_fused"])
    assert [node.op_type for node in spelt.graph.node] == ["MatMul"]
    feeds = [{"x": table(1, T, rows, seed=3)}]
    assert compare(run_model(model, feeds), run_model(spelt, feeds)) < 1e-6


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("offsets", [True, False])
@pytest.mark.parametrize("columns", [64, 72])
def test_a_table_of_few_bits_in_blocks(columns, offsets, bits):
    """Rows of 72 end within a block, and of 4 bits their zero points within a byte."""
    blocks, lookup = -(-columns // 32), np.array([[3, 0, 8, 3]])
    stored = integers(9, columns * bits // 8)
    zeros = [integers(9, -(-blocks * bits // 8), seed=1)] if offsets else []
    model = model_of("GatherBlockQuantized", [stored, lookup, np.abs(table(9, blocks)), *zeros], MS, F32,
                     bits=bits, block_size=32, gather_axis=0, quantize_axis=1)  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(stored, "x0"))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x1", TensorProto.INT64, lookup.shape))
    del model.graph.initializer[0]
    spelt, report = passes.run(model, only=["spell_fused"])
    assert report.passes[0].applied == 1
    assert [node.op_type for node in spelt.graph.node] == ["Gather"]
    feeds = [{"x1": lookup}]
    assert compare(run_model(model, feeds), run_model(spelt, feeds)) < 1e-6


@pytest.mark.parametrize(("attributes", "reason"), [
    ({"gather_axis": 1}, "no matrix of bytes, or not read by rows"),
    ({"quantize_axis": 0}, "blocks are not along the rows"),
])  # fmt: skip
def test_tables_in_blocks_that_stay(attributes, reason):
    model = model_of("GatherBlockQuantized", [integers(9, 32), np.array([3]), np.abs(table(9, 2))], MS, F32,
                     bits=4, block_size=32, **attributes)  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(integers(9, 32), "x0"))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x1", TensorProto.INT64, [1]))
    del model.graph.initializer[0]
    _, report = passes.run(model, only=["spell_fused"], verify=False)
    assert reason in report.passes[0].refusals[0].reason


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """BERT of two layers by torch's older exporter, with open axes, as tutorials have it."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("bert") / "bert.onnx"
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=60, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                                     intermediate_size=128, attn_implementation="eager")  # fmt: skip
    model = transformers.BertModel(config, add_pooling_layer=False).eval()

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.model(input_ids, attention_mask, token_type_ids).last_hidden_state

    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "batch", 1: "tokens"} for name in [*names, "hidden"]}
    ids = torch.ones(2, 16, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Hidden(), (ids, ids, ids), path, input_names=names, output_names=["hidden"],
                          dynamic_axes=axes, opset_version=14, dynamo=False)  # fmt: skip
    return path


@pytest.fixture(scope="module")
def fused(plain, tmp_path_factory):
    """As onnxruntime's optimiser for transformers leaves it, at the exporter's opset."""
    from onnxruntime.transformers.optimizer import optimize_model

    path = tmp_path_factory.mktemp("fused") / "fused.onnx"
    optimize_model(str(plain), "bert", 4, 64).save_model_to_file(str(path))
    model = onnx.load(path)
    assert {"Attention", "EmbedLayerNormalization"} <= {node.op_type for node in model.graph.node}
    return path


def fixed(path):
    model = onnx.load(path)
    return fix_shapes(model, {value.name: [1, 16] for value in model.graph.input})


class Samples(CalibrationDataReader):
    def __init__(self, model):
        whole = {"attention_mask": np.ones((1, 16), np.int64)}  # the lowest float would be a scale of 10³⁶
        self.feeds = iter([random_inputs(model, seed) | whole for seed in range(3)])

    def get_next(self):
        return next(self.feeds, None)


def test_dynamic_quantisation_of_a_fused_encoder(fused, tmp_path):
    """QAttention, QEmbedLayerNormalization and MatMulInteger: int8 linears, right within what rounding gives."""
    quantize_dynamic(fused, tmp_path / "q.onnx", extra_options={"DefaultTensorType": F32})
    model = fixed(tmp_path / "q.onnx")
    assert "QAttention" in {node.op_type for node in model.graph.node}
    spelt, report = passes.run(model, options=passes.Options(attention="matmuls"))
    assert not {node.domain for node in spelt.graph.node} - {""}
    assert not {node.op_type for node in spelt.graph.node} & {"MatMulInteger", "DynamicQuantizeLinear"}
    assert any(node.op_type == "DequantizeLinear" for node in spelt.graph.node)
    assert report.error < 1e-2


def test_static_quantisation_with_integer_operators(plain, tmp_path):
    """QuantFormat.QOperator: integers all the way become int8 linears between floats."""
    quantize_static(plain, tmp_path / "q.onnx", Samples(fixed(plain)), quant_format=QuantFormat.QOperator,
                    extra_options={"DefaultTensorType": F32})  # fmt: skip
    model = fixed(tmp_path / "q.onnx")
    assert "QLinearMatMul" in {node.op_type for node in model.graph.node}
    spelt, _ = passes.run(model, options=passes.Options(attention="matmuls"))
    ops = [node.op_type for node in spelt.graph.node]
    assert not [op for op in ops if op.startswith("QLinear")]
    readers = {name: node for node in spelt.graph.node for name in node.input}
    rounded = [
        readers[readers[node.output[0]].output[0]] for node in spelt.graph.node if node.op_type == "QuantizeLinear"
    ]
    assert rounded
    assert {node.op_type for node in rounded} <= {"Gemm", "MatMul"}  # all else is computed in floats


def test_float16_of_a_fused_encoder(fused, tmp_path):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(fixed(fused), keep_io_types=True)
    spelt, report = passes.run(model, options=passes.Options(attention="matmuls"))
    assert not {node.domain for node in spelt.graph.node} - {""}
    assert 0 < report.passes[0].error < 1e-2
    assert report.error < 1e-5
