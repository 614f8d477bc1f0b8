"""How good a candidate is, as one number, higher is better: a short distillation on the user's text, or a command."""

from __future__ import annotations

import fcntl
import io
import json
import math
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from model import PRESETS, ModelConfig
from model.commands.config import read
from model.recipes.sources import ModelSource, TextData
from model.settings import TrainSettings
from pocketbert.temporary import TemporaryFolder
from tune.errors import TuneError

if TYPE_CHECKING:
    from model import Model
    from tune.search.artifact import Build

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

    @property
    def judges_all(self) -> bool:
        """Whether it costs next to nothing to judge an architecture in all of its builds, once it is in one."""

    def measure(self, config: ModelConfig, builds: Sequence[Build], seed: int = 0) -> list[float]:
        """As its library in each of `builds` would be; all finite, or it raises TuneError (or ModelError)."""


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

    Layer-wise transfer is left out: it asks for a teacher with the candidate's own depth, width and heads. A student is
    trained once and then judged, where its build is int8, as int8 kernels compute; and, where `lengths` are an axis of
    the search, on held-out sequences as long as its build's: the shorter, the less there is to guess a word from.
    """

    config: DistillationConfig
    precisions: tuple[str, ...] = ("float32",)
    lengths: tuple[int, ...] = ()
    has_seeds = True
    judges_all = True

    @classmethod
    def read(cls, path: Path, precisions: Sequence[str] = ("float32",), lengths: Sequence[int] = ()) -> Distillation:
        """Raises TuneError where candidates would be judged on longer sequences than they are trained on."""
        config = read(path, DistillationConfig)
        if lengths and max(lengths) > config.text.longest:
            raise TuneError(
                f"--seq-len {max(lengths)}: candidates are trained on {config.text.longest} tokens, so they cannot be "
                f"judged on more: set text.sequence_length in {path}"
            )
        return cls(config, tuple(precisions), tuple(lengths))

    @property
    def name(self) -> str:
        steps, length = self.config.train.steps, self.config.text.sequence_length
        rows = self.config.train.batch_size * self.config.train.accumulate
        return f"−held-out loss, nats a masked word, after {steps} steps of {rows}×{length} tokens" + (
            f", as {' or '.join(self.precisions)}" if self.precisions != ("float32",) else ""
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

    def measure(self, config: ModelConfig, builds: Sequence[Build], seed: int = 0) -> list[float]:
        from model import load_checkpoint
        from model.processes import join
        from model.recipes.distill import DistillConfig, Transfer, distill

        source = ModelSource(preset=PRESET, fields=differences(config))
        train = replace(self.config.train, seed=self.config.train.seed + seed)
        with TemporaryFolder() as folder, redirect_stderr(io.StringIO()):
            job = DistillConfig(
                f"{folder}/student", str(self._teacher()), source, self.config.text, Transfer("none"), train
            )
            student = load_checkpoint(distill(job), "mlm")
            student.to(join(self.config.train.device).device)
            return [self._judge(student, build) for build in builds]

    def _judge(self, student: Model, build: Build) -> float:
        from model.processes import join
        from model.quantize import fake_quantized
        from model.recipes.corpus import pretraining_batches
        from model.recipes.evaluate import evaluate_words

        length = build.seq_len if self.lengths else self.config.held_out.sequence_length
        text = replace(self.config.held_out, sequence_length=length)
        batches = pretraining_batches(text, student.config.vocab_size, 0, join(self.config.train.device))
        with fake_quantized(student) if build.precision == "int8" else nullcontext():
            loss = evaluate_words(student, batches, self.config.batches, 32)["mlm"]
        if not math.isfinite(loss):
            raise TuneError(f"the held-out loss is {loss}")
        return -loss

    def _teacher(self) -> Path:
        return Path(self.config.teacher.folder or f"{self.config.folder}/teacher/model")


@dataclass(frozen=True)
class Command:
    """A command of the user's, whose last line is the number.

    `{config}` in it becomes a JSON file of the ModelConfig, `{precision}` and `{seq_len}` the library's, `{seed}` a
    number: 0 at first, others for what survives.
    """

    command: str
    timeout: float | None = None  # seconds
    judges_all = False

    @property
    def name(self) -> str:
        return f"`{self.command}`"

    @property
    def has_seeds(self) -> bool:
        return "{seed}" in self.command

    def prepare(self) -> None:
        """Nothing: the command sees to itself."""

    def check(self, axes: Iterable[str]) -> Command:
        """Raises TuneError where a build that costs quality would seem to cost none."""
        for axis in axes:
            if f"{{{axis}}}" not in self.command:
                raise TuneError(
                    f"--quality-command: several values of --{axis.replace('_', '-')} need {{{axis}}} in it"
                )
        return self

    def measure(self, config: ModelConfig, builds: Sequence[Build], seed: int = 0) -> list[float]:
        return [self._number(config, build, seed) for build in builds]

    def _number(self, config: ModelConfig, build: Build, seed: int) -> float:
        with TemporaryFolder() as folder:
            path = folder / "config.json"
            path.write_text(json.dumps(asdict(config)))
            values = {"config": path, "precision": build.precision, "seq_len": build.seq_len, "seed": seed}
            words = shlex.split(self.command)
            for name, given in values.items():
                words = [word.replace(f"{{{name}}}", str(given)) for word in words]
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
