"""Store embedding tables as int8, one scale a row, behind a DequantizeLinear.

    Gather(E, ids)  ->  Gather(DequantizeLinear(Q, s, axis=0), ids)    E_vh ≈ s_v Q_vh

Which row is looked up does not matter to its scale, so the compiler looks up Q and s. A table that a quantised Gemm
reads too (a decoder tied to the embeddings) is the same Q.
"""

import onnx_ir as ir

from passes import int8
from passes.graph import array, attribute, dequantized, is_float
from passes.keep import Keep
from passes.options import Options
from passes.report import LayerPrecision, Outcome


def quantize_tables(model: ir.Model, options: Options) -> Outcome:
    if options.quantize != "int8":
        return Outcome()
    keep = Keep(options)
    tables = dict.fromkeys(node.inputs[0] for node in model.graph if _looks_up(node))
    layers = tuple(_quantize(model.graph, table, keep) for table in tables if table is not None)
    return Outcome(sum(layer.precision == "int8" for layer in layers), refusals=keep.refusals.all(), layers=layers)


def _looks_up(node: ir.Node) -> bool:
    """Whether the node hands out rows of a constant float matrix."""
    if node.op_type != "Gather" or node.domain not in ("", "ai.onnx") or attribute(node, "axis", 0) != 0:
        return False
    values = array(node.inputs[0])
    return values is not None and values.ndim == 2 and is_float(node.inputs[0]) and array(node.inputs[1]) is None


def _quantize(graph: ir.Graph, table: ir.Value, keep: Keep) -> LayerPrecision:
    values, name = array(table), f"{table.name}"
    assert values is not None
    snr = None
    reason = keep.asked(name) or keep.unusable(name, values, axis=0)
    if not reason and not all(_looks_up(node) for node in table.consumers()):
        reason = "its other readers stay float32"
    if not reason:
        quantized, scales = int8.quantize_channels(values, axis=0)
        snr = int8.decibels(values, values - int8.dequantize(quantized, scales, axis=0))
        reason = keep.too_noisy(snr)
    if reason:
        keep.refusals.add(reason, name)
    else:
        table.replace_all_uses_with(dequantized(graph, name, quantized, scales, axis=0))
    shape = (values.shape[0], values.shape[1])
    return LayerPrecision(name, "table", name, shape, "float32" if reason else "int8", reason, snr, snr)
