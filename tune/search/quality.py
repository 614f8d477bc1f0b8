"""How good a candidate is, as one number, higher is better: a short distillation on the user's text, or a command."""

from __future__ import annotations

import fcntl
import io
import json
import math
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

from model import PRESETS, ModelConfig
from model.commands.config import read
from model.recipes.sources import ModelSource, TextData
from model.settings import TrainSettings
from pocketbert.temporary import TemporaryFolder
from tune.errors import TuneError

PRESET = "mobilebert-paper"  # what a candidate's fields are told as differences from


class Quality(Protocol):
    """`name` is what the number is called in reports; workers of one study must agree on it."""

    @property
    def name(self) -> str: ...

    def prepare(self) -> None:
        """Whatever all candidates need, once. Raises TuneError (or ModelError) where it cannot be had."""

    @property
    def has_seeds(self) -> bool:
        """Whether another seed may give another number."""

    def measure(self, config: ModelConfig, seed: int = 0) -> float:
        """Raises TuneError (or ModelError) where the candidate gives no finite number."""


@dataclass(frozen=True)
class DistillationConfig:
    """configs/search-quality.toml. The teacher is a checkpoint folder, or a preset that is trained at first."""

    folder: str  # the teacher's, where it is trained here
    teacher: ModelSource
    text: TextData
    held_out: TextData
    pretrain: TrainSettings = field(default_factory=TrainSettings)  # of the teacher
    train: TrainSettings = field(default_factory=TrainSettings)  # of every candidate
    batches: int = 20  # of held-out text, 32 rows each


@dataclass(frozen=True)
class Distillation:
    """Minus the held-out loss (nats a masked word) after pre-training distillation, section 3.5 of the ACL paper.

    Layer-wise transfer is left out: it asks for a teacher with the candidate's own depth, width and heads.
    """

    config: DistillationConfig
    precision: str = "float32"  # int8: the student is judged as int8 kernels compute
    has_seeds = True

    @classmethod
    def read(cls, path: Path, precision: str = "float32") -> Distillation:
        return cls(read(path, DistillationConfig), precision)

    @property
    def name(self) -> str:
        steps, length = self.config.train.steps, self.config.text.sequence_length
        rows = self.config.train.batch_size * self.config.train.accumulate
        return f"−held-out loss, nats a masked word, after {steps} steps of {rows}×{length} tokens" + (
            ", as int8" if self.precision == "int8" else ""
        )

    def prepare(self) -> None:
        """The teacher and both texts; one process makes them, those that come meanwhile wait."""
        from model import load_checkpoint
        from model.processes import join
        from model.recipes.corpus import pretraining_batches
        from model.recipes.pretrain import PretrainConfig, pretrain

        with alone_in(Path(self.config.folder)):
            if self.config.teacher.preset and not self._teacher().is_dir():
                output = str(self._teacher().parent)
                pretrain(PretrainConfig(output, self.config.teacher, self.config.text, self.config.pretrain))
            texts = [text for text in (self.config.text, self.config.held_out) if not Path(text.folder).exists()]
            if texts:
                vocab_size, processes = (
                    load_checkpoint(self._teacher()).config.vocab_size,
                    join(self.config.train.device),
                )
                for text in texts:
                    pretraining_batches(text, vocab_size, 0, processes)

    def measure(self, config: ModelConfig, seed: int = 0) -> float:
        from model import load_checkpoint
        from model.processes import join
        from model.quantize import fake_quantized
        from model.recipes.corpus import pretraining_batches
        from model.recipes.distill import DistillConfig, Transfer, distill
        from model.recipes.evaluate import evaluate_words

        source = ModelSource(preset=PRESET, fields=differences(config))
        train = replace(self.config.train, seed=self.config.train.seed + seed)
        with TemporaryFolder() as folder, redirect_stderr(io.StringIO()):
            job = DistillConfig(
                f"{folder}/student", str(self._teacher()), source, self.config.text, Transfer("none"), train
            )
            student = load_checkpoint(distill(job), "mlm")
            processes = join(self.config.train.device)
            batches = pretraining_batches(self.config.held_out, config.vocab_size, 0, processes)
            with fake_quantized(student) if self.precision == "int8" else nullcontext():
                loss = evaluate_words(student.to(processes.device), batches, self.config.batches, 32)["mlm"]
        if not math.isfinite(loss):
            raise TuneError(f"the held-out loss is {loss}")
        return -loss

    def _teacher(self) -> Path:
        return Path(self.config.teacher.folder or f"{self.config.folder}/teacher/model")


@dataclass(frozen=True)
class Command:
    """A command of the user's, whose last line is the number.

    `{config}` in it becomes a JSON file of the ModelConfig, `{seed}` a number: 0 at first, others for what survives.
    """

    command: str
    timeout: float | None = None  # seconds

    @property
    def name(self) -> str:
        return f"`{self.command}`"

    @property
    def has_seeds(self) -> bool:
        return "{seed}" in self.command

    def prepare(self) -> None:
        """Nothing: the command sees to itself."""

    def measure(self, config: ModelConfig, seed: int = 0) -> float:
        with TemporaryFolder() as folder:
            path = folder / "config.json"
            path.write_text(json.dumps(asdict(config)))
            command = shlex.split(self.command)
            words = [word.replace("{config}", str(path)).replace("{seed}", str(seed)) for word in command]
            try:
                done = subprocess.run(words, capture_output=True, text=True, timeout=self.timeout, check=False)
            except OSError as error:
                raise TuneError(f"--quality-command: cannot run {words[0]!r} ({error.strerror})") from error
            except subprocess.TimeoutExpired as error:
                raise TuneError(f"--quality-command took more than {self.timeout:g} s") from error
        lines = done.stdout.split("\n") if done.returncode == 0 else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        try:
            value = float(last)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            said = (done.stderr.strip().splitlines() or [last or "nothing"])[-1]
            raise TuneError(f"--quality-command ended with status {done.returncode} and no number: {said}")
        return value


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in the block for this folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def differences(config: ModelConfig) -> dict[str, object]:
    """The fields in which `config` differs from the preset `PRESET`."""
    base = asdict(PRESETS[PRESET])
    return {name: value for name, value in asdict(config).items() if value != base[name]}
