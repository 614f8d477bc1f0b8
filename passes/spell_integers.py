"""Rules of `spell_fused` for quantised operators: integers become floats where they are read, and back where written.

    QLinear<op>(a, s, z, …)     Quantize(op(Dequantize(a), …)), MatMul, Add, Mul, Softmax, LeakyRelu, Sigmoid, Concat, …
    QGemm                       the same of Gemm, its bias by the product of the scales
    QAttention, DynamicQuantizeMatMul, MatMulIntegerToFloat
                                the float operator of Dequantize(weight), and of what was quantised to begin with
    QEmbedLayerNormalization    the float one of dequantised tables
    MatMulNBits                 MatMul of a float weight: blocks of 2, 4 or 8 bits are dequantised here
    GatherBlockQuantized        Gather, likewise

Later passes make int8 linears of what has the form of one, and drop the rounding that only runtimes with integers need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from passes.graph import Refused, array, attribute, constant, dims
from passes.spelling import Spelling

Values = list[ir.Value | None]
FLOAT = ir.TensorType(ir.DataType.FLOAT)
MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Flatten")


class NothingToSpell(Exception):
    """Raised by a rule for a node that is as it should be."""


def _floats(s: Spelling, values: ir.Value, scale: ir.Value, zero: ir.Value | None, axis: int = 0) -> ir.Value:
    """What integers stand for; where they were quantised from floats at run time, those.

    What only moves integers of one scale moves floats as well: later passes see floats all the way then.
    """
    s.type = FLOAT
    maker, scales = values.producer(), array(scale)
    if maker is not None and maker.op_type == "DynamicQuantizeLinear" and maker.inputs[0] is not None:
        return maker.inputs[0]
    if scales is None or scales.size > 1:
        return s("DequantizeLinear", values, scale, zero, axis=axis if len(dims(scale)) else None)
    if maker is not None and maker.op_type in MOVES and maker.inputs[0] is not None:
        moved = _floats(s, maker.inputs[0], scale, zero)
        attributes = {name: attr.value for name, attr in maker.attributes.items()}
        return s.float32(maker.op_type, moved, *maker.inputs[1:], **attributes)
    if scales.ndim:  # a vector of one is no channel's
        zeros = array(zero)
        scale = constant(s.graph, scales.reshape(()), scale.name or "scale")
        zero = None if zeros is None else constant(s.graph, zeros.reshape(()), "zero", zeros.dtype.type)
    return s("DequantizeLinear", values, scale, zero)


def dequantize(s: Spelling, values: ir.Value, scale: ir.Value, zero: ir.Value | None = None) -> Values:
    """Of integers that were moved about, or a refusal that is not worth telling."""
    maker, scales = values.producer(), array(scale)
    if maker is None or maker.op_type not in MOVES or scales is None or scales.size > 1:
        raise NothingToSpell
    return [_floats(s, values, scale, zero)]


def _integers(s: Spelling, x: ir.Value, scale: ir.Value | None, zero: ir.Value | None) -> ir.Value:
    """x in integers, or as it is where no scale says which."""
    if scale is None:
        return x
    kind = zero.dtype if zero is not None and zero.dtype is not None else ir.DataType.UINT8
    return s("QuantizeLinear", x, scale, zero, kind=kind)


def _weight_axis(weight: ir.Value) -> int:
    return max(len(dims(weight)) - 1, 0)


def _binary(op: str) -> Callable[..., Values]:
    def rule(s: Spelling, a: Any, sa: Any, za: Any, b: Any, sb: Any, zb: Any, sy: Any, zy: Any = None) -> Values:
        y = s.float32(op, _floats(s, a, sa, za), _floats(s, b, sb, zb, _weight_axis(b)))
        return [_integers(s, y, sy, zy)]

    return rule


def _unary(op: str, *kept: str) -> Callable[..., Values]:
    def rule(s: Spelling, x: Any, sx: Any, zx: Any, sy: Any, zy: Any = None) -> Values:
        attributes = {name: s.node.attributes[name].value for name in kept if name in s.node.attributes}
        return [_integers(s, s.float32(op, _floats(s, x, sx, zx), **attributes), sy, zy)]

    return rule


def concat(s: Spelling, sy: ir.Value, zy: ir.Value, *parts: ir.Value) -> Values:
    pieces = [_floats(s, a, scale, zero) for a, scale, zero in zip(parts[::3], parts[1::3], parts[2::3], strict=True)]
    return [_integers(s, s.float32("Concat", *pieces, axis=attribute(s.node, "axis", 0)), sy, zy)]


def softmax(s: Spelling, x: Any, sx: Any, zx: Any, sy: Any, zy: Any = None) -> Values:
    if int(attribute(s.node, "axis", -1)) not in (-1, len(dims(x)) - 1):
        raise Refused("it is not over the last axis")
    return [_integers(s, s.float32("Softmax", _floats(s, x, sx, zx), axis=-1), sy, zy)]


def gemm(
    s: Spelling, a: Any, sa: Any, za: Any, b: Any, sb: Any, zb: Any, c: Any = None, sy: Any = None, zy: Any = None
) -> Values:
    turned = int(attribute(s.node, "transB", 0))
    first, second = _floats(s, a, sa, za), _floats(s, b, sb, zb, 0 if turned else 1)
    bias = None
    if c is not None:
        whole, scales = array(c), (array(sa), array(sb))
        if whole is None or scales[0] is None or scales[1] is None:
            raise Refused("its bias or a scale is no constant")
        bias = constant(s.graph, whole * (scales[0] * scales[1]), c.name or "bias")
    alpha = float(attribute(s.node, "alpha", 1.0))
    y = s.float32("Gemm", first, second, alpha=alpha, transA=int(attribute(s.node, "transA", 0)), transB=turned)
    return [_integers(s, s.plus(y, bias), sy, zy)]


def dynamic_matmul(s: Spelling, a: Any, b: Any, scale: Any, zero: Any = None, bias: Any = None) -> Values:
    return [s.plus(s.float32("MatMul", a, _floats(s, b, scale, zero, _weight_axis(b))), bias)]


def integer_matmul(
    s: Spelling, a: Any, b: Any, sa: Any, sb: Any, za: Any = None, zb: Any = None, bias: Any = None
) -> Values:
    return [s.plus(s.float32("MatMul", _floats(s, a, sa, za), _floats(s, b, sb, zb, _weight_axis(b))), bias)]


def quantized_attention(
    s: Spelling, x: Any, weight: Any, bias: Any, sx: Any, sw: Any, mask: Any = None, zx: Any = None, zw: Any = None,
    past: Any = None,
) -> Values:  # fmt: skip
    from passes.spell_fused import attention

    floats = _floats(s, x, sx, zx), _floats(s, weight, sw, zw, 1)
    floats[0].shape, floats[1].shape = x.shape, weight.shape
    return attention(s, *floats, bias, mask, past)


def quantized_embeddings(s: Spelling, ids: Any, types: Any, *rest: Any) -> Values:
    from passes.spell_fused import embed_layer_norm

    words, places, kinds, gamma, beta = (
        None if rest[i] is None else _floats(s, rest[i], rest[i + 6], rest[i + 11]) for i in range(5)
    )
    return embed_layer_norm(s, ids, types, words, places, kinds, gamma, beta, rest[5])  # type: ignore[arg-type]


def unpacked(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Numbers of 2, 4 or 8 bits from bytes along the last axis, the lowest bits first; `count` of them."""
    if bits not in (2, 4, 8):
        raise Refused(f"its weights have {bits} bits")
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = (packed.view(np.uint8)[..., None] >> shifts) & (2**bits - 1)
    return numbers.reshape(*packed.shape[:-1], -1)[..., :count]


def matmul_n_bits(
    s: Spelling, a: Any, b: Any, scales: Any, zeros: Any = None, order: Any = None, bias: Any = None
) -> Values:
    rows, columns, block, bits = (int(attribute(s.node, name, 4)) for name in ("K", "N", "block_size", "bits"))
    packed, by_block = array(b), array(scales)
    offsets = None if zeros is None else array(zeros)
    if packed is None or by_block is None or (zeros is not None and offsets is None) or order is not None:
        raise Refused("its weights are no constants, or not in order")
    blocks = -(-rows // block)
    values = unpacked(packed.reshape(columns, blocks, -1), bits, block).astype(np.float32)
    zero = np.full((columns, blocks), 2.0 ** (bits - 1), np.float32)
    if offsets is not None and offsets.dtype == np.uint8:
        zero = unpacked(offsets.reshape(columns, -1), bits, blocks).astype(np.float32)
    elif offsets is not None:
        zero = offsets.reshape(columns, blocks).astype(np.float32)
    weight = (values - zero[..., None]) * by_block.reshape(columns, blocks, 1).astype(np.float32)
    matrix = weight.reshape(columns, -1)[:, :rows].T
    kind = s.type.dtype.numpy().type
    return [s.plus(s("MatMul", a, constant(s.graph, matrix, b.name or "weight", kind)), bias)]


def gather_blocks(s: Spelling, data: Any, ids: Any, scales: Any, zeros: Any = None) -> Values:
    packed, by_block, offsets = array(data), array(scales), None if zeros is None else array(zeros)
    bits, block = int(attribute(s.node, "bits", 4)), int(attribute(s.node, "block_size", 128))
    if packed is None or by_block is None or (zeros is not None and offsets is None):
        raise Refused("its table is no constant")
    if packed.ndim != 2 or packed.dtype != np.uint8 or attribute(s.node, "gather_axis", 0):
        raise Refused("its table is no matrix of bytes, or not read by rows")
    if int(attribute(s.node, "quantize_axis", 1)) % 2 != 1:
        raise Refused("its blocks are not along the rows")
    numbers = unpacked(packed, bits, packed.shape[1] * 8 // bits).astype(np.float32)
    count = by_block.shape[1]
    zero = 2.0 ** (bits - 1) if offsets is None else unpacked(offsets, bits, count).astype(np.float32)[..., None]
    table = (
        np.pad(numbers, ((0, 0), (0, count * block - numbers.shape[1]))).reshape(-1, count, block) - zero
    ) * by_block[..., None]
    s.type = ir.TensorType(scales.dtype)
    whole = constant(
        s.graph, table.reshape(len(table), -1)[:, : numbers.shape[1]], data.name or "table", by_block.dtype.type
    )
    return [s("Gather", whole, ids)]


INTEGER_RULES: dict[str, tuple[Callable[..., Values], int]] = {
    "QLinearMatMul": (_binary("MatMul"), 0),
    "QLinearAdd": (_binary("Add"), 0),
    "QLinearMul": (_binary("Mul"), 0),
    "QLinearSigmoid": (_unary("Sigmoid"), 0),
    "QLinearLeakyRelu": (_unary("LeakyRelu", "alpha"), 0),
    "QLinearConcat": (concat, 0),
    "QLinearSoftmax": (softmax, 0),
    "QGemm": (gemm, 0),
    "QAttention": (quantized_attention, 0),
    "QEmbedLayerNormalization": (quantized_embeddings, 0),
    "DynamicQuantizeMatMul": (dynamic_matmul, 0),
    "MatMulIntegerToFloat": (integer_matmul, 0),
    "MatMulNBits": (matmul_n_bits, 0),
    "GatherBlockQuantized": (gather_blocks, 1),
}
ROUNDS = {*INTEGER_RULES} - {"QEmbedLayerNormalization", "GatherBlockQuantized", "MatMulNBits"}
