"""The study that workers share: its settings, its objectives, and everything measured for it, each thing once.

Beside trials the storage holds, as attributes of the study: `settings`; `reference`, the latency that ratios are
multiplied with; `kernel:…`, ms a call; `latency:…` and `quality:…` of an architecture; `again:N` and `quality-again:N`,
trial N's latency measured once more, and its quality by further seeds, because it is on the front. Where precision
or length are axes of the search, an architecture has a latency and a quality in each.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from statistics import mean
from typing import Any, Literal

import optuna
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from model import ModelConfig
from pocketbert.typed import Misfit, typed
from tune.errors import TuneError
from tune.search.hypervolume import dominates
from tune.search.noise import Noise, qualities
from tune.search.storage import open_storage

OBJECTIVES = ("quality", "latency, ms", "size, MiB")
DIRECTIONS: list[Literal["maximize", "minimize"]] = ["maximize", "minimize", "minimize"]


@dataclass(frozen=True)
class Settings:
    """What all workers of a study must agree on, or its numbers could not be compared."""

    space: str
    target: str
    cpu: str
    seq_len: int
    threads: int
    runner: str
    quality: str
    max_params: float
    mha_ffn: tuple[float, float]
    max_latency: float
    precision: str = "float32"
    seq_lens: tuple[int, ...] = ()  # where the length is an axis of the search: seq_len is the first, the reference's
    precisions: tuple[str, ...] = ()

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """What is searched beside the architecture, each with its values: none, one or both of how it is built."""
        return {name: v for name, v in (("seq_len", self.seq_lens), ("precision", self.precisions)) if v}

    @property
    def lengths(self) -> str:
        return " or ".join(map(str, self.seq_lens or (self.seq_len,)))

    def built(self, parameters: Mapping[str, Any]) -> tuple[int, str]:
        """Tokens and precision of a trial's library."""
        return parameters.get("seq_len", self.seq_len), parameters.get("precision", self.precision)


def join_study(name: str, address: str, settings: Settings, seed: int | None) -> Study:
    """The study, begun with these settings if it is not there. Raises TuneError where it was begun with others."""
    storage = open_storage(address)
    sampler = optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=seed)
    study = optuna.create_study(
        study_name=name, storage=storage, sampler=sampler, directions=DIRECTIONS, load_if_exists=True
    )
    wanted = as_stored(asdict(settings))
    defaults = {field.name: field.default for field in fields(Settings) if field.default is not MISSING}
    defaults = as_stored(defaults)  # a study may have been begun before there was such a setting
    begun = study.user_attrs.get("settings")
    if begun is None and study.get_trials(deepcopy=False) and "settings" not in study.user_attrs:
        raise TuneError(f"--study {name}: it is there already, but not an architecture search; choose another name")
    if begun is None:
        study.set_user_attr("settings", wanted)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(OBJECTIVES))
        begun = study.user_attrs["settings"]
    for key, value in wanted.items():
        before = begun.get(key, defaults.get(key))
        if before != value:
            raise TuneError(
                f"--study {name} was begun with {key.replace('_', '-')} {before!r}, this worker has {value!r}: "
                "give what it was begun with, or another --study"
            )
    return study


def as_stored(value: Any) -> Any:
    """As it comes back from a storage: tuples are lists."""
    return json.loads(json.dumps(value))


def settings_of(study: Study) -> Settings:
    """Raises TuneError if the study is no architecture search."""
    begun = study.user_attrs.get("settings")
    if begun is None:
        raise TuneError(f"--study {study.study_name}: not an architecture search")
    try:
        return typed(Settings, begun)
    except Misfit as error:
        raise TuneError(f"--study {study.study_name}: its settings are not a search's: {error}") from error


def complete(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])


def suspicion(trial: FrozenTrial, attributes: Mapping[str, Any]) -> str:
    """What makes the trial's latency suspect; "" where nothing does."""
    again = attributes.get(f"again:{trial.number}", {})
    return str(trial.user_attrs.get("suspect") or again.get("suspect") or "")


def front(study: Study) -> list[FrozenTrial]:
    """The trials that no other surely dominates; none that is suspect, and none against such a one.

    Where qualities were repeated, another's must be better by more than the seeds explain (see `noise`).
    """
    attributes = study.user_attrs
    trials = [t for t in complete(study) if not suspicion(t, attributes)]
    seeds = {t.number: qualities(t, attributes) for t in trials}
    noise = Noise.of(seeds.values())
    costs = {t.number: (-mean(seeds[t.number]), latency_ms(study, t, attributes), t.values[2]) for t in trials}

    def surely_dominates(a: int, b: int) -> bool:
        margin = noise.margin(len(seeds[a]), len(seeds[b]))
        return dominates((costs[a][0] + margin, *costs[a][1:]), costs[b])

    return [t for t in trials if not any(surely_dominates(a, t.number) for a in costs if a != t.number)]


def config_key(config: ModelConfig) -> str:
    return hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode()).hexdigest()[:16]


def artifact_name(config: ModelConfig) -> str:
    """Of the architecture's ONNX file and library: its name is in the library's symbols, and so in its hash."""
    return f"a{config_key(config)[:8]}"


def kernel_costs(attributes: Mapping[str, Any]) -> dict[str, float]:
    """ms a call, by kernel."""
    return {name.removeprefix("kernel:"): ms for name, ms in attributes.items() if name.startswith("kernel:")}


def latency_ms(study: Study, trial: FrozenTrial, attributes: Mapping[str, Any] | None = None) -> float:
    """Measured again if it was, else as its trial has it."""
    again = (study.user_attrs if attributes is None else attributes).get(f"again:{trial.number}")
    return float(again["ms"]) if again else float(trial.values[1])
