"""Commands besides compile, stopped in the middle: nothing half-written, nothing left in either folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest

from compile.databases import read
from compile.targets import find_target
from tests.support.graphs import Builder

START = Callable[[str], subprocess.Popen]


def names(*folders: Path) -> list[str]:
    return sorted(p.name for folder in folders if folder.exists() for p in folder.iterdir())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertModel

    sizes = {"num_hidden_layers": 1, "vocab_size": 50, "hidden_size": 32, "intermediate_size": 32}
    folder = tmp_path_factory.mktemp("checkpoint")
    BertModel(BertConfig(**sizes, num_attention_heads=2, max_position_embeddings=16)).save_pretrained(folder)
    return folder


@pytest.fixture
def start(tiny_file: Path, checkpoint: Path, tmp_path: Path) -> Iterator[START]:
    """start(command): it writes into tmp_path/out, has its temporary files in tmp_path/scratch, and has made one."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "out").mkdir()
    out, size, started = tmp_path / "out", ("--seq-len", "4"), []
    commands = {
        "export": ("model", "export", checkpoint, *size, "-o", out / "model.onnx"),
        "tune": ("tune", "kernels", tiny_file, *size, "--trials", "1000", "--db", out / "db.jsonl"),
    }

    def made() -> set[Path]:
        return {*tmp_path.glob("scratch/pocketbert-*.tmp"), *tmp_path.glob("out/.pocketbert-*.tmp")}

    def run(command: str) -> subprocess.Popen:
        before = made()
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, commands[command])], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env=os.environ | {"TMPDIR": str(tmp_path / "scratch")}, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a shell's background
        )  # fmt: skip
        started.append(process)
        while not made() - before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def is_whole(out: Path) -> bool:
    """Of a database of tuning, all that was measured stays; of an exported model nothing."""
    assert set(names(out)) <= {"db.jsonl"}
    if (out / "db.jsonl").exists():
        read(out / "db.jsonl", find_target("host").cpu)
    return True


@pytest.mark.parametrize("command", ["export", "tune"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_in_the_middle_leaves_nothing(
    number: signal.Signals, command: str, start: START, tmp_path: Path
) -> None:
    process = start(command)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + number, error
    assert "Traceback" not in error
    assert is_whole(tmp_path / "out")
    assert [name for name in names(tmp_path / "scratch") if not name.startswith("pocketbert-measuring-")] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_between_two_passes_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    b = Builder()
    x = b.input("x", [1, 8, 16])
    for _ in range(60):
        x = b.norm(b.linear(x, 16, 16), 16)
    onnx.save(b.model(x), tmp_path / "given.onnx")
    (tmp_path / "scratch").mkdir()
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "passes", tmp_path / "given.onnx", "-o", out / "m.onnx", "--report", out / "r.json"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | {"TMPDIR": str(tmp_path / "scratch")},
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr
    assert "rewrites" in process.stderr.readline()
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + number, error
    assert "Traceback" not in error
    assert names(out, tmp_path / "scratch") == []


@pytest.mark.parametrize("command", ["export", "tune"])
def test_what_kill_leaves_the_next_command_removes(command: str, start: START, tmp_path: Path) -> None:
    killed = start(command)
    killed.kill()
    killed.communicate()
    left = [*tmp_path.glob("*/*pocketbert-*.tmp")]
    assert left
    after = start(command)
    assert not any(path.exists() for path in left)
    after.send_signal(signal.SIGTERM)
    after.communicate(timeout=120)
    assert is_whole(tmp_path / "out")
