import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch as st
import torch
import transformers as hf

import model
from model import HEADS, ModelError
from model.foreign import AUTO
from model.hugging_face import config_from_json


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, edit: Callable[[dict], None]) -> None:
    tensors = st.load_file(folder / "model.safetensors")
    edit(tensors)
    st.save_file(tensors, folder / "model.safetensors")


@pytest.fixture
def tiny_bert(tmp_path: Path, small: Callable, randomized: Callable) -> Path:
    config = small("bert-base", hidden_size=48, embedding_size=48, intermediate_size=64)
    return model.save_checkpoint(randomized(config, "sequence-classification"), tmp_path / "bert")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "preset",
    ["mobilebert", "mobilebert-tiny", "mobilebert-without-opt", "bert-small-star", "bert-base", "distilbert-6l"],
)
def test_transformers_loads_what_we_save(
    preset: str,
    head: str,
    tmp_path: Path,
    small: Callable,
    randomized: Callable,
    inputs: Callable,
    assert_close: Callable,
) -> None:
    ours = randomized(small(preset, num_labels=2 if head == "question-answering" else 3), head)
    model.save_checkpoint(ours, tmp_path)
    architecture = json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    theirs, report = getattr(hf, architecture).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    arguments = inputs(ours.config)
    with torch.no_grad():
        expected, actual = theirs.eval()(**arguments), ours(**arguments)
    for name, value in actual.items():
        assert_close(value, expected[name])


@pytest.mark.parametrize("head", ["none", "mlm", "question-answering"])
@pytest.mark.parametrize("preset", ["mobilebert", "mobilebert-paper", "ib-bert-large", "distilbert-4l"])
def test_what_we_save_loads_as_it_was(
    preset: str, head: str, tmp_path: Path, small: Callable, randomized: Callable
) -> None:
    saved = randomized(small(preset, hidden_dropout=0.25), head)
    loaded = model.load(model.save_checkpoint(saved, tmp_path / "new" / "folder"))
    assert (loaded.config, loaded.head_name) == (saved.config, head)
    assert loaded.state_dict().keys() == saved.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in saved.state_dict().items())
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_pytorch_bin_and_safetensors_and_shards_are_the_same(tmp_path: Path) -> None:
    config = hf.BertConfig(vocab_size=500, hidden_size=48, num_hidden_layers=2, num_attention_heads=4)
    theirs = hf.BertForPreTraining(config)
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "config.json").write_text((tmp_path / "one" / "config.json").read_text())
    old = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
           for k, v in theirs.state_dict().items()}  # fmt: skip
    torch.save(old | {"bert.embeddings.position_ids": torch.arange(512)[None]}, tmp_path / "bin" / "pytorch_model.bin")
    (tmp_path / "bins").mkdir()
    (tmp_path / "bins" / "config.json").write_text((tmp_path / "one" / "config.json").read_text())
    files = {name: f"pytorch_model-{number % 2}.bin" for number, name in enumerate(old)}
    for file in set(files.values()):
        torch.save({name: old[name] for name in old if files[name] == file}, tmp_path / "bins" / file)
    (tmp_path / "bins" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    one, *others = (model.load_checkpoint(tmp_path / kind).state_dict() for kind in ("one", "shards", "bin", "bins"))
    for other in others:
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_half_precision_checkpoint_becomes_float32(tiny_bert: Path) -> None:
    edit_tensors(tiny_bert, lambda t: t.update({k: v.half() for k, v in t.items()}))
    assert {p.dtype for p in model.load(tiny_bert).parameters()} == {torch.float32}


def test_another_head_is_random_and_says_so(tiny_bert: Path) -> None:
    with pytest.warns(UserWarning, match=r"qa_outputs\.weight, qa_outputs\.bias are random"):
        first = model.load(tiny_bert, "question-answering", seed=3)
    with pytest.warns(UserWarning, match="random"):
        second = model.load(tiny_bert, "question-answering", seed=3)
    own = model.load(tiny_bert)
    assert torch.equal(first.head.span.weight, second.head.span.weight)
    assert first.head.span.weight.std() > 0.01
    assert all(torch.equal(v, first.encoder.state_dict()[k]) for k, v in own.encoder.state_dict().items())


def test_a_head_without_weights_is_an_error_or_random_as_asked(tiny_bert: Path) -> None:
    with pytest.raises(ModelError, match=r"no question-answering head: qa_outputs\.weight is missing.*--random-head"):
        model.load(tiny_bert, "question-answering", random_head=False)
    edit_tensors(tiny_bert, lambda t: t.pop("classifier.weight"))
    with pytest.raises(ModelError, match=r"classifier\.weight is missing"):
        model.load(tiny_bert, random_head=False)
    with pytest.warns(UserWarning, match=r"classifier\.weight are random"):
        model.load(tiny_bert, random_head=True)


@pytest.mark.parametrize("preset", ["bert-base", "distilbert-6l", "mobilebert-without-opt"])
@pytest.mark.parametrize("head", HEADS)
def test_a_head_that_config_json_does_not_name(
    preset: str, head: str, tmp_path: Path, small: Callable, randomized: Callable
) -> None:
    saved = randomized(small(preset, pooler="tanh") if preset == "mobilebert-without-opt" else small(preset), head)
    model.save_checkpoint(saved, tmp_path)
    edit_config(tmp_path, architectures=None)
    if (preset, head) == ("mobilebert-without-opt", "token-classification"):
        with pytest.raises(ModelError, match=r"may be of a sequence's or of every token's label: choose --head"):
            model.load(tmp_path)
        loaded = model.load(tmp_path, head)
    else:
        loaded = model.load(tmp_path)
    assert loaded.head_name == head
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in saved.state_dict().items())


def test_checkpoint_without_pooler_has_no_pooler_output(tmp_path: Path, small: Callable) -> None:
    config = small("bert-base", hidden_size=48, embedding_size=48)
    model.save_checkpoint(model.create(config, "token-classification"), tmp_path)
    assert model.load(tmp_path, "none").output_names == ["last_hidden_state"]


def drop_value_weight(tensors: dict) -> None:
    del tensors["bert.encoder.layer.1.attention.self.value.weight"]


def cut_query_bias(tensors: dict) -> None:
    tensors["bert.encoder.layer.0.attention.self.query.bias"] = torch.zeros(40)


def add_third_layer(tensors: dict) -> None:
    tensors["bert.encoder.layer.2.output.dense.bias"] = torch.zeros(48)


def drop_classifier(tensors: dict) -> None:
    del tensors["classifier.weight"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop_value_weight, r"layer\.1\.attention\.self\.value\.weight \(48, 48\) is missing"),
        (cut_query_bias, r"layer\.0\.attention\.self\.query\.bias has shape \(40,\).* asks for \(48,\)"),
        (add_third_layer, r"layer\.2\.output\.dense\.bias has no place"),
        (drop_classifier, r"classifier\.weight \(2, 48\) is missing"),
    ],
)
def test_tensor_that_does_not_fit_is_named(edit: Callable, message: str, tiny_bert: Path) -> None:
    edit_tensors(tiny_bert, edit)
    with pytest.raises(ModelError, match=message):
        model.load(tiny_bert)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5"}, "model_type 't5'"),
        ({"hidden_act": "silu"}, "activation is 'silu'"),
        ({"hidden_size": "wide"}, "size is 'wide'"),
        ({"hidden_dropout_prob": 2}, "hidden_dropout is 2"),
        ({"id2label": 3}, "id2label is 3: it must be an object"),
        ({"num_attention_heads": 7}, "num_attention_heads 7 does not divide"),
        ({"position_embedding_type": "relative_key"}, "relative positions"),
        ({"architectures": ["BertForMultipleChoice"]}, "its head is none of ours"),
        ({"num_hidden_layers": 3}, r"layer\.2\..* is missing"),
    ],
)
def test_config_that_does_not_fit_is_refused(changes: dict, message: str, tiny_bert: Path) -> None:
    edit_config(tiny_bert, **changes)
    with pytest.raises(ModelError, match=message):
        model.load(tiny_bert)


@pytest.mark.parametrize("family", ["Bert", "MobileBert", "DistilBert"])
def test_what_config_json_does_not_say_is_as_transformers_takes_it(family: str) -> None:
    whole = json.loads(getattr(hf, f"{family}Config")().to_json_string(use_diff=False))
    for name in whole.keys() - {"model_type"}:
        without = {key: value for key, value in whole.items() if key != name}
        assert config_from_json(without) == config_from_json(whole), name
    assert config_from_json({"model_type": whole["model_type"]}) == config_from_json(whole)


def test_decoder_that_is_not_the_embedding_table_is_refused(tmp_path: Path, small: Callable) -> None:
    config = small("bert-base", hidden_size=48, embedding_size=48)
    model.save_checkpoint(model.create(config, "mlm"), tmp_path)
    edit_tensors(tmp_path, lambda t: t.update({"cls.predictions.decoder.weight": torch.zeros(1000, 48)}))
    with pytest.raises(ModelError, match=r"cls\.predictions\.decoder\.weight differs"):
        model.load(tmp_path)


class Exploit:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("owned"),))


def test_broken_files_are_named_in_one_line(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights, config = tiny_bert / "model.safetensors", tiny_bert / "config.json"
    index, binary = tiny_bert / "model.safetensors.index.json", tiny_bert / "pytorch_model.bin"
    whole, settings = weights.read_bytes(), config.read_text()

    def fails(message: str) -> None:
        with pytest.raises(ModelError, match=message) as caught:
            model.load(tiny_bert)
        assert "\n" not in str(caught.value)

    weights.write_bytes(whole[: len(whole) // 2])
    fails(r"model\.safetensors cannot be read, it may be cut short")
    weights.write_bytes(b"")
    fails(r"model\.safetensors cannot be read")
    weights.unlink()
    fails("has neither model.safetensors nor pytorch_model.bin")
    binary.write_bytes(pickle.dumps({"bert": Exploit()}, protocol=2))
    fails(r"pytorch_model\.bin cannot be read")
    assert not Path("owned").exists()
    torch.save([1, 2], binary)
    fails("is not a state dict")
    torch.save({"a": torch.zeros(100)}, binary)
    binary.write_bytes(binary.read_bytes()[:500])
    fails(r"pytorch_model\.bin cannot be read")
    index.write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')
    fails(re.escape("names ../elsewhere.safetensors, which is not a file of its folder"))
    index.write_text("[]")
    fails(r"index.json: it is \[\]: it must be an object")
    for text, message in (("{", "not JSON at column 2"), ("[]", "not a JSON object"), ("{}", "model_type ''")):
        config.write_text(text)
        fails(message)
    config.unlink()
    fails("has no config.json")
    assert settings


def test_folder_that_cannot_be_written(tmp_path: Path, small: Callable) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot write"):
        model.save_checkpoint(model.create(small("tinybert")), tmp_path / "file" / "folder")


@pytest.mark.parametrize("head", ["none", "mlm", "sequence-classification", "question-answering"])
@pytest.mark.parametrize("preset", ["mobilebert-paper", "ib-bert-large"])
def test_transformers_loads_what_it_has_no_class_for_with_the_code_beside_it(
    preset: str, head: str, small: Callable, randomized: Callable, inputs: Callable, assert_close: Callable,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    ours = randomized(small(preset, num_labels=3, max_position_embeddings=40), head)
    folder = model.save_checkpoint(ours, tmp_path / "model")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "pocketbert"
    auto = getattr(hf, AUTO[head])
    theirs = auto.from_pretrained(folder, trust_remote_code=True, local_files_only=True).eval()
    batch = inputs(ours.config)
    with torch.no_grad():
        expected, got = ours(**batch), theirs(**batch)
    assert list(got) == list(expected)
    for name in expected:
        assert_close(got[name], expected[name], 1e-7)
    again = theirs.save_pretrained(tmp_path / "again") or model.load_checkpoint(tmp_path / "again")
    assert again.head_name == ours.head_name
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))
