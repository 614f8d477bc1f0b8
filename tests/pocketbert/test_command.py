"""Every way in which a command can end: the exit status, and one line on standard error."""

import argparse
import errno
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pocketbert.__main__ import COMMANDS
from pocketbert.command import Parser, Terminated, exit_status
from pocketbert.errors import PocketBERTError, describe, disk_is_full, first_line
from pocketbert.silence import silent

ROOT = Path(__file__).parents[2]
PROGRAM = """
import argparse, sys, time
from pathlib import Path
from pocketbert.command import exit_status
from tempfile import TemporaryDirectory

def action(args):
    with TemporaryDirectory(dir=Path.cwd()):
        {body}

sys.exit(exit_status(action, argparse.Namespace(), "nothing was written"))
"""


def raising(error: BaseException) -> Callable[[argparse.Namespace], int | None]:
    def action(_: argparse.Namespace) -> int | None:
        raise error

    return action


def status_and_line(action: Callable[[argparse.Namespace], int | None], capsys: pytest.CaptureFixture) -> Any:
    status = exit_status(action, argparse.Namespace(debug=False), "nothing was written")
    (line,) = capsys.readouterr().err.splitlines()
    return status, line


@pytest.fixture
def started(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """A command in a process of its own, whose working directory is empty."""
    folder = tmp_path / "work"
    folder.mkdir()

    def start(body: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM.format(body=body)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)

    return start


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PocketBERTError("two\n  lines"), "error: two lines"),
        (PocketBERTError("\x1b[2J\ud800 é"), "error: \\x1b[2J\\ud800 é"),
        (OSError(errno.ENOENT, "No such file or directory", "x"), "error: No such file or directory: x"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), "error: disk full: x; free some space and try again"),
        (sqlite3.OperationalError("database or disk is full"), "error: disk full: database or disk is full; free"),
        (
            RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0\nframe #0"),
            "error: disk full: [enforce fail",
        ),
        (MemoryError(), "error: out of memory"),
        (ValueError("\n\nodd\nmore"), "error: unexpected ValueError: odd (--debug shows where)"),
        (RecursionError(), "error: unexpected RecursionError: RecursionError (--debug shows where)"),
    ],
)
def test_an_error_is_one_line_and_status_2(error: Exception, line: str, capsys: pytest.CaptureFixture) -> None:
    status, said = status_and_line(raising(error), capsys)
    assert status == 2
    assert said.startswith(line)


def test_full_disk_below_an_error_of_ours_is_said(capsys: pytest.CaptureFixture) -> None:
    def action(_: argparse.Namespace) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise PocketBERTError("cannot write y: no luck") from error

    assert status_and_line(action, capsys) == (2, "error: disk full: cannot write y: no luck")


def test_interrupt(capsys: pytest.CaptureFixture) -> None:
    assert status_and_line(raising(KeyboardInterrupt()), capsys) == (130, "interrupted: nothing was written")


def test_debug_lets_the_error_through() -> None:
    with pytest.raises(ValueError, match="odd"):
        exit_status(raising(ValueError("odd")), argparse.Namespace(debug=True), "")


def test_warning_is_one_line(capsys: pytest.CaptureFixture) -> None:
    def warn(_: argparse.Namespace) -> None:
        warnings.warn("two\nlines", stacklevel=1)

    assert status_and_line(warn, capsys) == (0, "warning: two lines")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signal_to_end_removes_temporary_files(name: str, started: Callable, tmp_path: Path) -> None:
    process = started("print('ready', flush=True); time.sleep(60)")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + getattr(signal, name)
    assert err == f"stopped by {name}: nothing was written\n"
    assert list((tmp_path / "work").iterdir()) == []


def test_hangup_that_is_ignored_stays_so(started: Callable) -> None:
    body = "print('ready', flush=True); time.sleep(1)"
    process = started(body, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=30) == 0


def test_forked_child_dies_of_the_signal_in_silence(started: Callable) -> None:
    process = started(
        "import multiprocessing as m; p = m.get_context('fork').Process(target=time.sleep, args=(60,)); p.start();"
        " time.sleep(0.3); p.terminate(); p.join(); print(p.exitcode)"
    )
    assert process.communicate(timeout=30) == (f"{-signal.SIGTERM}\n", "")


def test_reader_that_goes_away_ends_the_command_quietly(started: Callable) -> None:
    process = started("[print('x' * 100) for _ in range(10000)]")
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=30) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("body", ["print('few')", "[print('x' * 100) for _ in range(10000)]"])
def test_output_to_a_full_disk(body: str, started: Callable) -> None:
    with open("/dev/full", "w") as full:
        process = started(body, stdout=full)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert err.startswith("error: disk full:")
    assert len(err.splitlines()) == 1


def test_closed_standard_error_does_not_hide_the_status(started: Callable) -> None:
    process = started("raise ValueError('odd')", preexec_fn=lambda: os.close(2))
    assert process.wait(timeout=30) == 2


def test_usage_error_is_one_line(capsys: pytest.CaptureFixture) -> None:
    parser = Parser(prog="x", description="two\nlines")
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--odd\nname"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "x: unrecognized arguments: --odd name; see x --help\n"
    assert "two\nlines" in parser.format_help()


def test_first_line() -> None:
    assert first_line(ValueError("\n  \n a \nb")) == "a"
    assert first_line(ValueError("\x1b[96mred\x1b[0m")) == "red"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("a" * 10_000))) == 300


def test_line_is_cut_in_its_middle_from_801_characters_on() -> None:
    whole = PocketBERTError("a" * 500 + "b" * 300)
    assert describe(whole) == str(whole)
    assert describe(PocketBERTError(f"{whole}b")) == "a" * 500 + "b" * 100 + " … " + "b" * 200


def test_cause_of_a_cause_is_looked_at_and_a_circle_ends() -> None:
    first, second, third = ValueError("x"), OSError(errno.EDQUOT, "y"), KeyError("z")
    first.__cause__, second.__cause__, third.__context__ = third, first, second
    assert disk_is_full(first)
    assert disk_is_full(OSError(errno.EFBIG, "File too large"))
    second.errno = errno.EACCES
    assert not disk_is_full(first)
    assert not disk_is_full(OSError(errno.ENOENT, "no such file"))


@pytest.mark.parametrize("words", ["disk quota exceeded", "NoSpaceLeft", "FileTooBig", "file too large",
                                   "inline_container.cc:1]\n PytorchStreamWriter failed writing file"])  # fmt: skip
def test_other_libraries_words_for_a_full_disk(words: str) -> None:
    assert describe(RuntimeError(f"error: {words}")).startswith("disk full: ")


def test_error_that_says_disk_full_does_not_say_it_twice() -> None:
    error = PocketBERTError("cannot write y: disk full")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert describe(error) == "cannot write y: disk full"
    assert describe(OSError(errno.EACCES, "Permission denied")) == "Permission denied"
    assert describe(OSError("odd")) == "unexpected OSError: odd (--debug shows where)"


@pytest.mark.parametrize(("result", "status"), [(None, 0), (0, 0), (1, 1), (3, 3)])
def test_what_a_command_returns_is_its_status(result: int | None, status: int, capsys: pytest.CaptureFixture) -> None:
    assert exit_status(lambda _: result, argparse.Namespace(), "") == status
    assert capsys.readouterr() == ("", "")


def test_signals_are_as_before_when_a_command_has_ended(request: pytest.FixtureRequest) -> None:
    # Another test's program, or whoever started this one in the background, may have left others.
    for number in (signal.SIGTERM, signal.SIGHUP):
        request.addfinalizer(partial(signal.signal, number, signal.signal(number, signal.SIG_DFL)))
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    within = []
    exit_status(lambda _: within.append(signal.getsignal(signal.SIGTERM)), argparse.Namespace(), "")
    assert within[0] not in (before[0], signal.SIG_DFL, signal.SIG_IGN)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)] == before


def test_silence_is_for_python_native_code_and_warnings_and_ends(capfd: pytest.CaptureFixture) -> None:
    def speak(word: str, fails: Any = "") -> None:
        print(word)
        print(word, file=sys.stderr)
        os.write(2, word.encode())
        warnings.warn(word, stacklevel=1)
        len(fails)

    before = os.listdir("/dev/fd")
    with pytest.raises(TypeError), silent():
        speak("hidden", None)
    assert os.listdir("/dev/fd") == before
    assert capfd.readouterr() == ("", "")
    with pytest.warns(UserWarning, match="shown"):
        speak("shown")
    assert capfd.readouterr() == ("shown\n", "shown\nshown")


def test_time_is_short() -> None:  # every command pays for it
    begin = time.perf_counter()
    exit_status(lambda _: 0, argparse.Namespace(), "")
    assert time.perf_counter() - begin < 0.5


def options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from ((f"{name} {option}", found) for option, found in options(command))
        else:
            yield action.option_strings[-1] if action.option_strings else action.dest, action


@pytest.mark.parametrize("command", COMMANDS)
def test_what_help_calls_the_default_is_the_default(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In words where it depends on other things, as "(default: the model's)": then it is None."""
    parsers: list[argparse.ArgumentParser] = []

    def parse_args(parser: argparse.ArgumentParser, *_: Any) -> None:
        parsers.append(parser)
        raise SystemExit

    monkeypatch.setattr(Parser, "parse_args", parse_args)
    with pytest.raises(SystemExit):
        import_module(COMMANDS[command]).main([], prog=command)
    checked = 0
    for name, action in options(parsers[0]):
        said = re.search(r"\(default:? ([^),]+)", action.help or "")
        if said and action.default is not None:
            given = action.default if isinstance(action.default, list) else [action.default]
            assert [type(value)(said[1]) for value in given] == given, name
            checked += 1
    assert checked


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        (Terminated(signal.SIGHUP), 129, "stopped by SIGHUP: it goes on"),
        (KeyboardInterrupt(), 130, "interrupted: it goes on"),
    ],
)
def test_an_error_that_came_of_being_asked_to_end_is_none(
    asked: BaseException, status: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where a signal comes while a storage's lock is being released, whose file is then not where it should be."""

    def release(_: argparse.Namespace) -> None:
        try:
            raise asked
        finally:
            (tmp_path / "lock").unlink()

    assert exit_status(release, argparse.Namespace(debug=False), "it goes on") == status
    assert capsys.readouterr().err == f"{said}\n"
