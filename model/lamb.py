"""LAMB (You et al. 2019, Algorithm 2): Adam whose step in each tensor is as long as the tensor's norm says.

m = β₁ m + (1 − β₁) g        v = β₂ v + (1 − β₂) g²
r = m̂ / (√v̂ + ε),  m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)
w = w − η · ‖w‖ / ‖r + λ w‖ · (r + λ w)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class Lamb(Optimizer):
    """`weight_decay` is λ. Groups with `adapt=False` (biases and norms) take Adam's step, without ‖w‖ / ‖r + λ w‖.

    Where either norm is 0 the ratio is 1, so that tensors that begin at 0 can leave it.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        adapt: bool = True,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adapt": adapt}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, w: torch.Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[w], group["betas"]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)  # on the CPU
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(w), torch.zeros_like(w)
        state["step"] += 1
        t, m, v = float(state["step"]), state["exp_avg"], state["exp_avg_sq"]
        m.lerp_(w.grad, 1 - beta1)
        v.mul_(beta2).addcmul_(w.grad, w.grad, value=1 - beta2)
        update = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + group["eps"])
        update.add_(w, alpha=group["weight_decay"])
        if group["adapt"]:
            norm, length = torch.linalg.vector_norm(w), torch.linalg.vector_norm(update)
            update.mul_(torch.where((norm > 0) & (length > 0), norm / length, 1.0))
        w.add_(update, alpha=-group["lr"])
