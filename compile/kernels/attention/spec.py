"""attention_f32_h{heads}_d{size}_{isa}: softmax(scale · Q Kᵀ + mask + biases) V for a block of query rows.

For each head, scale · Kᵀ is laid out once in the workspace; then a tile of query rows at a time its scores are
computed, normalised and multiplied by V while they sit in the first-level cache. No tensor of heads × tokens × tokens
exists. All CPUs add in the same order and give the same bits. Where attention is local, keys that no query of a tile
looks at are left out: their weights would be 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.cpus import Cpu, Isa
from compile.kernels.attention.in_place import InPlace
from compile.kernels.attention.packed import Packed
from compile.kernels.attention.tiles import SUM_LANES
from compile.kernels.builder import Kernel, loop
from compile.kernels.contract import (
    FIRST_ROW,
    ROW_COUNT,
    TOKEN_COUNT,
    TOKENS,
    WORKSPACE,
    Arrays,
    Signature,
    TiledKernel,
    tensor,
)
from compile.kernels.packing import padded
from compile.kernels.reference import normal
from compile.kernels.tiles import TileConfig, TileKey, candidate_tiles, tile_of_width


@dataclass(frozen=True)
class Bias:
    """A number that is added to each score: element head · `head` + query · ldbias + key · `key` of its tensor.

    A relative position j − i is found so without a table of tokens × tokens: ldbias is −1 then, of a table with an
    entry a distance. Either `key` is 1, or ldbias is: neighbours lie along the keys or along the queries.
    """

    head: int
    key: int = 1


class Zeros(StrEnum):
    """Which queries give zeros."""

    UNDEFINED = "guard"  # whose softmax is not a number, as one without any key's is
    KEYLESS = "keyless"  # whose mask is −inf for every key; what else is not a number stays


@dataclass(frozen=True)
class Window:
    """A key further than `reach` tokens from a query has the score `beyond`, which is far below what others have."""

    reach: int
    beyond: float


@dataclass(frozen=True)
class Attention(TiledKernel):
    """Arguments in C: q, ldq, k, ldk, v, ldv, mask, ldmask, each bias with its ldbias, y, ldy, workspace, tokens,
    first_row (if there is a window), rows.

    q, y and biases point at the block's first row, k and v at token 0. ldmask is 0 where all queries share one mask
    row, else the mask has a row a query and points at the block's first; without a mask neither is read. head_size is
    d; scale is usually 1/√d. zeros: of which queries the results are 0, whatever the softmax says.
    key_heads: heads of K and V, each shared by as many of Q's; 0 where all have their own.
    window: which keys a query looks at, where those are not all. A query that finds all of these masked looks at every
    key: masked ones and those beyond may weigh the same then.
    """

    heads: int
    head_size: int
    scale: float
    has_mask: bool
    tile: TileConfig
    isa: Isa
    zeros: Zeros | None = None
    biases: tuple[Bias, ...] = ()
    key_heads: int = 0
    window: Window | None = None

    family = "attention"

    @property
    def name(self) -> str:
        mask = "_mask" * self.has_mask + (f"_{self.zeros}" if self.zeros else "")
        mask += f"_kv{self.key_heads}" * bool(self.key_heads)
        mask += "".join(f"_bias{bias.head}x{bias.key}" for bias in self.biases)
        numbers = f"_s{self.scale:.6g}"
        if self.window:
            numbers += f"_w{self.window.reach}_{self.window.beyond:.6g}"
        numbers = numbers.replace(".", "p").replace("-", "m").replace("+", "")
        return f"attention_f32_{self.tile}_h{self.heads}_d{self.head_size}{numbers}{mask}_{self.isa.name}"

    @property
    def width(self) -> int:
        return self.heads * self.head_size

    def signature(self) -> Signature:
        q, y = tensor("q", self.width), tensor("y", self.width, written=True)
        key_width = (self.key_heads or self.heads) * self.head_size
        k, v = tensor("k", key_width, "whole"), tensor("v", key_width, "whole")
        biases = [part for i in range(len(self.biases)) for part in tensor(f"bias{i}", TOKENS)]
        first = (FIRST_ROW,) if self.window else ()
        return (*q, *k, *v, *tensor("mask", TOKENS), *biases, *y, WORKSPACE, TOKEN_COUNT, *first, ROW_COUNT)

    def describe(self) -> str:
        extra = ["mask"] * self.has_mask + ["bias"] * len(self.biases)
        extra += [f"within {self.window.reach} tokens"] if self.window else []
        return ", ".join([f"attention {self.heads} heads × {self.head_size}", *extra])

    def flops(self, rows: int, tokens: int) -> int:
        """Of a window those within it, on average over all queries."""
        outside = max(0, tokens - 1 - self.window.reach) if self.window else 0  # of the first query
        return 4 * rows * (tokens * tokens - outside * (outside + 1)) // tokens * self.width

    def workspace_bytes(self, rows: int, tokens: int) -> int:
        """One head's Kᵀ, one tile of scores and its mask, with the tokens padded; where tiles are packed, also one of
        queries and their partial sums.
        """
        mr, width = self.tile.mr, -(-tokens // self.padding) * self.padding
        mask = mr if self.adds else 0 if self.isa.by_element else 1
        packed = mr * (padded(self.head_size) + SUM_LANES) if self.isa.by_element else 0
        return 4 * (width * (self.head_size + mr + mask) + packed)

    @property
    def adds(self) -> bool:
        """Whether anything is added to the scores."""
        return self.has_mask or bool(self.biases)

    @property
    def padding(self) -> int:
        """Keys are padded to whole panels and, where a lane is a key, to whole vectors of partial sums."""
        return self.tile.nr if self.isa.by_element else math.lcm(self.tile.nr, SUM_LANES)

    def tile_key(self, tokens: int) -> TileKey:
        return TileKey(self.family, self.isa.name, self.precision, self.head_size, tokens)

    def candidate_tiles(self) -> list[TileConfig]:
        return candidate_tiles(self.isa, self.precision)

    def dense(self) -> Attention:
        """Biases and windows have no part in which tile is best."""
        return replace(self, biases=(), key_heads=0, window=None)

    def for_cpu(self, cpu: Cpu) -> Attention:
        """Nothing is packed for it, so its panels are two of the CPU's vectors wide."""
        if self.isa == cpu.isa:
            return self
        return replace(self, isa=cpu.isa, tile=tile_of_width(2 * cpu.isa.lanes, cpu.isa, self.tile.k_unroll))

    def example(self, rows: int, rng: np.random.Generator) -> tuple[Arrays, NDArray[np.float64]]:
        """As many queries as keys, the last two masked."""
        operands = {name: normal(rng, rows, self.width) for name in "qkv"}
        operands["mask"] = np.where(np.arange(rows) < rows - 2, 0.0, -1e4).astype(np.float32)
        q, k, v = (
            operands[name].astype(np.float64).reshape(-1, self.heads, self.head_size).transpose(1, 0, 2)
            for name in "qkv"
        )
        scores = self.scale * (q @ k.transpose(0, 2, 1)) + (operands["mask"] if self.has_mask else 0.0)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        return operands, ((scores / scores.sum(-1, keepdims=True)) @ v).transpose(1, 0, 2).reshape(rows, self.width)

    def build(self) -> Any:
        with Kernel(self.name) as kernel:
            tiles = (Packed if self.isa.by_element else InPlace)(self, kernel)
            with loop(self.heads) as head:
                tiles.transpose_keys(head)
                tiles.one_head(head)
        return kernel.func
