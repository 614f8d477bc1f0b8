"""Output of libraries that is not meant for our users."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def silent() -> Iterator[None]:
    """Nothing is printed, from Python and from native code: for libraries that print what they then raise or return.

    Standard error is the process's: nothing that other threads print on it meanwhile is seen either.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with (
            open(os.devnull, "w") as nowhere,
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
            warnings.catch_warnings(),
        ):
            os.dup2(nowhere.fileno(), 2)
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
