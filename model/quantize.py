"""int8 as it will be, simulated in float: what a quantised model would answer, before there are kernels for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def fake_quantize(x: Tensor, dim: int) -> Tensor:
    """Round to the 255 values −127 … 127 times a scale, one for each slice along `dim` that is left whole.

    The scale is max|x| / 127 over `dim`: of a weight (outputs, inputs) with dim 1, one for each output channel; of
    activations (…, T, inputs) with dim −1, one for each token.
    """
    scale = x.abs().amax(dim, keepdim=True).clamp_min(1e-12) / 127
    return (x / scale).round() * scale


@contextmanager
def fake_quantized(model: nn.Module) -> Iterator[None]:
    """Inside, every linear multiplies int8 weights (by output channel) with int8 activations (by token)."""

    def forward(linear: nn.Linear, x: Tensor) -> Tensor:
        return F.linear(fake_quantize(x, -1), fake_quantize(linear.weight, 1), linear.bias)

    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for linear in linears:
        linear.forward = partial(forward, linear)  # type: ignore[method-assign]
    try:
        with torch.no_grad():
            yield
    finally:
        for linear in linears:
            del linear.forward
