"""The one encoder: embeddings and L layers, each bottleneck, attention, stacked FFNs, bottleneck back (Figure 1)."""

from __future__ import annotations

from torch import Tensor, nn

from .config import ModelConfig
from .layers import MASKED, TORCH_EPS, Attention, Bottleneck, Embeddings, FeedForward, OutputBottleneck


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

    def forward(self, stream: Tensor, bias: Tensor) -> Tensor:  # (B, T, H) -> (B, T, H)
        x = self.bottleneck(stream) if self.has_bottleneck else stream  # (B, T, I)
        if self.attention_input == "shared-bottleneck":
            query_key, value = self.query_key_bottleneck(stream), stream
        elif self.attention_input == "bottleneck":
            query_key, value = x, x
        else:
            query_key, value = stream, stream
        x = self.attention(query_key, value, x, bias)
        for ffn in self.ffn:
            x = ffn(x)
        return self.output_bottleneck(x, stream) if self.has_bottleneck else x


class Encoder(nn.Module):
    """Token ids to the last hidden state, (B, T) -> (B, T, H)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        stream = self.embeddings(input_ids, token_type_ids)
        bias = (1.0 - attention_mask.to(stream.dtype)) * MASKED  # 0 where attended, MASKED where padding
        bias = bias[:, None, None, :]  # (B, 1, 1, T), the same for every head and query
        for layer in self.layers:
            stream = layer(stream, bias)
        return stream
