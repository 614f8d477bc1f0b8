"""spell_fused: ONNX Runtime's fused operators, as its own kernels compute them."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import passes
from passes.verify import compare, run_model

B, T, H, HEADS = 1, 6, 8, 2
RNG = np.random.default_rng(0)


def table(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.5, shape).astype(np.float32)


def model_of(op, inputs, outputs=("y",), **attributes):
    """One fused node; `inputs`: a shape for an input x0 …, an array for a constant, "" for none."""
    names, given, constants = [], [], []
    for number, value in enumerate(inputs):
        names.append("" if isinstance(value, str) else f"x{number}")
        if isinstance(value, np.ndarray):
            constants.append(numpy_helper.from_array(value, f"x{number}"))
        elif value:
            given.append(helper.make_tensor_value_info(f"x{number}", TensorProto.FLOAT, value))
    node = helper.make_node(op, names, list(outputs), "fused", domain="com.microsoft", **attributes)
    kind = {"count": TensorProto.INT32}
    kinds = [helper.make_tensor_value_info(name, kind.get(name, TensorProto.FLOAT), None) for name in outputs if name]
    graph = helper.make_graph([node], "g", given, kinds, constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


X, W, VECTOR = (B, T, H), table(H, 3 * H), table(H)
KEPT = np.array([[1, 1, 1, 1, 0, 0]], np.int32)
IDS, TYPES = np.array([[3, 1, 4, 1, 5, 9]], np.int32), np.array([[0, 0, 0, 1, 1, 1]], np.int32)
TABLES = (table(10, H), table(7, H), table(2, H))
ANGLES = [f(np.arange(8)[:, None] / [1, 7]).astype(np.float32) for f in (np.cos, np.sin)]
CASES = {
    "Gelu": ([X], {}),
    "BiasGelu": ([X, VECTOR], {}),
    "FastGelu": ([X, VECTOR], {}),
    "FastGelu without bias": ([X], {}),
    "QuickGelu": ([X], {"alpha": 1.5}),
    "FusedMatMul": ([(2, T, H), (2, T, H)], {"transB": 1, "alpha": 0.5}),
    "FusedMatMul of both": ([(2, H, T), (2, T, H)], {"transA": 1, "transB": 1}),
    "FusedMatMul of turned batches": ([(T, 2, 3, H), (2, 3, H, 4)], {"transBatchA": 1}),
    "FusedMatMul of turned batches and both": ([(H, 2, T), (2, T, H)], {"transBatchA": 1, "transA": 1, "transB": 1}),
    "SkipSimplifiedLayerNormalization": ([X, X, VECTOR, table(H)], {"epsilon": 1e-3}),
    "SkipSimplifiedLayerNormalization with the sum": ([X, X, VECTOR], {"outputs": ("y", "", "", "sum")}),
    "RotaryEmbedding": ([X, np.arange(T)[None], *ANGLES], {"num_heads": HEADS}),
    "RotaryEmbedding of heads that the tables tell": ([X, np.arange(T)[None], *ANGLES], {}),
    "RotaryEmbedding of parted heads": ([(B, HEADS, T, H // HEADS), np.arange(T)[None] + 1, *ANGLES], {}),
    "RotaryEmbedding from a place on": ([X, np.array([1]), *ANGLES], {"num_heads": HEADS}),
    "RotaryEmbedding interleaved": ([X, np.arange(T)[None], *ANGLES], {"num_heads": HEADS, "interleaved": 1}),
    "RotaryEmbedding of a part": ([X, np.arange(T)[None], *(a[:, :1] for a in ANGLES)],
                                  {"num_heads": HEADS, "rotary_embedding_dim": 2}),
    "FusedGemm": ([(T, H), table(4, H), table(4)], {"transB": 1, "alpha": 0.5, "activation": "Tanh"}),
    "SkipLayerNormalization": ([X, X, VECTOR, table(H), table(H)], {"epsilon": 1e-3}),
    "SkipLayerNormalization with the sum": ([X, X, VECTOR, table(H)], {"outputs": ("y", "", "", "sum")}),
    "EmbedLayerNormalization": ([IDS, TYPES, *TABLES, VECTOR, table(H), KEPT],
                               {"epsilon": 1e-3, "outputs": ("y", "count", "sum")}),
    "EmbedLayerNormalization without types": ([IDS, "", *TABLES[:2], "", VECTOR, table(H)], {"outputs": ("y", "")}),
    "Attention": ([X, W, table(3 * H), KEPT], {"num_heads": HEADS}),
    "Attention of a number of keys": ([X, W, table(3 * H), np.array([4], np.int32)], {"num_heads": HEADS}),
    "Attention of keys from an end back to a begin": (
        [(2, T, H), W, table(3 * H), np.array([4, 6, 1, 0], np.int32)],
        {"num_heads": HEADS},
    ),
    "Attention with a mask for each query": (
        [X, W, table(3 * H), np.tril(np.ones((B, T, T), np.int32))],
        {"num_heads": HEADS},
    ),
    "Attention with a bias on scores": ([X, W, table(3 * H), "", "", table(1, HEADS, T, T)], {"num_heads": HEADS}),
    "Attention with a scale": ([X, W, table(3 * H)], {"num_heads": HEADS, "scale": 0.7}),
    "MultiHeadAttention": ([X, X, X, table(3 * H), KEPT], {"num_heads": HEADS}),
    "MultiHeadAttention without bias": ([X, X, X], {"num_heads": HEADS}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_operator(name):
    inputs, attributes = CASES[name]
    model = model_of(name.split()[0], inputs, **attributes)
    spelt, report = passes.run(model, only=["spell_fused"])
    assert report.passes[0].applied == 1
    assert {node.domain for node in spelt.graph.node} == {""}
    onnx.checker.check_model(spelt)
    feeds = [{v.name: table(*(d.dim_value for d in v.type.tensor_type.shape.dim)) for v in model.graph.input}]
    assert compare(run_model(model, feeds), run_model(spelt, feeds)) < 1e-6


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "reason"),
    [
        ("Attention", [X, W, table(3 * H)], {"num_heads": HEADS, "unidirectional": 1}, "belongs to a decoder"),
        (
            "Attention",
            [X, W, table(3 * H), np.arange(5, dtype=np.int32)],  # as 3 B + 2 packed texts have it
            {"num_heads": HEADS},
            "its mask 'x3' of 5 integers is neither an end for each of 1 texts nor an end and a begin",
        ),
        ("FusedGemm", [(T, H), W], {"activation": "LeakyRelu"}, "activation is LeakyRelu"),
        (
            "MultiHeadAttention",
            [(B, T, HEADS, 3, H // HEADS)],
            {"num_heads": HEADS, "unidirectional": 1},
            "to a decoder",
        ),
    ],
)
def test_what_stays_and_why(op, inputs, attributes, reason):
    model = model_of(op, inputs, **attributes)
    left, report = passes.run(model, only=["spell_fused"], verify=False)
    assert [node.op_type for node in left.graph.node] == [op]
    assert reason in report.passes[0].refusals[0].reason


def standard_rotary(*places):
    model = model_of("RotaryEmbedding", [X, *places], num_heads=HEADS)
    model.graph.node[0].domain = ""
    model.opset_import[0].version = 23
    return model


def test_the_standards_rotary_embedding_by_places():
    model = standard_rotary(*ANGLES, np.arange(T)[None] + 1)
    spelt, report = passes.run(model, only=["spell_fused"])
    assert report.passes[0].applied == 1
    feeds = [{"x0": table(*X)}]
    assert compare(run_model(model, feeds), run_model(spelt, feeds)) < 1e-6


def test_the_standards_rotary_embedding_of_each_tokens_angles_stays():
    _, report = passes.run(standard_rotary(*(a[None, :T] for a in ANGLES)), only=["spell_fused"], verify=False)
    assert "its cosines are those of each token already" in report.passes[0].refusals[0].reason


@pytest.mark.parametrize("version", [9, 11, 14])
def test_an_old_model_is_raised_to_where_the_operators_are(version):
    """ONNX Runtime's optimiser leaves the file's opset, and LayerNormalization came with 17."""
    model = model_of("SkipLayerNormalization", [X, X, VECTOR, table(H), table(H)], epsilon=1e-3)
    model.opset_import[0].version = version
    spelt, report = passes.run(model, only=["spell_fused"])
    assert (report.passes[0].applied, spelt.opset_import[0].version) == (1, 20)
    feeds = [{"x0": table(*X), "x1": table(*X)}]
    assert compare(run_model(model, feeds), run_model(spelt, feeds)) < 1e-6


def test_an_old_model_that_cannot_be_raised_says_so(monkeypatch):
    def refuse(*_):
        raise RuntimeError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refuse)
    model = model_of("Gelu", [X])
    model.opset_import[0].version = 14
    _, report = passes.run(model, only=["spell_fused"])
    assert "older than 17" in report.passes[0].refusals[0].reason


def test_models_without_fused_operators_keep_their_opset():
    model = model_of("Erf", [X])
    model.graph.node[0].domain = ""
    model.opset_import[0].version = 14
    same, report = passes.run(model, only=["spell_fused"])
    assert (report.passes[0].applied, same.opset_import[0].version) == (0, 14)


def test_what_the_optimizer_makes_of_an_encoder(exported, tmp_path):
    """Extended optimisations, as onnxruntime writes them to a file."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(exported("bert-base", seq_len=16), options)
    model = onnx.load(tmp_path / "fused.onnx")
    assert any(node.domain == "com.microsoft" for node in model.graph.node)
    spelt, report = passes.run(model, options=passes.Options(attention="matmuls"))
    assert {node.domain for node in spelt.graph.node} == {""}
    assert report.error < 1e-5
