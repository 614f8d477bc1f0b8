"""What bindings are made of: the C headers as data, and the packages of other languages."""

import re
from pathlib import Path
from typing import Any

import pytest

import compile
from compile.artifact.maven import package_version
from compile.artifact.packages import check_packaging
from compile.bindings import LANGUAGES, Model, write_binding
from compile.bindings.interface import CHOICES, FLAGS, read_interface
from compile.bindings.write import pascal
from compile.errors import CompileError
from compile.runtime import INCLUDE
from compile.targets import find_target

LINUX = find_target("x86_64-linux")


def write(kind: str, folder: Path, name: str = "reviews", task: str | None = "classify") -> dict[str, str]:
    """The files of a package, by their paths."""
    library = folder / f"lib{name}.so"
    library.write_bytes(b"a library")
    write_binding(
        LANGUAGES[kind], Model(name, library.name, LINUX.name, task, "1.2.3", "0.1.0"), library, folder / kind
    )
    return {
        path.relative_to(folder / kind).as_posix(): path.read_text()
        for path in (folder / kind).rglob("*")
        if path.is_file()
    }


def test_the_header_is_read_whole() -> None:
    """Every enumerator, member and function that a plain search finds in it."""
    text = re.sub(r"/\*.*?\*/", "", (INCLUDE / "pocketbert.h").read_text(), flags=re.DOTALL)
    interface = read_interface()
    assert {f"POCKETBERT_{c.name}" for c in interface.constants} == set(
        re.findall(r"\bPOCKETBERT_[A-Z]\w*\b", text)
    ) - {"POCKETBERT_H"}
    assert {f.name for f in interface.functions} == set(re.findall(r"\(\*(\w+)\)\(", text)) - {"log"}
    assert all(function.doc for function in interface.functions)
    members = [member.name for struct in interface.structs for member in struct.fields]
    assert members.count("size") == 4
    assert FLAGS | set(CHOICES) <= set(members)


def test_codes_have_their_numbers_and_meaning() -> None:
    errors = {c.name: (c.value, c.doc) for c in read_interface().values("ERROR_")}
    assert errors["FORK"][0] == 10
    assert errors["TASK"] == (11, "the model is for something else than what it is asked")


def test_a_parameter_that_no_binding_knows_is_named(tmp_path: Path) -> None:
    header = tmp_path / "pocketbert.h"
    header.write_text((INCLUDE / "pocketbert.h").read_text().replace("float *vector, int32_t size,", "float *vector,"))
    functions = {f.name: f for f in read_interface(header).functions}
    with pytest.raises(ValueError, match=r"^embed\(model, .*no binding knows how to call that: see GIVES$"):
        _ = functions["embed"].task


def test_a_header_that_is_no_c_is_named(tmp_path: Path) -> None:
    header = tmp_path / "other.h"
    header.write_text("int32_t f(;")
    with pytest.raises(ValueError, match=r"^other.h: "):
        read_interface(header)


@pytest.mark.parametrize("kind", LANGUAGES)
def test_every_task_is_a_method_with_its_options(kind: str, tmp_path: Path) -> None:
    text = "\n".join(write(kind, tmp_path).values())
    interface = read_interface()
    spell = (lambda name: name) if kind == "crate" else pascal
    for task in interface.tasks:
        assert f" {spell(task.name)}(" in text or f" {spell(task.name)}<'a>(" in text, task.name
    for option in interface.struct("task_options").fields:
        assert (f" {spell(option.name)}" in text or f"\t{spell(option.name)}" in text) or not option.kind, option.name
    for code in interface.values("ERROR_"):
        assert f" = {code.value}" in text or f"Code({code.value})" in text


@pytest.mark.parametrize("kind", LANGUAGES)
def test_a_model_without_a_task_has_an_example_too(kind: str, tmp_path: Path) -> None:
    files = write(kind, tmp_path, task=None)
    (example,) = (text for path, text in files.items() if re.search(r"example/\w+\.(go|cs)$|examples/", path))
    assert re.search(r"run_text|RunText", example)


def test_no_package_is_called_a_word_of_its_language(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert write("go", tmp_path, "range")["go.mod"].startswith("module range_model\n")
    assert 'name = "match_model"' in write("crate", tmp_path, "match")["Cargo.toml"]
    assert "namespace SystemLibrary" in write("nuget", tmp_path, "system")["Model.cs"]


def test_what_is_no_identifier_reaches_no_language(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="is no identifier"):
        write("go", tmp_path, 'x"\nimport "evil')


@pytest.mark.parametrize(
    ("kind", "target", "version", "message"),
    [
        ("go", "arm64-android", None, "--package go: not for arm64-android: choose x86_64-linux or arm64-linux"),
        ("crate", "armv7-android", None, "--package crate: not for armv7-android"),
        ("go", "x86_64-linux", "1.2.3", "--version: a Go module's is that of its repository: leave it out"),
        ("crate", "x86_64-linux", "1.2", "--version 1.2: Cargo wants three numbers with dots, as in 1.2.0"),
    ],
)
def test_what_a_package_cannot_be(kind: str, target: str, version: str | None, message: str) -> None:
    with pytest.raises(CompileError, match=re.escape(message)):
        check_packaging(kind, find_target(target), None, version)


@pytest.mark.parametrize(
    ("kind", "target", "group", "version", "message"),
    [
        (None, "x86_64-linux", "a.b", None, "--group and --version say what a package is called: give --package"),
        (None, "x86_64-linux", None, "1", "--group and --version say what a package is called: give --package"),
        ("zip", "x86_64-linux", None, None, "--package zip: choose one of"),
        ("aar", "arm64-linux", None, None, "--package aar: arm64-linux is not Android"),
        ("xcframework", "arm64-macos", None, None, "--package xcframework: arm64-macos is not iOS"),
        (
            "wheel",
            "x86_64-linux",
            "com.mine",
            None,
            "--group is a part of Maven's coordinates, and --package wheel has",
        ),
        ("aar", "arm64-android", "mine", None, "--group mine: give a name with dots"),
        ("aar", "arm64-android", "com.1st", None, "--group com.1st: give a name with dots"),
        ("jar", "x86_64-linux", None, "1.0", "--version: the jar holds PocketBERT's classes alone"),
        ("wheel", "x86_64-linux", None, "1.2.3.4.5", "--version 1.2.3.4.5: give one to four numbers"),
        ("wheel", "x86_64-linux", None, "1.x", "--version 1.x: give one to four numbers"),
        ("wheel", "x86_64-linux", None, "١", "--version ١: give one to four numbers"),
        ("npm", "wasm32", None, "1.2.3.4", "--version 1.2.3.4: npm takes three numbers"),
        ("benchmark", "x86_64-linux", None, "1.0", "--version: the benchmark program has none"),
    ],
)
def test_what_a_package_cannot_be_called(kind: Any, target: str, group: Any, version: Any, message: str) -> None:
    with pytest.raises(CompileError, match=re.escape(message)):
        check_packaging(kind, find_target(target), group, version)


def test_what_a_package_is_called() -> None:
    linux, web = find_target("x86_64-linux"), find_target("wasm32")
    assert check_packaging(None, linux, None, None) is None
    for kind, target, version in (
        ("wheel", linux, "1"), ("wheel", linux, "1.2.3.4"), ("npm", web, "1.2.3"), ("crate", linux, "1.2.0"),
    ):  # fmt: skip
        made = check_packaging(kind, target, None, version)
        assert made is not None
        assert (made.kind, made.version) == (kind, version)
    made = check_packaging("wheel", linux, None, None)
    assert made is not None
    assert made.version == package_version()


def test_nuget_says_what_compiler_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CompileError, match=r"^--package nuget needs Mono's C# compiler, mcs: install it"):
        compile.build("mobilebert", target="x86_64-linux", package="nuget")
