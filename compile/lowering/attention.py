"""Attention as exporters and passes leave it: softmax(scale · Q Kᵀ + everything else) V, heads back at the tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compile.importer.graph import Node, scalar
from compile.kernels.attention import Window, Zeros
from compile.lowering.heads import KEYS_LAST, TOKENS_FIRST, heads_of, through_ones
from compile.lowering.patterns import constant_of, permutation
from compile.lowering.scores import (
    RESHAPES,
    Choice,
    Constant,
    Relative,
    constant_term,
    fits,
    part_window,
    relative_term,
    summands_of,
)


@dataclass(frozen=True)
class AttentionMatch:
    """query (T, H, d), key and value (T, key_heads, d), before the head split; what is added to their scores.

    mask: (1, 1, 1 or T, T); others: tensors (1, H or 1, T or 1, T) that are added too.
    window: which keys a query looks at, where those are not all.
    zeros: which rows of the softmax count as zeros, whatever it says.
    """

    query: Node
    key: Node
    value: Node
    scale: float
    heads: int
    head_size: int
    key_heads: int
    zeros: Zeros | None
    mask: Node | None
    choices: tuple[Choice, ...]
    window: Window | None
    biases: tuple[Constant | Relative, ...]
    others: tuple[Node, ...]

    @property
    def width(self) -> int:
        return self.heads * self.head_size


def match_attention(node: Node) -> AttentionMatch | None:
    """`node` is the context with its heads brought back to the tokens: (1, T, H, d)."""
    if permutation(node) != (0, 2, 1, 3) or node.shape[0] != 1:
        return None
    context = through_ones(node.inputs[0])
    if context.op != "matmul":
        return None
    _, tokens, heads, size = node.shape
    guarded = through_ones(context.inputs[0])
    undefined, hiding = _without_guard(guarded), _without_keyless(guarded)
    zeros = Zeros.UNDEFINED if undefined else Zeros.KEYLESS if hiding else None
    probabilities = undefined or (hiding[0] if hiding else guarded)
    if probabilities.op != "nn.softmax" or int(probabilities.attrs.axis) not in (-1, len(probabilities.shape) - 1):
        return None
    summands, choices = summands_of(probabilities.inputs[0], tokens)
    choices, window = _part_windows(choices, tokens)
    value = heads_of(context.inputs[1], TOKENS_FIRST)
    products = [(part, factor) for part, factor, _ in summands if _is_product(part)]
    if value is None or value[1] != 1.0 or len(products) != 1 or not all(fits(c.condition, tokens) for c in choices):
        return None
    (product, scale), others = products[0], [one for one in summands if one[0] is not products[0][0]]
    query, key = heads_of(product.inputs[0], TOKENS_FIRST), heads_of(product.inputs[1], KEYS_LAST)
    if query is None or key is None or query[0].shape[-3:] != (tokens, heads, size):
        return None
    key_heads = key[0].shape[-2]
    if not key[0].shape[-3:] == value[0].shape[-3:] == (tokens, key_heads, size) or heads % key_heads:
        return None
    masks: list[Node] = []
    biases: list[Constant | Relative] = []
    computed: list[Node] = []
    for part, factor, whole in others:
        if bias := constant_term(part, factor, heads, tokens) or relative_term(part, factor, heads, tokens):
            biases.append(bias)
            continue
        if whole is not None:  # (1 − m) · −3.4e38, with its factor
            part, factor = whole, 1.0
        if factor != 1.0 or part.dtype != "float32" or not fits(part, tokens, heads):
            return None
        if fits(part, tokens) and not masks and not choices:
            masks.append(part)
        else:
            computed.append(part)
    if hiding:
        added = [*masks, *(choice.condition for choice in choices)]
        if added not in ([hiding[1]], hiding[1].inputs[:1]) or biases or computed or window:
            return None
    return AttentionMatch(
        query[0], key[0], value[0], scale * query[1] * key[1], heads, size, key_heads, zeros,
        masks[0] if masks else None, tuple(choices), window, tuple(biases), tuple(computed),
    )  # fmt: skip


def _part_windows(choices: list[Choice], tokens: int) -> tuple[list[Choice], Window | None]:
    """The choices without what the first window among them says."""
    for index, choice in enumerate(choices):
        rest, window = part_window(choice, tokens)
        if window is not None or rest is not choice:
            return [*choices[:index], *([rest] if rest else []), *choices[index + 1 :]], window
    return choices, None


def _is_product(node: Node) -> bool:
    return node.op == "matmul" and all(constant_of(operand) is None for operand in node.inputs)


def _without_guard(node: Node) -> Node | None:
    """p where `node` is where(isnan(p), 0, p)."""
    if node.op == "where" and len(node.inputs) == 3:
        test, zero, kept = node.inputs
        if test.op == "isnan" and test.inputs[0] is kept and scalar(zero) == 0.0:
            return through_ones(kept)
    return None


def _without_keyless(node: Node) -> tuple[Node, Node] | None:
    """p and the mask m where `node` is where(max(m) == −inf, 0, p), the greatest of each query's row."""
    if node.op != "where" or len(node.inputs) != 3 or scalar(node.inputs[1]) != 0.0:
        return None
    test, _, kept = node.inputs
    if test.op != "equal" or scalar(test.inputs[1]) != -math.inf or test.inputs[0].op != "max":
        return None
    greatest = test.inputs[0]
    mask = greatest.inputs[0]
    if greatest.shape != (*mask.shape[:-1], 1):
        return None
    while mask.op in RESHAPES and mask.inputs[0].shape[-2:] == mask.shape[-2:]:
        mask = mask.inputs[0]
    return through_ones(kept), mask
