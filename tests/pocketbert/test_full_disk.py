"""A disk that fills up at any moment of any command: "disk full" in one line, what was done stays, nothing is half."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("full_disk.py")
MOUNT = 'mount -t tmpfs -o size=64k tmpfs "$0" && mkdir "$0/tmp" && TMPDIR="$0/tmp" exec "$@"'
UNSHARE = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT]

PRETRAIN = """
output = "{place}/run"
[model]
preset = "ib-bert-large"
fields = {{ vocab_size = 300, max_position_embeddings = 32, num_hidden_layers = 1, embedding_size = 64, \
hidden_size = 128, bottleneck_size = 128, intermediate_size = 256 }}
[data]
text = ["{text}"]
vocabulary = "{place}/vocab.txt"
folder = "{place}/data"
sequence_length = 32
[train]
steps = 3
batch_size = 2
checkpoint_every = 1
keep = 1
"""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is a small disk for the command run in it, and for no one else."""
    folder = tmp_path_factory.mktemp("disk")
    if shutil.which("unshare") is None or subprocess.run([*UNSHARE, folder, "true"], check=False).returncode:
        pytest.skip("needs a tmpfs of its own: unshare --map-root-user --mount, which this system does not allow")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from model import PRESETS, create, export, save_checkpoint

    folder = tmp_path_factory.mktemp("model")
    tiny = replace(PRESETS["tinybert"], num_hidden_layers=1, hidden_size=32, embedding_size=32, intermediate_size=32,
                   num_attention_heads=2, vocab_size=2000)  # fmt: skip
    save_checkpoint(create(tiny), folder)
    export(create(tiny), folder / "tiny.onnx", seq_len=8)
    return folder


def tried(disk: Path, module: str, sizes: list[int], *arguments: object) -> list[dict[str, Any]]:
    """What `full_disk.py` tells of each size, in KiB."""
    command = [*UNSHARE, disk, sys.executable, PROGRAM, module, disk, ",".join(map(str, sizes)), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(part) for part in command], env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(runs: list[dict[str, Any]]) -> None:
    """All fail but the last, each in one line, and leave only files that the last run leaves, too."""
    *failed, last = runs
    assert last["status"] == 0, last["said"]
    finished = {re.sub(r"\d+", "N", name) for name in last["left"][0]}
    for run in failed:
        assert run["status"] == 2, run
        errors = [line for line in run["said"].splitlines() if "error" in line and "of range" not in line]
        assert len(errors) == 1, run
        assert run["said"].splitlines()[-1] == errors[0]
        assert "disk full" in errors[0]
        assert {re.sub(r"\d+", "N", name) for name in run["left"][0]} <= finished, run
        assert not any("pocketbert" in name for name in run["left"][1]), run


def test_passes(disk: Path, checkpoint: Path) -> None:
    place = disk / "place"
    arguments = (checkpoint / "tiny.onnx", "-o", place / "o.onnx", "--report", place / "r.json")
    check(tried(disk, "passes.__main__", [32, 200, 2000], *arguments))


def test_export(disk: Path, checkpoint: Path) -> None:
    arguments = ("export", checkpoint, "-o", disk / "place" / "o.onnx", "--seq-len", 8)
    check(tried(disk, "model.__main__", [32, 200, 400, 2000], *arguments))


@pytest.mark.slow
def test_compile(disk: Path, checkpoint: Path) -> None:
    """64 KiB do for no kernel, 200 for no weights, 500 for no sources; with 800 the linker dies of a signal."""
    arguments = (checkpoint / "tiny.onnx", "--target", "host", "--seq-len", 8, "--out", disk / "place" / "a")
    check(tried(disk, "compile.__main__", [64, 200, 500, 800, 1300, 8000], *arguments))


@pytest.mark.slow
def test_training(disk: Path, tmp_path: Path) -> None:
    words = [f"w{i % 37}x w{i % 41}y w{i % 7}z." for i in range(4000)]
    (tmp_path / "text.txt").write_text("\n".join("\n".join(words[i : i + 5]) + "\n" for i in range(0, 4000, 5)))
    (tmp_path / "x.toml").write_text(PRETRAIN.format(place=disk / "place", text=tmp_path / "text.txt"))
    runs = tried(disk, "model.__main__", [4, 80, 400, 1000, 4000, 30000], "pretrain", tmp_path / "x.toml")
    check(runs)
    assert any("step-00000001.pt" in name for name in runs[-2]["left"][0])  # what was done stays


def test_architecture_for_training(disk: Path) -> None:
    arguments = ("export", "--space", "mobilebert-toy", "--seq-len", 8, "-o", disk / "place" / "o.onnx")
    check(tried(disk, "tune.__main__", [32, 4000, 30000], *arguments))


@pytest.mark.slow
def test_kernel_tuning(disk: Path, checkpoint: Path) -> None:
    """With 100 KiB there is room for the database, and none for a candidate's library."""
    place = disk / "place" / "db.jsonl"
    arguments = ("kernels", checkpoint / "tiny.onnx", "--seq-len", 8, "--trials", 1, "--db", place)
    check(tried(disk, "tune.__main__", [4, 100, 8000], *arguments))


def test_search(disk: Path) -> None:
    address = f"sqlite:///{disk / 'place' / 's.db'}"
    arguments = ("search", "--study", "a", "--storage", address, "--space", "mobilebert-toy", "--quality-command", "x")
    for run in tried(disk, "tune.__main__", [4, 100], *arguments):
        assert run["status"] == 2
        assert len(run["said"].splitlines()) == 1
        assert "disk full" in run["said"]
