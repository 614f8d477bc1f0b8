"""The runtime's objects, which libraries of one name share."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from compile.linking import link
from compile.linking.link import Toolchain, compile_sources
from compile.runtime import SRC
from compile.targets import find_target

ZIG = Toolchain(("zig", "cc"), "zig")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was compiled, in its order; an object says of what it was made."""
    done: list[str] = []

    def compile_source(toolchain: Toolchain, target: Any, folder: Path, source: Path, name: str) -> Path:
        done.append(source.name)
        output = folder / f"{source.stem}.o"
        output.write_text(f"{toolchain.command} {target.name} {source.name} {name} {sorted(folder.glob('*.h'))}")
        return output

    monkeypatch.setattr(link, "_compile_source", compile_source)
    monkeypatch.setattr(link, "_runtime_objects", OrderedDict())
    return done


def build(folder: Path, name: str = "probe", target: str = "host", toolchain: Toolchain = ZIG) -> list[str]:
    """The objects' contents."""
    folder.mkdir(exist_ok=True)
    (folder / "plan.c").touch()
    sources = [SRC / "api.c", SRC / "run.c", folder / "plan.c"]
    return [path.read_text() for path in compile_sources(toolchain, find_target(target), folder, sources, name)]


def test_the_runtime_is_compiled_once_for_libraries_of_one_name(tmp_path: Path, compiled: list[str]) -> None:
    first = build(tmp_path / "first")
    assert sorted(compiled) == ["api.c", "plan.c", "run.c"]
    assert build(tmp_path / "second") == first
    assert compiled[3:] == ["plan.c"]


@pytest.mark.parametrize("other", [
    {"name": "model"}, {"target": "arm64-android"}, {"toolchain": Toolchain(("clang",), "clang", "address")},
], ids=["name", "target", "compiler"])  # fmt: skip
def test_of_another_kind_it_is_another(other: dict[str, Any], tmp_path: Path, compiled: list[str]) -> None:
    first = build(tmp_path / "first")
    assert not set(build(tmp_path / "second", **other)) & set(first)
    assert len(compiled) == 6


def test_a_header_that_changed_is_read_again(tmp_path: Path, compiled: list[str]) -> None:
    build(tmp_path / "first")
    (tmp_path / "first/vocabulary.h").touch()  # an empty one: the same bytes, another file
    build(tmp_path / "first")
    (tmp_path / "first/vocabulary.h").write_text("#define PIECES 1")
    build(tmp_path / "first")
    assert compiled.count("api.c") == 3


def test_no_more_are_kept_than_a_few(tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "KEPT_OBJECTS", 2)
    for name in ("a", "b", "b"):
        build(tmp_path / "first", name)
    assert len(link._runtime_objects) == 2
    assert compiled.count("api.c") == 2
