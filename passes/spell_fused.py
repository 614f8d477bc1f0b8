"""ONNX Runtime's fused operators (domain com.microsoft), which its optimiser leaves in files, in standard ones.

One rule a function, `RULES` lists them. Later passes recognise what comes out as they recognise any export:

    Gelu(x)                  x/2 · (1 + erf(x/√2))           BiasGelu(x, b) = Gelu(x + b)
    FastGelu(x, b)           y/2 · (1 + tanh(√(2/π) · (y + 0.044715 y³))) of y = x + b
    QuickGelu(x)             x · sigmoid(α x)
    FusedMatMul(A, B)        α · A B, either transposed
    FusedGemm(A, B, C)       activation(α A B + β C)
    SkipLayerNormalization   LayerNormalization(x + skip + bias), and that sum
    EmbedLayerNormalization  LayerNormalization(words + positions + types); the number of tokens that the mask keeps
    Attention(x, W, b, m)    softmax(s · Q Kᵀ + mask) V with Q, K, V from one product x W + b
    MultiHeadAttention       the same of Q, K and V that are given

A mask of ONNX Runtime's is 1 where a key is kept, by key or by query and key, or a number of keys; it adds
`mask_filter_value` to the other scores. What a rule does not cover stays, with the reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import convert_attribute
from onnx_ir.passes.common import RemoveUnusedNodesPass

from passes.graph import Refused, attribute, constant, dims, infer_shapes, ints, make, replace_output
from passes.options import Options
from passes.report import Outcome, Refusals

DOMAIN = "com.microsoft"
OPSET = 17  # the first with LayerNormalization


class Spelling:
    """Writes standard nodes in front of a fused one, in the element type of `like`."""

    def __init__(self, node: ir.Node, like: ir.Value | None) -> None:
        assert node.graph is not None
        assert like is not None
        self.node, self.graph = node, node.graph
        self.type = like.type or ir.TensorType(ir.DataType.FLOAT)

    def __call__(
        self, op: str, *inputs: ir.Value | None, kind: ir.DataType | None = None, **attributes: Any
    ) -> ir.Value:
        like = ir.Value(type=ir.TensorType(kind) if kind else self.type)
        named = {key: convert_attribute(key, value) for key, value in attributes.items()}
        return make(op, inputs, before=self.node, like=like, attributes=named)

    def number(self, value: float) -> ir.Value:
        return constant(self.graph, np.array(value), "number", self.type.dtype.numpy().type)

    def integers(self, *values: int) -> ir.Value:
        return constant(self.graph, np.array(values), "integers", np.int64)

    def plus(self, x: ir.Value, *others: ir.Value | None) -> ir.Value:
        for other in others:
            x = x if other is None else self("Add", x, other)
        return x

    def heads(self, x: ir.Value, count: int) -> ir.Value:
        """[B, T, H·d] to [B, H, T, d]."""
        return self("Transpose", self("Reshape", x, self.integers(0, 0, count, -1)), perm=[0, 2, 1, 3])

    def additive(self, mask: ir.Value | None, keys: ir.Value) -> ir.Value | None:
        """A mask [B, S], [B, T, S] or a number of keys [B] as what is added to scores [B, H, T, S]; keys: [B, S, …]."""
        if mask is None:
            return None
        rank = len(dims(mask))
        if rank == 1:
            whole = {"kind": ir.DataType.INT64}
            length = self("Squeeze", self.length(keys), **whole)
            place = self("Range", self("Squeeze", self.integers(0), **whole), length,
                         self("Squeeze", self.integers(1), **whole), **whole)  # fmt: skip
            count = self("Unsqueeze", self("Cast", mask, to=7, **whole), self.integers(1), **whole)
            mask = self("Less", place, count, kind=ir.DataType.BOOL)
        elif rank not in (2, 3):
            raise Refused(f"its mask has rank {rank or 'unknown'}")
        kept = self("Cast", mask, to=int(self.type.dtype))
        low = attribute(self.node, "mask_filter_value", -10000.0)
        bias = self("Mul", self("Sub", self.number(1), kept), self.number(low))
        return self("Unsqueeze", bias, self.integers(1) if rank == 3 else self.integers(1, 2))

    def length(self, x: ir.Value) -> ir.Value:
        return self("Shape", x, kind=ir.DataType.INT64, start=1, end=2)

    def attention(self, q: ir.Value, k: ir.Value, v: ir.Value, width: int, masks: list[ir.Value | None]) -> ir.Value:
        """q [B, T, H·d], H·d being `width`, k and v [B, S, …], to [B, T, …]."""
        count = int(attribute(self.node, "num_heads", 1))
        scale = attribute(self.node, "scale", 0.0) or 1 / math.sqrt(width / count)
        turned = self("Transpose", self("Reshape", k, self.integers(0, 0, count, -1)), perm=[0, 2, 3, 1])
        scores = self("Mul", self("MatMul", self.heads(q, count), turned), self.number(scale))
        chances = self("Softmax", self.plus(scores, *masks), axis=-1)
        mixed = self("Transpose", self("MatMul", chances, self.heads(v, count)), perm=[0, 2, 1, 3])
        return self("Reshape", mixed, self.integers(0, 0, -1))


def gelu(s: Spelling, x: ir.Value, bias: ir.Value | None = None) -> list[ir.Value | None]:
    y = s.plus(x, bias)
    inner = s("Add", s("Erf", s("Div", y, s.number(math.sqrt(2)))), s.number(1))
    return [s("Mul", s("Mul", y, inner), s.number(0.5))]


def fast_gelu(s: Spelling, x: ir.Value, bias: ir.Value | None = None) -> list[ir.Value | None]:
    y = s.plus(x, bias)
    cubic = s("Mul", s("Mul", s("Mul", y, y), y), s.number(0.044715))
    inner = s("Tanh", s("Mul", s("Add", y, cubic), s.number(math.sqrt(2 / math.pi))))
    return [s("Mul", s("Mul", y, s("Add", inner, s.number(1))), s.number(0.5))]


def quick_gelu(s: Spelling, x: ir.Value) -> list[ir.Value | None]:
    return [s("Mul", x, s("Sigmoid", s("Mul", x, s.number(attribute(s.node, "alpha", 1.702)))))]


def fused_matmul(s: Spelling, a: ir.Value, b: ir.Value) -> list[ir.Value | None]:
    if attribute(s.node, "transBatchA", 0) or attribute(s.node, "transBatchB", 0):
        raise Refused("it transposes batches")
    factors = []
    for value, flag in ((a, "transA"), (b, "transB")):
        rank = len(dims(value))
        if attribute(s.node, flag, 0):
            if rank < 2:
                raise Refused("the rank of what it transposes is not known")
            value = s("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])
        factors.append(value)
    product, alpha = s("MatMul", *factors), attribute(s.node, "alpha", 1.0)
    return [product if alpha == 1 else s("Mul", product, s.number(alpha))]


def fused_gemm(s: Spelling, a: ir.Value, b: ir.Value, c: ir.Value | None = None) -> list[ir.Value | None]:
    name = s.node.attributes["activation"].as_string()
    if name not in ("Relu", "Sigmoid", "Tanh"):
        raise Refused(f"its activation is {name}")
    options: dict[str, Any] = {key: float(attribute(s.node, key, 1.0)) for key in ("alpha", "beta")}
    options |= {key: int(attribute(s.node, key, 0)) for key in ("transA", "transB")}
    return [s(name, s("Gemm", a, b, c, **options))]


def skip_layer_norm(
    s: Spelling,
    x: ir.Value,
    skip: ir.Value,
    gamma: ir.Value,
    beta: ir.Value | None = None,
    bias: ir.Value | None = None,
) -> list[ir.Value | None]:
    total = s.plus(x, skip, bias)
    norm = s("LayerNormalization", total, gamma, beta, axis=-1, epsilon=attribute(s.node, "epsilon", 1e-12))
    return [norm, None, None, total]


def embed_layer_norm(
    s: Spelling,
    ids: ir.Value,
    types: ir.Value | None,
    words: ir.Value,
    positions: ir.Value,
    type_table: ir.Value | None,
    gamma: ir.Value,
    beta: ir.Value,
    mask: ir.Value | None = None,
    position_ids: ir.Value | None = None,
) -> list[ir.Value | None]:
    if position_ids is not None:
        place = s("Gather", positions, position_ids)
    else:
        place = s("Slice", positions, s.integers(0), s.length(ids), s.integers(0))
    typed = s("Gather", type_table, types) if types is not None and type_table is not None else None
    total = s.plus(s("Gather", words, ids), place, typed)
    norm = s("LayerNormalization", total, gamma, beta, axis=-1, epsilon=attribute(s.node, "epsilon", 1e-12))
    count = None
    if len(s.node.outputs) > 1 and _wanted(s.node.outputs[1]):
        if mask is None:
            raise Refused("its mask is missing")
        count = s("ReduceSum", mask, s.integers(1), kind=ir.DataType.INT32, keepdims=0)
        count.shape = ir.Shape(dims(ids)[:1])
    return [norm, count, total]


def attention(s: Spelling, x: ir.Value, weight: ir.Value, *rest: ir.Value | None) -> list[ir.Value | None]:
    bias, mask, past, added = (*rest, None, None, None, None)[:4]
    if past is not None or attribute(s.node, "unidirectional", 0) or attribute(s.node, "do_rotary", 0):
        raise Refused("it belongs to a decoder")
    sizes = ints(s.node, "qkv_hidden_sizes")
    total = dims(weight)[-1] if dims(weight) else None
    if sizes is None and total:
        sizes = [total // 3] * 3
    if sizes is None:
        raise Refused("the shape of its weight is not known")
    parts = s.plus(s("MatMul", x, weight), bias)
    q, k, v = (
        s("Slice", parts, s.integers(sum(sizes[:i])), s.integers(sum(sizes[: i + 1])), s.integers(2)) for i in range(3)
    )
    return [s.attention(q, k, v, sizes[0], [added, s.additive(mask, x)])]


def multi_head_attention(s: Spelling, q: ir.Value, *rest: ir.Value | None) -> list[ir.Value | None]:
    k, v, bias, mask, added, *past = (*rest, *[None] * 7)[:7]
    if k is None or v is None or len(dims(k)) != 3 or any(value is not None for value in past):
        raise Refused("its queries, keys and values are packed, or it belongs to a decoder")
    width, value_width = dims(q)[-1] if dims(q) else None, dims(v)[-1]
    if not isinstance(width, int) or not isinstance(value_width, int):
        raise Refused("how wide its heads are is not known")
    ends = [0, width, 2 * width, 2 * width + value_width]
    if bias is not None:
        parts = [s("Slice", bias, s.integers(a), s.integers(b), s.integers(0)) for a, b in pairwise(ends)]
        q, k, v = (s("Add", x, part) for x, part in zip((q, k, v), parts, strict=True))
    return [s.attention(q, k, v, width, [added, s.additive(mask, k)])]


# An operator's rule, and the input whose element type it computes in.
RULES: dict[str, tuple[Callable[..., list[ir.Value | None]], int]] = {
    "Gelu": (gelu, 0),
    "BiasGelu": (gelu, 0),
    "FastGelu": (fast_gelu, 0),
    "QuickGelu": (quick_gelu, 0),
    "FusedMatMul": (fused_matmul, 0),
    "FusedGemm": (fused_gemm, 0),
    "SkipLayerNormalization": (skip_layer_norm, 0),
    "EmbedLayerNormalization": (embed_layer_norm, 2),
    "Attention": (attention, 0),
    "MultiHeadAttention": (multi_head_attention, 0),
}


def spell_fused(model: ir.Model, options: Options) -> Outcome:
    counts: Counter[str] = Counter()
    while True:
        refusals, before = Refusals(), counts.total()
        for node in list(model.graph):
            if node.domain != DOMAIN or node.op_type not in RULES:
                continue
            try:
                if model.graph.opset_imports.get("", OPSET) < OPSET:
                    raise Refused(f"the model's opset is older than {OPSET}; export it again")
                _spell(node)
                counts[node.op_type] += 1
            except Refused as reason:
                refusals.add(f"{node.op_type} is left: {reason}", node.name or "")
        RemoveUnusedNodesPass()(model)
        if counts.total() == before:
            return Outcome(before, dict(counts), refusals.all())
        infer_shapes(model)  # which another round may have waited for


def _wanted(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _spell(node: ir.Node) -> None:
    rule, typed = RULES[node.op_type]
    inputs = list(node.inputs)
    while inputs and inputs[-1] is None:
        inputs.pop()
    results = rule(Spelling(node, node.inputs[typed]), *inputs)
    pairs = [(old, results[i] if i < len(results) else None) for i, old in enumerate(node.outputs)]
    pairs = [(old, new) for old, new in pairs if _wanted(old)]
    if lost := [old.name for old, new in pairs if new is None]:
        raise Refused(f"its output {lost[0]!r} has no standard form")
    for old, new in pairs:
        assert new is not None
        new.shape = new.shape or old.shape
        replace_output(old, new)
