"""Centre what a LayerNormalization writes before its rows are rounded.

    x' = x − m  by  β − m          x' W + (b + m W)  =  x W + b          x' + (y + m)  =  x + y

A row of activations has one range for all its channels, and trained encoders have channels that are large for every
token: they take that range up. With m, the mean of each channel on texts, they do not, and nothing is added to the
graph: β and the biases of the readers take m. It is done where it wins WORTH decibels on rows that m was not taken
from, and never on random inputs, whose means are others.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from passes import absorb, int8, linear
from passes.graph import array, constant, last_dim, used_once
from passes.keep import Keep
from passes.linear import Linear
from passes.options import Options
from passes.report import Outcome
from passes.samples import activations, held_out

WORTH = 0.5


def center_channels(model: ir.Model, options: Options) -> Outcome:
    if options.quantize != "int8" or not options.calibration:
        return Outcome()
    keep = Keep(options)
    readers = {node: found for node in model.graph if (found := _readers(node, keep))}
    rows = activations(model, [node.outputs[0] for node in readers], options)
    return Outcome(sum(_center(model.graph, node, rows[f"{node.outputs[0].name}"], readers[node]) for node in readers))


def _readers(node: ir.Node, keep: Keep) -> list[Linear | ir.Value]:
    """Linears that read a LayerNormalization and what else is added to it; none where something cannot take m."""
    if node.op_type != "LayerNormalization" or array(([*node.inputs, None, None])[2]) is None:
        return []
    found = list(_read(node.outputs[0]))
    if not all(found) or not any(isinstance(one, Linear) for one in found):
        return []
    return [] if any(_refused(one, keep) for one in found if isinstance(one, Linear)) else [one for one in found if one]


def _read(x: ir.Value) -> Iterator[Linear | ir.Value | None]:
    """What reads x, also through reshapes; None for what cannot take m."""
    if x.is_graph_output():
        yield None
    for node, index in x.uses():
        matched = linear.match(node)
        if matched is not None and index == 0:
            yield matched if linear.takes_bias(matched) else None
        elif node.op_type == "Add" and last_dim(x) == last_dim(node.outputs[0]):
            other = node.inputs[1 - index]
            written = linear.match(other.producer()) if other is not None and used_once(other) else None
            yield other if written is not None and linear.takes_bias(written) else None
        elif absorb.passed_on(node) is x:
            yield from _read(node.outputs[0])
        else:
            yield None


def _refused(layer: Linear, keep: Keep) -> bool:
    stays = keep.asked(f"{layer.node.name}", f"{layer.weight.name}")
    return bool(stays or int8.unusable(layer.matrix(), axis=1))


def _center(graph: ir.Graph, node: ir.Node, x: np.ndarray, readers: list[Linear | ir.Value]) -> bool:
    sampled, others = held_out(x)
    mean = sampled.mean(0, dtype=np.float64).astype(np.float32)
    # Matched again: a linear that is added to another norm has its m in its bias by now.
    linears = [now for one in readers if isinstance(one, Linear) and (now := linear.match(one.node))]
    gains = [_snr(others, layer, mean) - _snr(others, layer, np.float32(0)) for layer in linears]
    if not min(gains) >= WORTH:
        return False
    beta = array(node.inputs[2])
    assert beta is not None
    node.replace_input_with(2, constant(graph, beta - mean, f"{node.inputs[2].name}"))  # type: ignore[union-attr]
    for layer in linears:
        layer.set_vector(layer.vector() + mean @ layer.matrix())
    for value in readers:
        if isinstance(value, ir.Value):
            absorb.add_shift(value, mean)
    return True


def _snr(x: np.ndarray, layer: Linear, mean: np.ndarray | np.float32) -> float:
    """Of x W where x − mean is what is rounded; both halves are compared with the same signal."""
    matrix = layer.matrix()
    quantized, scales = int8.quantize_channels(matrix, axis=1)
    y = x.astype(np.float64) @ matrix
    noise = (x - mean).astype(np.float64) @ matrix - int8.round_rows(x - mean) @ int8.dequantize(quantized, scales, 1)
    return int8.decibels(y, noise)
