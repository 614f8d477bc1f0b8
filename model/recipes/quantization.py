"""[quantize] of a fine-tuning configuration: quantisation-aware training."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Quantize:
    """precision: "int8" trains and evaluates as int8 kernels compute, see model.quantize.

    keep_float: patterns, as in file names, of modules that stay as they are: `["classifier"]`.
    """

    precision: Literal["float32", "int8"] = "float32"
    keep_float: tuple[str, ...] = ()

    def apply(self, model: nn.Module) -> AbstractContextManager[None]:
        """Inside, the model computes in that precision. Raises ModelError for a pattern that matches no module."""
        from ..quantize import fake_quantized

        return fake_quantized(model, self.keep_float) if self.precision == "int8" else nullcontext()
