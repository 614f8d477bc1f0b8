"""The reverse of `fuse_attention`, for readers that want matmuls: an Attention operator becomes its definition.

    Attention(q, k, v, mask)  ->  softmax(scale · q kᵀ + mask) v, head by head; 0 for a query whose keys are all masked

Refuses caches, causal masks, soft caps and grouped heads: encoders have none.
"""

import math

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from passes.finite_mask import CARRIERS
from passes.graph import array, attribute, constant, dims, is_float, make, replace_output
from passes.options import Options
from passes.report import Outcome, Refusals


def expand_attention(model: ir.Model, options: Options) -> Outcome:
    if options.attention != "matmuls":
        return Outcome()
    refusals = Refusals()
    applied = 0
    for node in list(model.graph):
        if node.op_type == "Attention" and node.domain in ("", "ai.onnx"):
            reason = _obstacle(node)
            if reason:
                refusals.add(reason, node.name or "", node.op_type)
                continue
            _expand(model.graph, node, options)
            model.graph.remove(node, safe=True)
            applied += 1
    RemoveUnusedNodesPass()(model)
    return Outcome(applied, refusals=refusals.all())


def _obstacle(node: ir.Node) -> str | None:
    used = [value for value in node.outputs[1:] if value.uses() or value.is_graph_output()]
    if used or any(value is not None for value in node.inputs[4:]):
        return "the attention has a cache, or its scores are read"
    if any(attribute(node, name, 0) for name in ("is_causal", "softcap", "qk_matmul_output_mode")):
        return "the attention is causal or caps its scores"
    if attribute(node, "q_num_heads", 0) != attribute(node, "kv_num_heads", 0):
        return "the attention has fewer heads for keys than for queries"
    q, k, v = (dims(value) for value in node.inputs[:3])
    if not all(is_float(value) for value in node.inputs[:3]) or not len(q) == len(k) == len(v):
        return "the type or the rank of queries, keys or values is not known"
    if None in q[1:] + k[1:] + v[1:]:
        return "the number of tokens is not fixed"
    if len(q) == 4 and q[1] != k[1]:
        return "the attention has fewer heads for keys than for queries"
    return None


def _expand(graph: ir.Graph, node: ir.Node, options: Options) -> None:
    result = node.outputs[0]

    def new(op: str, inputs: list[ir.Value | None], shape: list[int | None], **attributes: ir.Attr) -> ir.Value:
        return make(op, inputs, before=node, like=result, shape=shape, attributes=attributes)

    def permuted(x: ir.Value, perm: list[int]) -> ir.Value:
        return new("Transpose", [x], [dims(x)[axis] for axis in perm], perm=ir.AttrInt64s("perm", perm))

    def reshaped(x: ir.Value, shape: list[int | None], name: str) -> ir.Value:
        sizes = np.array([-1, *shape[1:]], dtype=np.int64)
        return new("Reshape", [x, constant(graph, sizes, f"{base}.{name}", np.int64)], shape)

    def number(value: float, name: str) -> ir.Value:
        return constant(graph, np.array(value), f"{base}.{name}")

    def split(index: int) -> ir.Value:
        x = node.inputs[index]
        assert x is not None
        if len(dims(x)) == 4:
            return x
        batch, tokens, columns = dims(x)
        heads = int(attribute(node, "q_num_heads", 1))
        return permuted(reshaped(x, [batch, tokens, heads, (columns or 0) // heads], "heads"), [0, 2, 1, 3])

    base = (node.name or "attention").partition("#")[0]  # constants get numbers of their own
    q, k, v = split(0), split(1), split(2)
    batch, heads, queries, size = dims(q)
    keys, width = dims(v)[2:]
    scale = attribute(node, "scale", 1.0 / math.sqrt(size or 1))
    if scale != 1.0:
        q = new("Mul", [q, number(scale, "scale")], dims(q))
    scores = new("MatMul", [q, permuted(k, [0, 1, 3, 2])], [batch, heads, queries, keys])
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is not None:
        maker = mask.producer()
        if maker is not None and maker.op_type == "Expand" and len(dims(maker.inputs[0])) == 4:
            mask = maker.inputs[0]  # Add broadcasts
        if mask is not None and mask.dtype == ir.DataType.BOOL:
            mask = new("Where", [mask, number(0.0, "kept"), number(-math.inf, "masked")], dims(mask))
        scores = new("Add", [scores, mask], dims(scores))
    weights = new("Softmax", [scores], dims(scores), axis=ir.AttrInt64("axis", -1))
    if mask is not None and _may_be_infinite(mask):
        rows = [*dims(mask)[:-1], 1]
        greatest = new("ReduceMax", [mask, constant(graph, np.array([-1]), f"{base}.keys", np.int64)], rows)
        hidden = new("Equal", [greatest, number(-math.inf, "no_key")], rows)
        hidden.type = ir.TensorType(ir.DataType.BOOL)
        weights = new("Where", [hidden, number(0.0, "nothing"), weights], dims(scores))
    attended = new("MatMul", [weights, v], [batch, heads, queries, width])
    if len(dims(node.inputs[0])) == 3:
        columns = (heads or 0) * (width or 0)
        attended = reshaped(permuted(attended, [0, 2, 1, 3]), [batch, queries, columns], "merged")
    replace_output(result, attended)


def _may_be_infinite(mask: ir.Value | None) -> bool:
    """Whether −inf may be in it, as far as what it is made of tells."""
    values = array(mask)
    if mask is None or values is not None:
        return values is not None and bool(np.isneginf(values).any())
    node = mask.producer()
    if mask.dtype is not None and not mask.dtype.is_floating_point():
        return False
    if node is None or node.op_type not in CARRIERS | {"Sub", "Gather"}:
        return True
    return any(_may_be_infinite(value) for value in node.inputs)
