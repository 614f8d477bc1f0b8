"""Attention kernels against a float64 softmax: head sizes that no vector divides, masks, blocks of query rows."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from compile.cpus import Isa
from compile.kernels.attention import Attention
from compile.kernels.tiles import default_tile

TOKENS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 128]


@dataclass(frozen=True)
class Case:
    heads: int
    size: int
    mask: bool
    scale: float
    narrow: bool = False

    def kernel(self, isa: Isa, tokens: int) -> Attention:
        kernel = Attention(self.heads, self.size, self.scale, self.mask, default_tile(isa), isa)
        tiles = kernel.candidate_tiles()
        return kernel.with_tile(min(tiles, key=lambda tile: tile.nr) if self.narrow else tiles[0])

    @property
    def bound(self) -> float:
        """Of the error as a share of the largest result: e^score carries the rounding of large scores on."""
        return 2e-6 * max(1.0, self.scale * self.size**0.5)


CASES = {
    "MobileBERT": Case(4, 32, True, 32**-0.5),
    "BERT, without mask": Case(2, 64, False, 0.125),
    "26-wide heads": Case(12, 26, True, 26**-0.5),
    "one wide head, scale folded away": Case(1, 48, True, 1.0),
    "narrower than a vector": Case(3, 5, False, 0.4),
    "head of one": Case(2, 1, True, 1.0),
    "panels of one vector": Case(2, 32, True, 32**-0.5, narrow=True),
}


@pytest.fixture(scope="module")
def call(isa: Isa, link_kernels: Callable) -> Callable[..., None]:
    kernels = [case.kernel(isa, tokens) for case in CASES.values() for tokens in TOKENS]
    return link_kernels({k.name: k for k in kernels}.values())


def referee(case: Case, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    q, k, v = (x.astype(np.float64).reshape(len(x), case.heads, case.size).swapaxes(0, 1) for x in (q, k, v))
    scores = case.scale * q @ k.swapaxes(1, 2)
    scores = scores if mask is None else scores + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(q.shape[1], -1)


def attend(
    call: Callable, case: Case, isa: Isa, strided: type, block: int | None = None, per_query: bool = False,
    seed: int = 0, tokens: int = 16, spread: float = 1.0, keys: int | None = None, far_below: bool = False,
) -> tuple[np.ndarray, np.ndarray, bool]:  # fmt: skip
    """(what the kernel computed a block of rows at a time, what it should have, whether all else is untouched)."""
    rng, width = np.random.default_rng(seed), case.heads * case.size
    q, k, v = (strided(tokens, width, gap=g, values=rng.standard_normal((tokens, width)) * spread) for g in (3, 0, 9))
    if far_below:
        q.view[...], k.view[...] = np.abs(q.view), -np.abs(k.view)
    y = strided(tokens, width, gap=2)
    kept = np.arange(tokens) < (int(rng.integers(1, tokens + 1)) if keys is None else keys)
    mask = strided(tokens if per_query else 1, tokens, gap=0, values=np.where(kept, 0.0, -10000.0))
    if per_query:
        mask.view[...] += rng.standard_normal(mask.view.shape)
    kernel = case.kernel(isa, tokens)
    workspace = np.full(kernel.workspace_bytes(tokens, tokens) // 4 + 64, np.nan, np.float32)
    base = workspace.ctypes.data + (-workspace.ctypes.data % 64)

    def row(x, first: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(x.address.value + 4 * first * x.stride)

    for first in range(0, tokens, block or tokens):
        rows = min(block or tokens, tokens - first)
        mask_at = (row(mask, first), mask.stride) if per_query else (mask.address, 0)
        call(
            kernel, row(q, first), q.stride, k.address, k.stride, v.address, v.stride, *mask_at,
            row(y, first), y.stride, ctypes.c_void_p(base), tokens, rows,
        )  # fmt: skip
    want = referee(case, q.view, k.view, v.view, mask.view if case.mask else None)
    past_the_end = workspace[(base - workspace.ctypes.data + kernel.workspace_bytes(tokens, tokens)) // 4 :]
    return y.view, want, y.untouched() and bool(np.isnan(past_the_end).all())


@pytest.mark.parametrize("name", CASES)
def test_attention_over_any_number_of_tokens(name: str, isa: Isa, call: Callable, strided: type) -> None:
    for tokens in TOKENS:
        got, want, untouched = attend(call, CASES[name], isa, strided, tokens=tokens, seed=tokens)
        assert np.abs(got - want).max() <= CASES[name].bound * np.abs(want).max(), f"{tokens} tokens"
        assert untouched, f"{tokens} tokens: written outside the tensor or the workspace"


@pytest.mark.parametrize("name", ["MobileBERT", "26-wide heads"])
def test_a_mask_of_its_own_for_each_query(name: str, isa: Isa, call: Callable, strided: type) -> None:
    for block in (None, 5):
        got, want, _ = attend(call, CASES[name], isa, strided, per_query=True, tokens=33, block=block)
        assert np.abs(got - want).max() <= CASES[name].bound * np.abs(want).max()


@pytest.mark.parametrize("name", ["MobileBERT", "BERT, without mask", "narrower than a vector"])
def test_blocks_of_queries_give_the_same_bits(name: str, isa: Isa, call: Callable, strided: type) -> None:
    whole, _, _ = attend(call, CASES[name], isa, strided, tokens=31)
    for block in (1, 2, 3, 6, 8, 13, 16):
        part, _, _ = attend(call, CASES[name], isa, strided, tokens=31, block=block)
        assert np.array_equal(part, whole), f"blocks of {block} queries"


def test_scores_in_the_thousands_and_a_single_key(isa: Isa, call: Callable, strided: type) -> None:
    """e^score alone would overflow; and of one key's weight nothing may be left to the masked ones."""
    got, want, _ = attend(call, CASES["BERT, without mask"], isa, strided, tokens=64, spread=30.0)
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    got, want, _ = attend(call, CASES["MobileBERT"], isa, strided, tokens=64, keys=1)
    assert np.abs(got - want).max() <= 1e-6 * np.abs(want).max()


@pytest.mark.parametrize("name", CASES)
def test_greatest_of_scores_that_are_all_far_below_zero(name: str, isa: Isa, call: Callable, strided: type) -> None:
    """The greatest is one of them: next to 0 every e^score would be nothing, and their sum too."""
    for tokens in (1, 7, 16, 33):
        got, want, _ = attend(call, CASES[name], isa, strided, tokens=tokens, spread=40.0, keys=tokens, far_below=True)
        assert np.abs(got - want).max() <= 1e-3 * np.abs(want).max(), f"{tokens} tokens"


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.mask])
def test_query_whose_keys_are_all_masked_weighs_them_as_if_none_were(
    name: str, isa: Isa, call: Callable, strided: type
) -> None:
    for tokens in (1, 7, 16, 33):
        got, want, _ = attend(call, CASES[name], isa, strided, tokens=tokens, keys=0)
        assert np.abs(got - want).max() <= 2e-3 * np.abs(want).max(), f"{tokens} tokens"  # 10⁴ + score is rounded
