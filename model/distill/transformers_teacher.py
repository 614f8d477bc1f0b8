"""Teachers that `transformers` has and our own core has not: RoBERTa's and ELECTRA's kin.

They have no head of next sentences, and their embeddings and heads are of another kind than a student's: what is copied
from a teacher is not copied from these.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pocketbert.reading import read_json

from ..checkpoint import load_checkpoint
from ..encoder import States
from ..errors import ModelError, NotOurs
from ..foreign import load_foreign
from ..heads import Model
from ..presets import PRESETS

WORDS = {
    "roberta": ("lm_head",),
    "xlm-roberta": ("lm_head",),
    "camembert": ("lm_head",),
    "electra": ("generator_predictions", "generator_lm_head"),
}
"""By model type: the modules, one after another, from the last feature map to the scores of words."""


class TransformersEncoder(nn.Module):
    """As `model.encoder.Encoder`, as far as a teacher is asked."""

    def __init__(self, module: Any):
        super().__init__()
        self.module = module

    @property
    def layers(self) -> nn.ModuleList:
        layers: nn.ModuleList = self.module.encoder.layer
        return layers

    def states(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None, depth: int | None = None
    ) -> States:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        asked: dict[str, Any] = {"output_hidden_states": True, "output_attentions": True, "return_dict": True}
        out = self.module(input_ids=input_ids, attention_mask=attention_mask, **types, **asked)
        smallest = torch.finfo(torch.float32).tiny  # a probability of 0 has no logarithm
        scores = [attention.float().clamp_min(smallest).log() for attention in out.attentions[:depth]]
        return States(list(out.hidden_states[1:][:depth]), scores)


class TransformersTeacher(nn.Module):
    """As `model.heads.Model` with the head of masked words; without any where it was loaded for its layers alone."""

    head_name = "mlm"

    def __init__(self, module: Any, words: bool):
        super().__init__()
        theirs = module.config
        self.config = replace(
            PRESETS["bert-base"], vocab_size=theirs.vocab_size, max_position_embeddings=theirs.max_position_embeddings,
            type_vocab_size=0 if theirs.type_vocab_size < 2 else theirs.type_vocab_size,
            num_hidden_layers=theirs.num_hidden_layers, hidden_size=theirs.hidden_size,
            embedding_size=theirs.hidden_size, num_attention_heads=theirs.num_attention_heads,
            intermediate_size=theirs.intermediate_size, next_sentence=False,
        )  # fmt: skip
        self.encoder = TransformersEncoder(module.base_model)
        self.head = nn.Sequential(*(getattr(module, name) for name in WORDS[theirs.model_type])) if words else None

    def words(self, hidden: Tensor) -> Tensor:
        """Scores of every word for M tokens, (M, H) -> (M, V)."""
        assert self.head is not None
        scores: Tensor = self.head(hidden)
        return scores


def load_teacher(folder: Path, words: bool) -> Model | TransformersTeacher:
    """words: whether it is asked for its opinion of the masked words. Raises `ModelError`."""
    try:
        return load_checkpoint(folder, "mlm")
    except NotOurs as error:
        reason = str(error)
    said = read_json(folder / "config.json", ModelError)
    if said.get("model_type") not in WORDS:
        raise ModelError(f"teacher {folder}: {reason}; or a teacher of {', '.join(WORDS)}")
    architecture = (said.get("architectures") or ["none"])[0]
    if words and not architecture.endswith("ForMaskedLM"):
        raise ModelError(
            f"teacher {folder}: {architecture} predicts no words: set transfer.alpha=1 to learn from its layers alone"
        )
    return TransformersTeacher(load_foreign(folder, "mlm" if words else "none", eager=True).module, words)
