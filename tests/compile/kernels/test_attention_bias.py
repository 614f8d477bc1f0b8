"""What is added to an attention's scores beside a mask, against float64: by head, by distance, by query, by key."""

import ctypes
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from compile.cpus import Isa
from compile.kernels.attention import Attention, Bias
from compile.kernels.tiles import default_tile

HEADS, MOST = 3, 40  # tokens that tables are made for
TOKENS = [1, 2, 5, 8, 16, 17, 33, 40]
DISTANCES = 2 * MOST - 1
# Each kind: how an element is found, elements in all, the stride from query to query, where query 0's begin.
KINDS: dict[str, tuple[Bias, int, int, int]] = {
    "a number for each score": (Bias(MOST * MOST), HEADS * MOST * MOST, MOST, 0),
    "shared by all heads": (Bias(0), MOST * MOST, MOST, 0),
    "a row a head, as ALiBi's": (Bias(MOST), HEADS * MOST, 0, 0),
    "by distance": (Bias(DISTANCES), HEADS * DISTANCES, -1, MOST - 1),
    "a query's own by distance": (Bias(DISTANCES), MOST * HEADS * DISTANCES, HEADS * DISTANCES - 1, MOST - 1),
    "a key's own by distance": (
        Bias(DISTANCES, HEADS * DISTANCES - 1), MOST * HEADS * DISTANCES, 1, MOST - 1,
    ),
}  # fmt: skip
CASES = {name: (name,) for name in KINDS} | {"three at once": tuple(KINDS)[3:]}
SIZES = {False: 5, True: 32}  # of heads, without a mask and with one


def kernel_of(isa: Isa, kinds: tuple[str, ...], size: int, mask: bool, narrow: bool = False) -> Attention:
    biases = tuple(KINDS[kind][0] for kind in kinds)
    kernel = Attention(HEADS, size, 0.25, mask, default_tile(isa), isa, biases=biases)
    tiles = kernel.candidate_tiles()
    return kernel.with_tile(min(tiles, key=lambda tile: tile.nr) if narrow else tiles[0])


@pytest.fixture(scope="module")
def call(isa: Isa, link_kernels: Callable) -> Callable[..., None]:
    kernels = [kernel_of(isa, kinds, size, mask) for kinds in CASES.values() for mask, size in SIZES.items()]
    kernels += [kernel_of(isa, CASES["three at once"], 32, True, narrow=True)]
    kernels += [replace(kernel_of(isa, (), 5, False), heads=6, key_heads=2)]
    return link_kernels({kernel.name: kernel for kernel in kernels}.values())


def attend(
    call: Callable, kernel: Attention, kinds: tuple[str, ...], strided: type, tokens: int, block: int, seed: int = 0,
    special: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(what the kernel computed `block` rows at a time, what it should have)."""
    rng, size = np.random.default_rng(seed), kernel.head_size
    key_heads = kernel.key_heads or kernel.heads
    q, y = (
        strided(tokens, kernel.width, gap=3, values=rng.standard_normal((tokens, kernel.width))),
        strided(tokens, kernel.width, gap=1),
    )
    k, v = (strided(tokens, key_heads * size, values=rng.standard_normal((tokens, key_heads * size))) for _ in "kv")
    mask = np.where(rng.random(tokens) < 0.7, 0.0, -np.inf).astype(np.float32)
    mask[rng.integers(tokens)] = 0.0
    scores = (
        kernel.scale
        * parted(q.view, kernel.heads)
        @ np.repeat(parted(k.view, key_heads), kernel.heads // key_heads, 0).swapaxes(1, 2)
    )
    scores = scores + (mask if kernel.has_mask else 0.0)
    memories = []
    for kind in kinds:
        bias, count, stride, begin = KINDS[kind]
        memory = rng.standard_normal(count).astype(np.float32)
        if special is not None:
            memory[rng.integers(count, size=count // 5)] = special
        head, query, key = np.ogrid[:HEADS, :tokens, :tokens]
        scores = scores + memory[begin + head * bias.head + query * stride + key * bias.key].astype(np.float64)
        # What lies behind a tensor is not added, whatever it is.
        memories.append((np.concatenate([memory, np.full(16, np.nan, np.float32)]), stride, begin))
    workspace = np.full(kernel.workspace_bytes(tokens, tokens) // 4 + 32, np.nan, np.float32)
    base = ctypes.c_void_p(workspace.ctypes.data + (-workspace.ctypes.data % 64))
    for first in range(0, tokens, block):
        operands = [
            argument
            for memory, stride, begin in memories
            for argument in (ctypes.c_void_p(memory.ctypes.data + 4 * (begin + first * stride)), stride)
        ]

        def row(x, first: int = first) -> ctypes.c_void_p:
            return ctypes.c_void_p(x.address.value + 4 * first * x.stride)

        call(
            kernel, row(q), q.stride, k.address, k.stride, v.address, v.stride, mask, 0, *operands, row(y), y.stride,
            base, tokens, min(block, tokens - first),
        )  # fmt: skip
    assert y.untouched()
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
    values = np.repeat(parted(v.view, key_heads), kernel.heads // key_heads, 0)
    return y.view, (weights @ values).swapaxes(0, 1).reshape(tokens, -1)


def parted(x: np.ndarray, heads: int) -> np.ndarray:
    return x.astype(np.float64).reshape(len(x), heads, -1).swapaxes(0, 1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mask", [False, True])
def test_any_number_of_tokens_in_blocks(name: str, mask: bool, isa: Isa, call: Callable, strided: type) -> None:
    narrow = [True] if mask and name == "three at once" else []
    for kernel in [kernel_of(isa, CASES[name], SIZES[mask], mask, narrow=low) for low in (False, *narrow)]:
        for tokens in TOKENS:
            for block in (tokens, 7):
                got, want = attend(call, kernel, CASES[name], strided, tokens, block, seed=tokens)
                assert np.abs(got - want).max() <= 2e-6 * np.abs(want).max(), (tokens, block)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("special", [-np.inf, -3.4e38, 3e3])
def test_extreme_numbers(name: str, special: float, isa: Isa, call: Callable, strided: type) -> None:
    """Of minus infinity nothing is left; a query of which no key is left is not a number, as defined."""
    kernel = kernel_of(isa, CASES[name], SIZES[False], False)
    for tokens in (2, 17):
        got, want = attend(call, kernel, CASES[name], strided, tokens, tokens, seed=tokens, special=special)
        assert np.array_equal(np.isnan(got), np.isnan(want))
        assert np.nanmax(np.abs(got - want), initial=0) <= (1e-5 if special < 0 else 1e-3) * np.nanmax(np.abs(want))


def test_what_is_no_number_spoils_its_queries_alone(isa: Isa, call: Callable, strided: type) -> None:
    for kinds in CASES.values():
        got, want = attend(call, kernel_of(isa, kinds, 32, True), kinds, strided, 5, 5, seed=2, special=np.nan)
        assert np.isnan(want).any()
        assert np.isnan(got)[np.isnan(want)].all()
        finite = np.isfinite(want) & np.isfinite(got)
        assert np.abs(got - want)[finite].max(initial=0) <= 1e-5


def test_heads_that_share_keys_and_values(isa: Isa, call: Callable, strided: type) -> None:
    kernel = replace(kernel_of(isa, (), 5, False), heads=6, key_heads=2)
    for tokens in TOKENS:
        got, want = attend(call, kernel, (), strided, tokens, tokens, seed=tokens)
        assert np.abs(got - want).max() <= 2e-6 * np.abs(want).max()


def test_blocks_of_queries_give_the_same_bits(isa: Isa, call: Callable, strided: type) -> None:
    kinds = CASES["three at once"]
    kernel = kernel_of(isa, kinds, 32, True)
    whole, _ = attend(call, kernel, kinds, strided, 33, 33)
    for block in (1, 4, 6, 11):
        part, _ = attend(call, kernel, kinds, strided, 33, block)
        assert np.array_equal(part, whole), f"blocks of {block} queries"
