"""What a study found out: its points, its front, and how they compare with the papers' architectures."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from statistics import mean

from optuna import Study
from optuna.trial import TrialState

from model import ModelConfig
from tune.errors import TuneError
from tune.search.noise import Noise, qualities
from tune.search.predictor import Accuracy, held_out
from tune.search.space import Parameters, Space, find_space
from tune.search.study import Settings, artifact_name, complete, latency_ms, settings_of, suspicion
from tune.search.study import front as measured_front


@dataclass(frozen=True, eq=False)
class Point:
    """A measured architecture. row: the papers' name, if it is theirs; again: whether it was measured twice."""

    number: int
    parameters: Parameters
    config: ModelConfig
    quality: float  # the mean over its seeds
    ms: float
    mib: float
    predicted_ms: float  # by a calibration that has not seen it
    row: str | None
    again: bool
    outside: str  # the bounds that a row of the papers breaks
    suspect: str  # why its latency may be wrong: it is on no front
    seeds: int  # of its quality
    error: float  # of its quality, half of the 95 % interval by the deviation between seeds; 0: nothing was repeated
    seq_len: int
    precision: str
    built: str = ""  # length and precision in words, where they are axes of the search

    @property
    def costs(self) -> tuple[float, float, float]:
        """All three, less is better."""
        return -self.quality, self.ms, self.mib

    @property
    def quality_text(self) -> str:
        return f"{self.quality:.4g}" + (f" ± {self.error:.2g}" if self.error else "")

    def __str__(self) -> str:
        c = self.config
        norm = "NoNorm" if c.normalization == "no-norm" else "LayerNorm"
        return (
            f"{c.num_hidden_layers} layers, {c.hidden_size}/{c.inner_size}, {c.num_attention_heads} heads, "
            f"{c.num_feedforward_networks} FFNs of {c.intermediate_size}, {norm}, {c.activation}, {c.attention_input}"
            f"{self.built}"
        )


@dataclass(frozen=True)
class Findings:
    """points are in the order of their trials; reference is the papers' row that the space puts first."""

    name: str
    settings: Settings
    space: Space
    device: str
    points: tuple[Point, ...]
    front: tuple[Point, ...]
    reference: Point | None
    accuracy: Accuracy | None
    pruned: Counter[str]
    failed: int
    noise: Noise
    unmeasured: tuple[tuple[int, str], ...]  # trials that the machine was too busy for, and what was wrong

    @property
    def better(self) -> list[Point]:
        """Nowhere worse than the reference in quality and latency, and not itself; the fastest first."""
        if self.reference is None:
            return []
        r = self.reference
        candidates = [
            p for p in self.points if p is not r and not p.suspect and p.quality >= r.quality and p.ms <= r.ms
        ]
        return sorted(candidates, key=lambda p: p.ms)

    def point(self, number: int) -> Point:
        """The trial of that number. Raises TuneError, with those that were measured, where it was not."""
        point = next((p for p in self.points if p.number == number), None)
        if point is None:
            there = ", ".join(str(p.number) for p in self.points)
            raise TuneError(f"--trial {number}: not measured; there are {there}")
        return point

    def commands(self, point: Point) -> str:
        """Shell commands that build the point's library."""
        file = artifact_name(point.config)
        sets = " ".join(shlex.quote(f"{name}={point.parameters[name]}") for name in self.space.choices)
        s, length = self.settings, point.seq_len
        space, target, cpu = map(shlex.quote, (s.space, s.target, s.cpu))
        out = "-".join([file, *(str(getattr(point, axis)) for axis in s.axes)])
        return (
            f"python -m tune export --space {space} --seq-len {length} -o {file}.onnx \\\n  --set {sets}\n"
            f"python -m compile {file}.onnx --target {target} --cpu {cpu} --seq-len {length} "
            f"{'' if point.precision == 'float32' else f'--precision {point.precision} '}--out {out}"
        )


def find(study: Study) -> Findings:
    """Raises TuneError where nothing is measured yet."""
    settings, attributes = settings_of(study), study.user_attrs
    space, trials = find_space(settings.space), complete(study)
    if not trials:
        raise TuneError(f"--study {study.study_name}: no architecture is measured yet")
    sums = [t.user_attrs["kernel_sum_ms"] for t in trials]
    measured = [latency_ms(study, t, attributes) for t in trials]
    predicted = held_out(sums, measured)
    seeds = [qualities(t, attributes) for t in trials]
    noise = Noise.of(seeds)
    points = tuple(
        Point(
            t.number, t.params, space.config(t.params), mean(by_seed), ms, t.values[2], guess, t.user_attrs.get("row"),
            f"again:{t.number}" in attributes, t.user_attrs.get("outside", ""), suspicion(t, attributes),
            len(by_seed), noise.error(len(by_seed)), *settings.built(t.params), in_words(settings, t.params),
        )
        for t, ms, guess, by_seed in zip(trials, measured, predicted, seeds, strict=True)
    )  # fmt: skip
    best = {t.number for t in measured_front(study)}
    front = tuple(p for p in points if p.number in best)
    cut = study.get_trials(deepcopy=False, states=[TrialState.PRUNED])
    pruned = Counter(_kind(t.user_attrs.get("pruned", "")) for t in cut)
    failures = study.get_trials(deepcopy=False, states=[TrialState.FAIL])
    settled = [t.params for t in trials]
    lost = [t for t in failures if "unmeasured" in t.user_attrs and t.params not in settled]
    unmeasured = tuple((t.number, str(t.user_attrs["unmeasured"])) for t in lost)
    failed = len(failures) - len(lost)
    accuracy = Accuracy.of(predicted, measured) if len(points) > 2 else None
    reference = next((p for p in points if p.row == space.reference), None)
    device = attributes["reference"]["device"]
    return Findings(
        study.study_name, settings, space, device, points, front, reference, accuracy, pruned, failed, noise, unmeasured
    )


def in_words(settings: Settings, parameters: Parameters) -> str:
    """Of what is searched beside the architecture: ", 64 tokens, int8"."""
    words = {"seq_len": "{} tokens", "precision": "{}"}
    return "".join(", " + words[axis].format(parameters[axis]) for axis in settings.axes)


def _kind(reason: str) -> str:
    """Why candidates were pruned, without their numbers."""
    kinds = {
        "parameters, at most": "too many parameters",
        "MHA:FFN": "attention and FFNs out of balance",
        "predicted": "predicted to be too slow",
        "the same architecture": "measured before",
    }
    return next((kind for part, kind in kinds.items() if part in reason), "sizes that do not fit together")
