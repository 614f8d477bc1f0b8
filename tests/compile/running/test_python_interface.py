"""`compile.load` and `Library.run`: what is wrong with an input or an artifact is said in one line."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compile
from compile.artifact.manifest import seal


@pytest.fixture
def library(mobilebert_library: Path) -> Iterator[Any]:
    with compile.load(mobilebert_library, threads=1) as opened:
        yield opened


def valid(changes: dict[str, Any]) -> dict[str, Any]:
    base = {name: np.zeros((1, 128), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    return {name: array for name, array in (base | changes).items() if array is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_ids": np.full((1, 128), 1000)}, "outside its table"),
        ({"input_ids": np.zeros((1, 127), np.int64)}, "shape"),
        ({"input_ids": np.zeros((128,), np.int64)}, "shape"),
        ({"input_ids": np.zeros((1, 128), np.float32)}, "type"),
        ({"input_ids": np.array([["a"] * 128])}, "type"),
        ({"input_ids": None}, "input_ids.* missing"),
        ({"positions": np.zeros(3)}, "no input 'positions'"),
    ],
)
def test_wrong_input_in_python(changes: dict, words: str, library: Any) -> None:
    with pytest.raises(compile.CompileError, match=words):
        library.run(valid(changes))


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint16, bool])
def test_other_integers_are_converted_in_python(dtype: type, library: Any) -> None:
    ones = np.ones((1, 128))
    wanted, got = (library.run(valid({"attention_mask": ones.astype(t)})) for t in (np.int64, dtype))
    assert all(np.array_equal(wanted[name], got[name]) for name in wanted)


def test_closed_model_in_python(library: Any) -> None:
    library.close()
    library.close()
    with pytest.raises(compile.CompileError, match="closed"):
        library.run(valid({}))
    with pytest.raises(compile.CompileError, match="closed"):
        library.run_into([], [])


def test_wrong_thread_count_in_python(mobilebert_library: Path) -> None:
    with pytest.raises(compile.CompileError, match="threads"):
        compile.load(mobilebert_library, threads=65)


def test_busy_model_in_python_says_so(mobilebert_library: Path) -> None:
    errors: list[str] = []
    with compile.load(mobilebert_library, threads=1) as library:

        def call() -> None:
            for _ in range(50):
                try:
                    library.run(valid({}))
                except compile.CompileError as error:
                    errors.append(str(error))

        threads = [threading.Thread(target=call) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all("another thread" in error for error in errors)


def test_models_are_freed_with_their_object(mobilebert_library: Path) -> None:
    library = compile.load(mobilebert_library, threads=4)
    threads = len(list(Path("/proc/self/task").iterdir()))
    del library
    assert len(list(Path("/proc/self/task").iterdir())) == threads - 3


@pytest.fixture
def artifact(mobilebert_library: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(mobilebert_library, tmp_path / "artifact")


def rejected(artifact: Path, *words: str) -> None:
    with pytest.raises(compile.CompileError) as caught:
        compile.load(artifact)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def edit(artifact: Path, **changes: Any) -> None:
    """A manifest that says something else, and is whole."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    (artifact / "manifest.json").write_text(seal(manifest | changes))


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_truncated_library(kept: float, artifact: Path) -> None:
    library = artifact / "libmobilebert.so"
    data = library.read_bytes()
    library.write_bytes(data[: int(len(data) * kept)])
    rejected(artifact, "libmobilebert.so", "sha256", "build it again")


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.99])
def test_library_with_one_bit_flipped(place: float, artifact: Path) -> None:
    library = artifact / "libmobilebert.so"
    data = bytearray(library.read_bytes())
    data[int(len(data) * place)] ^= 1
    library.write_bytes(data)
    rejected(artifact, "sha256")


def test_library_that_is_not_there(artifact: Path) -> None:
    (artifact / "libmobilebert.so").unlink()
    rejected(artifact, "libmobilebert.so", "missing")


def test_folder_without_manifest(tmp_path: Path) -> None:
    rejected(tmp_path / "nowhere", "manifest.json", "cannot be read")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 999}', "\x00\xff"])
def test_damaged_manifest(text: str, artifact: Path) -> None:
    (artifact / "manifest.json").write_text(text)
    rejected(artifact, "manifest.json", "again")


def test_manifest_that_is_not_text(artifact: Path) -> None:
    (artifact / "manifest.json").write_bytes(b"\xff\xfe\x00\x80")
    rejected(artifact, "manifest.json", "again")


@pytest.mark.parametrize("key", ["name", "library", "target", "cpu", "sha256", "inputs", "outputs", "tokens"])
def test_manifest_without_a_key(key: str, artifact: Path) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    del manifest[key]
    (artifact / "manifest.json").write_text(seal(manifest))
    rejected(artifact, "manifest.json", key)


@pytest.mark.parametrize("seed", range(4))
def test_manifest_with_one_bit_flipped(seed: int, artifact: Path) -> None:
    """Anywhere: in a name, a number, white space or the digest itself."""
    manifest = artifact / "manifest.json"
    data = manifest.read_bytes()
    for bit in np.random.default_rng(seed).integers(0, 8 * len(data), 50):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        manifest.write_bytes(flipped)
        rejected(artifact, "manifest.json", "again")


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9999])
def test_truncated_manifest(kept: float, artifact: Path) -> None:
    manifest = artifact / "manifest.json"
    data = manifest.read_bytes()
    manifest.write_bytes(data[: int(len(data) * kept)])
    rejected(artifact, "manifest.json", "again")


def test_whole_manifest_that_was_edited(artifact: Path) -> None:
    manifest = artifact / "manifest.json"
    text = manifest.read_text()
    assert '"tokens": 128' in text
    manifest.write_text(text.replace('"tokens": 128', '"tokens": 129', 1))
    rejected(artifact, "manifest.json", "sha256")


@pytest.mark.parametrize(
    "changes",
    [
        {"target": "arm64-ios"},
        {"cpu": "pentium"},
        {"library": 7},
        {"library": "../x.so"},
        {"name": "x y"},
        {"name": "other"},
        {"tokens": True},
        {"sha256": "0" * 63},
        {"sanitize": "thread"},
        {"inputs": {}},
        {"inputs": [{"name": "x", "dtype": "int64", "shape": [1] * 5}]},
        {"inputs": [{"name": "x", "dtype": "int64", "shape": [2**31]}]},
        {"inputs": [{"name": "x", "dtype": "int64", "shape": [1, 8], "token_axis": 2}]},
        {"inputs": [{"name": "x", "dtype": "int64", "shape": [1, 8], "range": [5]}]},
        {"outputs": [{"name": "x", "dtype": "object", "shape": [1]}]},
    ],
)
def test_manifest_with_a_value_that_cannot_be(changes: dict[str, Any], artifact: Path) -> None:
    edit(artifact, **changes)
    rejected(artifact)


def test_library_for_another_machine(mobilebert_android: Path) -> None:
    rejected(mobilebert_android, "arm64-android", "cannot load")


def test_two_artifacts_of_one_name_do_not_mix(artifact: Path, mobilebert_library: Path) -> None:
    with compile.load(mobilebert_library) as one, compile.load(artifact) as two:
        a, b = one.run(valid({})), two.run(valid({}))
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_build_and_load_stay_functions() -> None:
    """Their modules have the same names, and an import must not put the module in the function's place."""
    import importlib

    for name, module in (("build", "compile.build"), ("load", "compile.running.load")):
        importlib.import_module(module)
        assert callable(getattr(compile, name))
    assert compile.BuildResult.__name__ == "BuildResult"
    with pytest.raises(AttributeError):
        compile.nothing  # noqa: B018
