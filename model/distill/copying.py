"""Embedding and classifier, copied from the teacher: there is no knowledge transfer for them (section 3.6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..heads import Model
from ..layers import NoNorm

ENDS = ("encoder.embeddings.", "head.")


def ends_fit(teacher: nn.Module, student: Model) -> bool:
    """Whether embedding and head are of one kind and have the same sizes."""
    shapes = {name: parameter.shape for name, parameter in teacher.named_parameters()}
    return all(shapes.get(n) == p.shape for n, p in student.named_parameters() if n.startswith(ENDS))


@torch.no_grad()
def copy_ends(teacher: Model, student: Model, batch: dict[str, Tensor] | None = None) -> None:
    """Copy every embedding and head parameter; raises `ModelError` where the shapes differ.

    A NoNorm cannot do what the teacher's LayerNorm does to the embedding, (x − μ)/σ ∘ γ + β. Given a `batch`, it gets
    the nearest constant: γ·mean(1/σ) and β − γ·mean(μ/σ); without one, γ and β as they are.
    """
    source, target = dict(teacher.named_parameters()), dict(student.named_parameters())
    for name, parameter in target.items():
        if not name.startswith(ENDS):
            continue
        if name not in source or source[name].shape != parameter.shape:
            theirs = tuple(source[name].shape) if name in source else "none"
            raise ModelError(f"{name} is {tuple(parameter.shape)} in the student and {theirs} in the teacher: "
                             "embedding and head must have the same sizes to be copied")  # fmt: skip
        parameter.copy_(source[name])
    if batch is not None and (teacher.config.normalization, student.config.normalization) == ("layer-norm", "no-norm"):
        _calibrate(teacher, student, batch)


def _calibrate(teacher: Model, student: Model, batch: dict[str, Tensor]) -> None:
    seen: list[Tensor] = []
    norm, target = teacher.encoder.embeddings.norm, student.encoder.embeddings.norm
    hook = norm.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    teacher.encoder.embeddings(batch["input_ids"], batch.get("token_type_ids"))
    hook.remove()
    x = seen[0][batch["attention_mask"].bool()].float()  # (tokens, H)
    inverse = (x.var(-1, unbiased=False) + 1e-12).rsqrt()
    shift = (x.mean(-1) * inverse).mean()
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(target, NoNorm)
    target.weight.copy_(norm.weight * inverse.mean())
    target.bias.copy_(norm.bias - norm.weight * shift)
