"""The wheel, in an environment that has numpy and nothing of the compiler: the same answers, bit for bit."""

import base64
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import compile
from compile.artifact.wheel import PLATFORMS, write_wheel
from compile.running.load import read_manifest
from compile.targets import TARGETS
from tests.support.graphs import Builder

PAGE = Path(__file__).parents[3] / "docs" / "python.md"
LABELS = {"0": "bad", "1": "söso", "2": 'g"ood'}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="wheels are for the libraries' own targets")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment with numpy in it."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (place,) = (folder / "venv").glob("lib/*/site-packages")
    for package in Path(np.__file__).parents[1].glob("numpy*"):
        (place / package.name).symlink_to(package)
    return folder / "venv" / "bin" / "python"


def install(environment: Path, wheel: Path) -> None:
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        environment,
        "install",
        "--no-deps",
        "--quiet",
        "--force-reinstall",
    ]
    subprocess.run([*pip, wheel], check=True)


def python(environment: Path, code: str, folder: Path) -> str:
    done = subprocess.run(
        [environment, "-I", "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(built: Callable[..., tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """wheel(name, head, …): a folder with the wheel of the artifact that `built` makes of the rest."""

    def make(name: str, *arguments: object, **options: object) -> Path:
        artifact, _ = built(*arguments, **options)
        folder = tmp_path_factory.mktemp(name)
        shutil.copytree(artifact, folder, dirs_exist_ok=True)
        return folder / write_wheel(folder, read_manifest(folder), "1.2.3").file

    return make


ASK = """
import json, sys
import {name} as package
with package.load(threads=1, verify=True) as model:
    given = [model.{call}(text) for text in {texts!r}]
    print(json.dumps([getattr(one, "tolist", lambda: one)() for one in given]))
    print(json.dumps([model.manifest.task, model.manifest.labels, package.__version__]))
rooms = ("torch", "tvm", "onnx", "tokenizers", "compile", "passes", "pocketbert")
print(sorted(module for module in sys.modules if module.partition(".")[0] in rooms))
"""


@pytest.mark.parametrize(
    ("call", "arguments", "options"),
    [
        ("classify", ("sequence-classification", 3, False), {"id2label": LABELS}),
        ("embed", ("none", 2, True), {}),
    ],
)
def test_answers_are_those_of_the_artifact(
    call: str, arguments: tuple, options: dict, wheel: Callable, built: Callable, environment: Path, tmp_path: Path
) -> None:
    texts = ["the model", "é😀 model the!", "日本語 ing"]
    install(environment, wheel(call, *arguments, **options))
    lines = python(environment, ASK.format(name="model", call=call, texts=texts), tmp_path).splitlines()
    with compile.load(built(*arguments, **options)[0], threads=1) as library:
        wanted = [getattr(library, call)(text) for text in texts]
        assert json.loads(lines[0]) == json.loads(json.dumps([getattr(w, "tolist", lambda w=w: w)() for w in wanted]))
        assert json.loads(lines[1]) == [call, list(library.manifest.labels), "1.2.3"]
    assert lines[2] == "[]"


def test_errors_have_codes_and_a_damaged_library_is_noticed(wheel: Callable, environment: Path, tmp_path: Path) -> None:
    install(environment, wheel("broken", "sequence-classification", 3, False, id2label=LABELS))
    code = """
import model
with model.load() as library:
    for call in (lambda: library.embed("a"), lambda: library.classify("the " * 99), lambda: library.classify(None)):
        try:
            call()
        except model.ModelError as error:
            print(getattr(error, "code", None), type(error).__name__)
path = library._library._name
with open(path, "r+b") as file:
    file.seek(-1, 2)
    last = file.read(1)
    file.seek(-1, 2)
    file.write(bytes([last[0] ^ 1]))
try:
    model.load(verify=True)
except model.ModelError as error:
    print(str(error).partition("is ")[2])
"""
    lines = python(environment, code, tmp_path).splitlines()
    assert lines == ["TASK RunError", "LONG RunError", "None ModelError", "damaged: install the wheel again"]


def test_tags_and_records(wheel: Callable) -> None:
    path = wheel("tags", "sequence-classification", 3, False, id2label=LABELS)
    assert path.name == f"model-1.2.3-py3-none-{PLATFORMS['x86_64-linux']}.whl"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        files = {name: archive.read(name) for name in archive.namelist()}
    info = "model-1.2.3.dist-info/"
    tags = [f"Tag: py3-none-{tag}_x86_64\n" for tag in ("manylinux_2_17", "musllinux_1_1")]
    assert "".join(tags) in files[info + "WHEEL"].decode()
    assert "Apache License" in files[info + "licenses/LICENSE"].decode()
    rows = [line.split(",") for line in files[info + "RECORD"].decode().splitlines()]
    assert {row[0] for row in rows} == set(files)
    for name, digest, size in rows[:-1]:
        wanted = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
        assert (digest, int(size)) == (f"sha256={wanted}", len(files[name]))


def test_every_target_has_a_tag(wheel: Callable, tmp_path: Path) -> None:
    assert set(PLATFORMS) == {name for name, target in TARGETS.items() if not target.is_web}
    folder = wheel("arm", "sequence-classification", 3, False, id2label=LABELS).parent
    facts = replace(read_manifest(folder), target="arm64-linux", cpu="armv8.0")
    assert write_wheel(folder, facts, "2").file == "model-2-py3-none-manylinux_2_17_aarch64.musllinux_1_1_aarch64.whl"


def test_commands_and_code_of_the_page(
    built: Callable, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As written, but for pip, which installs into the bare environment and finds numpy there."""
    _, folder = built("sequence-classification", 3, False, id2label=LABELS)
    (tmp_path / "my-folder").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text()
    (commands,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    build, pip = map(shlex.split, commands.splitlines())
    assert build[:3] == ["python", "-m", "compile"]
    from compile.__main__ import main

    assert main([*build[3:], "--seq-len", "48"]) == 0
    assert pip[:4] == ["python", "-m", "pip", "install"]
    install(environment, tmp_path / pip[4])
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    *labels, shape = python(environment, code, tmp_path).splitlines()
    assert sorted(line.split(" ", 1)[1] for line in labels) == sorted(LABELS.values())
    assert shape == "(1, 3)"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"version": "1.0"}, "give --package as well"),
        ({"group": "com.example"}, "give --package as well"),
        ({"package": "wheel", "group": "com.example"}, "--package wheel has none"),
        ({"package": "wheel", "version": "1.0rc1"}, "one to four numbers"),
        ({"package": "wheel", "name": "two words"}, "two_words will do"),
        ({"name": "string"}, "m_string will do"),
        ({"package": "egg"}, "choose one of aar, "),
    ],
)
def test_names_that_are_none(options: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(compile.CompileError, match=re.escape(words)):
        compile.build("mobilebert", target="host", out=tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["lambda", "json", "numpy"])
def test_files_whose_names_are_pythons_are_no_packages(name: str, tmp_path: Path) -> None:
    """Installed, they would be what other programs import."""
    b = Builder()
    onnx.save(b.model(b.linear(b.input("x", [1, 4, 8]), 8, 8)), tmp_path / f"{name}.onnx")
    with pytest.raises(compile.CompileError, match=f"{name} is a name of Python's own: give another with --name"):
        compile.build(tmp_path / f"{name}.onnx", target="host", package="wheel", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_hash_of_a_snapshot_is_no_name(tmp_path: Path) -> None:
    from compile.source import folder_name, require_name

    snapshot = tmp_path / "models--google--mobilebert-uncased" / "snapshots" / ("0123456789" * 4)
    snapshot.mkdir(parents=True)
    require_name(snapshot)
    assert folder_name(snapshot) == "mobilebert-uncased"
    (tmp_path / snapshot.name).mkdir()
    with pytest.raises(compile.CompileError, match="is a hash: say with --name"):
        compile.build(tmp_path / snapshot.name, target="host", out=tmp_path / "out")


def test_codes_are_those_of_the_header() -> None:
    from compile.running.load import STATUSES
    from compile.runtime import INCLUDE

    declared = re.findall(r"POCKETBERT_ERROR_(\w+) = (\d+)", (INCLUDE / "pocketbert.h").read_text())
    assert {int(number): name for name, number in declared} == STATUSES
