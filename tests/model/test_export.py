import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

import model
from model import HEADS, Model, ModelError, export
from model.export import OPSET


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check_parity(module: Model, path: Path, arguments: dict[str, torch.Tensor], assert_close: Callable) -> None:
    runtime = session(path)
    assert [i.name for i in runtime.get_inputs()] == module.config.input_names
    assert [o.name for o in runtime.get_outputs()] == module.output_names
    outputs = runtime.run(None, {name: value.numpy() for name, value in arguments.items()})
    with torch.no_grad():
        expected = module(**arguments)
    dynamic = dict(zip(("batch", "sequence"), arguments["input_ids"].shape, strict=True))
    for declared, value in zip(onnx.load(path, load_external_data=False).graph.output, outputs, strict=True):
        shape = [dynamic.get(d.dim_param, d.dim_value) for d in declared.type.tensor_type.shape.dim]
        assert shape == list(value.shape)
        assert_close(value, expected[declared.name])


@pytest.mark.parametrize(
    "preset",
    ["mobilebert", "mobilebert-paper", "mobilebert-tiny", "mobilebert-without-opt", "mobilebert-nonorm-gelu",
     "mobilebert-layernorm-relu", "bert-small-star", "ib-bert-large", "distilbert-6l", "tinybert"],
)  # fmt: skip
def test_onnx_runtime_matches_torch(
    preset: str, tmp_path: Path, small: Callable, randomized: Callable, inputs: Callable, assert_close: Callable
) -> None:
    module = randomized(small(preset))
    path = export(module, tmp_path / "m.onnx", seq_len=24, batch=3)
    check_parity(module, path, inputs(module.config), assert_close)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("preset", ["mobilebert", "bert-base", "distilbert-6l"])
def test_every_head_with_any_batch_and_length(
    preset: str,
    head: str,
    tmp_path: Path,
    small: Callable,
    randomized: Callable,
    inputs: Callable,
    assert_close: Callable,
) -> None:
    module = randomized(small(preset, num_labels=2 if head == "question-answering" else 4), head)
    path = export(module, tmp_path / "m.onnx", seq_len="dynamic", batch="dynamic")
    for batch, length in ((3, 8), (4, 64), (5, 2)):
        check_parity(module, path, inputs(module.config, batch, length), assert_close)


@pytest.mark.parametrize(("seq_len", "batch"), [(24, "dynamic"), ("dynamic", 3), ("dynamic", "dynamic"), (24, 3)])
def test_shapes_are_what_was_asked_for(
    seq_len: int | str, batch: int | str, tmp_path: Path, small: Callable, randomized: Callable, inputs: Callable,
    assert_close: Callable,
) -> None:  # fmt: skip
    module = randomized(small("mobilebert"), "mlm")
    path = export(module, tmp_path / "m.onnx", seq_len=seq_len, batch=batch)
    rows = batch if batch == 3 else "batch"
    columns = seq_len if seq_len == 24 else "sequence"
    runtime = session(path)
    assert [i.shape for i in runtime.get_inputs()] == [[rows, columns]] * 3
    assert [o.shape for o in runtime.get_outputs()] == [[rows, columns, 1000], [rows, 2]]
    check_parity(module, path, inputs(module.config), assert_close)
    attention = Counter(n.op_type for n in onnx.load(path).graph.node if "/attention/" in n.name)
    assert attention["Reshape"] == 8
    assert not attention.keys() & {"Shape", "Gather", "Concat", "Unsqueeze"}, "shape arithmetic"


@pytest.fixture(scope="module")
def mobilebert(tmp_path_factory: pytest.TempPathFactory, randomized: Callable) -> tuple[Model, Path]:
    """The released architecture at full size with its pre-training head, seq 128."""
    module = randomized("mobilebert", "mlm")
    return module, export(module, tmp_path_factory.mktemp("full") / "m.onnx")


def test_full_size_matches_torch(mobilebert: tuple, inputs: Callable, assert_close: Callable) -> None:
    module, path = mobilebert
    check_parity(module, path, inputs(module.config, 1, 128), assert_close)


def test_graph_is_what_the_compiler_expects(mobilebert: tuple) -> None:
    graph = onnx.load(mobilebert[1])
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", OPSET)]
    assert OPSET >= 18
    assert not graph.functions
    assert {n.domain for n in graph.graph.node} == {""}
    operators = Counter(n.op_type for n in graph.graph.node)
    assert operators.keys() <= {
        "Gather", "Slice", "Concat", "MatMul", "Gemm", "Add", "Mul", "Sub", "Cast", "Unsqueeze", "Reshape", "Transpose",
        "Softmax", "Relu", "LayerNormalization",
    }  # fmt: skip
    weights = {i.name for i in graph.graph.initializer}
    linears = [n for n in graph.graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in weights]
    assert len(linears) == 1 + 24 * (3 + 4 + 8) + 4
    assert operators["MatMul"] + operators["Gemm"] == len(linears) + 24 * 2
    assert operators["Softmax"] == 24
    assert all(n.name.startswith(("/encoder", "/head")) and not n.doc_string for n in graph.graph.node)
    assert not any(n.metadata_props for n in graph.graph.node)


def test_weights_are_stored_once_under_their_own_names(mobilebert: tuple) -> None:
    module, path = mobilebert
    stored = {i.name: numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    for name, parameter in module.named_parameters():
        value = parameter.detach().numpy()
        if name == "encoder.embeddings.position.weight":
            value = value[:128]
        np.testing.assert_array_equal(stored[f"{name}.T"].T if f"{name}.T" in stored else stored[name], value)
    parameters = sum(p.numel() * 4 for p in module.parameters()) - (512 - 128) * 512 * 4
    assert sum(a.nbytes for a in stored.values()) < parameters + 10_000
    assert path.stat().st_size < parameters * 1.01


def test_no_infinity_in_the_graph(mobilebert: tuple) -> None:
    for initializer in onnx.load(mobilebert[1]).graph.initializer:
        array = numpy_helper.to_array(initializer)
        if array.dtype == np.float32:  # and there is no Constant node, as the operators tested above show
            assert np.isfinite(array).all(), initializer.name


def test_same_weights_same_bytes(tmp_path: Path, small: Callable, randomized: Callable) -> None:
    for name in ("a", "b"):
        export(randomized(small("mobilebert-without-opt"), "mlm"), tmp_path / f"{name}.onnx", seq_len="dynamic")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_model_in_training_mode_exports_without_dropout_and_stays_in_it(
    tmp_path: Path, small: Callable, randomized: Callable, inputs: Callable, assert_close: Callable
) -> None:
    module = randomized(small("bert-base", hidden_size=48, embedding_size=48, hidden_dropout=0.5)).train()
    path = export(module, tmp_path / "m.onnx", seq_len=24, batch=3)
    assert all(m.training for m in module.modules())
    check_parity(module.eval(), path, inputs(module.config), assert_close)


def test_large_weights_go_to_a_file_beside(
    tmp_path: Path, small: Callable, randomized: Callable, inputs: Callable, assert_close: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys.modules["model.export"], "EXTERNAL_DATA_ABOVE", 1_000_000)
    module = randomized(small("mobilebert"))
    path = export(module, tmp_path / "m.onnx", seq_len=24, batch=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert path.stat().st_size < 1_000_000
    check_parity(module, path, inputs(module.config), assert_close)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seq_len": 65}, "sequence length 65 exceeds the position table's 64: choose at most 64"),
        ({"seq_len": 0}, "seq_len is 0"),
        ({"batch": "all"}, "batch is 'all'"),
    ],
)
def test_impossible_shapes_are_refused(arguments: dict, message: str, tmp_path: Path, small: Callable) -> None:
    with pytest.raises(ModelError, match=message):
        export(model.create(small("tinybert")), tmp_path / "m.onnx", **arguments)
    assert not list(tmp_path.iterdir())


def test_too_long_input_is_refused_in_torch_too(small: Callable) -> None:
    with pytest.raises(ModelError, match="sequence length 65 exceeds the position table's 64"):
        model.create(small("tinybert"))(torch.zeros(1, 65, dtype=torch.long))


def test_failed_export_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, small: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "m.onnx").write_text("old")
    monkeypatch.setattr("onnx_ir.save", full)
    with pytest.raises(ModelError, match=r"disk full|No space left on device"):
        export(model.create(small("tinybert")), tmp_path / "m.onnx", seq_len=8)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_one_token_type(tmp_path: Path, small: Callable, randomized: Callable) -> None:
    bert = randomized(small("bert-base", type_vocab_size=1))
    ids = torch.arange(8)[None]
    feeds = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    path = model.export(bert, tmp_path / "model.onnx", seq_len=8)
    (actual, *_) = ort.InferenceSession(path).run(None, {name: value.numpy() for name, value in feeds.items()})
    with torch.no_grad():
        np.testing.assert_allclose(actual, bert(**feeds)["last_hidden_state"], atol=1e-5)
