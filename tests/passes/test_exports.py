"""Whole models: transformers' by both exporters, ours, and graphs from elsewhere, all with random norms and biases."""

import copy
import dataclasses
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

import passes

NAMES = ["input_ids", "attention_mask", "token_type_ids"]


def randomize(module, spread="narrow", seed=0):
    """Norm weights from U(0.8, 1.2), or log-uniform in [0.05, 20] with signs and zeros; biases from N(0, 0.1)."""
    generator = np.random.default_rng(seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            size = tuple(parameter.shape)
            if name.endswith("bias"):
                parameter.copy_(torch.tensor(generator.normal(0, 0.1, size)))
            elif "orm" in name:
                values = generator.uniform(0.8, 1.2, size)
                if spread == "wide":
                    values = np.exp(generator.uniform(np.log(0.05), np.log(20), size)) * generator.choice([-1, 1], size)
                    values[:2] = 0
                parameter.copy_(torch.tensor(values))
    return module.eval()


class Outputs(torch.nn.Module):
    """Positional inputs, a tuple of outputs."""

    def __init__(self, model, keys):
        super().__init__()
        self.model, self.keys = model, keys

    def forward(self, *inputs):
        result = self.model(**dict(zip(NAMES, inputs, strict=False)))
        return tuple(getattr(result, key) for key in self.keys)


def export(model, path, keys, *, dynamo, inputs=3, batch=1, length=16, dynamic=False):
    ids = torch.randint(0, 90, (batch, length))
    arguments = (ids, torch.ones_like(ids), torch.zeros_like(ids))[:inputs]
    options = {"dynamo": dynamo, "input_names": NAMES[:inputs], "opset_version": 20 if dynamo else 17}
    if dynamo:
        options["external_data"] = False
    if dynamic and dynamo:
        axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=64)}
        options["dynamic_shapes"] = {"inputs": tuple(axes for _ in arguments)}
    elif dynamic:
        options["dynamic_axes"] = {name: {0: "batch", 1: "length"} for name in NAMES[:inputs]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Outputs(model, keys).eval(), arguments, str(path), **options)
    return onnx.load(path)


def mobilebert(attention="eager", layers=2, **changes):
    from transformers import MobileBertConfig, MobileBertModel

    torch.manual_seed(0)
    config = MobileBertConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=layers, intermediate_size=96, max_position_embeddings=64,
        embedding_size=16, true_hidden_size=32, intra_bottleneck_size=32, attn_implementation=attention, **changes,
    )  # fmt: skip
    return MobileBertModel(config)


def bert(kind):
    import transformers as hf

    torch.manual_seed(0)
    common = {"vocab_size": 100, "max_position_embeddings": 64, "attn_implementation": "eager"}
    if kind == "distilbert":
        return hf.DistilBertModel(hf.DistilBertConfig(n_layers=2, dim=32, n_heads=4, hidden_dim=64, **common))
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if kind == "masked_lm":
        return hf.BertForMaskedLM(hf.BertConfig(**size, **common))
    return hf.BertModel(hf.BertConfig(**size, **common))


@pytest.mark.parametrize(
    ("case", "dynamo"),
    [("batch 1", False), ("batch 2", False), ("batch 2", True), ("dynamic", False), ("dynamic", True), ("sdpa", True)],
)
def test_mobilebert_of_transformers_loses_every_norm(tmp_path, check, ops, dynamo, case):
    model = randomize(mobilebert("sdpa" if case == "sdpa" else "eager"))
    graph = export(model, tmp_path / "m.onnx", ["last_hidden_state", "pooler_output"], dynamo=dynamo,
                   batch=1 if case == "batch 1" else 2, dynamic=case == "dynamic")  # fmt: skip
    result, report = check(graph, bound=1e-5)
    folded = next(entry for entry in report.passes if entry.name == "fold_nonorm")
    assert folded.counts["scales_left"] <= (2 if case == "dynamic" else 1)
    assert folded.counts["restarts"] == 0
    assert len(result.graph.node) < (0.8 if case == "dynamic" else 0.6) * report.passes[0].nodes_after
    assert {node.domain for node in result.graph.node} == {""}
    if case not in ("dynamic", "sdpa"):
        assert ops(result, "Attention") == 2
        assert ops(result, "Transpose", "Softmax", "MatMul") == 0
        assert report.after.parameters < report.before.parameters


def test_wide_scales_and_zeros_restart_and_still_agree(tmp_path, check):
    model = randomize(mobilebert(layers=3), "wide")
    graph = export(model, tmp_path / "m.onnx", ["last_hidden_state"], dynamo=False)
    _, report = check(graph, bound=1e-4)
    folded = next(entry for entry in report.passes if entry.name == "fold_nonorm")
    assert folded.counts["restarts"] > 0
    assert any("applied by a Mul" in refusal.reason for refusal in folded.refusals)


@pytest.mark.parametrize(
    ("kind", "dynamo"), [("bert", True), ("bert", False), ("distilbert", False), ("masked_lm", False)]
)
def test_layer_norm_models_come_out_smaller_and_equal(tmp_path, check, ops, dynamo, kind):
    keys = ["logits"] if kind == "masked_lm" else ["last_hidden_state"]
    model = randomize(bert(kind))
    graph = export(model, tmp_path / "m.onnx", keys, dynamo=dynamo, batch=2, inputs=2 if kind == "distilbert" else 3)
    result, report = check(graph, bound=5e-5)  # onnxsim's reordering alone makes up to 1e-5 here
    assert len(result.graph.node) < report.passes[0].nodes_after
    assert ops(result, "Gelu") == (3 if kind == "masked_lm" else 2)
    assert ops(result, "LayerNormalization") == (6 if kind == "masked_lm" else 5)
    assert ops(result, "Erf", "ReduceMean") == 0
    assert report.after.parameters <= report.before.parameters + 100  # shapes and splits


@pytest.mark.parametrize("head", ["none", "mlm", "sequence-classification"])
def test_our_export_second_run_and_bytes(tmp_path, check, head):
    build, initialize = (pytest.importorskip(f"model.{name}") for name in ("build", "initialize"))
    from model.export import export as export_ours
    from model.presets import find_preset

    config = find_preset("mobilebert")
    layers = next(f.name for f in dataclasses.fields(config) if f.name in ("num_layers", "num_hidden_layers"))
    model = build.create(dataclasses.replace(config, **{layers: 1, "vocab_size": 500}), head)
    initialize.randomize_norms(model)
    path = export_ours(model, tmp_path / "ours.onnx", seq_len=24)
    first, report = check(onnx.load(path))
    again, _ = passes.run(path)
    second, _ = passes.run(copy.deepcopy(first))
    assert first.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    assert report.after.flops == report.before.flops


@pytest.mark.parametrize(
    ("name", "runs"),
    [("TFBertForQuestionAnswering", True), ("bert_toy_optimized", True), ("attention_symbolic_batch", True),
     ("embed_layer_norm_format3", True), ("embed_layer_norm_multiple", True), ("gather_roberta_e2e", True),
     ("attention_distilbert", False), ("mlm_bert_e2e", False)],
)  # fmt: skip
def test_graphs_from_elsewhere_go_through_or_are_refused(third_party, name, runs):
    path = third_party / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{path} is not there; set POCKETBERT_ONNX to a folder with ONNX Runtime's BERT test graphs")
    if not runs:
        with pytest.raises(passes.PassError, match="ONNX Runtime cannot run the input model"):
            passes.run(path)
        return
    result, report = passes.run(path)
    assert report.error <= 1e-5
    # An input in half precision stays one, and is cast once.
    halves = sum(i.type.tensor_type.elem_type == TensorProto.FLOAT16 for i in result.graph.input)
    assert len(result.graph.node) - halves <= len(onnx.load(path).graph.node)


def test_weights_are_never_nan(tmp_path):
    graph = export(randomize(mobilebert(), "wide"), tmp_path / "m.onnx", ["last_hidden_state"], dynamo=False)
    result, _ = passes.run(graph)
    assert all(np.isfinite(numpy_helper.to_array(tensor)).all() for tensor in result.graph.initializer)
