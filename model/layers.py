"""The layers, bottom to top: norms, embeddings, bottlenecks, attention, stacked FFNs.

Shapes: B batch, T sequence length, E embedding_size, H hidden_size (the stream), I inner_size (inside a layer),
A attention heads of D = I/A channels each.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig

TORCH_EPS = 1e-5
"""`transformers` builds two of MobileBERT's LayerNorms without the configured epsilon; its checkpoints expect this."""


class NoNorm(nn.Module):
    """NoNorm(h) = γ ∘ h + β (equation 1 of the ACL paper)."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


def norm(config: ModelConfig, size: int, eps: float | None = None) -> nn.Module:
    if config.normalization == "no-norm":
        return NoNorm(size)
    return nn.LayerNorm(size, eps=config.layer_norm_eps if eps is None else eps)


def activation(name: str, x: Tensor) -> Tensor:
    return F.relu(x) if name == "relu" else F.gelu(x)


class Embeddings(nn.Module):
    """Token, position and token type embeddings; the token's may come from a narrower table by a 3-convolution."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.trigram_input = config.trigram_input
        pad = config.pad_token_id
        self.pad = pad if config.trigram_input and pad is not None and 0 <= pad < config.vocab_size else None
        self.ignores_padding = False  # in training
        self.word = nn.Embedding(config.vocab_size, config.embedding_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        if config.type_vocab_size:
            self.token_type = nn.Embedding(config.type_vocab_size, config.hidden_size)
        if config.projects_embeddings:
            self.projection = nn.Linear(config.embedding_size * (3 if config.trigram_input else 1), config.hidden_size)
        self.norm = norm(config, config.hidden_size, TORCH_EPS if config.family == "mobilebert" else None)
        self.dropout = nn.Dropout(config.hidden_dropout)

    @torch.no_grad()
    def clear_padding(self) -> None:
        """Make padding zeros in the table, too, once it was read so in training.

        Zeros are what follows a text that nothing is behind. Else a last token, which reads its neighbour, says
        something else of the same text in a longer batch, as with the released weights in `transformers`: libraries,
        which read no padding, would compute another model than was trained.
        """
        if self.pad is not None:
            self.word.weight[self.pad] = 0.0

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        x = self.word(input_ids)  # (B, T) -> (B, T, E)
        if self.ignores_padding and self.pad is not None:
            x = x.masked_fill((input_ids == self.pad)[..., None], 0.0)
        if self.trigram_input:  # a convolution of width 3 as one linear: next, current and previous token side by side
            none = x.new_zeros(x.shape[0], 1, x.shape[2])  # before the first and after the last token
            x = torch.cat([torch.cat([x[:, 1:], none], 1), x, torch.cat([none, x[:, :-1]], 1)], 2)  # (B, T, 3E)
        if hasattr(self, "projection"):
            x = self.projection(x)  # (B, T, H)
        x = x + self.position.weight[: input_ids.shape[1]]
        if token_type_ids is not None:
            x = x + self.token_type(token_type_ids)
        return self.dropout(self.norm(x))


class Bottleneck(nn.Module):
    """The linear that takes the stream to the size inside a layer (MobileBERT: 512 -> 128; IB-BERT: 512 -> 1024)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.inner_size)
        self.norm = norm(config, config.inner_size)

    def forward(self, stream: Tensor) -> Tensor:  # (B, T, H) -> (B, T, I)
        return self.norm(self.dense(stream))


class Attention(nn.Module):
    """Multi-head attention; queries and keys may come from another tensor than values do.

    Returns its output (B, T, I) and the scores (B, A, T, T) whose softmax over the last axis is the attention map.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_size = config.inner_size // config.num_attention_heads
        wide_query_key = config.attention_input == "stream"
        wide_value = config.attention_input != "bottleneck"
        self.query = nn.Linear(config.hidden_size if wide_query_key else config.inner_size, config.inner_size)
        self.key = nn.Linear(config.hidden_size if wide_query_key else config.inner_size, config.inner_size)
        self.value = nn.Linear(config.hidden_size if wide_value else config.inner_size, config.inner_size)
        self.output = nn.Linear(config.inner_size, config.inner_size)
        self.norm = norm(config, config.inner_size)
        self.attention_dropout = nn.Dropout(config.attention_dropout)
        self.dropout = nn.Dropout(0.0 if config.bottleneck_size else config.hidden_dropout)

    def forward(self, query_key: Tensor, value: Tensor, residual: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        q = self.split_heads(self.query(query_key)) * (1 / math.sqrt(self.head_size))
        k = self.split_heads(self.key(query_key))
        v = self.split_heads(self.value(value))
        scores = q @ k.transpose(-1, -2) + bias  # (B, A, T, T)
        context = self.attention_dropout(scores.softmax(-1)) @ v  # (B, A, T, D)
        context = context.transpose(1, 2)  # (B, T, A, D)
        context = context.reshape(context.shape[0], context.shape[1], self.num_heads * self.head_size)  # (B, T, I)
        return self.norm(self.dropout(self.output(context)) + residual), scores

    def split_heads(self, x: Tensor) -> Tensor:  # (B, T, I) -> (B, A, T, D)
        return x.view(x.shape[0], x.shape[1], self.num_heads, self.head_size).transpose(1, 2)


class FeedForward(nn.Module):
    """One FFN of the stack: norm(W2 activation(W1 x) + x)."""

    def __init__(self, config: ModelConfig, eps: float | None = None):
        super().__init__()
        self.activation = config.activation
        self.intermediate = nn.Linear(config.inner_size, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, config.inner_size)
        self.norm = norm(config, config.inner_size, eps)
        self.dropout = nn.Dropout(0.0 if config.bottleneck_size else config.hidden_dropout)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, I) -> (B, T, I)
        inner = activation(self.activation, self.intermediate(x))  # (B, T, intermediate_size)
        return self.norm(self.dropout(self.output(inner)) + x)


class OutputBottleneck(nn.Module):
    """Back from the size inside a layer to the stream's, with the shortcut around the whole layer."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.dense = nn.Linear(config.inner_size, config.hidden_size)
        self.norm = norm(config, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x: Tensor, stream: Tensor) -> Tensor:  # (B, T, I), (B, T, H) -> (B, T, H)
        return self.norm(self.dropout(self.dense(x)) + stream)
