"""Encoders that are not ours, as `transformers` loads them: inputs, lengths, heads, and what cannot be compiled."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from model import ModelError
from model.foreign import ForeignModel, export_foreign, load_foreign

transformers = pytest.importorskip("transformers")
SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SIZES |= {"max_position_embeddings": 20}


def saved(folder: Path, kind: str, edit: dict[str, Any] | None = None, **options: Any) -> Path:
    """A folder with a `kind` of random weights; edit: other values in config.json, None takes them out."""
    torch.manual_seed(0)
    config = getattr(transformers, kind.partition("For")[0].removesuffix("Model") + "Config")
    own = {"embedding_size": 16} if "Electra" in kind else {"type_vocab_size": 1}
    module = getattr(transformers, kind)(config(**SIZES, **own), **options)
    module.save_pretrained(folder)
    path = folder / "config.json"
    changed = json.loads(path.read_text()) | (edit or {})
    path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))
    return folder


def inputs(model: ForeignModel) -> list[torch.Tensor]:
    values = {
        "input_ids": torch.tensor([[5, 6, 7, 8]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0]]),
        "token_type_ids": torch.tensor([[0, 1, 1, 1]]),
    }
    return [values[name] for name in model.input_names]


@pytest.mark.parametrize(
    ("kind", "names", "longest"),
    [("ElectraModel", 3, 20), ("RobertaModel", 2, 18)],  # RoBERTa's positions begin behind the row of padding
)
def test_inputs_and_answers_are_the_models_own(kind: str, names: int, longest: int, tmp_path: Path) -> None:
    folder = saved(tmp_path, kind)
    model = load_foreign(folder)
    assert model.input_names == ["input_ids", "attention_mask", "token_type_ids"][:names]
    assert (model.longest, model.head_name) == (longest, "none")
    assert not model.module.training
    own = transformers.AutoModel.from_pretrained(folder).eval()
    given = dict(zip(model.input_names, inputs(model), strict=True))
    with torch.no_grad():
        wanted = own(**given).last_hidden_state
    (got,) = model.answers([{name: value.numpy() for name, value in given.items()}])
    assert torch.allclose(torch.from_numpy(got["last_hidden_state"]), wanted, atol=1e-6)
    example = model.example(6)
    assert [value.shape for value in example] == [(1, 6)] * names
    assert [bool(value.all()) for value in example] == [True, True, False][:names]


def test_one_choice_of_several_is_scored(tmp_path: Path) -> None:
    model = load_foreign(saved(tmp_path, "ElectraForMultipleChoice"))
    assert (model.head_name, model.choices, model.output_names) == ("MultipleChoice", True, ["logits"])
    with torch.no_grad():
        (score,) = model(*inputs(model))
        own = model.module(*(torch.stack([v, v], 1) for v in inputs(model))).logits
    assert score.shape == (1, 1)
    assert torch.allclose(own, score.expand(1, 2), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("ElectraForMaskedLM", "mlm"),
        ("ElectraForPreTraining", "mlm"),
        ("ElectraForSequenceClassification", "sequence-classification"),
        ("ElectraForTokenClassification", "token-classification"),
        ("ElectraForQuestionAnswering", "question-answering"),
    ],
)
def test_heads_have_our_names(kind: str, head: str, tmp_path: Path) -> None:
    assert load_foreign(saved(tmp_path, kind)).head_name == head


def test_a_head_without_weights_is_refused_or_random(tmp_path: Path) -> None:
    folder = saved(tmp_path, "ElectraModel")
    with pytest.raises(
        ModelError, match=r"needs classifier\..* which is missing; choose another --head, or --random-head"
    ):
        load_foreign(folder, "sequence-classification")
    assert load_foreign(folder, "sequence-classification", random_head=True).output_names == ["logits"]


def test_an_output_without_weights_is_left_out(tmp_path: Path) -> None:
    assert load_foreign(saved(tmp_path / "a", "RobertaModel")).output_names == ["last_hidden_state", "pooler_output"]
    without = saved(tmp_path / "b", "RobertaModel", add_pooling_layer=False)
    assert load_foreign(without).output_names == ["last_hidden_state"]


@pytest.mark.parametrize(
    ("kind", "edit", "message"),
    [
        (
            "ElectraForTokenClassification",
            {"architectures": None},
            "names no architecture, and classifier.* choose --head",
        ),
        ("ElectraModel", {"architectures": ["ElectraForPoetry"]}, "has no ElectraForPoetry: choose --head none"),
        ("ElectraModel", {"model_type": "nothing"}, "transformers cannot load it: "),
    ],
)
def test_what_cannot_be_loaded_is_one_line(kind: str, edit: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as refusal:
        load_foreign(saved(tmp_path, kind, edit))
    assert "\n" not in str(refusal.value)
    ours = "transformers" not in message  # said in our own words, and nobody else is blamed
    assert ("transformers cannot load it" in str(refusal.value)) == (not ours)


def test_a_model_that_writes_gives_its_encoder(tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="writes text: only encoders compile; --head none takes its encoder"):
        load_foreign(tmp_path)
    model = load_foreign(tmp_path, "none")
    assert (model.input_names, model.output_names) == (["input_ids", "attention_mask"], ["last_hidden_state"])
    assert model.longest is None


def test_the_second_exporter_is_asked_where_the_first_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked, works = load_foreign(saved(tmp_path, "RobertaModel")), [], [False]

    def export(*_: Any, dynamo: bool, **__: Any) -> None:
        asked.append(dynamo)
        if dynamo not in works:
            raise RuntimeError(f"\x1b[96mdynamo={dynamo}.\x1b[0m This is step 1 of 3\nand more")

    monkeypatch.setattr(torch.onnx, "export", export)
    place = tmp_path / "m.onnx"
    assert (export_foreign(model, place, seq_len=18), asked) == (place, [False])
    works[:] = [True]
    assert (export_foreign(model, place, seq_len=18), asked) == (place, [False, False, True])
    works.clear()
    with pytest.raises(ModelError, match=r"cannot export RobertaModel to ONNX: dynamo=False\.; dynamo=True\.$"):
        export_foreign(model, place, seq_len=18)
    works[:], verdicts = [False, True], ["it is wrong", None, "it is wrong", "so is this"]
    assert export_foreign(model, place, seq_len=18, why_not=lambda _: verdicts.pop(0)) == place
    assert (asked[-2:], len(verdicts)) == ([False, True], 2)
    with pytest.raises(ModelError, match=r"to ONNX: it is wrong; so is this$"):
        export_foreign(model, place, seq_len=18, why_not=lambda _: verdicts.pop(0))
    with pytest.raises(ModelError, match="sequence length 19 exceeds the 18 positions"):
        export_foreign(model, place, seq_len=19)
