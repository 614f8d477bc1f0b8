"""What command lines share: a mistake is one line on the error stream and exit status 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def exit_status(run: Callable[[argparse.Namespace], int | None], args: argparse.Namespace, interrupted: str) -> int:
    """What run(args) returns, or 0; 2 after one line about an error, which args.debug lets through; 130 after Ctrl-C.

    interrupted: what is said after Ctrl-C about what was done until then.
    """
    try:
        return run(args) or 0
    except KeyboardInterrupt:
        print(f"interrupted: {interrupted}", file=sys.stderr)
        return 130
    except Exception as error:
        if args.debug:
            raise
        print(f"error: {describe_error(error)}", file=sys.stderr)
        return 2


def describe_error(error: Exception) -> str:
    """One line. Errors of our rooms are written for users; anything else says where to look."""
    if type(error).__module__.split(".")[0] in ("compile", "passes", "model", "tune"):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or 'no file named'}"
    if isinstance(error, MemoryError):
        return "out of memory: the build of MobileBERT needs 4 GiB"
    line = next((text for text in str(error).splitlines() if text.strip()), "")
    return f"unexpected {type(error).__name__}: {line.strip()} (--debug shows where)"
