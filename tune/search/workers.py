"""Who works on a study: each worker leaves a sign of life in the storage, and what a dead one was at is tried again.

The storage is all that workers share, and not every kind of storage knows heartbeats: so they are attributes of the
study, `worker:NAME`, and a trial says whose it is.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from optuna import Study, Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from tune.errors import TuneError

BEAT = 10.0  # seconds between two signs of life
SILENCE = 120.0  # seconds after which a worker counts as dead
OWNER = "worker"


class Worker:
    """This process, by a name that no other living worker of the study has. Use as a context manager."""

    def __init__(self, study: Study, name: str, silence: float = SILENCE) -> None:
        self.study, self.name, self.silence = study, name, silence
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Worker:
        if alive(self.study.user_attrs.get(_key(self.name)), self.silence):
            raise TuneError(
                f"--worker {self.name}: one of that name is at study {self.study.study_name!r}; choose another name"
            )
        self._sign(time.time())
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sign(0.0)

    def _beat(self) -> None:
        while not self._stop.wait(min(BEAT, self.silence / 4)):
            with suppress(Exception):  # a storage that is away for a moment: the next one may get through
                self._sign(time.time())

    def _sign(self, when: float) -> None:
        self.study.set_user_attr(_key(self.name), {"seen": when, "host": socket.gethostname(), "pid": os.getpid()})

    def take_over(self) -> list[int]:
        """Fail the trials of dead workers and put their parameters in the queue again; their numbers."""
        attributes, numbers = self.study.user_attrs, []
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            owner = trial.user_attrs.get(OWNER)
            left = owner == self.name or not alive(attributes.get(_key(owner)), self.silence)
            if owner is None:  # died before it said who it was, or is about to
                left = _age(trial) > self.silence
            if left and self._retry(trial):
                numbers.append(trial.number)
        return numbers

    def give_up(self, trial: Trial, attempts: int | None = None) -> None:
        """Fail `trial` and leave it to whoever asks next, unless it was tried `attempts` times."""
        self._retry(self.study.get_trials(deepcopy=False)[trial.number], attempts)

    def _retry(self, trial: FrozenTrial, attempts: int | None = None) -> bool:
        try:
            self.study.tell(trial.number, state=TrialState.FAIL)
        except (UpdateFinishedTrialError, ValueError):  # another worker was faster
            return False
        attempt = trial.user_attrs.get("attempt", 1)
        if attempts is None or attempt < attempts:
            kept = {k: v for k, v in trial.user_attrs.items() if k == "row"}
            kept |= {"retry_of": trial.number} | ({"attempt": attempt + 1} if attempts else {})
            self.study.enqueue_trial(trial.params, user_attrs=kept)
        return True


def alive(entry: dict[str, Any] | None, silence: float) -> bool:
    """Whether the worker of that entry has been heard of lately, and has not ended on this very machine."""
    if entry is None or time.time() - entry["seen"] > silence:
        return False
    if entry["host"] != socket.gethostname():
        return True
    try:
        os.kill(entry["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _age(trial: FrozenTrial) -> float:
    return time.time() - trial.datetime_start.timestamp() if trial.datetime_start else float("inf")


def _key(name: str | None) -> str:
    return f"worker:{name}"
