"""`ModelConfig`: one dataclass that describes every encoder in the papers' tables.

The words are the papers': the *stream* (feature map, h_inter) is what flows between layers, and a *bottleneck* is the
linear that takes it to the size a layer works at inside (h_intra), narrower for MobileBERT and wider for IB-BERT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import ModelError

Head = Literal["none", "mlm", "sequence-classification", "token-classification", "question-answering"]
HEADS: tuple[Head, ...] = ("none", "mlm", "sequence-classification", "token-classification", "question-answering")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of an encoder. The defaults are MobileBERT as released (uncased, 24 layers).

    Raises `ModelError` where the fields do not fit together.
    """

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    trained_positions: int | None = None  # the longest sequence it was trained on; None: nobody has written it down
    type_vocab_size: int = 2  # 0: no token type embeddings (DistilBERT)
    embedding_size: int = 128
    trigram_input: bool = True  # the 3-convolution over embeddings, embedding_size -> hidden_size

    num_hidden_layers: int = 24
    hidden_size: int = 512  # h_inter: the stream between layers
    bottleneck_size: int | None = 128  # h_intra: the size inside a layer; None: as wide as the stream (BERT)
    # What queries, keys and values are computed from:
    #   stream             the stream itself (the papers' Table 1; BERT)
    #   shared-bottleneck  queries and keys from one more bottleneck, values from the stream (the released MobileBERT)
    #   bottleneck         all three from the layer's bottlenecked input (MobileBERT_TINY)
    attention_input: Literal["stream", "shared-bottleneck", "bottleneck"] = "shared-bottleneck"
    num_attention_heads: int = 4
    intermediate_size: int = 512  # h_FFN
    num_feedforward_networks: int = 4  # stacked FFNs

    normalization: Literal["no-norm", "layer-norm"] = "no-norm"
    activation: Literal["relu", "gelu"] = "relu"
    layer_norm_eps: float = 1e-12

    # What stands for the whole sequence: the first token through a linear and tanh (BERT), the first token as it is
    # (the released MobileBERT), or nothing (DistilBERT, whose sequence classifier brings its own linear and relu).
    pooler: Literal["tanh", "first-token"] | None = "first-token"
    next_sentence: bool = True  # the mlm head also predicts the next sentence
    num_labels: int = 2  # of the classification heads

    hidden_dropout: float = 0.0
    attention_dropout: float = 0.1
    pad_token_id: int | None = 0

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not (type(value) is int and least <= value <= most) and not (name in _OPTIONAL and value is None):
                raise ModelError(f"{name} is {value!r}: it must be a whole number from {least} to {most}")
        for name in ("layer_norm_eps", "hidden_dropout", "attention_dropout"):
            value = getattr(self, name)
            if not (type(value) in (float, int) and 0 <= value < 1):
                raise ModelError(f"{name} is {value!r}: it must be a number from 0 up to 1")
        for name in ("trigram_input", "next_sentence"):
            if type(getattr(self, name)) is not bool:
                raise ModelError(f"{name} is {getattr(self, name)!r}: it must be true or false")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ModelError(f"{name} is {getattr(self, name)!r}: choose from {', '.join(map(str, allowed))}")
        if self.embedding_size > self.hidden_size:
            raise ModelError(f"embedding_size {self.embedding_size} exceeds hidden_size {self.hidden_size}")
        if self.bottleneck_size is None and self.attention_input != "stream":
            raise ModelError(f"attention_input {self.attention_input!r} needs a bottleneck_size")
        if self.inner_size % self.num_attention_heads:
            heads, size = self.num_attention_heads, self.inner_size
            raise ModelError(f"num_attention_heads {heads} does not divide the {size} channels inside a layer")

    def check_length(self, name: str, length: int) -> None:
        """Raises `ModelError` where `length` exceeds the position table, or the part of it that was trained."""
        table, trained = self.max_position_embeddings, self.trained_positions
        if length > table:
            raise ModelError(f"{name} {length} exceeds the position table's {table}: choose at most {table}")
        if trained is not None and length > trained:
            raise ModelError(
                f"{name} {length} exceeds the {trained} positions that the model was trained on: "
                f"choose at most {trained}, or train it with data.long_sequence_length"
            )

    @property
    def longest(self) -> int:
        """Tokens that it takes."""
        return self.trained_positions or self.max_position_embeddings

    @property
    def inner_size(self) -> int:
        """The size inside a layer: of the FFNs' inputs and of all attention heads together."""
        return self.bottleneck_size or self.hidden_size

    @property
    def projects_embeddings(self) -> bool:
        """Whether a linear stands between the embedding table and the stream."""
        return self.trigram_input or self.embedding_size != self.hidden_size

    @property
    def family(self) -> Literal["bert", "distilbert", "mobilebert", "pocketbert"]:
        """The `transformers` model type that can hold this architecture; "pocketbert" where there is none."""
        plain = (self.bottleneck_size is None and not self.projects_embeddings
                 and self.num_feedforward_networks == 1 and self.normalization == "layer-norm")  # fmt: skip
        if plain and self.type_vocab_size and self.pooler != "first-token":
            return "bert"
        if plain and not (self.type_vocab_size or self.pooler or self.next_sentence) and self.layer_norm_eps == 1e-12:
            return "distilbert"
        narrow_queries = self.attention_input != "stream" or self.bottleneck_size in (None, self.hidden_size)
        if self.type_vocab_size and self.pooler and self.projects_embeddings and narrow_queries:
            return "mobilebert"
        return "pocketbert"

    @property
    def input_names(self) -> list[str]:
        """The forward arguments, in order; each is int64 (batch, sequence)."""
        return ["input_ids", "attention_mask"] + (["token_type_ids"] if self.type_vocab_size else [])


# Far beyond any encoder that exists, and few enough that what exceeds the memory is found out at once.
_RANGES = {
    "vocab_size": (1, 1 << 24),
    "max_position_embeddings": (1, 1 << 20),
    "trained_positions": (1, 1 << 20),
    "type_vocab_size": (0, 1 << 16),
    "embedding_size": (1, 1 << 16),
    "num_hidden_layers": (1, 256),
    "hidden_size": (1, 1 << 16),
    "bottleneck_size": (1, 1 << 16),
    "num_attention_heads": (1, 1 << 12),
    "intermediate_size": (1, 1 << 18),
    "num_feedforward_networks": (1, 32),
    "num_labels": (1, 1 << 20),
    "pad_token_id": (-1, 1 << 24),
}
_OPTIONAL = ("bottleneck_size", "pad_token_id", "trained_positions")
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "attention_input": ("stream", "shared-bottleneck", "bottleneck"),
    "normalization": ("no-norm", "layer-norm"),
    "activation": ("relu", "gelu"),
    "pooler": ("tanh", "first-token", None),
}
