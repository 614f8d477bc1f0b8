"""Balance a linear's input channels against its weights before both are rounded.

    x W  =  (x ∘ s) (diag(1/s) W)        s_k = √(max_n |W_kn| / max_t |x_tk|), so that both have the same range

A row of activations has one scale for all channels, and a column of W one for all its rows: where a channel is large
and its weights are small, as after a folded norm, both lose what is small. Where the writer of x takes s for nothing (a
linear, also through Relu, for s > 0), that is done if it wins a decibel; elsewhere one Mul is inserted, if the linear
would have to stay float32 without it and need not with it.
"""

import numpy as np
import onnx_ir as ir

from passes import absorb, int8, linear
from passes.graph import constant, make, used_once
from passes.keep import Keep
from passes.linear import Linear
from passes.options import Options
from passes.report import Outcome
from passes.samples import activations

LIMIT = 2.0**20  # of a channel's factor, and of its inverse


def equalize_channels(model: ir.Model, options: Options) -> Outcome:
    if options.quantize != "int8":
        return Outcome()
    keep = Keep(options)
    linears = [layer for node in model.graph if (layer := linear.match(node, onto_stream=True)) is not None]
    linears = [layer for layer in linears if not keep.asked(f"{layer.node.name}", f"{layer.weight.name}")]
    rows = activations(model, [layer.x for layer in linears], options)
    counts = {"absorbed": 0, "multiplied": 0}
    for layer in linears:
        kind = _balance(model.graph, layer, rows[f"{layer.x.name}"], options.min_snr)
        if kind:
            counts[kind] += 1
    return Outcome(sum(counts.values()), counts)


def _balance(graph: ir.Graph, layer: Linear, x: np.ndarray, bound: float) -> str:
    """What was done with the factors; empty where nothing was."""
    matrix = layer.matrix()
    if int8.unusable(matrix, axis=1) or not np.isfinite(x).all() or not linear.may_change(layer):
        return ""
    factors = _factors(x, matrix)
    before, after = _snr(x, matrix), _snr(x * factors, matrix / factors[:, None])
    source = _writer(layer.x)
    if source is not None and after >= before + 1:
        absorb.scale(source, factors, layer.node)
        kind = "absorbed"
    elif before < bound <= after:
        scaled = make("Mul", [layer.x, constant(graph, factors, f"{layer.weight.name}.balance")],
                      before=layer.node, like=layer.x)  # fmt: skip
        layer.node.replace_input_with(0, scaled)
        kind = "multiplied"
    else:
        return ""
    layer.set_matrix(matrix / factors[:, None])
    return kind


def _factors(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """s, float32 numbers; 1 where a channel or its weights are all zero."""
    large, weights = np.abs(x).max(0).astype(np.float64), np.abs(matrix).max(1)
    alive = (large > 0) & (weights > 0)
    ratio = np.divide(weights, large, out=np.ones_like(weights), where=alive)
    return np.clip(np.sqrt(ratio), 1 / LIMIT, LIMIT).astype(np.float32).astype(np.float64)


def _snr(x: np.ndarray, matrix: np.ndarray) -> float:
    quantized, scales = int8.quantize_channels(matrix, axis=1)
    return int8.output_snr(x, matrix, int8.dequantize(quantized, scales, axis=1))


def _writer(x: ir.Value) -> ir.Value | None:
    """The value whose writers can take a positive scale in place of x, if x has no other reader."""
    if not used_once(x):
        return None
    node = x.producer()
    source = node.inputs[0] if node is not None and node.op_type == "Relu" else x
    return source if source is not None and source.producer() is not None and absorb.can_scale(source) else None
