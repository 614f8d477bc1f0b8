"""What a caller may choose about the rewrites; the defaults depend on no target."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Options:
    """Options of the rewrites.

    vertical_cost: two linears in a row compose into one when the result costs at most this many times their
        multiply-adds; 1.0 never adds work, larger values trade work for fewer, wider matmuls.
    horizontal: linears that read the same tensor run as one wider linear and a Split.
    scale_limit: a carried scale stays within [1/scale_limit, scale_limit] in every channel; beyond it the scale is
        applied and carried anew from 1.
    attention: "operator" leaves each attention as ONNX's Attention operator, which came with opset 23 and is faster in
        ONNX Runtime; "matmuls" as the matmuls, mask and softmax that every reader of ONNX knows.
    mask_value: constants below it, −inf included, are raised to it where they feed an attention mask.
    quantize: "int8" stores the weights of linears and embedding tables so (see passes.int8).
    keep_float: patterns, as in file names; layers whose node or weight matches one are not quantised.
    min_snr: decibels; layers whose output would have a smaller signal-to-noise ratio are not quantised.
    calibration: inputs of the model to sample activations on, in place of random ones.
    """

    vertical_cost: float = 1.0
    horizontal: bool = True
    scale_limit: float = 2.0**20
    attention: Literal["operator", "matmuls"] = "operator"
    mask_value: float = -1e9
    quantize: Literal["none", "int8"] = "none"
    keep_float: tuple[str, ...] = ()
    min_snr: float = 25.0
    calibration: tuple[Mapping[str, np.ndarray], ...] = ()
