"""pocketbert_loader.h: a library from a path, from memory and from the middle of a file, and what cannot be one."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compile.codegen.headers import SHARED_HEADERS
from compile.running.load import read_manifest
from compile.runtime import INCLUDE

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def loader(program: Callable) -> Path:
    assert all((INCLUDE / name).is_file() for name in SHARED_HEADERS)
    return program(HERE / "loader.c", options=("-D_GNU_SOURCE", f"-I{INCLUDE}"))


@pytest.fixture
def load(loader: Path, execute: Callable) -> Callable[..., list[str]]:
    """load(how, file, name, ...): the lines that the program prints, one for each library."""

    def run(*arguments: Any) -> list[str]:
        done = execute(loader, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


@pytest.fixture
def library(small_library: Callable) -> Path:
    return small_library() / "libsmall.so"


def line(artifact: Path) -> str:
    facts = read_manifest(artifact)
    return f"{facts.name} {facts.tokens} {facts.sizes.weights_bytes}"


def test_all_ways_lead_to_the_same_model(load: Callable, library: Path, tmp_path: Path) -> None:
    size = library.stat().st_size
    (tmp_path / "archive").write_bytes(bytes(16384) + library.read_bytes() + b"the next file")
    lines = load(
        *("path", library, "small"),
        *("memory", library, "small"),
        *(f"file:0:{size}", library, "small"),
        *(f"file:16384:{size}", tmp_path / "archive", "small"),
    )
    assert lines == [line(library.parent)] * 4


@pytest.mark.parametrize("how", ["memory", "file:0:{}"])
def test_two_models_from_files_of_the_same_number(how: str, load: Callable, small_library: Callable) -> None:
    """Each is read through a descriptor that is closed after it: the second must not be taken for the first."""
    artifacts = [small_library(), small_library(name="another")]
    arguments = []
    for artifact in (*artifacts, *artifacts):
        library = artifact / read_manifest(artifact).library
        arguments += [how.format(library.stat().st_size), library, read_manifest(artifact).name]
    assert load(*arguments) == [line(artifact) for artifact in (*artifacts, *artifacts)]


@pytest.mark.parametrize("kept", [0, 63, 64, 0.5, 0.9, -1])
@pytest.mark.parametrize("how", ["path", "memory", "file:0:{}"])
def test_truncated_library(how: str, kept: float, load: Callable, library: Path, tmp_path: Path) -> None:
    data = library.read_bytes()
    short = data[: int(len(data) * kept) if isinstance(kept, float) else kept]
    (tmp_path / "short.so").write_bytes(short)
    (message,) = load(how.format(len(short)), tmp_path / "short.so", "small")
    assert message.endswith(("truncated", "too short for a library"))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("file:-1:100", "outside"),
        ("file:0:-1", "outside"),
        ("file:1:{}", "outside"),
        ("file:{}:1", "outside"),
        ("file:9223372036854775807:9223372036854775807", "outside"),
        ("file:8:1000", "not a 64-bit library"),
    ],
)
def test_part_of_a_file_that_is_no_library(how: str, message: str, load: Callable, library: Path) -> None:
    assert message in load(how.format(library.stat().st_size), library, "small")[0]


def test_what_is_no_library_of_this_machine_and_model(
    load: Callable, library: Path, mobilebert_android: Path, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("a" * 1000)
    lines = load(
        *("path", tmp_path / "nowhere.so", "small"),
        *("path", tmp_path / "text", "small"),
        *("memory", mobilebert_android / "libmobilebert.so", "mobilebert"),
        *("path", library, "other"),
        *("path", tmp_path, "small"),
    )
    expected = ["nowhere.so", "not a 64-bit library", "another processor", "other_functions", "too short"]
    assert [words for words, text in zip(expected, lines, strict=True) if words not in text] == []


@pytest.mark.parametrize("how", ["memory", "file:0:{}"])
def test_no_file_may_be_opened_any_more(how: str, loader: Path, library: Path) -> None:
    how = how.format(library.stat().st_size)
    limited = ["bash", "-c", 'ulimit -n 4; exec "$@"', "bash"]  # the three and the library's
    done = subprocess.run(
        [*limited, loader, how, library, "small"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in ("memory: Too many open files\n", "file: Too many open files\n")


def test_on_windows_what_fails_is_closed_and_named(program: Callable, execute: Callable, tmp_path: Path) -> None:
    (tmp_path / "windows.h").write_text("")
    options = ("-D_GNU_SOURCE", "-U__linux__", "-D_WIN32", f"-I{INCLUDE}", f"-I{tmp_path}")
    windows = program(HERE / "windows_loader.c", options=options)
    missing, alone = "no such file", "this system loads libraries by their paths alone"
    expected = {
        ("model.dll", "model"): "0 model.dll 1 0",
        ("model.dll", "other"): "8 other_functions: not in the library: is that the model's name? 0 0",
        **{(number, "model"): f"8 {number}: {missing} 0 0" for number in ("2", "3", "126")},
        ("193", "model"): "8 193: not a library for this processor, or damaged 0 0",
        ("5", "model"): "8 5: Windows cannot load it 0 0",
        ("é", "model"): "8 é: Windows cannot load it 0 0",
    }
    lines = execute(windows, *(word for pair in expected for word in pair)).stdout.splitlines()
    assert lines == [*expected.values(), f"8 file: {alone}", f"8 memory: {alone}"]
