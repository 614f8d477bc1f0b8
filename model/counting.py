"""#Params and #FLOPs, by part and as the papers count them.

FLOPs are 2 × multiply-adds of the matrix products, as in the papers; element-wise work (norms, activations, softmax,
adds) and table look-ups count 0. The papers' totals follow two conventions, found by fitting them to the printed ones:

* #Params is the encoder with its embeddings, without pooler and heads (BERT_LARGE: 334M, with the pooler 335M).
* #FLOPs adds one hidden_size² linear over every token, which is what the masked language model's transform costs. It
  shows in the rows that differ in depth only: 12, 6, 4 and 3 layers of BERT_BASE are 22.5, 11.3, 7.6 and 5.7B, so
  1.86B a layer and 0.15B = 2·128·768² besides.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from .config import ModelConfig
from .heads import Model
from .layers import Attention
from .presets import PAPER, PRESETS


@dataclass(frozen=True)
class Row:
    """One part of the encoder: parameters and FLOPs of all its `times` copies together."""

    part: str
    shape: str
    times: int
    params: int
    flops: int


def count(config: ModelConfig, seq_len: int = 128) -> list[Row]:
    """The encoder's parts in the order they run; a part of every layer is one row."""
    with torch.device("meta"):
        encoder = Model(replace(config, num_hidden_layers=1)).encoder
    rows = []
    for name, module in encoder.named_modules():
        part = name.replace("layers.0", "layer")
        times = config.num_hidden_layers if part.startswith("layer") else 1
        params = sum(p.numel() for p in module.parameters(recurse=False))
        if isinstance(module, Attention):  # q·kᵀ and p·v of each head
            flops, shape = 2 * 2 * seq_len**2 * config.inner_size, f"{config.num_attention_heads} heads"
            part += ".products"
        elif isinstance(module, nn.Linear):
            flops, shape = 2 * seq_len * module.weight.numel(), f"{module.in_features} → {module.out_features}"
        elif params:
            flops, shape = 0, " × ".join(map(str, next(module.parameters()).shape))
        else:
            continue
        rows.append(Row(part, shape, times, times * params, times * flops))
    return rows


def paper_params(rows: list[Row]) -> int:
    """#Params as the papers count them."""
    return sum(row.params for row in rows)


def paper_flops(rows: list[Row], config: ModelConfig, seq_len: int = 128) -> int:
    """#FLOPs as the papers count them."""
    return sum(row.flops for row in rows) + 2 * seq_len * config.hidden_size**2


def part_params(rows: list[Row], part: str) -> int:
    """The linears of all attention blocks or all FFNs together (Table 3 of the ACL paper)."""
    return sum(row.params for row in rows if row.part.startswith(f"layer.{part}.") and "→" in row.shape)


@dataclass(frozen=True)
class Comparison:
    """A paper's figure (#Params in millions, #FLOPs in billions) beside ours; `difference` is in percent."""

    preset: str
    figure: str
    table: str
    paper: float
    ours: float
    difference: float
    note: str


def compare() -> list[Comparison]:
    """Every figure in `PAPER` beside ours."""
    result = []
    for preset, printed in PAPER.items():
        config = PRESETS[preset]
        rows = count(config)
        ours = {
            "params": paper_params(rows) / 1e6,
            "flops": paper_flops(rows, config) / 1e9,
            "squad_flops": paper_flops(count(config, 384), config, 384) / 1e9,
            "mha_params": part_params(rows, "attention") / 1e6,
            "ffn_params": part_params(rows, "ffn") / 1e6,
        }
        for figure, value in ours.items():
            paper = asdict(printed)[figure]
            if paper is not None:
                difference = 100 * (value / paper - 1)
                note = printed.note if abs(difference) > 2 else ""
                table, value, difference = printed.table, round(value, 3), round(difference, 2)
                result.append(Comparison(preset, figure, table, paper, value, difference, note))
    return result
