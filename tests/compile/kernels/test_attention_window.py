"""Attention within a window gives the bits of attention to all keys with a mask that says the same."""

import ctypes
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from compile.cpus import Isa
from compile.kernels.attention import Attention, Bias, Window, Zeros
from compile.kernels.tiles import default_tile

LOWEST = float(np.finfo(np.float32).min)
HEADS, SIZE, TOKENS = 2, 20, 70
WINDOWS = [Window(0, LOWEST), Window(1, -math.inf), Window(5, LOWEST), Window(30, LOWEST), Window(TOKENS, -math.inf)]
BIAS = Bias(2 * TOKENS - 1)  # by distance


def kernels(isa: Isa, window: Window) -> tuple[Attention, Attention]:
    """With the window, and with a mask of its own for each query; a bias beside it for some."""
    biases = (BIAS,) if window.reach == 5 else ()
    zeros = Zeros.UNDEFINED if window.beyond == -math.inf else None
    every = Attention(HEADS, SIZE, 0.3, True, default_tile(isa), isa, zeros, biases)
    return replace(every, window=window), every


@pytest.fixture(scope="module")
def call(isa: Isa, link_kernels: Callable) -> Callable[..., None]:
    return link_kernels({k.name: k for window in WINDOWS for k in kernels(isa, window)}.values())


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: f"{window.reach}, {window.beyond:.0e}")
def test_same_bits_as_all_keys(window: Window, isa: Isa, call: Callable, strided: type) -> None:
    """Also for queries that find every key near them masked: what is far weighs as much then, or nothing does."""
    local, every = kernels(isa, window)
    for tokens in (1, 16, 33, TOKENS):
        rng = np.random.default_rng(tokens)
        q, k, v = (strided(tokens, local.width, values=rng.standard_normal((tokens, local.width))) for _ in "qkv")
        distances = rng.standard_normal(HEADS * BIAS.head).astype(np.float32)
        near = np.abs(np.subtract.outer(np.arange(tokens), np.arange(tokens))) <= window.reach
        for masked in (0, 3, tokens - 1):
            keys = np.where(np.arange(tokens) < masked, np.float32(window.beyond), np.float32(0))
            mask = np.ascontiguousarray(np.where(near, keys, np.float32(window.beyond)))
            results = []
            for kernel, block in ((every, tokens), (local, tokens), (local, 7)):
                y = strided(tokens, local.width, gap=3)
                workspace = np.full(kernel.workspace_bytes(tokens, tokens) // 4 + 32, np.nan, np.float32)
                base = ctypes.c_void_p(workspace.ctypes.data + (-workspace.ctypes.data % 64))
                for first in range(0, tokens, block):
                    by_query = (mask[first:], tokens) if kernel is every else (keys, 0)
                    entry = ctypes.c_void_p(distances.ctypes.data + 4 * (TOKENS - 1 - first))
                    call(
                        kernel, row(q, first), q.stride, k.address, k.stride, v.address, v.stride, *by_query,
                        *[entry, -1] * len(kernel.biases), row(y, first), y.stride, base, tokens,
                        *[first] * (kernel is local), min(block, tokens - first),
                    )  # fmt: skip
                assert y.untouched()
                results.append(y.view)
            assert np.isfinite(results[0]).all()
            assert np.array_equal(results[1], results[0]), f"{tokens} tokens, {masked} masked"
            assert np.array_equal(results[2], results[0]), f"{tokens} tokens, {masked} masked, in blocks"


def row(x, first: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.address.value + 4 * first * x.stride)


def test_multiply_adds_of_a_window_are_those_within_it(isa: Isa) -> None:
    for tokens in (1, 6, 70):
        for window in WINDOWS:
            near = np.abs(np.subtract.outer(np.arange(tokens), np.arange(tokens))) <= window.reach
            assert kernels(isa, window)[0].flops(tokens, tokens) == 4 * HEADS * SIZE * near.sum()
