"""Whole models on inputs that are not numbers, infinite or far too large: not finite where ONNX Runtime is not."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import compile
from compile.errors import CompileError
from compile.pipeline import BuildOptions, build_library
from compile.running.load import load, read_manifest
from compile.running.runners.qemu import ARM64_ROOT, QemuRunner
from compile.running.verify import can_run, reference
from compile.targets import Target, find_target

TOKENS, WIDTH, HEADS = 8, 32, 2


def network(guard: str) -> onnx.ModelProto:
    """An attention with a mask of its own for each query, a norm, feed-forwards with relu and gelu, a tanh pooler.

    guard: "IsNaN": a query whose softmax is not a number sees nothing, as PyTorch exports scaled_dot_product_attention;
    "keyless": only one whose keys are all masked, as ONNX defines Attention; "".
    """
    rng, nodes, weights = np.random.default_rng(0), [], []

    def const(value: np.ndarray) -> str:
        value = value.astype(np.float32) if value.dtype == np.float64 else value
        weights.append(numpy_helper.from_array(value, f"w{len(weights)}"))
        return weights[-1].name

    def op(kind: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [f"t{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def linear(x: str, k: int, n: int) -> str:
        product = op("MatMul", x, const(rng.standard_normal((k, n)) / np.sqrt(k)))
        return op("Add", product, const(rng.standard_normal(n)))

    def heads(x: str, axes: list[int]) -> str:
        shape = const(np.array([1, TOKENS, HEADS, WIDTH // HEADS]))
        return op("Transpose", op("Reshape", linear(x, WIDTH, WIDTH), shape), perm=axes)

    scores = op("MatMul", heads("x", [0, 2, 1, 3]), heads("x", [0, 2, 3, 1]))
    weights_of_keys = op("Softmax", op("Add", scores, "mask"), axis=-1)
    if guard == "IsNaN":
        weights_of_keys = op("Where", op("IsNaN", weights_of_keys), const(np.float32(0)), weights_of_keys)
    if guard == "keyless":
        hidden = op("Equal", op("ReduceMax", "mask", const(np.array([-1]))), const(np.float32(-np.inf)))
        weights_of_keys = op("Where", hidden, const(np.float32(0)), weights_of_keys)
    weighted = op("MatMul", weights_of_keys, heads("x", [0, 2, 1, 3]))
    context = op("Reshape", op("Transpose", weighted, perm=[0, 2, 1, 3]), const(np.array([1, TOKENS, WIDTH])))
    x = op("Add", linear(context, WIDTH, WIDTH), "x")
    normed = op("LayerNormalization", x, const(rng.standard_normal(WIDTH)), const(rng.standard_normal(WIDTH)), axis=-1)
    y = op("Add", linear(op("Relu", linear(x, WIDTH, 64)), 64, WIDTH), x)
    y = op("Add", linear(op("Gelu", linear(y, WIDTH, 64)), 64, WIDTH), normed)
    first = op("Gather", y, const(np.array(0)), axis=1)
    pooled = op("Tanh", linear(first, WIDTH, WIDTH))
    nodes.append(helper.make_node("Identity", [y], ["hidden"]))
    nodes.append(helper.make_node("Identity", [pooled], ["pooled"]))
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, TOKENS, WIDTH]),
        helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1, TOKENS, TOKENS]),
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in ("hidden", "pooled")]
    graph = helper.make_graph(nodes, "network", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def samples() -> list[dict[str, np.ndarray]]:
    """x with one value that is special, in each row; then masks that hide n keys of row n, the last row's all."""
    rng, result = np.random.default_rng(1), []
    for special in (np.nan, np.inf, -np.inf, 1e30, -1e30):
        for row in range(TOKENS):
            x = rng.standard_normal((1, TOKENS, WIDTH)).astype(np.float32)
            x[0, row, 5 * row % WIDTH] = special
            result.append({"x": x, "mask": np.zeros((1, 1, TOKENS, TOKENS), np.float32)})
    hidden = np.arange(TOKENS) <= np.arange(TOKENS)[:, None]
    for special in (-np.inf, np.inf, np.nan, float(np.finfo(np.float32).min)):
        mask = np.where(hidden, special, 0.0).astype(np.float32).reshape(1, 1, TOKENS, TOKENS)
        result.append({"x": rng.standard_normal((1, TOKENS, WIDTH)).astype(np.float32), "mask": mask})
    return result


def compare(model: onnx.ModelProto, got: list[dict[str, np.ndarray]]) -> None:
    for index, (ours, wanted) in enumerate(zip(got, reference(model, samples()), strict=True)):
        for name, want in wanted.items():
            finite = np.isfinite(want)
            assert np.array_equal(np.isfinite(ours[name]), finite), f"sample {index}, {name}"
            scale = np.maximum(1, np.abs(want[finite]))
            assert np.all(np.abs(ours[name][finite] - want[finite]) <= 1e-4 * scale), f"sample {index}, {name}"
    assert np.isnan(got[0]["pooled"]).all()
    # Where −inf hides the keys, the last query has none left: not a number, or zeros behind a guard.
    guarded = any(node.op_type == "Where" for node in model.graph.node)
    assert bool(np.isfinite(got[-4]["hidden"]).all()) == guarded


def build(model: onnx.ModelProto, target: Target, folder: Path) -> Path:
    result = build_library(model, "network", target, folder, BuildOptions(seq_len=TOKENS))
    assert "attention" in {kernel.family for kernel in result.manifest.kernels}
    return folder


@pytest.mark.parametrize(
    ("cpu", "guard"), [("x86-64-v3", "IsNaN"), ("x86-64-v4", ""), ("x86-64-v4", "IsNaN"), ("x86-64-v4", "keyless")]
)
def test_on_this_machine(cpu: str, guard: str, tmp_path: Path) -> None:
    try:
        target = find_target("host", cpu)
    except CompileError as error:
        pytest.skip(str(error))
    if missing := can_run(target):
        pytest.skip(f"needs {missing}")
    model = network(guard)
    with load(build(model, target, tmp_path / "artifact"), threads=1) as library:
        compare(model, [library.run(sample) for sample in samples()])


@pytest.mark.parametrize("factor", [1e9, 1e30])
def test_weights_of_a_folder_that_are_far_too_large(factor: float, tmp_path: Path) -> None:
    """Infinite minus infinite is not a number, as in PyTorch; what is large and finite is computed."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 1, "vocab_size": 50, "hidden_size": WIDTH, "intermediate_size": 64}
    bert = BertModel(BertConfig(**sizes, num_attention_heads=HEADS, max_position_embeddings=TOKENS)).eval()
    (layer,) = bert.encoder.layer
    with torch.no_grad():
        layer.output.LayerNorm.bias.normal_()
        for linear in (layer.intermediate.dense, layer.output.dense):
            linear.weight.mul_(factor)
    bert.save_pretrained(tmp_path / "bert")
    folder = compile.build(tmp_path / "bert", target="host", seq_len=TOKENS, out=tmp_path / "artifact").folder
    ids = np.arange(3, 3 + TOKENS)[None]
    with torch.no_grad():
        wanted = bert(torch.from_numpy(ids)).last_hidden_state.numpy()
    with compile.load(folder) as library:
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        got = library.run({t.name: feeds[t.name] for t in library.manifest.inputs})
    (hidden,) = (value for value in got.values() if value.ndim == 3)
    assert np.isnan(wanted).all() == (factor > 1e20)
    np.testing.assert_allclose(hidden, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-aarch64: Debian package qemu-user")
@pytest.mark.skipif(not ARM64_ROOT.is_dir(), reason="needs glibc for arm64: Debian package libc6-arm64-cross")
def test_on_arm64(tmp_path: Path) -> None:
    target, model = find_target("arm64-android"), network("IsNaN")
    folder = build(model, target, tmp_path / "artifact")
    facts = read_manifest(folder)
    with QemuRunner("cortex-a53") as runner:
        outputs, _ = runner.outputs(folder / facts.library, facts, samples())
    compare(model, outputs)
