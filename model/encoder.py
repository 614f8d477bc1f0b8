"""The one encoder: embeddings and L layers, each bottleneck, attention, stacked FFNs, bottleneck back (Figure 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import ModelConfig
from .layers import TORCH_EPS, Attention, Bottleneck, Embeddings, FeedForward, OutputBottleneck


class Layer(nn.Module):
    """BERT's layer where there is no bottleneck, MobileBERT's or IB-BERT's where there is one."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention_input = config.attention_input
        self.has_bottleneck = config.bottleneck_size is not None
        if self.has_bottleneck:
            self.bottleneck = Bottleneck(config)
        if config.attention_input == "shared-bottleneck":
            self.query_key_bottleneck = Bottleneck(config)
        self.attention = Attention(config)
        last = config.num_feedforward_networks - 1
        last_eps = TORCH_EPS if config.family == "mobilebert" else None
        self.ffn = nn.ModuleList(FeedForward(config, last_eps if i == last else None) for i in range(last + 1))
        if self.has_bottleneck:
            self.output_bottleneck = OutputBottleneck(config)

    def forward(self, stream: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:  # (B, T, H) -> (B, T, H), (B, A, T, T)
        x = self.bottleneck(stream) if self.has_bottleneck else stream  # (B, T, I)
        if self.attention_input == "shared-bottleneck":
            query_key, value = self.query_key_bottleneck(stream), stream
        elif self.attention_input == "bottleneck":
            query_key, value = x, x
        else:
            query_key, value = stream, stream
        x, scores = self.attention(query_key, value, x, bias)
        for ffn in self.ffn:
            x = ffn(x)
        return (self.output_bottleneck(x, stream) if self.has_bottleneck else x), scores


@dataclass(frozen=True)
class States:
    """What knowledge transfer compares, bottom layer first: each layer's output and its heads' attention."""

    feature_maps: list[Tensor]  # (B, T, H) each
    attention_scores: list[Tensor]  # (B, A, T, T) each; the attention map is the softmax over the last axis


class Encoder(nn.Module):
    """Token ids to the last hidden state, (B, T) -> (B, T, H)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.gradient_checkpointing = False

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        stream, bias = self.begin(input_ids, attention_mask, token_type_ids)
        for layer in self.layers:
            stream, _ = self.run_layer(layer, stream, bias)
        return stream

    def states(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None, depth: int | None = None
    ) -> States:
        """The same, keeping what every layer says, and stopping after `depth` layers where it is given."""
        states = States([], [])
        stream, bias = self.begin(input_ids, attention_mask, token_type_ids)
        for layer in self.layers[:depth]:
            stream, scores = self.run_layer(layer, stream, bias)
            states.feature_maps.append(stream)
            states.attention_scores.append(scores)
        return states

    def begin(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """The stream that enters the first layer (B, T, H) and the bias on attention scores (B, 1, 1, T)."""
        stream = self.embeddings(input_ids, token_type_ids)
        lowest = torch.finfo(stream.dtype).min  # as `transformers` masks: no finite score of padding is above it
        bias = (1.0 - attention_mask.to(stream.dtype)) * lowest  # 0 where attended
        return stream, bias[:, None, None, :]  # the same for every head and query

    def run_layer(self, layer: nn.Module, stream: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        if self.gradient_checkpointing and self.training:  # keep only the layer's input, compute the rest again
            return checkpoint(layer, stream, bias, use_reentrant=False)
        return layer(stream, bias)
