"""The int8 scheme of the compiled kernels, simulated in float, for training as well as for a look at what it costs.

    weight    s_n = max_k |W_nk| / 127                 Ŵ_nk = s_n · clip(⌊W_nk / s_n⌉, −127, 127)
    token     lo = min(0, min x)   hi = max(0, max x)   r = max(hi − lo, 2⁻¹⁰⁰)   z = ⌊−lo · 254 / r⌉
              x̂_k = (⌊x_k · 254 / r + z⌉ − z) · r / 254

Gradients go straight through the rounding (Bengio et al. 2013): d x̂ / d x = 1. The compiler folds norms into the
weights beside them before it quantises: its integers are those of the folded weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import ModelError


def round_weight(weight: Tensor) -> Tensor:
    """A weight (outputs, inputs), or a table (rows, columns), rounded to int8 with a scale for each row."""
    scale = weight.detach().abs().amax(1, keepdim=True) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return _straight_through(weight, (weight / scale).round().clamp(-127, 127) * scale)


def round_rows(x: Tensor) -> Tensor:
    """Activations (…, T, inputs), rounded to 254 steps between the extremes of each token."""
    low = x.detach().amin(-1, keepdim=True).clamp_max(0)
    high = x.detach().amax(-1, keepdim=True).clamp_min(0)
    span = (high - low).clamp_min(2.0**-100)
    inverse, scale = 254 / span, span * (1 / 254)
    zero = (-low * inverse).round()
    return _straight_through(x, ((x * inverse + zero).round() - zero) * scale)


def _straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    return x + (rounded - x).detach() if x.requires_grad else rounded


@contextmanager
def fake_quantized(model: nn.Module, keep_float: Collection[str] = ()) -> Iterator[None]:
    """Inside, linears multiply as int8 kernels do and embedding tables are int8; gradients pass.

    Raises ModelError for a pattern in keep_float that no linear or table matches.
    """

    def linear(module: nn.Linear, x: Tensor) -> Tensor:
        return F.linear(round_rows(x), round_weight(module.weight), module.bias)

    def embedding(module: nn.Embedding, ids: Tensor) -> Tensor:
        return F.embedding(ids, round_weight(module.weight), module.padding_idx)

    kinds: dict[type, Callable[..., Tensor]] = {nn.Linear: linear, nn.Embedding: embedding}
    layers = {name: module for name, module in model.named_modules() if type(module) in kinds}
    for pattern in keep_float:
        if not any(fnmatchcase(name, pattern) for name in layers):
            some = ", ".join(list(layers)[-3:])
            raise ModelError(f"quantize.keep_float: no layer is called {pattern!r}; there are {some}, …")
    chosen = [module for name, module in layers.items() if not any(fnmatchcase(name, p) for p in keep_float)]
    for module in chosen:
        module.forward = partial(kinds[type(module)], module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in chosen:
            del module.forward
