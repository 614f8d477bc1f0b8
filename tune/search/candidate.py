"""One trial: from parameters to quality, latency and size, the cheap questions first.

Bounds, then the predicted latency, then the library and its latency, then quality. A candidate that fails a cheap
question is pruned with the reason. The papers' rows are never pruned: they are what others are compared with.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from optuna import Study, Trial, TrialPruned
from optuna.trial import FrozenTrial, TrialState

from compile.program import Call, Program
from compile.running.load import read_manifest
from compile.running.runners.base import Runner
from model import ModelConfig, ModelError
from pocketbert.command import say
from pocketbert.temporary import TemporaryFolder
from tune.errors import TuneError
from tune.search import predictor
from tune.search import study as shared
from tune.search.artifact import Build, export, library, program
from tune.search.latency import Beside, Unmeasurable, measure_beside
from tune.search.noise import qualities
from tune.search.probe import probe
from tune.search.quality import Quality
from tune.search.space import Limit, Space, limits

PROBE_TURNS = 5
FIRST_ATTEMPTS = 5  # at the reference's latency, when a study begins
PAUSE = 5.0  # seconds between two of them
ABOVE_PEAK = 1.05  # × the rate of a core that waits for nothing: no library computes faster
AS_PREDICTED = 1.5  # × or ÷ the predicted latency, beyond which a second measurement must say the same
THE_SAME = 0.1  # relative difference of two measurements


@dataclass
class Search:
    """What a worker needs to judge candidates. Use as a context manager: `folder` is its scratch space."""

    study: Study
    space: Space
    build: Build
    runner: Runner
    quality: Quality
    threads: int
    max_latency: float  # × the reference's
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # of `build`, which has the first of each
    folder: Path = field(init=False)

    def __enter__(self) -> Search:
        self._temporary = TemporaryFolder()
        self.folder = self._temporary.path
        return self

    def __exit__(self, *exc: object) -> None:
        self._temporary.close()

    def prepare(self) -> None:
        """Build the reference; measure it and put the papers' rows in the queue if the study is new.

        Raises TuneError where the study was begun on another device or with another toolchain.
        """
        self.quality.prepare()
        made = self.program(self.space.rows[self.space.reference], self.build)
        self.reference = library(made, self.build, "reference", self.folder / "reference")
        begun = self.study.user_attrs.get("reference")
        if begun is None:
            measurement = self.beside_itself()
            begun = {
                "ms": min(measurement.reference_ms),
                "device": measurement.device,
                "toolchain": measurement.toolchain,
            }
            begun["peaks"] = {p: self.runner.peak_gflops(p) for p in {build.precision for build in self.builds}}
            self.study.set_user_attr("reference", {**begun, "row": self.space.reference})
            self.enqueue_rows()
        here = self.runner.measure(self.reference, threads=self.threads, runs=1)
        for what, ours in (("device", here.device), ("toolchain", here.toolchain)):
            if begun[what] != ours:
                raise TuneError(
                    f"--study {self.study.study_name} was measured with {what} {begun[what]!r}, here it is {ours!r}: "
                    "latencies could not be compared; begin another study"
                )

    def beside_itself(self) -> Beside:
        """The reference's first measurement, which all others stand on. Raises Unmeasurable after some attempts."""
        for attempt in range(1, FIRST_ATTEMPTS + 1):
            try:
                taken = measure_beside(self.runner, self.reference, self.reference, self.threads)
                if same(1.0, taken.ratio):
                    return taken
                reason = f"the reference beside itself takes {taken.ratio:.2f} × its time"
            except Unmeasurable as error:
                reason = str(error)
            if attempt < FIRST_ATTEMPTS:
                say(f"the machine is busy: {reason}; attempt {attempt + 1} of {FIRST_ATTEMPTS} in {PAUSE:g} s")
                time.sleep(PAUSE)
        raise Unmeasurable(
            f"the machine is too busy to begin: {reason}, in the last of {FIRST_ATTEMPTS} attempts; the same command "
            "begins again when it is quiet"
        )

    @property
    def builds(self) -> list[Build]:
        """Every one that an architecture may have; the first is the reference's."""
        return [self.build_of(dict(zip(self.axes, values, strict=True))) for values in product(*self.axes.values())]

    def build_of(self, parameters: Mapping[str, Any]) -> Build:
        return replace(self.build, **{name: parameters[name] for name in self.axes})

    def enqueue_rows(self) -> None:
        """The papers', as the reference is built; the reference in every other way, too."""
        for name, config in self.space.rows.items():
            ours = dict(self.space.parameters(config))
            for build in self.builds if name == self.space.reference else self.builds[:1]:
                used = {axis: getattr(build, axis) for axis in self.axes}
                title = name if build == self.build else ", ".join([name, *map(str, used.values())])
                self.study.enqueue_trial(ours | used, {"row": title}, skip_if_exists=True)

    @property
    def reference_ms(self) -> float:
        return float(self.study.user_attrs["reference"]["ms"])

    def evaluate(self, trial: Trial) -> tuple[float, float, float]:
        """Quality, ms, MiB. Raises TrialPruned with the reason; TuneError, CompileError, … where something fails."""
        config = self.config(trial)
        build = self.build_of(trial.params)
        made = self.program(config, build)
        predicted = self.predict(trial, made, build)
        result = self.latency(config, made, predicted, build)
        if result.get("suspect"):
            trial.set_user_attr("suspect", result["suspect"])
        ms, mib = result["ms"], result["mib"]
        return self.measured_quality(config, build), ms, mib

    def config(self, trial: Trial) -> ModelConfig:
        parameters, spared = self.space.suggest(trial), "row" in trial.user_attrs
        for name, values in self.axes.items():
            trial.suggest_categorical(name, values)
        try:
            config = self.space.config(parameters)
        except ModelError as error:
            trial.set_constraint("shape", 1.0)
            raise TrialPruned(str(error)) from error
        trial.set_constraint("shape", 0.0)
        self.hold(trial, dict(zip(("parameters", "mha_ffn"), limits(self.space, config), strict=True)), spared)
        states = [TrialState.COMPLETE, TrialState.RUNNING]
        for other in self.study.get_trials(deepcopy=False, states=states):
            if other.number < trial.number and other.params == trial.params:
                raise TrialPruned(f"the same architecture as trial {other.number}")
        return config

    def hold(self, trial: Trial, bounds: dict[str, Limit], spared: bool) -> None:
        """Prune what exceeds a bound; a row of the papers is spared and keeps a note of it."""
        for name, limit in bounds.items():
            trial.set_constraint(name, 0.0 if spared else limit.excess)
        exceeded = [limit.reason for limit in bounds.values() if limit.excess > 0]
        if exceeded and not spared:
            raise TrialPruned("; ".join(exceeded))
        if exceeded:
            trial.set_user_attr("outside", "; ".join(exceeded))

    def program(self, config: ModelConfig, build: Build) -> Program:
        with TemporaryFolder(self.folder) as folder:
            return program(export(config, folder / "model.onnx", build.seq_len), build)

    def predict(self, trial: Trial, made: Program, build: Build) -> float:
        """ms, noted in the trial. Raises TrialPruned where that is too slow."""
        self.probe(made, build)
        costs = shared.kernel_costs(self.study.user_attrs)
        total = predictor.kernel_sum(made, costs)
        trials = [t for t in shared.complete(self.study) if not t.user_attrs.get("suspect")]
        sums, measured = [t.user_attrs["kernel_sum_ms"] for t in trials], [t.values[1] for t in trials]
        predicted = predictor.Calibration.fit(sums, measured)(total)
        trial.set_user_attr("kernel_sum_ms", total)
        trial.set_user_attr("predicted_ms", predicted)
        most = self.max_latency * self.reference_ms
        reason = f"predicted {predicted:.2f} ms, at most {most:.2f} ms allowed"
        self.hold(trial, {"latency": Limit(predicted / most - 1, reason)}, "row" in trial.user_attrs)
        return predicted

    def probe(self, made: Program, build: Build) -> None:
        """Measure the kernels that the study does not know."""
        costs = shared.kernel_costs(self.study.user_attrs)
        for key, call in predictor.kernels(made).items():
            if key not in costs:
                self.study.set_user_attr(f"kernel:{key}", self.kernel_ms(call, made, build))

    def kernel_ms(self, call: Call, made: Program, build: Build) -> float:
        with TemporaryFolder(self.folder) as folder:
            repeated, count = probe(call, made)
            artifact = library(repeated, build, "probe", folder / "probe")
            measurement = measure_beside(
                self.runner, artifact, self.reference, self.threads, PROBE_TURNS, self.reference_ms
            )
        return measurement.ratio * self.reference_ms / count

    def latency(self, config: ModelConfig, made: Program, predicted: float, build: Build) -> dict[str, Any]:
        """ms, MiB and what is suspect about them, from the study if it knows them. Raises Unmeasurable."""
        key = f"latency:{build.key(config)}"
        if (result := self.study.user_attrs.get(key)) is None:
            result = self.measure(config, made, build)
            if not predicted / AS_PREDICTED <= result["ms"] <= predicted * AS_PREDICTED:
                result["suspect"] = f"predicted {predicted:.2f} ms, measured {result['ms']:.2f} twice"
                again = self.measure(config, made, build)
                if not same(result["ms"], again["ms"]):
                    raise Unmeasurable(
                        f"{result['ms']:.2f} and {again['ms']:.2f} ms in two measurements, {predicted:.2f} predicted"
                    )
            self.study.set_user_attr(key, result)
        return dict(result)

    def measure(self, config: ModelConfig, made: Program, build: Build) -> dict[str, Any]:
        """Raises Unmeasurable where the machine is too busy, or the library would be faster than the core can be."""
        name = shared.artifact_name(config)
        with TemporaryFolder(self.folder) as folder:
            artifact = library(made, build, name, folder / "artifact")
            manifest = read_manifest(artifact)
            size = (artifact / manifest.library).stat().st_size / 2**20
            measurement = measure_beside(
                self.runner, artifact, self.reference, self.threads, usual_ms=self.reference_ms
            )
        ms = measurement.ratio * self.reference_ms
        rate = manifest.flops / ms / 1e6 / self.threads
        peak = self.study.user_attrs["reference"].get("peaks", {}).get(build.precision)
        if peak and rate > ABOVE_PEAK * peak:
            raise Unmeasurable(f"{ms:.3f} ms are {rate:.0f} GFLOP/s a core, whose peak is {peak:.0f}")
        return {"ms": ms, "mib": size, "sha256": manifest.sha256, "taken": asdict(measurement)}

    def measured_quality(self, config: ModelConfig, build: Build) -> float:
        def key(of: Build) -> str:
            return ":".join(["quality", shared.config_key(config), *(str(getattr(of, axis)) for axis in self.axes)])

        value = self.study.user_attrs.get(key(build))
        if value is None:
            asked = self.builds if self.quality.judges_all else [build]
            values = dict(zip(asked, self.quality.measure(config, asked), strict=True))
            for of, value in values.items():
                self.study.set_user_attr(key(of), value)
            value = values[build]
        return float(value)

    def repeat_qualities(self, seeds: int) -> list[int]:
        """Measure quality by further seeds, until all on the front, and the reference, have `seeds`; their numbers.

        What that moves to the front is repeated too. Workers that do this at once take what others leave.
        """
        if not self.quality.has_seeds:
            return []
        repeated: dict[int, None] = {}
        while todo := [(t, n) for t in self._compared() if (n := self._seeds(t)) < seeds]:
            trial, count = random.choice(todo)
            (value,) = self.quality.measure(self.space.config(trial.params), [self.build_of(trial.params)], count)
            before = self.study.user_attrs.get(key := f"quality-again:{trial.number}", [])
            if len(before) + 1 == count:  # nobody was faster
                self.study.set_user_attr(key, [*before, value])
            repeated[trial.number] = None
        return list(repeated)

    def _compared(self) -> list[FrozenTrial]:
        reference = [t for t in shared.complete(self.study) if t.user_attrs.get("row") == self.space.reference]
        front = shared.front(self.study)
        return front + [t for t in reference if t.number not in [f.number for f in front]]

    def _seeds(self, trial: FrozenTrial) -> int:
        return len(qualities(trial, self.study.user_attrs))

    def measure_front_again(self) -> list[int]:
        """A second measurement of each architecture on the front that had only one; their trials' numbers.

        Where it is not the first again, the architecture is suspect.
        """
        again = [t for t in shared.front(self.study) if f"again:{t.number}" not in self.study.user_attrs]
        for trial in again:
            config, build = self.space.config(trial.params), self.build_of(trial.params)
            result = self.measure(config, self.program(config, build), build)
            if not same(trial.values[1], result["ms"]):
                result["suspect"] = f"measured {trial.values[1]:.2f} ms, then {result['ms']:.2f}"
            self.study.set_user_attr(f"again:{trial.number}", result)
        return [trial.number for trial in again]


def same(first: float, second: float) -> bool:
    return abs(second / first - 1) <= THE_SAME
