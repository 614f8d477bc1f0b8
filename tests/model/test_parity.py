"""The same weights in `transformers` and here give the same outputs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf

import model

SMALL = {"vocab_size": 1000, "max_position_embeddings": 64}
NORM_AND_ACTIVATION = {
    f"mobilebert {norm} {act}": hf.MobileBertConfig(
        **SMALL, num_hidden_layers=2, normalization_type=norm, hidden_act=act
    )
    for norm in ("no_norm", "layer_norm")
    for act in ("relu", "gelu")
}
ARCHITECTURES = NORM_AND_ACTIVATION | {
    "mobilebert without pooler activation": hf.MobileBertConfig(
        **SMALL, num_hidden_layers=2, classifier_activation=False
    ),
    "mobilebert tiny": hf.MobileBertConfig(
        **SMALL, num_hidden_layers=2, use_bottleneck_attention=True, num_feedforward_networks=2
    ),
    "mobilebert without bottleneck": hf.MobileBertConfig(
        **SMALL, num_hidden_layers=2, use_bottleneck=False, num_feedforward_networks=1, normalization_type="layer_norm"
    ),
    "bert": hf.BertConfig(**SMALL, num_hidden_layers=2),
    "bert narrow": hf.BertConfig(**SMALL, num_hidden_layers=2, hidden_size=312, intermediate_size=1200),
    "distilbert": hf.DistilBertConfig(**SMALL, n_layers=2),
}
PREFIX = {"mobilebert": "MobileBert", "bert": "Bert", "distilbert": "DistilBert"}
CLASSES = {
    "none": "Model",
    "mlm": "ForPreTraining",
    "sequence-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
}


@torch.no_grad()
def reference(config: hf.PreTrainedConfig, class_suffix: str, gamma: float = 1.0) -> hf.PreTrainedModel:
    torch.manual_seed(0)
    module = getattr(hf, PREFIX[config.model_type] + class_suffix)(config).eval()
    for name, parameter in module.named_parameters():
        if "norm.weight" in name.lower():
            parameter.uniform_(0.8 * gamma, 1.2 * gamma)
        elif name.endswith("bias"):
            parameter.normal_(0, 0.1 * gamma)
    return module


@torch.no_grad()
def check(theirs: hf.PreTrainedModel, folder: Path, head: str, inputs: Callable, assert_close: Callable) -> None:
    theirs.save_pretrained(folder)
    ours = model.load_checkpoint(folder)
    assert ours.head_name == head
    arguments = inputs(ours.config)
    expected, actual = theirs(**arguments), ours(**arguments)
    assert list(actual) == [name for name in expected if expected[name] is not None]
    for name, value in actual.items():
        assert_close(value, expected[name])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_encoder_matches_transformers(name: str, tmp_path: Path, inputs: Callable, assert_close: Callable) -> None:
    check(reference(ARCHITECTURES[name], "Model"), tmp_path, "none", inputs, assert_close)


@pytest.mark.parametrize("head", [head for head in CLASSES if head != "none"])
@pytest.mark.parametrize("name", ["mobilebert no_norm relu", "bert", "distilbert"])
def test_head_matches_transformers(
    name: str, head: str, tmp_path: Path, inputs: Callable, assert_close: Callable
) -> None:
    config = type(ARCHITECTURES[name])(
        **ARCHITECTURES[name].to_dict() | {"num_labels": 2 if head == "question-answering" else 5}
    )
    suffix = "ForMaskedLM" if (name, head) == ("distilbert", "mlm") else CLASSES[head]
    check(reference(config, suffix), tmp_path, head, inputs, assert_close)


@pytest.mark.parametrize("name", ["mobilebert layer_norm gelu", "bert"])
def test_masked_language_model_without_next_sentence(
    name: str, tmp_path: Path, inputs: Callable, assert_close: Callable
) -> None:
    check(reference(ARCHITECTURES[name], "ForMaskedLM"), tmp_path, "mlm", inputs, assert_close)


@pytest.mark.parametrize("name", ["mobilebert layer_norm gelu", "bert", "distilbert"])
def test_every_layer_norm_has_its_epsilon(name: str, tmp_path: Path, inputs: Callable, assert_close: Callable) -> None:
    """With γ and β around 0.03 the variance that a LayerNorm sees is small enough for 1e-5 to show."""
    check(reference(ARCHITECTURES[name], "Model", gamma=0.03), tmp_path, "none", inputs, assert_close)


@pytest.mark.parametrize("norm", ["no_norm", "layer_norm"])
def test_all_24_layers_at_full_size(norm: str, tmp_path: Path, inputs: Callable, assert_close: Callable) -> None:
    config = hf.MobileBertConfig(normalization_type=norm, hidden_act="relu" if norm == "no_norm" else "gelu")
    check(reference(config, "Model"), tmp_path, "none", inputs, assert_close)


@torch.no_grad()
def test_padding_does_not_change_the_other_tokens_at_all(small: Callable, randomized: Callable) -> None:
    """A masked key's probability is exactly 0, however high its score: 1e5 is more than some models mask with.

    Seen on BERT, as MobileBERT's 3-convolution does read the first padding token.
    """
    bert = randomized(small("bert-base"))
    for layer in bert.encoder.layers:
        layer.attention.query.weight.mul_(1e3)
        layer.attention.key.weight.mul_(1e3)
    ids = torch.arange(24)[None]
    assert bert.encoder.states(ids, ids + 1 > 0, 0 * ids).attention_scores[0].abs().max() > 1e5
    mask = (ids < 15).long()
    a, b = (bert(x, mask)["last_hidden_state"][:, :15] for x in (ids, ids + 100 * (1 - mask)))
    assert torch.equal(a, b)


def test_mask_and_token_types_may_be_left_out(small: Callable, randomized: Callable, inputs: Callable) -> None:
    mobilebert = randomized(small("mobilebert"))
    ids = inputs(mobilebert.config)["input_ids"]
    with torch.no_grad():
        short, full = mobilebert(ids), mobilebert(ids, torch.ones_like(ids), torch.zeros_like(ids))
    assert torch.equal(short["last_hidden_state"], full["last_hidden_state"])


def test_same_seed_same_weights(small: Callable) -> None:
    a, b, c = (model.create(small("mobilebert"), "mlm", seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["encoder.embeddings.word.weight"], c["encoder.embeddings.word.weight"])


def test_random_weights_are_berts(small: Callable) -> None:
    for name, value in model.create(small("mobilebert"), "mlm").named_parameters():
        if name.endswith("norm.weight"):
            assert (value == 1).all()
        elif name.endswith("bias"):
            assert (value == 0).all()
        else:
            assert value.abs().max() <= 0.04
            assert value.std().item() == pytest.approx(0.0176, rel=0.1)  # 0.02 cut at two deviations
