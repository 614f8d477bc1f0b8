"""The heads, and `Model`: an encoder with one head. Outputs are named as `transformers` names them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import HEADS, Head, ModelConfig
from .encoder import Encoder
from .errors import ModelError
from .layers import activation

if TYPE_CHECKING:
    from .sentence import SentenceEmbedding


class Pooler(nn.Module):
    """(B, T, H) -> (B, H): the first token, through a linear and tanh where the config says so."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.pooler == "tanh":
            self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        first = hidden[:, 0]
        return torch.tanh(self.dense(first)) if hasattr(self, "dense") else first


class NoHead(nn.Module):
    """The encoder's own outputs: last_hidden_state (B, T, H) and, where there is a pooler, pooler_output (B, H)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.pooler:
            self.pooler = Pooler(config)
        self.output_names = ["last_hidden_state", *(["pooler_output"] if config.pooler else [])]

    def forward(self, hidden: Tensor, table: Tensor) -> tuple[Tensor, ...]:
        return (hidden, self.pooler(hidden)) if hasattr(self, "pooler") else (hidden,)


class MaskedLanguageModel(nn.Module):
    """Pre-training: scores of every word (B, T, V) and, with `next_sentence`, of "B follows A" (B, 2).

    The decoder is the embedding table, transposed. Where that is narrower than the stream (E < H), the remaining H − E
    channels have a decoder of their own.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.next_sentence and config.pooler is None:
            raise ModelError("next_sentence needs a pooler: set next_sentence=False or choose a pooler")
        self.activation = config.activation
        self.embedding_size = config.embedding_size
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        if config.hidden_size > config.embedding_size:
            self.rest = nn.Parameter(torch.zeros(config.hidden_size - config.embedding_size, config.vocab_size))
        if config.next_sentence:
            self.pooler = Pooler(config)
            self.next_sentence = nn.Linear(config.hidden_size, 2)
        self.output_names = ["prediction_logits", "seq_relationship_logits"] if config.next_sentence else ["logits"]

    def forward(self, hidden: Tensor, table: Tensor) -> tuple[Tensor, ...]:
        words = self.words(hidden, table)
        return (words, self.next_sentence(self.pooler(hidden))) if hasattr(self, "next_sentence") else (words,)

    def words(self, hidden: Tensor, table: Tensor) -> Tensor:  # (B, T, H) -> (B, T, V)
        x = self.norm(activation(self.activation, self.transform(hidden)))  # (B, T, H)
        x = x.view(-1, x.shape[2])  # as one matrix, the table exports as it is: Gemm can transpose it, MatMul cannot
        words = F.linear(x[:, : self.embedding_size], table, self.bias)  # (B·T, V)
        if hasattr(self, "rest"):
            words = words + x[:, self.embedding_size :] @ self.rest
        return words.view(-1, hidden.shape[1], self.bias.shape[0])


class SequenceClassification(nn.Module):
    """logits (B, num_labels) of the whole sequence."""

    output_names = ("logits",)

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.pooler:
            self.pooler = Pooler(config)
        else:
            self.pre_classifier = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden: Tensor, table: Tensor) -> tuple[Tensor, ...]:
        pooled = self.pooler(hidden) if hasattr(self, "pooler") else F.relu(self.pre_classifier(hidden[:, 0]))
        return (self.classifier(self.dropout(pooled)),)


class TokenClassification(nn.Module):
    """logits (B, T, num_labels) of every token."""

    output_names = ("logits",)

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden: Tensor, table: Tensor) -> tuple[Tensor, ...]:
        return (self.classifier(self.dropout(hidden)),)


class QuestionAnswering(nn.Module):
    """start_logits and end_logits (B, T) of the answer's first and last token."""

    output_names = ("start_logits", "end_logits")

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.span = nn.Linear(config.hidden_size, 2)

    def forward(self, hidden: Tensor, table: Tensor) -> tuple[Tensor, ...]:
        span = self.span(hidden)  # (B, T, 2)
        return (span[..., 0], span[..., 1])


HEAD_CLASSES: dict[Head, type[nn.Module]] = {
    "none": NoHead,
    "mlm": MaskedLanguageModel,
    "sequence-classification": SequenceClassification,
    "token-classification": TokenClassification,
    "question-answering": QuestionAnswering,
}


class Model(nn.Module):
    """An encoder with one head: `Model(config, head)(input_ids, attention_mask, token_type_ids) -> {name: tensor}`."""

    def __init__(self, config: ModelConfig, head: Head = "none"):
        super().__init__()
        if head not in HEAD_CLASSES:
            raise ModelError(f"unknown head {head!r}: choose from {', '.join(HEADS)}")
        self.config = config
        self.head_name = head
        self.encoder = Encoder(config)
        self.head = HEAD_CLASSES[head](config)
        self.output_names: list[str] = list(self.head.output_names)  # type: ignore[arg-type]
        self.sentence: SentenceEmbedding | None = None

    def end_in(self, sentence: SentenceEmbedding) -> Model:
        """Let `sentence(last_hidden_state, attention_mask)` be the one output; returns the model."""
        self.sentence, self.output_names = sentence, ["sentence_embedding"]
        return self

    def outputs(self, hidden: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """What the model ends in, of the encoder's last hidden state (B, T, H)."""
        if self.sentence is not None:
            return (self.sentence(hidden, attention_mask),)
        result: tuple[Tensor, ...] = self.head(hidden, self.encoder.embeddings.word.weight)
        return result

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """All arguments are int64 (B, T); mask 1 and token type 0 where they are left out."""
        length, table = input_ids.shape[1], self.config.max_position_embeddings
        if length > table:
            raise ModelError(f"sequence length {length} exceeds the position table's {table}: shorten the input")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if not self.config.type_vocab_size:
            token_type_ids = None
        elif token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        hidden = self.encoder(input_ids, attention_mask, token_type_ids)
        return dict(zip(self.output_names, self.outputs(hidden, attention_mask), strict=True))


def empty_model(config: ModelConfig, head: Head) -> Model:
    """Shapes alone, on the device "meta". Raises `ModelError` where the weights would not fit this machine's memory."""
    inner, c = config.inner_size, config
    layer = 3 * inner * inner + 2 * c.num_feedforward_networks * inner * c.intermediate_size
    need = 4 * (c.vocab_size * c.embedding_size + c.num_hidden_layers * layer)  # bytes, at the least
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else need
    if need > have:
        raise ModelError(f"{need / 2**30:.0f} GiB of weights do not fit {have / 2**30:.0f} GiB of memory")
    with torch.device("meta"):
        return Model(config, head)
