"""A command that is stopped at any moment leaves nothing, or what the next one removes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def names(*folders: Path) -> list[str]:
    return sorted(p.name for folder in folders for p in folder.iterdir())


@pytest.fixture
def build(tiny_file: Path, tmp_path: Path, scratch: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """build(): a build into tmp_path/out/deep/er, far enough to have begun its artifact."""
    started = []

    def start(*before: str) -> subprocess.Popen:
        command = [*before, sys.executable, "-m", "compile", str(tiny_file), "--target", "host", "--seq-len", "4"]
        process = subprocess.Popen(
            [*command, "--out", tmp_path / "out" / "deep" / "er"],
            env=os.environ | {"TMPDIR": str(scratch)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        while not list(tmp_path.glob("out/deep/.pocketbert-*/work/*")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_that_can_be_caught_leaves_nothing(
    number: signal.Signals, build: Callable, tmp_path: Path, scratch: Path
) -> None:
    process = build()
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert error.splitlines()[-1].startswith(f"stopped by {number.name}")
    assert "Traceback" not in error
    assert names(tmp_path, scratch) == ["given", "scratch"]


def test_what_kill_leaves_the_next_build_removes(build: Callable, tmp_path: Path, scratch: Path) -> None:
    killed = build()
    killed.kill()
    killed.communicate()
    assert names(tmp_path / "out" / "deep")
    after = build()
    after.communicate(timeout=300)
    assert after.returncode == 0
    assert names(scratch) == []
    assert names(tmp_path / "out" / "deep") == ["er"]


def test_hangup_is_ignored_where_it_was(build: Callable, tmp_path: Path) -> None:
    process = build("nohup")
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert (tmp_path / "out" / "deep" / "er" / "manifest.json").exists()
