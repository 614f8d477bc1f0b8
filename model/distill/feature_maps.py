"""Feature map transfer: a layer's output H, (B, T, N), made like the teacher's.

Each loss averages over the tokens that `mask` (B, T) attends to, so that padding teaches nothing.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

EPS = 1e-12


def feature_map_transfer(teacher: Tensor, student: Tensor, mask: Tensor) -> Tensor:
    """1/(TN) Σ_t Σ_n (H^tr − H^st)² (equation 2 of the ACL paper)."""
    return over_tokens((teacher.float() - student.float()).square().mean(-1), mask)


def normalized_feature_map_transfer(teacher: Tensor, student: Tensor, mask: Tensor) -> Tensor:
    """1/(TN) Σ_t ‖LayerNorm(H^tr) − LayerNorm(H^st)‖², without γ and β (equation 1 of the ICLR paper)."""
    size = teacher.shape[-1:]
    difference = F.layer_norm(teacher.float(), size, eps=EPS) - F.layer_norm(student.float(), size, eps=EPS)
    return over_tokens(difference.square().mean(-1), mask)


def mean_transfer(teacher: Tensor, student: Tensor, mask: Tensor) -> Tensor:
    """1/T Σ_t (μ(H^tr) − μ(H^st))², means over the N channels (equation 2 of the ICLR paper)."""
    return over_tokens((teacher.float().mean(-1) - student.float().mean(-1)).square(), mask)


def variance_transfer(teacher: Tensor, student: Tensor, mask: Tensor) -> Tensor:
    """1/T Σ_t |σ²(H^tr) − σ²(H^st)|, variances over the N channels (equation 2 of the ICLR paper)."""
    difference = teacher.float().var(-1, unbiased=False) - student.float().var(-1, unbiased=False)
    return over_tokens(difference.abs(), mask)


def over_tokens(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of `values` (B, T) where `mask` is 1."""
    weight = mask.to(values.dtype)
    return (values * weight).sum() / weight.sum()
