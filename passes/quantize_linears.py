"""Store the weights of linears as int8, one scale an output channel, behind a DequantizeLinear.

    MatMul(x, W)  ->  MatMul(x, DequantizeLinear(Q, s, axis=1))        W_kn ≈ s_n Q_kn

ONNX Runtime computes that in float; the compiler also rounds x, row by row (see passes.int8). A linear stays float32
where that would leave y = x W with a signal-to-noise ratio below `min_snr` on sampled activations, where the caller
wants it, or where its weights cannot be int8. A table that a Gemm reads transposed is stored once, as [N, K].
"""

import numpy as np
import onnx_ir as ir

from passes import int8, linear
from passes.graph import dequantized
from passes.keep import Keep
from passes.linear import Linear
from passes.options import Options
from passes.report import LayerPrecision, Outcome
from passes.samples import activations


def quantize_linears(model: ir.Model, options: Options) -> Outcome:
    if options.quantize != "int8":
        return Outcome()
    linears = [candidate for node in model.graph if (candidate := linear.match(node, onto_stream=True)) is not None]
    rows = activations(model, [candidate.x for candidate in linears], options)
    keep = Keep(options)
    layers = tuple(_quantize(model.graph, candidate, rows[f"{candidate.x.name}"], keep) for candidate in linears)
    return Outcome(sum(layer.precision == "int8" for layer in layers), refusals=keep.refusals.all(), layers=layers)


def _quantize(graph: ir.Graph, candidate: Linear, x: np.ndarray, keep: Keep) -> LayerPrecision:
    values, name, weight = candidate.matrix(), f"{candidate.node.name}", f"{candidate.weight.name}"
    weight_snr = output_snr = None
    reason = keep.asked(name, weight) or int8.unusable(values, axis=1)
    if not reason:
        quantized, scales = int8.quantize_channels(values, axis=1)
        rounded = int8.dequantize(quantized, scales, axis=1)
        weight_snr, output_snr = int8.decibels(values, values - rounded), int8.output_snr(x, values, rounded)
        reason = keep.too_noisy(output_snr)
    if reason:
        keep.refusals.add(reason, name)
    else:
        if candidate.transposed and len(candidate.weight.uses()) == 1:
            candidate.node.attributes.pop("transB")
        else:
            quantized = quantized.T if candidate.transposed else quantized
        axis = int("transB" in candidate.node.attributes) ^ 1
        candidate.node.replace_input_with(1, dequantized(graph, weight, quantized, scales, axis))
    precision = "float32" if reason else "int8"
    return LayerPrecision(name, "linear", weight, candidate.shape, precision, reason, weight_snr, output_snr)
