"""What a sentence-transformers folder does behind its encoder, from modules.json: Pooling, Dense, LayerNorm, Normalize.

Of hidden states h (B, T, H) and a mask m (B, T), modes of pooling that stand side by side in this order:

    cls h₀    max max h over m = 1    mean Σ m h / Σ m    mean_sqrt_len_tokens Σ m h / √Σ m
    weightedmean Σ t m h / Σ t m, t = 1 … T    lasttoken h at the last m = 1
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketbert.reading import read_json
from pocketbert.typed import Misfit, typed

from .checkpoint import read_weights
from .errors import ModelError

MODULES = "modules.json"
# sentence-transformers' names of the modes, in its order of their outputs, and the suffixes of its older flags.
MODES = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens",
    "lasttoken": "lasttoken",
}
ACTIVATIONS = {"Tanh": torch.tanh, "Identity": lambda x: x, "ReLU": F.relu, "GELU": F.gelu, "Sigmoid": torch.sigmoid}
LEAST = 1e-9  # what sentence-transformers divides by where a text has no token


class Pooling(nn.Module):
    def __init__(self, modes: tuple[str, ...]):
        super().__init__()
        self.modes = modes

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:  # (B, T, H), (B, T) -> (B, modes · H)
        return torch.cat([self.pool(mode, hidden, mask.to(hidden.dtype).unsqueeze(-1)) for mode in self.modes], -1)

    def pool(self, mode: str, hidden: Tensor, mask: Tensor) -> Tensor:  # mask (B, T, 1)
        if mode == "cls":
            return hidden[:, 0]
        if mode == "max":
            return (hidden * mask + (1.0 - mask) * torch.finfo(hidden.dtype).min).amax(1)
        if mode in ("weightedmean", "lasttoken"):
            position = mask * torch.ones_like(mask).cumsum(1)
            last = (position == position.amax(1, keepdim=True)).to(mask.dtype) * mask
            mask = position if mode == "weightedmean" else last
        total = mask.sum(1).clamp(min=LEAST)
        return (hidden * mask).sum(1) / (total.sqrt() if mode == "mean_sqrt_len_tokens" else total)


class Dense(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str):
        super().__init__()
        self.weight, self.activation = nn.Parameter(weight), activation
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = ACTIVATIONS[self.activation](F.linear(x, self.weight, self.bias))
        return y


class Normalize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


class SentenceEmbedding(nn.Module):
    """(B, T, H) and a mask (B, T) to sentence_embedding (B, D)."""

    def __init__(self, pooling: Pooling, rest: list[nn.Module]):
        super().__init__()
        self.pooling, self.rest = pooling, nn.Sequential(*rest)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.rest(self.pooling(hidden, mask))
        return y


@dataclass(frozen=True)
class _Module:
    type: str
    path: str = ""
    idx: int = 0
    name: str = ""
    kwargs: Any = None


def read_sentence_modules(folder: Path, head: str | None = None) -> tuple[Path, SentenceEmbedding | None]:
    """The encoder's folder, and what comes behind it; None without modules.json or Pooling, or for another head.

    Raises `ModelError` for a module that is not known.
    """
    path = folder / MODULES
    if not path.exists():
        return folder, None
    try:
        modules = typed(tuple[_Module, ...], read_json(path, ModelError))
    except Misfit as error:
        raise ModelError(f"{path}: {error}") from error
    kinds = [module.type.rpartition(".")[2] for module in modules]
    for module in modules:
        if not (folder / module.path).resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"{path} names {module.path!r}, which is outside of its folder")
    if not kinds or kinds[0] != "Transformer":
        raise ModelError(f"{path}: its first module is {kinds[0] if kinds else 'missing'}: it must be a Transformer")
    encoder = folder / modules[0].path
    if len(modules) == 1 or head:
        return encoder, None
    if kinds[1] != "Pooling":
        raise ModelError(
            f"{path}: {kinds[1]} follows the Transformer: only Pooling may; --head none leaves modules out"
        )
    pooling = Pooling(_modes(folder / modules[1].path))
    rest = [_module(kind, folder / m.path, path) for kind, m in zip(kinds[2:], modules[2:], strict=True)]
    return encoder, SentenceEmbedding(pooling, rest).eval()


def _modes(folder: Path) -> tuple[str, ...]:
    """Without a config.json the mean, as sentence-transformers has it."""
    path = folder / "config.json"
    config = _object(path) if path.exists() else {}
    given = config.get("pooling_mode")
    if given is not None:
        chosen = given if isinstance(given, list) else [given]
        if unknown := [mode for mode in chosen if not isinstance(mode, str) or mode not in MODES]:
            raise ModelError(f"{path}: pooling_mode {unknown[0]!r} is not known: choose from {', '.join(MODES)}")
        return tuple(mode for mode in MODES if mode in chosen)
    default = {"mean": True}
    modes = tuple(mode for mode, flag in MODES.items() if config.get(f"pooling_mode_{flag}", default.get(mode, False)))
    if not modes:
        raise ModelError(f"{path}: no mode of pooling is on")
    return modes


def _module(kind: str, folder: Path, modules: Path) -> nn.Module:
    if kind == "Normalize":
        return Normalize()
    if kind == "Dropout":
        return nn.Identity()
    if kind not in ("Dense", "LayerNorm"):
        known = "Pooling, Dense, LayerNorm, Dropout, Normalize"
        raise ModelError(f"{modules}: {kind} is not known ({known} are): --head none leaves modules out")
    config, tensors = _object(folder / "config.json"), read_weights(folder)
    name = "linear" if kind == "Dense" else "norm"
    weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
    if weight is None or weight.ndim != (2 if kind == "Dense" else 1):
        raise ModelError(f"{folder}: {name}.weight is missing, or no weight of a {kind}")
    weight, bias = weight.float(), None if bias is None else bias.float()
    if kind == "LayerNorm":
        norm = nn.LayerNorm(weight.shape[0])
        norm.load_state_dict({"weight": weight, "bias": torch.zeros_like(weight) if bias is None else bias})
        return norm
    activation = str(config.get("activation_function") or "Tanh").rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise ModelError(f"{folder}: activation_function {activation} is not known: {', '.join(ACTIVATIONS)} are")
    return Dense(weight, bias, activation)


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path, ModelError)
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object")
    return value
