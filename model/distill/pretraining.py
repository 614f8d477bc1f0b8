"""Pre-training: masked words, next sentences, and the teacher's opinion of the masked words.

The logits are of the M predicted tokens alone, (M, V): no batch needs scores of every word at every token.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def masked_language_model(logits: Tensor, labels: Tensor) -> Tensor:
    """L_MLM: the mean of −log P^st(original word), in nats; labels (M,)."""
    return F.cross_entropy(logits.float(), labels)


def next_sentence_prediction(logits: Tensor, labels: Tensor) -> Tensor:
    """L_NSP: the mean of −log P(label), in nats; logits (B, 2), labels (B,) with 0 where B follows A."""
    return F.cross_entropy(logits.float(), labels)


def distillation(teacher: Tensor, student: Tensor) -> Tensor:
    """L_KD: KL(P^tr ‖ P^st), in nats (equation 4 of the ICLR paper).

    A mean over the predicted tokens where the paper writes a sum, as L_MLM is one: α weighs like with like.
    """
    expected, actual = teacher.float().log_softmax(-1), student.float().log_softmax(-1)
    return (expected.exp() * (expected - actual)).sum(-1).mean()
