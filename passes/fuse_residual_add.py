"""Let a Gemm accumulate onto the residual stream: z + x W is one Gemm whose C is z.

    Add(Gemm(x, W), z)  ->  Gemm(x, W, z)

The product must have no bias of its own (fold_nonorm carries it to the readers of the stream) and no other reader.
"""

import onnx_ir as ir

from passes.graph import attribute, is_float, make, replace_output, used_once
from passes.options import Options
from passes.report import Outcome, Refusals


def fuse_residual_add(model: ir.Model, options: Options) -> Outcome:
    refusals = Refusals()
    applied = 0
    position: dict[ir.Node | None, int] = {node: index for index, node in enumerate(model.graph)}
    for node in list(model.graph):
        if node.op_type != "Add" or node.domain not in ("", "ai.onnx"):
            continue
        first, second = node.inputs
        # Of two products the later one accumulates: the other is there already.
        sides = [(a, b) for a, b in ((first, second), (second, first)) if a is not None and _product(a) is not None]
        sides.sort(key=lambda side: position[_product(side[0])], reverse=True)
        fused = next(((a, b) for a, b in sides if _fits(a, b, node, refusals)), None)
        if fused is None:
            continue
        product, stream = fused
        gemm = _product(product)
        assert gemm is not None
        inputs = [gemm.inputs[0], gemm.inputs[1], stream]
        flags = {a.name: a for a in gemm.attributes.values()}
        result = make("Gemm", inputs, before=node, like=node.outputs[0], attributes=flags)
        position[result.producer()] = position[node]
        replace_output(node.outputs[0], result)
        model.graph.remove([node, gemm], safe=True)
        applied += 1
    return Outcome(applied, refusals=refusals.all())


def _product(value: ir.Value) -> ir.Node | None:
    node = value.producer()
    return node if node is not None and node.op_type == "Gemm" and node.domain in ("", "ai.onnx") else None


def _fits(product: ir.Value, stream: ir.Value | None, node: ir.Node, refusals: Refusals) -> bool:
    """Whether the product is bare, read here alone, and as large as the stream."""
    gemm = _product(product)
    if gemm is None or stream is None or not is_float(stream) or product.shape is None or stream.shape is None:
        return False
    if list(product.shape) != list(stream.shape) or None in [getattr(d, "value", d) for d in product.shape]:
        return False
    if not used_once(product):
        refusals.add("the product has other readers", node.name or "")
        return False
    if any(value is not None for value in gemm.inputs[2:]) or attribute(gemm, "beta", 1.0) != 1.0:
        refusals.add("the product has a bias that something other than a linear reads with it", node.name or "")
        return False
    return True
