"""Attention transfer: each head's attention made like that of the same head of the teacher."""

from __future__ import annotations

from torch import Tensor

from .feature_maps import over_tokens


def attention_transfer(teacher: Tensor, student: Tensor, mask: Tensor) -> Tensor:
    """1/(TA) Σ_t Σ_a KL(a^tr ‖ a^st) (equation 3 of both papers), in nats.

    Both are scores (B, A, T, T) before the softmax over keys; queries that `mask` (B, T) leaves out do not count.
    """
    expected, actual = teacher.float().log_softmax(-1), student.float().log_softmax(-1)
    divergence = (expected.exp() * (expected - actual)).sum(-1)  # (B, A, T)
    return over_tokens(divergence.mean(1), mask)
