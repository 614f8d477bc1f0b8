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
    SimplifiedLayerNormalization, RMSNormalization   γ ∘ x / √(mean x² + ε)
    RotaryEmbedding          x ∘ cos + [−x₂, x₁] ∘ sin
    what has integers        in passes.spell_integers

A mask of ONNX Runtime's is 1 where a key is kept, by key or by query and key, or a number of keys; it adds
`mask_filter_value` to the other scores. What a rule does not cover stays, with the reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass

from passes.graph import Refused, attribute, dims, infer_shapes, ints, replace_output
from passes.options import Options
from passes.report import Outcome, Refusals
from passes.spell_integers import INTEGER_RULES, ROUNDS, NothingToSpell, dequantize
from passes.spelling import Spelling

DOMAIN = "com.microsoft"
OPSET, NEWER = 17, 20  # the first with LayerNormalization, and what older models are raised to
ROUNDING = 0.05  # of the outputs' range: what integers of eight bits between nodes round, in ONNX Runtime's own way


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
    factors = []
    for value, name in ((a, "A"), (b, "B")):
        turned, batches = attribute(s.node, f"trans{name}", 0), attribute(s.node, f"transBatch{name}", 0)
        if turned or batches:
            axes = list(range(len(dims(value))))
            if len(axes) < 2:
                raise Refused("the rank of what it transposes is not known")
            if batches:  # the first axis goes behind the other batches
                axes = [*axes[1:-1], axes[0], axes[-1]]
            if turned:
                axes = [*axes[:-2], axes[-1], axes[-2]]
            value = s("Transpose", value, perm=axes)
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
    ids = s.ids(ids)
    if position_ids is not None:
        place = s("Gather", positions, s.ids(position_ids))
    else:
        place = s("Slice", positions, s.integers(0), s.length(ids), s.integers(0))
    typed = s("Gather", type_table, s.ids(types)) if types is not None and type_table is not None else None
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
    if any(value is not None for value in past) or attribute(s.node, "unidirectional", 0):
        raise Refused("it belongs to a decoder")
    if k is None or v is None or len(dims(k)) != 3:
        raise Refused("its queries, keys and values are packed")
    width, value_width = dims(q)[-1] if dims(q) else None, dims(v)[-1]
    if not isinstance(width, int) or not isinstance(value_width, int):
        raise Refused("how wide its heads are is not known")
    ends = [0, width, 2 * width, 2 * width + value_width]
    if bias is not None:
        parts = [s("Slice", bias, s.integers(a), s.integers(b), s.integers(0)) for a, b in pairwise(ends)]
        q, k, v = (s("Add", x, part) for x, part in zip((q, k, v), parts, strict=True))
    return [s.attention(q, k, v, width, [added, s.additive(mask, k)])]


def rms_norm(s: Spelling, x: ir.Value, gamma: ir.Value, epsilon: float = 1e-5) -> list[ir.Value | None]:
    """γ ∘ x / √(mean x² + ε)."""
    axis, rank = int(attribute(s.node, "axis", -1)), len(dims(x))
    if axis not in (-1, rank - 1):
        raise Refused("it takes the mean over several axes")
    as_input = s.graph.opset_imports.get("", 18) >= 18
    axes = (s.integers(-1), None) if as_input else (None, [-1])
    square = s("ReduceMean", s("Mul", x, x), axes[0], axes=axes[1], keepdims=1)
    root = s("Sqrt", s("Add", square, s.number(attribute(s.node, "epsilon", epsilon))))
    return [s("Mul", s("Div", x, root), gamma)]


def skip_rms_norm(
    s: Spelling, x: ir.Value, skip: ir.Value, gamma: ir.Value, bias: ir.Value | None = None
) -> list[ir.Value | None]:
    total = s.plus(x, skip, bias)
    total.shape = x.shape
    return [*rms_norm(s, total, gamma, 1e-12), None, None, total]


def rotary(s: Spelling, x: ir.Value, place: ir.Value, cos: ir.Value, sin: ir.Value) -> list[ir.Value | None]:
    """x ∘ cos + [−x₂, x₁] ∘ sin of each head's first `rotary_embedding_dim`, at the tables' rows `place`."""
    heads, rank = int(attribute(s.node, "num_heads", 0)), len(dims(x))
    part = dims(cos)[-1] if dims(cos) else None
    if not part or rank not in (3, 4) or attribute(s.node, "is_packed_batching", 0):
        raise Refused("the shapes of its operands are not known, or it packs batches")
    width = dims(x)[-1]
    if rank == 3 and not heads and not width:
        raise Refused("how wide its heads are is not known")
    heads = heads or (width or 0) // (2 * part)
    parted = s("Reshape", x, s.integers(0, 0, heads, -1)) if rank == 3 else x
    if len(dims(place)) == 1:  # the first token's
        length = s("Shape", x, kind=ir.DataType.INT64, start=rank - 2, end=rank - 1)
        one = s("Squeeze", s.integers(1), kind=ir.DataType.INT64)
        zero = s("Squeeze", s.integers(0), kind=ir.DataType.INT64)
        steps = s("Range", zero, s("Squeeze", length, kind=ir.DataType.INT64), one, kind=ir.DataType.INT64)
        place = s("Unsqueeze", s("Add", steps, place, kind=ir.DataType.INT64), s.integers(0), kind=ir.DataType.INT64)
    head_axis = s.integers(2 if rank == 3 else 1)
    angles = [s("Unsqueeze", s("Gather", table, place), head_axis) for table in (cos, sin)]

    def along(value: ir.Value, begin: int, end: int, step: int = 1) -> ir.Value:
        return s("Slice", value, s.integers(begin), s.integers(end), s.integers(-1), s.integers(step))

    rotated = along(parted, 0, 2 * part)
    if attribute(s.node, "interleaved", 0):
        first, second = along(rotated, 0, 2 * part, 2), along(rotated, 1, 2 * part, 2)
        turned = [s("Sub", s("Mul", first, angles[0]), s("Mul", second, angles[1])),
                  s("Add", s("Mul", first, angles[1]), s("Mul", second, angles[0]))]  # fmt: skip
        pairs = s("Concat", *(s("Unsqueeze", value, s.integers(-1)) for value in turned), axis=-1)
        rotated = s("Reshape", pairs, s.integers(0, 0, 0, 2 * part))
    else:
        whole = [s("Concat", angle, angle, axis=-1) for angle in angles]
        halves = s("Concat", s("Neg", along(rotated, part, 2 * part)), along(rotated, 0, part), axis=-1)
        rotated = s("Add", s("Mul", rotated, whole[0]), s("Mul", halves, whole[1]))
    rotated = s("Concat", rotated, along(parted, 2 * part, 2**31 - 1), axis=-1)
    return [s("Reshape", rotated, s.integers(0, 0, -1)) if rank == 3 else rotated]


def standard_rotary(
    s: Spelling, x: ir.Value, cos: ir.Value, sin: ir.Value, place: ir.Value | None = None
) -> list[ir.Value | None]:
    if place is None:
        raise Refused("its cosines are those of each token already")
    return rotary(s, x, place, cos, sin)


# An operator's rule, and the input whose element type it computes in.
Rule = tuple[Callable[..., list[ir.Value | None]], int]
RULES: dict[str, Rule] = {
    "Gelu": (gelu, 0),
    "BiasGelu": (gelu, 0),
    "FastGelu": (fast_gelu, 0),
    "QuickGelu": (quick_gelu, 0),
    "FusedMatMul": (fused_matmul, 0),
    "TransposeMatMul": (fused_matmul, 0),
    "FusedGemm": (fused_gemm, 0),
    "SkipLayerNormalization": (skip_layer_norm, 0),
    "SkipSimplifiedLayerNormalization": (skip_rms_norm, 0),
    "EmbedLayerNormalization": (embed_layer_norm, 2),
    "Attention": (attention, 0),
    "MultiHeadAttention": (multi_head_attention, 0),
    "RotaryEmbedding": (rotary, 0),
    **INTEGER_RULES,
}
# Of ONNX's own, or under its name: what few readers know.
STANDARD: dict[str, Rule] = {
    "SimplifiedLayerNormalization": (rms_norm, 0),
    "RMSNormalization": (rms_norm, 0),
    "RotaryEmbedding": (standard_rotary, 0),
    "QLinearMatMul": INTEGER_RULES["QLinearMatMul"],
    "DequantizeLinear": (dequantize, 0),
}


def _rule(node: ir.Node) -> Rule | None:
    return RULES.get(node.op_type) if node.domain == DOMAIN else STANDARD.get(node.op_type) if not node.domain else None


def spell_fused(model: ir.Model, options: Options) -> Outcome:
    counts: Counter[str] = Counter()
    fused = [node for node in model.graph if _rule(node) and node.op_type != "DequantizeLinear"]
    if not fused:
        return Outcome()
    if model.graph.opset_imports.get("", OPSET) < OPSET:
        _raise_opset(model)
    rounds = any(node.op_type in ROUNDS for node in fused)
    while True:
        refusals, before = Refusals(), counts.total()
        for node in list(model.graph):
            if not (rule := _rule(node)):
                continue
            try:
                if model.graph.opset_imports.get("", OPSET) < OPSET:
                    raise Refused(f"the model's opset is older than {OPSET}; export it again")
                _spell(node, *rule)
                counts[node.op_type] += 1
            except NothingToSpell:
                continue
            except Refused as reason:
                refusals.add(str(reason), node.name or "", node.op_type)
        RemoveUnusedNodesPass()(model)
        if counts.total() == before:
            return Outcome(before, dict(counts), refusals.all(), tolerance=ROUNDING if before and rounds else None)
        infer_shapes(model)  # which another round may have waited for


def _raise_opset(model: ir.Model) -> None:
    """To the first that has the operators that rules write; a model that ONNX's converter refuses stays."""
    try:
        raised = onnx.version_converter.convert_version(ir.to_proto(model), NEWER)
    except Exception:
        return
    model.graph = ir.from_proto(raised).graph
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    infer_shapes(model)


def _wanted(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _spell(node: ir.Node, rule: Callable[..., list[ir.Value | None]], typed: int) -> None:
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
