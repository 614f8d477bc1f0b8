"""An affine view of a value: what the graph calls x is scale ∘ base + shift, channel by channel along the last axis."""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from passes.graph import array, is_float, last_dim


@dataclass(frozen=True)
class Affine:
    """x = scale ∘ base + shift; None stands for a scale of 1 and a shift of 0.

    private: nothing but the value described here depends on base, so base's writers may be changed in its favour.
    """

    base: ir.Value
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    private: bool = False

    def then(self, step: "Step") -> "Affine":
        """The affine after one more Mul or Add: γ(scale ∘ base + shift) + β."""
        scale, shift = self.scale, self.shift
        if step.scale is not None:
            scale = step.scale if scale is None else step.scale * scale
            shift = None if shift is None else step.scale * shift
        if step.shift is not None:
            shift = step.shift if shift is None else step.shift + shift
        return replace(self, scale=scale, shift=shift)


@dataclass(frozen=True)
class Step:
    """One Mul, Div, Add or Sub with a constant vector along the last axis of x."""

    x: ir.Value
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None


def match_step(node: ir.Node) -> Step | None:
    """The step that a node takes, if one of its operands is a constant vector along the other's last axis."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("Mul", "Div", "Add", "Sub"):
        return None
    first, second = node.inputs
    for x, other, swapped in ((first, second, False), (second, first, True)):
        vector = _channel_vector(x, other)
        if x is None or vector is None:
            continue
        if node.op_type == "Mul":
            return Step(x, scale=vector)
        if node.op_type == "Add":
            return Step(x, shift=vector)
        if node.op_type == "Div" and not swapped and np.all(vector != 0):
            return Step(x, scale=1.0 / vector)
        if node.op_type == "Sub":
            return Step(x, scale=np.full(len(vector), -1.0), shift=vector) if swapped else Step(x, shift=-vector)
    return None


def _channel_vector(x: ir.Value | None, other: ir.Value | None) -> np.ndarray | None:
    values = array(other)
    if x is None or values is None or not is_float(x) or array(x) is not None or x.shape is None:
        return None
    size = last_dim(x)
    if size is None or size == 1 or values.size != size or values.shape[-1] != size or values.ndim > len(x.shape):
        return None
    return values.reshape(-1).astype(np.float64)
