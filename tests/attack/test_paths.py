"""Paths with characters that shells, compilers, templates and terminals take for their own."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import compile
from compile.artifact.manifest import Manifest
from compile.databases import read
from compile.targets import find_target
from tests.support.paths import NASTY

NOT_UTF8 = os.fsdecode(b"\xff\xfe")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with such a name, in which commands run, and in which they also have their temporary files."""
    folder = tmp_path / NASTY
    (folder / "temporary").mkdir(parents=True)
    return folder


@pytest.fixture
def command(place: Path) -> Callable[..., subprocess.CompletedProcess]:
    def run(room: str, *arguments: str) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, "-m", room, *arguments], cwd=place, capture_output=True, check=False, timeout=500,
            env=os.environ | {"TMPDIR": str(place / "temporary"), "PYTHONPATH": str(Path(compile.__file__).parents[1])},
        )  # fmt: skip
        assert not list(place.rglob("ran"))
        left = [path.name for path in (place / "temporary").iterdir()]
        # A lock, and torch's own empty folder: they stay.
        assert [name for name in left if not name.startswith(("pocketbert-measuring-", "torchinductor_"))] == []
        return done

    return run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_compile_in_and_into_such_folders(place: Path, command: Callable, tiny: Callable) -> None:
    onnx.save(tiny(), place / f"{NASTY}.onnx")
    package = ["--package", "jar"] if shutil.which("javac") else []
    out = f"{NASTY}out"
    options = [
        "--target",
        "host",
        "--seq-len",
        "4",
        "--verify",
        f"--out={out}",
        "--dump",
        str(place / "dump"),
        *package,
    ]
    done = command("compile", *options, f"./{NASTY}.onnx")
    assert done.returncode == 0, done.stderr
    assert names(place) == {"temporary", f"{NASTY}.onnx", out, "dump"}
    manifest = Manifest.read(place / out)
    assert manifest.model["file"] == f"{NASTY}.onnx"
    assert manifest.name.isidentifier()
    compile.load(place / out).close()


def test_passes_in_and_into_such_folders(place: Path, command: Callable, tiny: Callable) -> None:
    onnx.save(tiny(), place / f"{NASTY}.onnx")
    options = [f"--output={NASTY}out", f"--report={NASTY}report", f"--dump={NASTY}dump"]
    done = command("passes", f"./{NASTY}.onnx", *options)
    assert done.returncode == 0, done.stderr
    assert names(place) == {"temporary", *(f"{NASTY}{end}" for end in (".onnx", "out", "report", "dump"))}
    onnx.checker.check_model(onnx.load(place / f"{NASTY}out"))
    assert json.loads((place / f"{NASTY}report").read_text())["passes"]


def test_export_into_such_a_folder(place: Path, command: Callable) -> None:
    checkpoint = {"num_hidden_layers": 1, "vocab_size": 50, "hidden_size": 32, "intermediate_size": 32}
    config = {"model_type": "bert", "num_attention_heads": 2, "max_position_embeddings": 16, **checkpoint}
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig(**config)).save_pretrained(place / NASTY)
    done = command("model", "export", f"./{NASTY}", "--seq-len", "4", f"--output={NASTY}.onnx")
    assert done.returncode == 0, done.stderr
    assert names(place) == {"temporary", NASTY, f"{NASTY}.onnx"}
    onnx.checker.check_model(onnx.load(place / f"{NASTY}.onnx"))


def test_tuning_into_such_a_file(place: Path, command: Callable, tiny: Callable) -> None:
    onnx.save(tiny(), place / f"{NASTY}.onnx")
    """Its folder and its name together are markup that ends where nothing began."""
    database = f"[/b]{NASTY}.jsonl"
    done = command("tune", "kernels", f"./{NASTY}.onnx", "--seq-len", "4", "--trials", "1", f"--db={database}")
    assert done.returncode == 0, done.stderr
    assert names(place) == {"temporary", f"{NASTY}.onnx", "["}
    assert read(place / database, find_target("host").cpu).records


def test_an_architecture_exported_into_such_a_folder(place: Path, command: Callable) -> None:
    """Its configurations for training name paths in TOML."""
    done = command("tune", "export", "--space", "mobilebert-toy", "--seq-len", "4", f"--output={NASTY}.onnx")
    assert done.returncode == 0, done.stderr
    assert names(place) == {"temporary", *(f"{NASTY}{end}" for end in (".onnx", "-teacher.toml", ".toml"))}
    pretrain = tomllib.loads((place / f"{NASTY}-teacher.toml").read_text())
    distill = tomllib.loads((place / f"{NASTY}.toml").read_text())
    assert distill["teacher"] == f"{pretrain['output']}/model"


@pytest.mark.parametrize("room", ["compile", "passes"])
def test_name_that_is_not_utf8(room: str, place: Path, command: Callable, tiny: Callable) -> None:
    """A model's may be so; where compilers must write, one line says that it cannot be."""
    (place / f"{NOT_UTF8}.onnx").write_bytes(tiny().SerializeToString())
    if room == "passes":
        done = command("passes", f"{NOT_UTF8}.onnx", "-o", f"{NOT_UTF8}.out")
        assert done.returncode == 0, done.stderr
        assert names(place) == {"temporary", f"{NOT_UTF8}.onnx", f"{NOT_UTF8}.out"}
        return
    options = ["--target", "host", "--seq-len", "4", "--out"]
    done = command("compile", f"{NOT_UTF8}.onnx", *options, f"{NOT_UTF8}.out")
    assert done.returncode == 2
    assert b"not UTF-8" in done.stderr
    assert done.stderr.count(b"\n") == 1
    done = command("compile", f"{NOT_UTF8}.onnx", *options, "out")
    assert done.returncode == 0, done.stderr
    assert names(place) == {"temporary", f"{NOT_UTF8}.onnx", "out"}
    assert "\\udcff\\udcfe.onnx" in (place / "out" / "report.html").read_text()
