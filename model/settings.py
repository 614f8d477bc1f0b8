"""How to train: small dataclasses that a TOML file fills."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from .errors import ModelError


@dataclass(frozen=True)
class TrainSettings:
    """Of every kind of training. Raises `ModelError` where a value makes no sense."""

    steps: int = 1000  # optimizer steps
    batch_size: int = 32  # rows a process takes at a time
    accumulate: int = 1  # such batches an optimizer step, on each process
    optimizer: Literal["lamb", "adamw"] = "lamb"
    learning_rate: float = 1e-3  # at its highest
    warmup: float = 0.1  # share of a stage's steps in which it rises from 0; it falls to 0 in the rest
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    seed: int = 0
    device: str = "auto"  # "auto", "cpu", "cuda"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 autocast on a GPU
    gradient_checkpointing: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"  # under torchrun: whole copies, or parameters in shards
    threads: int = 0  # of a process on CPU; 0: as many cores as are free when the run begins, 1 under torchrun
    workers: int = 0  # loader processes for each training process
    checkpoint_every: int = 500  # optimizer steps
    keep: int = 2  # checkpoints
    log_every: int = 10  # optimizer steps

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "checkpoint_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ModelError(f"train.{name} is {getattr(self, name)}: it must be at least 1")
        if self.threads < 0:
            raise ModelError(f"train.threads is {self.threads}: it must be at least 1, or 0 to have it chosen")
        for name in ("learning_rate", "max_gradient_norm"):
            if not getattr(self, name) > 0:
                raise ModelError(f"train.{name} is {getattr(self, name)}: it must be above 0")
        if not 0 <= self.warmup < 1:
            raise ModelError(f"train.warmup is {self.warmup}: it is a share of the steps, from 0 up to 1")


# What may change between a run and its continuation without changing the weights that come out.
FREE = {"threads", "workers", "checkpoint_every", "keep", "log_every", "device"}


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rate(step: int, steps: int, warmup: float) -> float:
    """The learning rate of `step` (from 0) as a share of its highest: a linear rise, then a linear fall to 0."""
    rise = max(1, round(warmup * steps)) if warmup else 0
    if step < rise:
        return (step + 1) / rise
    return (steps - step) / max(1, steps - rise)
