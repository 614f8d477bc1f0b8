"""Store the weights of linears as int8, one scale an output channel, behind a DequantizeLinear.

    MatMul(x, W)  ->  MatMul(x, DequantizeLinear(Q, s, axis=1))        W_kn ≈ s_n Q_kn

ONNX Runtime computes that in float; the compiler also rounds x, row by row (see passes.int8). A linear stays float32
where that would leave y = x W with a signal-to-noise ratio below `min_snr` on sampled activations, where the caller
wants it, or where its weights cannot be int8. A table that a Gemm reads transposed is stored once, as [N, K].

Samples that are texts also say which way to round: `int8.compensate`, where that wins on rows it has not seen.
"""

import numpy as np
import onnx_ir as ir

from passes import int8, linear
from passes.graph import dequantized
from passes.keep import Keep
from passes.linear import Linear
from passes.options import Options
from passes.report import LayerPrecision, Outcome
from passes.samples import activations, held_out


def quantize_linears(model: ir.Model, options: Options) -> Outcome:
    if options.quantize != "int8":
        return Outcome()
    linears = [candidate for node in model.graph if (candidate := linear.match(node, onto_stream=True)) is not None]
    rows = activations(model, [candidate.x for candidate in linears], options)
    keep = Keep(options)
    texts = bool(options.calibration)
    layers = tuple(_quantize(model.graph, one, rows[f"{one.x.name}"], keep, texts) for one in linears)
    return Outcome(sum(layer.precision == "int8" for layer in layers), refusals=keep.refusals.all(), layers=layers)


def _quantize(graph: ir.Graph, candidate: Linear, x: np.ndarray, keep: Keep, texts: bool) -> LayerPrecision:
    values, name, weight = candidate.matrix(), f"{candidate.node.name}", f"{candidate.weight.name}"
    weight_snr = output_snr = None
    reason = keep.asked(name, weight) or keep.unusable(weight, values, axis=1)
    reason = reason or ("" if np.isfinite(x).all() else "its input is not finite on the samples")
    if not reason:
        quantized, scales = int8.quantize_channels(values, axis=1)
        sampled, x = held_out(x) if texts else (x, x)
        weight_snr, output_snr = _ratios(x, values, quantized, scales)
        if texts and len(candidate.weight.uses()) == 1:
            better = int8.compensate(values, scales, sampled)
            ratios = _ratios(x, values, better, scales)
            if ratios[1] > output_snr:
                quantized, (weight_snr, output_snr) = better, ratios
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


def _ratios(x: np.ndarray, values: np.ndarray, quantized: np.ndarray, scales: np.ndarray) -> tuple[float, float]:
    """Decibels of the weight, and of x W."""
    rounded = int8.dequantize(quantized, scales, axis=1)
    return int8.decibels(values, values - rounded), int8.output_snr(x, values, rounded)
