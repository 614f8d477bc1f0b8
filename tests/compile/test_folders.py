"""Folders of `transformers` and sentence-transformers, compiled as they come; transformers is the referee."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
import transformers as hf
from safetensors.torch import save_file

import compile
from compile.errors import CompileError
from compile.source import _why_not
from pocketbert.errors import PocketBERTError
from pocketbert.numerics import relative_error

TOKENS = 8
SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
SIZES |= {"max_position_embeddings": 40, "initializer_range": 0.2}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """saved(class name, fields): the folder of a random model."""

    def make(kind: str, dtype: torch.dtype = torch.float32, **fields: Any) -> Path:
        torch.manual_seed(0)
        module = getattr(hf, kind)
        config = module.config_class(**SIZES | fields)
        module(config).to(dtype).save_pretrained(tmp_path / "given")
        return tmp_path / "given"

    return make


def build(folder: Path, **options: Any) -> Any:
    """Verified, so that its outputs are those of transformers."""
    manifest = compile.build(folder, target="host", seq_len=TOKENS, out=folder.parent / "out", verify=True, **options)
    manifest = manifest.manifest
    assert manifest.verification[0].referee == f"transformers {hf.__version__}"
    assert manifest.verification[0].error < 1e-5
    return manifest


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_scores_beyond_1e4_leak_no_padding(saved: Callable) -> None:
    folder = saved("BertModel", type_vocab_size=1)
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        if name.endswith(("query.weight", "key.weight")):
            tensors[name] *= 200
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    build(folder)


@pytest.mark.parametrize(
    ("kind", "fields", "outputs"),
    [
        ("ElectraForSequenceClassification", {"embedding_size": 16}, ["logits"]),
        ("BertForNextSentencePrediction", {}, ["logits"]),
        ("BertForMultipleChoice", {"hidden_act": "gelu_new"}, ["logits"]),
        ("BertForMaskedLM", {"tie_word_embeddings": False}, ["logits"]),
    ],
)
def test_what_the_core_does_not_have_transformers_exports(
    kind: str, fields: dict, outputs: list[str], saved: Callable
) -> None:
    manifest = build(saved(kind, **fields))
    assert [entry.name for entry in manifest.outputs] == outputs


@pytest.mark.parametrize(
    ("kind", "dtype"), [("BertModel", torch.float16), ("BertModel", torch.bfloat16), ("ElectraModel", torch.bfloat16)]
)
def test_weights_of_16_bits_are_computed_with_in_float32(kind: str, dtype: torch.dtype, saved: Callable) -> None:
    """As transformers computes with them in float32: rounding between its operators would be 1e-3 and more."""
    folder = saved(kind, dtype)
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    assert build(folder).precision == "float32"


def test_an_exporter_that_took_a_choice_by_its_example_is_not_believed(tmp_path: Path) -> None:
    """The tracer's text has no padding; here its file ignores the mask."""

    class Module:
        module, input_names = SimpleNamespace(config=SimpleNamespace()), ["input_ids", "attention_mask"]

        def answers(self, samples: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
            return [{"y": np.float32(one["input_ids"] * one["attention_mask"])} for one in samples]

    def why_not(expression: str) -> str | None:
        graph = f"f (int64[1, n] input_ids, int64[1, n] attention_mask) => (float[1, n] y) {{ {expression} }}"
        onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {graph}'), tmp_path / "m.onnx")
        return _why_not(Module(), TOKENS, tmp_path / "m.onnx")

    assert why_not("p = Mul (input_ids, attention_mask) y = Cast <to = 1> (p)") is None
    assert re.fullmatch(
        "its file is [0-9]e-01 of the range off where a text is padded", why_not("y = Cast <to = 1> (input_ids)")
    )
    short = "s = Constant <value_ints = [1, 5]> () p = Reshape (input_ids, s) y = Cast <to = 1> (p)"
    assert re.match(r"ONNX Runtime cannot run its file \(.*Reshape", why_not(short))


def test_an_exporter_that_took_the_last_column_for_the_last_token_is_not_believed(tmp_path: Path) -> None:
    """It is right where padding stands before the text, or within."""

    class Module:
        module, input_names = SimpleNamespace(config=SimpleNamespace()), ["input_ids", "attention_mask"]

        def answers(self, samples: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
            return [{"y": np.float32(one["input_ids"][:, one["attention_mask"].nonzero()[1][-1:]])} for one in samples]

    graph = "f (int64[1, n] input_ids, int64[1, n] attention_mask) => (float[1, 1] y) { "
    graph += "i = Constant <value_ints = [-1]> () x = Gather <axis = 1> (input_ids, i) y = Cast <to = 1> (x) }"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {graph}'), tmp_path / "m.onnx")
    assert "where a text is padded" in str(_why_not(Module(), 9, tmp_path / "m.onnx"))


def test_without_transformers_the_reason_says_what_to_install(saved: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved("ElectraModel", embedding_size=16)
    monkeypatch.setattr("model.foreign.find_spec", lambda name: None)
    with pytest.raises(CompileError, match=r"model_type 'electra'.*pip install 'pocketbert\[hf\]'"):
        compile.build(folder, target="host", seq_len=TOKENS, out=folder.parent / "out")


@pytest.mark.parametrize(
    ("kind", "fields", "options", "message"),
    [
        ("T5ForConditionalGeneration", {"d_model": 32, "d_kv": 8, "num_layers": 1}, {}, "writes text: only encoders"),
        ("ElectraModel", {}, {"head": "question-answering"}, r"needs qa_outputs.*--random-head"),
        (
            "ElectraModel",
            {},
            {"edit": {"architectures": ["ElectraForRhyme"]}},
            "no ElectraForRhyme: choose --head none",
        ),
        ("ElectraModel", {}, {"edit": {"model_type": "other", "auto_map": {"AutoModel": "a.B"}}}, "cannot load it"),
        ("ElectraForTokenClassification", {}, {"edit": {"architectures": None}}, "may be of a head: choose --head"),
    ],
)
def test_folder_that_is_refused(kind: str, fields: dict, options: dict, message: str, saved: Callable) -> None:
    folder = saved(kind, **fields)
    change(folder / "config.json", **options.pop("edit", {}))
    with pytest.raises(PocketBERTError, match=message) as refusal:
        compile.build(folder, target="host", seq_len=TOKENS, out=folder.parent / "out", **options)
    assert "\n" not in str(refusal.value)


def test_sentence_t5_has_no_decoder(saved: Callable) -> None:
    folder = saved("T5EncoderModel", d_model=32, d_kv=16, d_ff=48, num_layers=1, num_heads=2)
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate({"": "Transformer", "1_Pooling": "Pooling"}.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    assert [entry.name for entry in build(folder).outputs] == ["sentence_embedding"]


MODES = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def pooled(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(T, H) and (T,) by all MODES, as sentence-transformers has them."""
    kept = hidden[mask == 1]
    place = np.arange(1, len(kept) + 1)[:, None]
    mean = kept.mean(0)
    weighted = (place * kept).sum(0) / place.sum()
    return np.concatenate([hidden[0], kept.max(0), mean, mean * len(kept) ** 0.5, weighted, kept[-1]])


def test_modules_of_sentence_transformers_are_in_the_model(saved: Callable, tmp_path: Path) -> None:
    folder, rng = saved("BertModel"), np.random.default_rng(0)
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize")]
    modules = [{"idx": i, "name": str(i), "path": p, "type": f"s.models.{k}"} for i, (p, k) in enumerate(parts)]
    (folder / "modules.json").write_text(json.dumps(modules))
    for name in ("1_Pooling", "2_Dense"):
        (folder / name).mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True for mode in MODES}))
    (folder / "2_Dense" / "config.json").write_text(json.dumps({"activation_function": "torch.nn.modules.Tanh"}))
    weight, bias = rng.normal(0, 0.1, (24, 32 * len(MODES))).astype("f4"), rng.normal(0, 0.1, 24).astype("f4")
    dense = {"linear.weight": torch.from_numpy(weight), "linear.bias": torch.from_numpy(bias)}
    save_file(dense, folder / "2_Dense" / "model.safetensors")
    manifest = build(folder)
    assert [(entry.name, entry.shape) for entry in manifest.outputs] == [("sentence_embedding", (1, 24))]

    ids, mask = rng.integers(0, 99, (1, TOKENS)), np.array([[1] * 5 + [0] * (TOKENS - 5)])
    bert = hf.BertModel.from_pretrained(folder)
    with torch.no_grad():
        hidden = bert(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state[0].numpy()
    vector = np.tanh(weight @ pooled(hidden, mask[0]) + bias)
    with compile.load(tmp_path / "out") as library:
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids}
        got = library.run(feeds)["sentence_embedding"][0]
    assert relative_error({"y": got}, {"y": vector / np.linalg.norm(vector)}) < 1e-5


def test_module_that_is_not_known(saved: Callable) -> None:
    folder = saved("BertModel")
    modules = [{"type": f"s.{kind}", "path": ""} for kind in ("Transformer", "Pooling", "Whitening")]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(PocketBERTError, match=r"Whitening is not known.*--head none leaves modules out"):
        compile.build(folder, target="host", seq_len=TOKENS, out=folder.parent / "out")
