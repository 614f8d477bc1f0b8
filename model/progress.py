"""What a run says while it runs: a line on the terminal, a JSON line in log.jsonl, and TensorBoard's event file."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pocketbert.files import written_whole
from pocketbert.reading import parse_json

from .errors import ModelError


class Progress:
    """Of one run; `quiet` processes (all but the first) say nothing."""

    def __init__(self, folder: Path, steps: int, done: int = 0, quiet: bool = False):
        self.quiet, self.path = quiet, folder / "log.jsonl"
        if quiet:
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        try:
            folder.mkdir(parents=True, exist_ok=True)
            _forget(self.path, done)
            self.file = self.path.open("a")
        except OSError as error:
            raise ModelError(f"cannot write {self.path}: {error.strerror}; choose another output folder") from error
        self.console, self.steps, self.board = Console(stderr=True), steps, None
        columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Bar(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.bar.start()
        self.task = self.bar.add_task("", total=steps, completed=done)
        with suppress(ImportError):  # TensorBoard is optional
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
            threading.excepthook = _except_tensorboard

    def report(self, step: int, stage: str, values: dict[str, float]) -> None:
        """Losses in nats, tokens_per_second, eta_seconds, and what else there is to tell of `step`."""
        if self.quiet:
            return
        try:
            self.file.write(json.dumps({"step": step, "stage": stage} | values) + "\n")
            self.file.flush()
            if self.board:
                for name, value in values.items():
                    self.board.add_scalar(name, value, step)
        except OSError as error:
            raise ModelError(
                f"cannot write the log {self.path}: {error.strerror or error}; "
                "checkpoints are kept: make room and start again to go on from the last one"
            ) from error
        terms = " ".join(f"{k} {v:.4g}" for k, v in values.items() if k not in UNITS)
        rate, left = values.get("tokens_per_second", 0), values.get("eta_seconds", 0)
        if "tokens_per_second" not in values:
            self.say(f"{step}/{self.steps} {stage}: {terms}")
        elif self.console.is_terminal:
            self.bar.update(self.task, completed=step, description=f"{stage}: {terms}  {rate:,.0f} tokens/s")
        else:
            self.console.print(
                f"{step}/{self.steps} {stage}: {terms}, {rate:,.0f} tokens/s, {hours(left)} left", soft_wrap=True
            )

    def say(self, message: str) -> None:
        if not self.quiet:
            self.console.print(message, soft_wrap=True, highlight=False)

    def close(self) -> None:
        if not self.quiet:
            self.bar.stop()
            with suppress(OSError):  # what could not be written was told when it was to be
                self.file.close()
            if self.board:
                with suppress(OSError):
                    self.board.close()


UNITS = {"tokens_per_second", "eta_seconds", "data_wait", "learning_rate", "peak_memory_bytes", "gradient_norm"}


TELL = 10.0  # seconds between two lines where there is no terminal


@contextmanager
def reading(what: str, size: int) -> Iterator[Callable[[int], None]]:
    """Tell on the error stream how much of `size` bytes was read, and how long the rest takes if it goes on so."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(20), DownloadColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=size)
        start = told = time.monotonic()
        done = 0

        def read(count: int) -> None:
            nonlocal done, told
            done += count
            now = time.monotonic()
            if now - told < (0.1 if console.is_terminal else TELL):
                return
            told = now
            bar.update(task, completed=done)
            if not console.is_terminal:
                left = (now - start) * (size - done) / max(1, done)
                text = f"{what}: {done / 1e6:,.0f} of {size / 1e6:,.0f} MB, {hours(left)} left"
                console.print(text, soft_wrap=True, highlight=False)

        yield read


def hours(seconds: float) -> str:
    """h:mm:ss"""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


def _except_tensorboard(failed: threading.ExceptHookArgs, report: Any = threading.excepthook) -> None:
    """Its writing thread's full disk is no traceback of its own: the next `add_scalar` raises the same error."""
    if not (issubclass(failed.exc_type, OSError) and type(failed.thread).__module__.startswith("tensorboard")):
        report(failed)


def _forget(path: Path, done: int) -> None:
    """Drop what was logged after the checkpoint that the run goes on from, also a line cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        with suppress(ValueError, TypeError, KeyError):
            if parse_json(line)["step"] <= done:
                kept.append(line)
    with written_whole(path, ModelError) as file:
        file.write("".join(kept).encode())
