"""What is added to an attention's scores, or chosen in their place.

A mask that all heads share, a constant for each head (T5's and MPNet's relative positions, ALiBi), or a product of
queries or keys with constant vectors, one a distance (DeBERTa). A choice between the scores and a number below all of
them, where(m, s, −3.4e38), is a mask that is added: s is lost in the sum. A choice by distance is a window, which
attention does not look beyond (ModernBERT's local layers).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.importer.graph import RESHAPES, Node, scalar
from compile.kernels.attention import Window
from compile.lowering.heads import TOKENS_FIRST, heads_of, through_ones, unscaled
from compile.lowering.patterns import constant_of, permutation

# Added to any score that is not larger than this number's last digit, it leaves nothing of it.
LOWEST = -1e30


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


def fits(node: Node, tokens: int, heads: int = 1) -> bool:
    """Whether the tensor is one for all scores, or one a head."""
    shape = (*[1] * (4 - len(node.shape)), *node.shape)
    return (
        len(shape) == 4 and shape[0] == 1 and shape[1] in (1, heads) and shape[2] in (1, tokens) and shape[3] == tokens
    )


def summands_of(node: Node, tokens: int) -> tuple[list[tuple[Node, float, Node | None]], list[Choice]]:
    """The tensors whose sum, each times a number, `node` is, and what is chosen in place of the sum.

    Each also with the tensor that has that number in it, if there is one.
    """
    summands: list[tuple[Node, float, Node | None]] = []
    choices: list[Choice] = []
    waiting = [(node, 1.0)]
    while waiting:
        part, factor = waiting.pop()
        whole = part if factor == 1.0 else None
        part, scale = unscaled(part)
        factor *= scale
        numbers = [scalar(operand) for operand in part.inputs]
        if part.op in RESHAPES and part.inputs[0].shape[-2:] == part.shape[-2:]:
            waiting.append((part.inputs[0], factor))
        elif part.op == "add":
            waiting += [(operand, factor) for operand in reversed(part.inputs)]
        elif part.op == "where" and factor == 1.0 and min(numbers[1] or 0.0, numbers[2] or 0.0) <= LOWEST:
            chosen = numbers[1] is not None and numbers[1] <= LOWEST
            value, other = (numbers[1], numbers[2]) if chosen else (numbers[2], numbers[1])
            if other:
                summands.append((part, factor, whole))
                continue
            assert value is not None
            choices.append(Choice(part.inputs[0], chosen, value))
            if other is None:  # else a mask by itself
                waiting.append((part.inputs[2 if chosen else 1], factor))
        else:
            summands.append((part, factor, whole))
    return summands, choices


def part_window(choice: Choice, tokens: int) -> tuple[Choice | None, Window | None]:
    """A choice as what it says of keys, if anything, and as the window that it says queries have, if any."""
    condition, where = choice.condition, choice.where
    while condition.op == "logical_not":
        condition, where = condition.inputs[0], not where
    rest, fixed = _without_constants(condition, "logical_or" if where else "logical_and")
    if fixed is None or not fixed.size == tokens * tokens == math.prod(fixed.shape[-2:]):
        return choice, None
    near = fixed.reshape(tokens, tokens) != where
    distance = np.abs(np.subtract.outer(np.arange(tokens), np.arange(tokens)))
    reach = int(distance[near].max(initial=-1))
    if reach < 0 or not np.array_equal(near, distance <= reach):
        return choice, None
    window = Window(reach, choice.value) if reach < tokens - 1 else None
    return None if rest is None else Choice(rest, where, choice.value), window


def _without_constants(node: Node, operator: str) -> tuple[Node | None, NDArray[Any] | None]:
    """`node` as operator(rest, constant), either of which may be missing."""
    if (constant := constant_of(node)) is not None:
        return None, constant
    if node.op != operator:
        return node, None
    parts = [_without_constants(part, operator) for part in node.inputs]
    rest = [part for part, _ in parts if part is not None]
    constants = [constant for _, constant in parts if constant is not None]
    if not constants:
        return node, None
    if len(rest) == 2:
        shape = np.broadcast_shapes(*(part.shape for part in rest))
        rest = [Node(f"{node.name}.rest", operator, shape, "bool", rest, uses=1)]
    combine = np.logical_or if operator == "logical_or" else np.logical_and
    return (rest[0] if rest else None), reduce(combine, constants)


def constant_term(node: Node, factor: float, heads: int, tokens: int) -> Constant | None:
    values = constant_of(node) if fits(node, tokens, heads) and node.dtype == "float32" else None
    if values is None:
        return None
    values = values.reshape((*[1] * (4 - values.ndim), *values.shape))[0]
    return Constant(values if factor == 1.0 else values * np.float32(factor))


def relative_term(node: Node, factor: float, heads: int, tokens: int) -> Relative | None:
    """A product with a constant vector for each bucket of distances, looked up by the distance's bucket."""
    by_key, order = False, permutation(node)
    if order is not None:
        if order[-2:] != (len(order) - 1, len(order) - 2):
            return None
        by_key, node = True, node.inputs[0]
    if node.op != "gather_elements" or int(node.attrs.axis) not in (-1, len(node.shape) - 1):
        return None
    product, scale = unscaled(node.inputs[0])
    product = through_ones(product)
    if product.op != "matmul" or node.shape[-2:] != (tokens, tokens):
        return None
    source, vectors = heads_of(product.inputs[0], TOKENS_FIRST), constant_of(product.inputs[1])
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
