"""Standard nodes in front of a fused one, which its rule writes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import convert_attribute

from passes.graph import Refused, attribute, constant, dims, make


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
        named = {key: convert_attribute(key, value) for key, value in attributes.items() if value is not None}
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        return make(op, given, before=self.node, like=like, attributes=named)

    def float32(self, op: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        return self(op, *inputs, kind=ir.DataType.FLOAT, **attributes)

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
        """A mask [B, S], [B, T, S] or the keys' ends [B] as what is added to scores [B, H, T, S]; keys: [B, S, …]."""
        if mask is None:
            return None
        rank = len(dims(mask))
        if rank == 1:
            mask = self.between(mask, keys)
        elif rank not in (2, 3):
            raise Refused(f"its mask {mask.name!r} has rank {rank or 'unknown'}")
        kept = self("Cast", mask, to=int(self.type.dtype))
        low = attribute(self.node, "mask_filter_value", -10000.0)
        bias = self("Mul", self("Sub", self.number(1), kept), self.number(low))
        return self("Unsqueeze", bias, self.integers(1) if rank == 3 else self.integers(1, 2))

    def between(self, ends: ir.Value, keys: ir.Value) -> ir.Value:
        """Which keys are kept [B, S], of a text that ends at `ends` [B], or ends and then begins [2 B]."""
        whole, kind = {"kind": ir.DataType.INT64}, {"kind": ir.DataType.BOOL}
        (size,), (batch, *_) = dims(ends), dims(keys) or [None]
        if size != batch and (not size or not batch or size != 2 * batch):
            raise Refused(
                f"its mask {ends.name!r} of {size or 'any number of'} integers is neither an end for each of "
                f"{batch or 'the'} texts nor an end and a begin"
            )
        place = self("Range", self("Squeeze", self.integers(0), **whole), self("Squeeze", self.length(keys), **whole),
                     self("Squeeze", self.integers(1), **whole), **whole)  # fmt: skip
        places = self("Unsqueeze", self("Cast", ends, to=7, **whole), self.integers(1), **whole)
        if size == batch or not batch:
            return self("Less", place, places, **kind)
        first, last = self.integers(batch), self.integers(2 * batch)
        end = self("Slice", places, self.integers(0), first, self.integers(0), **whole)
        begin = self("Slice", places, first, last, self.integers(0), **whole)
        return self("And", self("Less", place, end, **kind), self("GreaterOrEqual", place, begin, **kind), **kind)

    def ids(self, x: ir.Value) -> ir.Value:
        """Before they were made int32, as ONNX Runtime's optimiser makes them."""
        cast = x.producer()
        source = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
        return source if source is not None and source.dtype == ir.DataType.INT64 else x

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
