"""Our names for tensors and configuration fields, and the ones `transformers` uses, side by side."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import asdict, fields, replace
from typing import Any, TypeVar

from pocketbert.typed import typed

from .config import HEADS, Head, ModelConfig
from .custom_code import AUTO_MAP
from .errors import ModelError, NotOurs
from .presets import PRESETS

T = TypeVar("T")

# (ours, theirs): the first pattern that matches a whole parameter name, but for ".weight" or ".bias", translates it.
# {base} is the model type and a dot in a checkpoint with a head, and nothing in one without.
COMMON = [
    (r"head\.pooler\.dense", r"{base}pooler.dense"),
    (r"head\.classifier", r"classifier"),
    (r"head\.pre_classifier", r"pre_classifier"),
    (r"head\.span", r"qa_outputs"),
    (r"encoder\.embeddings\.norm", r"{base}embeddings.LayerNorm"),
    (r"encoder\.embeddings\.projection", r"{base}embeddings.embedding_transformation"),
    (r"encoder\.embeddings\.(\w+)", r"{base}embeddings.\1_embeddings"),
]
LAYER = r"encoder\.layers\.(\d+)\."
BERT = [
    *COMMON,
    (LAYER + r"bottleneck\.dense", r"{base}encoder.layer.\1.bottleneck.input.dense"),
    (LAYER + r"bottleneck\.norm", r"{base}encoder.layer.\1.bottleneck.input.LayerNorm"),
    (LAYER + r"query_key_bottleneck\.dense", r"{base}encoder.layer.\1.bottleneck.attention.dense"),
    (LAYER + r"query_key_bottleneck\.norm", r"{base}encoder.layer.\1.bottleneck.attention.LayerNorm"),
    (LAYER + r"attention\.(query|key|value)", r"{base}encoder.layer.\1.attention.self.\2"),
    (LAYER + r"attention\.output", r"{base}encoder.layer.\1.attention.output.dense"),
    (LAYER + r"attention\.norm", r"{base}encoder.layer.\1.attention.output.LayerNorm"),
    (LAYER + r"ffn\.last\.intermediate", r"{base}encoder.layer.\1.intermediate.dense"),
    (LAYER + r"ffn\.last\.output", r"{base}encoder.layer.\1.output.dense"),
    (LAYER + r"ffn\.last\.norm", r"{base}encoder.layer.\1.output.LayerNorm"),
    (LAYER + r"ffn\.(\d+)\.intermediate", r"{base}encoder.layer.\1.ffn.\2.intermediate.dense"),
    (LAYER + r"ffn\.(\d+)\.output", r"{base}encoder.layer.\1.ffn.\2.output.dense"),
    (LAYER + r"ffn\.(\d+)\.norm", r"{base}encoder.layer.\1.ffn.\2.output.LayerNorm"),
    (LAYER + r"output_bottleneck\.dense", r"{base}encoder.layer.\1.output.bottleneck.dense"),
    (LAYER + r"output_bottleneck\.norm", r"{base}encoder.layer.\1.output.bottleneck.LayerNorm"),
    (r"head\.transform", r"cls.predictions.transform.dense"),
    (r"head\.norm", r"cls.predictions.transform.LayerNorm"),
    (r"head\.rest", r"cls.predictions.dense.weight"),
    (r"head\.next_sentence", r"cls.seq_relationship"),
    (r"head", r"cls.predictions"),  # its bias
]
DISTILBERT = [
    *COMMON,
    (LAYER + r"attention\.output", r"{base}transformer.layer.\1.attention.out_lin"),
    (LAYER + r"attention\.norm", r"{base}transformer.layer.\1.sa_layer_norm"),
    (LAYER + r"attention\.([qkv])\w+", r"{base}transformer.layer.\1.attention.\2_lin"),
    (LAYER + r"ffn\.last\.intermediate", r"{base}transformer.layer.\1.ffn.lin1"),
    (LAYER + r"ffn\.last\.output", r"{base}transformer.layer.\1.ffn.lin2"),
    (LAYER + r"ffn\.last\.norm", r"{base}transformer.layer.\1.output_layer_norm"),
    (r"head\.transform", r"vocab_transform"),
    (r"head\.norm", r"vocab_layer_norm"),
    (r"head", r"vocab_projector"),  # its bias
]
TENSORS = {"bert": BERT, "mobilebert": BERT, "distilbert": DISTILBERT}

CLASSES = {"bert": "Bert", "mobilebert": "MobileBert", "distilbert": "DistilBert"}
HEAD_OF_CLASS: dict[str, Head] = {
    "Model": "none",
    "ForPreTraining": "mlm",
    "ForMaskedLM": "mlm",
    "ForSequenceClassification": "sequence-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
}

# ours -> theirs, where a value needs no translation
BERT_FIELDS = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "num_hidden_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "activation": "hidden_act",
    "layer_norm_eps": "layer_norm_eps",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "pad_token_id": "pad_token_id",
}
MOBILEBERT_FIELDS = BERT_FIELDS | {
    "embedding_size": "embedding_size",
    "trigram_input": "trigram_input",
    "num_feedforward_networks": "num_feedforward_networks",
}
DISTILBERT_FIELDS = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings",
    "num_hidden_layers": "n_layers",
    "hidden_size": "dim",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "activation": "activation",
    "hidden_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "pad_token_id": "pad_token_id",
}
FIELDS = {"bert": BERT_FIELDS, "mobilebert": MOBILEBERT_FIELDS, "distilbert": DISTILBERT_FIELDS}

# What `transformers` builds from a config.json that is silent.
DEFAULT = {"bert": PRESETS["bert-base"], "mobilebert": PRESETS["mobilebert"], "distilbert": PRESETS["distilbert-6l"]}


# The head that a checkpoint's tensor belongs to; of some families a classifier may be of either kind.
HEAD_OF_TENSOR: dict[str, Head] = {
    "qa_outputs.weight": "question-answering",
    "cls.predictions.bias": "mlm",
    "cls.predictions.decoder.bias": "mlm",
    "vocab_projector.bias": "mlm",
    "pre_classifier.weight": "sequence-classification",
}


def head_of_tensors(family: str, tensors: Collection[str]) -> Head:
    """The head that a checkpoint has weights of, whose config.json names no architecture. Raises `ModelError`."""
    heads = {head for name, head in HEAD_OF_TENSOR.items() if name in tensors}
    if "classifier.weight" in tensors and not heads:
        if f"{family}.pooler.dense.weight" in tensors:
            return "sequence-classification"
        if family == "mobilebert":
            raise ModelError(
                "config.json names no architecture, and classifier.weight may be of a sequence's or of every token's "
                "label: choose --head sequence-classification or token-classification"
            )
        heads.add("token-classification")
    if len(heads) > 1:
        raise ModelError(f"config.json names no architecture, and there are several heads: choose {', '.join(heads)}")
    return heads.pop() if heads else "none"


def tensor_name(config: ModelConfig, family: str, ours: str, base: str) -> str:
    """The name that a checkpoint of that model type gives to our parameter."""
    if family == "pocketbert":
        return ours
    stem, dot, kind = ours.rpartition(".")
    if kind not in ("weight", "bias"):
        stem, dot, kind = ours, "", ""
    stem = stem.replace(f".ffn.{config.num_feedforward_networks - 1}.", ".ffn.last.")
    for pattern, theirs in TENSORS[family]:
        if match := re.fullmatch(pattern, stem):
            return match.expand(theirs).replace("{base}", base) + dot + kind
    raise AssertionError(f"no checkpoint name for {ours}")


def config_to_json(config: ModelConfig, head: Head) -> dict[str, Any]:
    """What to write in config.json, so that `transformers` builds the same model."""
    labels = {str(i): f"LABEL_{i}" for i in range(config.num_labels)}
    common: dict[str, Any] = {
        "model_type": config.family,
        "id2label": labels,
        "label2id": {label: int(i) for i, label in labels.items()},
        "trained_positions": config.trained_positions,
    }
    if config.family == "pocketbert":
        return common | {"head": head, "auto_map": AUTO_MAP} | asdict(config)
    suffixes = [suffix for suffix, of in HEAD_OF_CLASS.items() if of == head]
    suffix = suffixes[0] if config.next_sentence else suffixes[-1]
    json = common | {"architectures": [CLASSES[config.family] + suffix]}
    json |= {theirs: getattr(config, ours) for ours, theirs in FIELDS[config.family].items()}
    if config.family == "mobilebert":
        json |= {
            "use_bottleneck": config.bottleneck_size is not None,
            "intra_bottleneck_size": config.inner_size,
            "use_bottleneck_attention": config.attention_input == "bottleneck",
            "key_query_shared_bottleneck": config.attention_input == "shared-bottleneck",
            "normalization_type": config.normalization.replace("-", "_"),
            "classifier_activation": config.pooler == "tanh",
        }
    return json


def config_from_json(json: dict[str, Any]) -> tuple[ModelConfig, Head | None]:
    """The configuration in a config.json, and the head it names (None: one that we do not have).

    Raises Misfit, with the key, or `ModelError`.
    """

    def given(name: str, kind: type[T], otherwise: T) -> T:
        return otherwise if json.get(name) is None else typed(kind, json[name], (name,))

    family = given("model_type", str, "")
    labels = given("num_labels", int, 0) or len(given("id2label", dict[str, str], {})) or 2
    if family == "pocketbert":
        own = {f.name: json[f.name] for f in fields(ModelConfig) if f.name in json}
        own.setdefault("num_labels", labels)  # `transformers` writes their names alone
        return typed(ModelConfig, own), next((head for head in HEADS if head == json.get("head")), None)
    if family not in FIELDS:
        raise NotOurs(f"config.json has model_type {family!r}: choose from {', '.join(FIELDS)}, pocketbert")
    if json.get("position_embedding_type", "absolute") != "absolute" or json.get("is_decoder"):
        raise NotOurs("config.json asks for relative positions or a decoder: only absolute encoders are supported")
    if (name := json.get(FIELDS[family]["activation"], "gelu")) not in ("gelu", "relu"):
        raise NotOurs(f"activation is {name!r}: choose from relu, gelu")
    values: dict[str, Any] = {"trained_positions": json.get("trained_positions")}
    values |= {ours: json[theirs] for ours, theirs in FIELDS[family].items() if theirs in json}
    if family == "mobilebert":
        bottleneck = given("use_bottleneck", bool, True)
        values["bottleneck_size"] = json.get("intra_bottleneck_size", 128) if bottleneck else None
        values["attention_input"] = "stream"
        if bottleneck and given("key_query_shared_bottleneck", bool, True):
            values["attention_input"] = "shared-bottleneck"
        if bottleneck and given("use_bottleneck_attention", bool, False):
            values["attention_input"] = "bottleneck"
        values["normalization"] = given("normalization_type", str, "no_norm").replace("_", "-")
        values["pooler"] = "tanh" if given("classifier_activation", bool, True) else "first-token"
    else:
        values["embedding_size"] = values.get("hidden_size", DEFAULT[family].hidden_size)
    architecture = (given("architectures", tuple[str, ...], ()) or (CLASSES[family] + "Model",))[0]
    head = HEAD_OF_CLASS.get(architecture.removeprefix(CLASSES[family]))
    if architecture.endswith("ForMaskedLM"):
        values["next_sentence"] = False
    return replace(DEFAULT[family], **values, num_labels=labels), head
