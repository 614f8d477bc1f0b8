"""A run's checkpoints: checkpoints/step-NNNNNNNN.pt, each written whole or not at all."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, overload

import torch

from pocketbert.errors import first_line
from pocketbert.files import written_whole

from .errors import ModelError


@dataclass(frozen=True)
class Position:
    """Where a run stands: all steps done, and the stage to go on with, from which of its steps (both from 0)."""

    total: int = 0
    stage: int = 0
    step: int = 0

    def after_step(self, stages: int, steps: int) -> Position:
        """One step on, in a run of that many stages, whose present one has `steps`."""
        if self.step + 1 == steps:
            return Position(self.total + 1, self.stage + 1, 0)
        return Position(self.total + 1, self.stage, self.step + 1)


def write(folder: Path, position: Position, state: dict[str, Any], keep: int) -> None:
    """Add a checkpoint, then delete all but the `keep` newest."""
    path = folder / "checkpoints" / f"step-{position.total:08d}.pt"
    for unfinished in (folder / "checkpoints").glob(".step-*"):  # of a run that was killed while it wrote
        with suppress(OSError):
            unfinished.unlink()
    with written_whole(path, ModelError) as file:
        torch.save(state | {"position": asdict(position)}, file)
    for old in _all(folder)[:-keep]:
        with suppress(OSError):
            old.unlink()


@overload
def newest(folder: Path, only_path: Literal[True]) -> Path | None: ...
@overload
def newest(folder: Path) -> dict[str, Any] | None: ...
def newest(folder: Path, only_path: bool = False) -> Any:
    """The last checkpoint's content, on the CPU, or its path; None where there is none."""
    paths = _all(folder)
    if not paths or only_path:
        return paths[-1] if paths else None
    try:
        return torch.load(paths[-1], map_location="cpu", weights_only=True)
    except Exception as error:
        text = first_line(error)
        raise ModelError(f"{paths[-1]} cannot be read: {text}; delete it to go on from the one before") from error


def check_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with settings that would give other weights."""
    for name in now:
        if before.get(name) != now[name]:
            change = "" if isinstance(now[name], dict | list) else f" ({before.get(name)} then, {now[name]} now)"
            raise ModelError(
                f"{folder} holds a run with another {name}{change}: set it back, or choose another output folder"
            )


def _all(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("step-*.pt"))
