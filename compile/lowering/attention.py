"""Attention as exporters and passes leave it: softmax(scale · Q Kᵀ + everything else) V, the heads back at the tokens.

What is added to the scores may be a mask that all heads share, a constant for each head (T5's and MPNet's relative
positions, ALiBi), or a product of queries or keys with constant vectors, one a distance (DeBERTa). A choice between
the scores and a number below all of them, where(m, s, −3.4e38), is a mask that is added: s is lost in the sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.importer.graph import RESHAPES, Node, scalar
from compile.lowering.patterns import constant_of, permutation

# Added to any score that is not larger than this number's last digit, it leaves nothing of it.
LOWEST = -1e30
TOKENS_FIRST = (1, 0, 2)  # [H, T, d] of [T, H, d]
KEYS_LAST = (1, 2, 0)  # [H, d, T] of [T, H, d]


@dataclass(frozen=True)
class Choice:
    """value where the condition (1, 1, 1 or T, T) is `where`, else the score."""

    condition: Node
    where: bool
    value: float


@dataclass(frozen=True, eq=False)
class Constant:
    """values (heads or 1, T or 1, T)."""

    values: NDArray[np.float32]

    @property
    def by_distance(self) -> NDArray[np.float32] | None:
        """(heads or 1, 2T − 1) by j − i + T − 1, if it depends on that alone."""
        return _by_distance(self.values)


@dataclass(frozen=True, eq=False)
class Relative:
    """Products of `source` (T, H, d), queries or keys, with a vector a head and distance, vectors (H or 1, d, 2T − 1).

    Of query i and key j, column j − i + T − 1 of i's products; by_key: column i − j + T − 1 of j's.
    """

    source: Node
    vectors: NDArray[np.float32]
    by_key: bool


@dataclass(frozen=True)
class AttentionMatch:
    """query (T, H, d), key and value (T, key_heads, d), before the head split; what is added to their scores.

    mask: (1, 1, 1 or T, T); others: tensors (1, H or 1, T or 1, T) that are added too.
    guarded: whether a row of the softmax that is not a number, as one without any key is, counts as zeros.
    """

    query: Node
    key: Node
    value: Node
    scale: float
    heads: int
    head_size: int
    key_heads: int
    guarded: bool
    mask: Node | None
    choices: tuple[Choice, ...]
    biases: tuple[Constant | Relative, ...]
    others: tuple[Node, ...]

    @property
    def width(self) -> int:
        return self.heads * self.head_size


def match_attention(node: Node) -> AttentionMatch | None:
    """`node` is the context with its heads brought back to the tokens: (1, T, H, d)."""
    if permutation(node) != (0, 2, 1, 3) or node.shape[0] != 1:
        return None
    context = _through(node.inputs[0])
    if context.op != "matmul":
        return None
    _, tokens, heads, size = node.shape
    probabilities, guarded = _without_guard(_through(context.inputs[0]))
    if probabilities.op != "nn.softmax" or int(probabilities.attrs.axis) not in (-1, len(probabilities.shape) - 1):
        return None
    summands, choices = _summands(probabilities.inputs[0], tokens)
    value = _heads(context.inputs[1], TOKENS_FIRST)
    products = [(part, factor) for part, factor, _ in summands if _is_product(part)]
    if value is None or value[1] != 1.0 or len(products) != 1 or not all(_fits(c.condition, tokens) for c in choices):
        return None
    (product, scale), others = products[0], [one for one in summands if one[0] is not products[0][0]]
    query, key = _heads(product.inputs[0], TOKENS_FIRST), _heads(product.inputs[1], KEYS_LAST)
    if query is None or key is None or query[0].shape[-3:] != (tokens, heads, size):
        return None
    key_heads = key[0].shape[-2]
    if not key[0].shape[-3:] == value[0].shape[-3:] == (tokens, key_heads, size) or heads % key_heads:
        return None
    masks: list[Node] = []
    biases: list[Constant | Relative] = []
    computed: list[Node] = []
    for part, factor, whole in others:
        if bias := _constant(part, factor, heads, tokens) or _relative(part, factor, heads, tokens):
            biases.append(bias)
            continue
        if whole is not None:  # (1 − m) · −3.4e38, with its factor
            part, factor = whole, 1.0
        if factor != 1.0 or part.dtype != "float32" or not _fits(part, tokens, heads):
            return None
        if _fits(part, tokens) and not masks and not choices:
            masks.append(part)
        else:
            computed.append(part)
    return AttentionMatch(
        query[0], key[0], value[0], scale * query[1] * key[1], heads, size, key_heads, guarded,
        masks[0] if masks else None, tuple(choices), tuple(biases), tuple(computed),
    )  # fmt: skip


def _through(node: Node) -> Node:
    """Before reshapes that add or drop ones in front of three dimensions."""
    while node.op in RESHAPES and node.inputs[0].shape[-3:] == node.shape[-3:]:
        node = node.inputs[0]
    return node


def _is_product(node: Node) -> bool:
    return node.op == "matmul" and all(constant_of(operand) is None for operand in node.inputs)


def _fits(node: Node, tokens: int, heads: int = 1) -> bool:
    """Whether the tensor is one for all scores, or one a head."""
    shape = (*[1] * (4 - len(node.shape)), *node.shape)
    return (
        len(shape) == 4 and shape[0] == 1 and shape[1] in (1, heads) and shape[2] in (1, tokens) and shape[3] == tokens
    )


def _without_guard(node: Node) -> tuple[Node, bool]:
    """p where `node` is where(isnan(p), 0, p), and whether it is."""
    if node.op == "where" and len(node.inputs) == 3:
        test, zero, kept = node.inputs
        if test.op == "isnan" and test.inputs[0] is kept and scalar(zero) == 0.0:
            return _through(kept), True
    return node, False


def _summands(node: Node, tokens: int) -> tuple[list[tuple[Node, float, Node | None]], list[Choice]]:
    """The tensors whose sum, each times a number, `node` is, and what is chosen in place of the sum.

    Each also with the tensor that has that number in it, if there is one.
    """
    summands: list[tuple[Node, float, Node | None]] = []
    choices: list[Choice] = []
    waiting = [(node, 1.0)]
    while waiting:
        part, factor = waiting.pop()
        whole = part if factor == 1.0 else None
        part, scale = _unscaled(part)
        factor *= scale
        numbers = [scalar(operand) for operand in part.inputs]
        if part.op in RESHAPES and part.inputs[0].shape[-2:] == part.shape[-2:]:
            waiting.append((part.inputs[0], factor))
        elif part.op == "add":
            waiting += [(operand, factor) for operand in reversed(part.inputs)]
        elif part.op == "where" and factor == 1.0 and min(numbers[1] or 0.0, numbers[2] or 0.0) <= LOWEST:
            chosen = numbers[1] is not None and numbers[1] <= LOWEST
            if numbers[2 if chosen else 1] is not None:  # a mask by itself
                summands.append((part, factor, whole))
                continue
            value = numbers[1] if chosen else numbers[2]
            assert value is not None
            choices.append(Choice(part.inputs[0], chosen, value))
            waiting.append((part.inputs[2 if chosen else 1], factor))
        else:
            summands.append((part, factor, whole))
    return summands, choices


def _heads(node: Node, axes: tuple[int, ...]) -> tuple[Node, float] | None:
    """The tensor (1, T, H, d) that `node` lays out by `axes`, and the number that it is multiplied with."""
    factor = 1.0
    order: tuple[int, ...] = (0, 1, 2)
    while True:
        node, scale = _unscaled(node)
        factor *= scale
        shape = node.shape
        if len(shape) < 3 or math.prod(shape[:-3]) != 1:
            return None
        if (axis := permutation(node)) is not None:
            extra = len(axis) - 3
            if any(axis[i] != i for i in range(extra)):
                return None
            order = tuple(axis[extra + i] - extra for i in order)
            node = node.inputs[0]
        elif (shared := _repeated(node)) is not None and order != axes:
            node = shared
        elif node.op in RESHAPES and node.inputs[0].shape[-3:] == shape[-3:] and order != axes:
            node = node.inputs[0]
        else:
            return (node, factor) if order == axes else None


def _unscaled(node: Node) -> tuple[Node, float]:
    """Before multiplications and divisions by one number, whoever else reads them; and their product."""
    factor = 1.0
    while node.op in ("multiply", "divide"):
        left, right = map(scalar, node.inputs)
        if right is not None:
            node, factor = node.inputs[0], factor * right if node.op == "multiply" else factor / right
        elif left is not None and node.op == "multiply":
            node, factor = node.inputs[1], factor * left
        else:
            break
    return node, factor


def _repeated(node: Node) -> Node | None:
    """x (1, H, T, d) where every head of it stands several times in a row in `node`."""
    if node.op not in RESHAPES or len(node.shape) != 4 or node.inputs[0].op != "broadcast_to":
        return None
    wide, narrow = node.inputs[0].shape, node.inputs[0].inputs[0]
    if len(wide) != 5 or narrow.shape != (*wide[:2], 1, *wide[3:]) or narrow.op not in RESHAPES:
        return None
    x = narrow.inputs[0]
    return x if x.shape == (1, wide[1], *wide[3:]) and node.shape == (1, wide[1] * wide[2], *wide[3:]) else None


def _constant(node: Node, factor: float, heads: int, tokens: int) -> Constant | None:
    values = constant_of(node) if _fits(node, tokens, heads) and node.dtype == "float32" else None
    if values is None:
        return None
    values = values.reshape((*[1] * (4 - values.ndim), *values.shape))[0]
    return Constant(values if factor == 1.0 else values * np.float32(factor))


def _relative(node: Node, factor: float, heads: int, tokens: int) -> Relative | None:
    """A product with a constant vector for each bucket of distances, looked up by the distance's bucket."""
    by_key, order = False, permutation(node)
    if order is not None:
        if order[-2:] != (len(order) - 1, len(order) - 2):
            return None
        by_key, node = True, node.inputs[0]
    if node.op != "gather_elements" or int(node.attrs.axis) not in (-1, len(node.shape) - 1):
        return None
    product, scale = _unscaled(node.inputs[0])
    product = _through(product)
    if product.op != "matmul" or node.shape[-2:] != (tokens, tokens):
        return None
    source, vectors = _heads(product.inputs[0], TOKENS_FIRST), constant_of(product.inputs[1])
    buckets = _bucket_of(node.inputs[1], node.inputs[0].shape[-1])
    if source is None or vectors is None or buckets is None or vectors.ndim < 3:
        return None
    vectors, buckets = vectors.reshape(-1, *vectors.shape[-2:]), buckets.reshape(-1, tokens, tokens)
    if (
        vectors.shape[:2] not in ((heads, source[0].shape[-1]), (1, source[0].shape[-1]))
        or (buckets != buckets[:1]).any()
    ):
        return None
    by_distance = _by_distance(buckets[:1])
    if by_distance is None:
        return None
    return Relative(source[0], vectors[:, :, by_distance[0]] * np.float32(factor * scale * source[1]), by_key)


def _bucket_of(node: Node, count: int) -> NDArray[Any] | None:
    """A lookup's constant indices, also behind `where(i < 0, i + count, i)`, which the importer writes."""
    if node.op == "where" and node.inputs[0].op == "less" and node.inputs[0].inputs[0] is node.inputs[2]:
        values = constant_of(node.inputs[2])
        return None if values is None else values % count
    return constant_of(node)


def _by_distance(values: NDArray[Any]) -> NDArray[Any] | None:
    """(N, 2T − 1) by j − i + T − 1, where values (N, T, T) depend on that alone."""
    if values.shape[1] != values.shape[2] or not np.array_equal(values[:, 1:, 1:], values[:, :-1, :-1]):
        return None
    return np.concatenate([values[:, :0:-1, 0], values[:, 0]], axis=1)
