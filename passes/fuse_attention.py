"""Hand a whole attention to the runtime: ONNX's own Attention operator (opset 23) splits and merges the heads itself.

    Reshape, Transpose (q, k, v) -> MatMul -> [Add mask] -> Softmax -> MatMul -> Transpose -> Reshape
        ->  Attention(q, k, v, mask), q, k, v [B, T, H·D]

Not done where `Options.attention` asks for matmuls: not every reader of ONNX knows the operator.
"""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from passes.graph import attribute, constant, dims, ints, is_float, make, replace_output, used_once
from passes.options import Options
from passes.report import Outcome, Refusals

OPSET = 23


@dataclass(frozen=True)
class _Match:
    inputs: tuple[ir.Value, ...]  # q, k, v as they are before their heads are split
    mask: ir.Value | None
    tokens: tuple[int, int]  # of the queries, of the keys
    heads: int
    sizes: tuple[int, int, int]  # of a head of q, k, v
    last: ir.Node


def fuse_attention(model: ir.Model, options: Options) -> Outcome:
    if options.attention != "operator":
        return Outcome()
    refusals = Refusals()
    matches = [m for node in model.graph if (m := _match(node, refusals)) is not None]
    if not matches:
        return Outcome(refusals=refusals.all())
    changed = _changed_operator(model)
    if changed:
        refusals.add(f"{changed} means something else in opset {OPSET}, which the Attention operator needs", "graph")
        return Outcome(refusals=refusals.all())
    model.graph.opset_imports[""] = max(OPSET, model.graph.opset_imports[""])
    masks: dict[ir.Value, ir.Value] = {}
    for match in matches:
        _replace(model.graph, match, masks)
    RemoveUnusedNodesPass()(model)
    return Outcome(len(matches), refusals=refusals.all())


def _changed_operator(model: ir.Model) -> str | None:
    """An operator in the graph whose inputs or attributes are not the same in our opset, or None."""
    version = model.graph.opset_imports[""]
    for name in {node.op_type for node in model.graph.all_nodes() if node.domain in ("", "ai.onnx")}:
        old, new = (onnx.defs.get_schema(name, v) for v in (version, max(version, OPSET)))
        same_inputs = [i.name for i in old.inputs] == [i.name for i in new.inputs][: len(old.inputs)]
        if not same_inputs or not set(old.attributes) <= set(new.attributes):
            return name
    return None


def _match(softmax: ir.Node, refusals: Refusals) -> _Match | None:
    probabilities = softmax.outputs[0]
    if softmax.op_type != "Softmax" or len(dims(probabilities)) != 4 or not is_float(probabilities):
        return None
    if attribute(softmax, "axis", -1) not in (-1, 3):
        return None
    scores, mask = _producer(softmax.inputs[0]), None
    if scores is not None and scores.op_type == "Add":
        sides = [(_producer(a), b) for a, b in (scores.inputs, scores.inputs[::-1])]
        scores, mask = next(((p, b) for p, b in sides if p is not None and p.op_type == "MatMul"), (None, None))
    if scores is None or scores.op_type != "MatMul":
        return None
    where = scores.name or ""
    chain = [node.outputs[0] for node in (scores, softmax)]
    if mask is not None and softmax.inputs[0] is not None:
        chain.append(softmax.inputs[0])
    weighted, merged, last = _only_reader(probabilities, "MatMul"), None, None
    if weighted is not None and weighted.inputs[0] is probabilities:
        merged = _only_reader(weighted.outputs[0], "Transpose")
    if merged is not None and ints(merged, "perm") == [0, 2, 1, 3]:
        last = _only_reader(merged.outputs[0], "Reshape")
    if weighted is None or last is None or not all(used_once(value) for value in chain):
        refusals.add("the scores or the heads have other readers, or are not merged as usual", where)
        return None
    split = [
        _heads(value, perm)
        for value, perm in (
            (scores.inputs[0], [0, 2, 1, 3]),
            (scores.inputs[1], [0, 2, 3, 1]),
            (weighted.inputs[1], [0, 2, 1, 3]),
        )
    ]
    operands = [item for item in split if item is not None]
    if len(operands) < 3 or len({heads for _, _, heads, _ in operands}) > 1 or operands[1][1] != operands[2][1]:
        refusals.add("the heads are not split by one Reshape and one Transpose of known sizes", where)
        return None
    tokens = (operands[0][1], operands[1][1])
    rows = dims(mask)[2:]
    if mask is not None and not (is_float(mask) and len(dims(mask)) == 4 and rows in ([1, tokens[1]], [*tokens])):
        refusals.add("the mask is not [batch, heads, queries or 1, keys]", where)
        return None
    inputs = tuple(value for value, _, _, _ in operands)
    return _Match(inputs, mask, tokens, operands[0][2], tuple(size for *_, size in operands), last)  # type: ignore[arg-type]


def _heads(value: ir.Value | None, perm: list[int]) -> tuple[ir.Value, int, int, int] | None:
    """x, tokens, heads and head size where the value is Transpose(Reshape(x, [B, T, H, D]), perm)."""
    outer = _producer(value)
    inner = _producer(outer.inputs[0]) if outer is not None else None
    if outer is None or inner is None or outer.op_type != "Transpose" or inner.op_type != "Reshape":
        return None
    x, shape = inner.inputs[0], dims(inner.outputs[0])
    if x is None or len(shape) != 4 or ints(outer, "perm") != perm:
        return None
    _, tokens, heads, size = shape
    return None if tokens is None or heads is None or size is None else (x, tokens, heads, size)


def _replace(graph: ir.Graph, match: _Match, masks: dict[ir.Value, ir.Value]) -> None:
    last, result = match.last, match.last.outputs[0]
    tokens = (match.tokens[0], match.tokens[1], match.tokens[1])
    operands: list[ir.Value | None] = []
    for x, count, size in zip(match.inputs, tokens, match.sizes, strict=True):
        shape = [-1, count, match.heads * size]
        name = f"attention.shape_{count}x{shape[2]}"
        target = graph.initializers.get(name) or constant(graph, np.array(shape), name, np.int64)
        operands.append(make("Reshape", [x, target], before=last, like=result, shape=[None, *shape[1:]]))
    if match.mask is not None:
        operands.append(_full_mask(graph, match, masks))
    attributes = {
        "q_num_heads": ir.AttrInt64("q_num_heads", match.heads),
        "kv_num_heads": ir.AttrInt64("kv_num_heads", match.heads),
        "scale": ir.AttrFloat32("scale", 1.0),  # whatever scale there is lies in the query's weights
    }
    rows = [None, tokens[0], match.heads * match.sizes[2]]
    attended = make("Attention", operands, before=last, like=result, shape=rows, attributes=attributes)
    merged = make("Reshape", [attended, last.inputs[1]], before=last, like=result)
    replace_output(result, merged)


def _full_mask(graph: ir.Graph, match: _Match, masks: dict[ir.Value, ir.Value]) -> ir.Value:
    """The mask with a row a query, made once: ONNX Runtime does not broadcast that axis."""
    mask = match.mask
    assert mask is not None
    batch, heads, rows, _ = dims(mask)
    if rows == match.tokens[0]:
        return mask
    if mask not in masks:
        shape = [1, 1, *match.tokens]
        target = constant(graph, np.array(shape), "attention.mask_shape", np.int64)
        # Made right after the mask itself, so that every attention finds it above.
        producer = mask.producer()
        before = next(iter(graph)) if producer is None else _next(graph, producer)
        masks[mask] = make("Expand", [mask, target], before=before, like=mask, shape=[batch, heads, *match.tokens])
    return masks[mask]


def _next(graph: ir.Graph, node: ir.Node) -> ir.Node:
    nodes = list(graph)
    return nodes[nodes.index(node) + 1]


def _producer(value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain in ("", "ai.onnx") else None


def _only_reader(value: ir.Value, op: str) -> ir.Node | None:
    if not used_once(value):
        return None
    node = next(iter(value.uses())).node
    return node if node.op_type == op and node.domain in ("", "ai.onnx") else None
