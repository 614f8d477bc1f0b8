"""Where a study lives: a database or a journal file that every worker can reach, opened by its address."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tune.errors import TuneError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage

JOURNAL = "journal:"
WAIT = 60  # seconds for another worker to let go of an SQLite file
ATTEMPTS = 10


def open_storage(address: str) -> BaseStorage:
    """`journal:FILE`, or SQLAlchemy's address of a database (sqlite:///FILE). TuneError if it is out of reach."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if address.startswith(JOURNAL):
            return _journal(Path(address.removeprefix(JOURNAL)))
        return optuna.storages.get_storage(_database(address))
    except Exception as error:  # SQLAlchemy's, its drivers', the file system's
        if isinstance(error, TuneError):
            raise
        cause = error.__cause__ or error
        reason = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise TuneError(
            f"--storage {address}: cannot be opened ({reason}); give sqlite:///FILE, another database's address, or "
            f"{JOURNAL}FILE"
        ) from error


def _database(address: str) -> BaseStorage:
    """Workers that find no tables yet all make them, and all but one fail: those look again."""
    from optuna.storages import RDBStorage

    options = {"connect_args": {"timeout": WAIT}} if address.startswith("sqlite") else {"pool_pre_ping": True}
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return RDBStorage(address, options)
        except Exception as error:
            causes = f"{error} {error.__cause__} {error.__context__}".lower()
            if attempt == ATTEMPTS or not any(sign in causes for sign in ("already exists", "unique", "duplicate")):
                raise
            time.sleep(attempt * random.uniform(0.05, 0.2))
    raise AssertionError


def _journal(path: Path) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if not path.parent.is_dir():
        raise TuneError(f"--storage {JOURNAL}{path}: there is no folder {path.parent}")
    return JournalStorage(JournalFileBackend(str(path)))


def load_study(name: str, address: str) -> Study:
    """A study that is there. Raises TuneError, with those that are, if it is not."""
    import optuna

    storage = open_storage(address)
    names = [study.study_name for study in storage.get_all_studies()]
    if name not in names:
        raise TuneError(f"--study {name}: {address} has {'only ' + ', '.join(names) if names else 'no studies'}")
    return optuna.load_study(study_name=name, storage=storage)
