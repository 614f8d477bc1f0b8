"""Attention as exporters write it, for the tests of its passes."""

import numpy as np

HEADS, SIZE, LENGTH = 2, 8, 6


def heads(b, y, batch, perm):
    return b("Transpose", b("Reshape", y, b.const(np.array([batch, LENGTH, HEADS, SIZE // HEADS]))), perm=perm)


def attention(b, x, *, batch=2, scale="scores", mask=None, key="direct", gemm=False):
    """Self-attention on x; `scale` and `key` choose between the ways exporters write 1/√d and kᵀ."""
    q, k, v = (heads(b, b.linear(x, SIZE, SIZE), batch, [0, 2, 1, 3]) for _ in range(3))
    if scale == "query":
        q = b("Mul", q, b.const(0.5))
    if scale == "both":
        q, k = b("Mul", q, b.const(0.5**0.5)), b("Mul", k, b.const(0.5**0.5))
    if key == "three_dimensional":
        k = b("Transpose", b("Reshape", k, b.const(np.array([-1, LENGTH, SIZE // HEADS]))), perm=[0, 2, 1])
        k = b("Reshape", k, b.const(np.array([batch, HEADS, SIZE // HEADS, LENGTH])))
    else:
        k = b("Transpose", k, perm=[0, 1, 3, 2])
    scores = b("MatMul", q, k)
    if scale == "scores":
        scores = b("Div", scores, b.const(2.0))
    p = b("Softmax", b("Add", scores, mask) if mask else scores, axis=-1)
    if mask and scale == "both":
        p = b("Where", b("IsNaN", p), b.const(0.0), p)
    merged = b("Transpose", b("MatMul", p, v), perm=[0, 2, 1, 3])
    context = b("Reshape", merged, b.const(np.array([batch, LENGTH, SIZE])))
    return b("Add", b.linear(context, SIZE, SIZE), x)


def additive_mask(b, low, batch=2):
    keep = b("Unsqueeze", b.input("mask", [batch, LENGTH], 7), b.const(np.array([1, 2])))
    return b("Where", b("Cast", keep, to=9), b.const(0.0), b.const(low))
