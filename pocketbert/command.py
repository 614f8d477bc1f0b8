"""What all command lines share: usage errors in one line, and every way in which a command can end.

A result goes to standard output; progress, warnings and errors go to standard error, a line each.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pocketbert.errors import PocketBERTError, describe

ROOT = Path(__file__).resolve().parents[1]
SIGNALS = ("SIGTERM", "SIGHUP")


class Parser(argparse.ArgumentParser):
    """Keeps the line breaks of help texts, and says in one line what is wrong with the arguments.

    Help texts name the command as %(prog)s: it may be `python -m compile` or `pocketbert compile`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


class Terminated(BaseException):
    """SIGTERM or SIGHUP came: raised where the program stands, so that temporary files go as they do after Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number


def exit_status(action: Callable[[argparse.Namespace], int | None], args: argparse.Namespace, interrupted: str) -> int:
    """Do `action`, and return what it returns, or 0.

    After one line on standard error: 2 for an error (which args.debug lets through), 130 after Ctrl-C, 143 after
    SIGTERM; 141 without a word where the reader of standard output has gone, as after `| head`.
    interrupted: what is said after Ctrl-C about what was done until then.
    """
    try:
        with _signals_raised(), _warnings_in_one_line():
            status = action(args) or 0
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        _forget_output()
        return 141
    except (KeyboardInterrupt, Terminated, Exception) as error:
        if (asked := _asked_to_end(error)) is not None:
            word = f"stopped by {asked}" if isinstance(asked, Terminated) else "interrupted"
            say(f"{word}: {interrupted}")
            return getattr(asked, "exit_status", 130)
        if getattr(args, "debug", False):
            raise
        _forget_output()
        say(f"error: {describe(error)}")
        return 2


def _asked_to_end(error: BaseException | None) -> BaseException | None:
    """What came from outside, also where an error came of it, as of a storage's lock that was half released."""
    while error is not None and not isinstance(error, KeyboardInterrupt | Terminated):
        error = error.__context__
    return error


def say(line: str) -> None:
    """A line on standard error; nothing where that is closed."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def stop_if_hidden(*names: str) -> None:
    """`require_own_rooms` for a room that is being imported: as a command (`python -m`) it ends in one line."""
    try:
        require_own_rooms(*names)
    except PocketBERTError as error:
        if sys.argv[:1] != ["-m"]:  # what Python puts there until it has found the command
            raise
        say(f"error: {describe(error)}")
        sys.exit(2)


def require_own_rooms(*names: str) -> None:
    """Raises PocketBERTError where a file of the user's hides one of our packages, as a model.py where they work."""
    for name in names:
        module = sys.modules.get(name) or importlib.util.find_spec(name)
        place = getattr(module, "__file__", None) or getattr(module, "origin", None)
        if place and not Path(place).resolve().is_relative_to(ROOT):
            raise PocketBERTError(
                f"{place} hides PocketBERT's own `{name}`: use the command `pocketbert`, or work in another folder"
            )


@contextmanager
def _signals_raised() -> Iterator[None]:
    """SIGTERM and SIGHUP as exceptions, in this process alone: its forked children die of them as they would."""
    owner = os.getpid()

    def raise_it(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise Terminated(number)

    before = {}
    for name in SIGNALS:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        # A command started by nohup ignores SIGHUP and is to go on doing so; only a main thread may set handlers.
        with suppress(ValueError):
            if number and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, raise_it)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {' '.join(str(message).split())}")  # type: ignore
        yield


def _forget_output() -> None:
    """Drop what could not be written to standard output: Python would try again at exit, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):  # no file descriptor where a test has put a buffer in its place
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
