"""manifest.json: what was written is read back, and whatever else is in the file is refused by the name of its key."""

import json
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from compile.artifact import manifest as manifests
from compile.artifact.manifest import (
    CompileError,
    KeptInFloat,
    Manifest,
    MeasuredTime,
    Package,
    Verification,
    VocabularyFacts,
    seal,
)


@pytest.fixture
def manifest(mobilebert_library: Path) -> Manifest:
    return Manifest.read(mobilebert_library)


def test_everything_that_is_written_is_read_back(manifest: Manifest, tmp_path: Path) -> None:
    full = replace(
        manifest,
        precision="int8",
        kept_in_float=(KeptInFloat("layer 1", "its outputs saturate", 12.5), KeptInFloat("head", "small")),
        task="text classification",
        labels=("no", "yes, \"quoted\"", "ü\n"),
        pooling="mean",
        vocabulary=VocabularyFacts(30522, False, "0" * 64),
        package=Package("m.aar", "maven", "com.pocketbert:m:1"),
        verification=(Verification("this machine", 3, 1e-7, 1e-4, True),),
        measured=(MeasuredTime("Pixel 4", (4, 5), 2, 128, 30, 61.5, 0.25, "2026-11-27"),),
    )  # fmt: skip
    for one in (manifest, full):
        one.write(tmp_path)
        assert Manifest.read(tmp_path) == one


def test_file_is_readable_and_in_order(mobilebert_library: Path) -> None:
    text = (mobilebert_library / "manifest.json").read_text()
    data = json.loads(text)
    assert list(data)[:3] == ["format", "name", "target"]
    assert list(data)[-1] == "manifest_sha256"
    assert max(map(len, text.splitlines())) < 400
    assert "null" not in text


def replaced(data: Any, place: str, value: Any) -> None:
    *way, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    for part in way:
        data = data[part]
    data[last] = value


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("tokens", "128"),
        ("tokens", True),
        ("tokens", 0),
        ("tokens", 2**31),
        ("tokens", 12.5),
        ("tokens", None),
        ("name", "a b"),
        ("name", "ü"),
        ("library", "../libm.so"),
        ("library", "/lib/libm.so"),
        ("library", "include/libm.so"),
        ("library", ""),
        ("library", "."),
        ("header", "include/../../m.h"),
        ("files", {"../../etc/passwd": "0" * 64}),
        ("files", {"/etc/passwd": "0" * 64}),
        ("files", {"a\nb": "0" * 64}),
        ("files", {"a\0b": "0" * 64}),
        ("files", {"a//b": "0" * 64}),
        ("files", "lib"),
        ("sha256", "0" * 63),
        ("sha256", "0" * 64 + "\n"),
        ("target", "arm64-abacus"),
        ("target", ["host"]),
        ("cpu", "armv8.0"),
        ("precision", "float64"),
        ("precision", {}),
        ("inputs.0", []),
        ("inputs.0.name", 7),
        ("inputs.0.shape", [1, 2, 3, 4, 5]),
        ("inputs.0.shape", [2**20, 2**20, 2**20]),
        ("inputs.0.shape.0", -1),
        ("inputs.0.dtype", "object"),
        ("inputs.0.token_axis", 2),
        ("inputs.0.range", [5]),
        ("inputs.0.range", [5, 5]),
        ("inputs.0.range", [0, 1.5]),
        ("sizes", None),
        ("sizes.arena_bytes", -1),
        ("kernels.1.flops", "many"),
        ("calls.0.kernel", "no such kernel"),
        ("calls.0.stage", 10**6),
        ("calls.0.reads", [[10**6, 0, 1]]),
        ("calls.0.reads", [[0, 0]]),
        ("passes.passes.0.refusals", [{"reason": "x"}]),
        ("passes.before.nodes", {}),
        ("build_seconds", {"link": "fast"}),
        ("verification", [{"where": "here"}]),
        ("labels", ["yes", 1]),
        ("shorter_sequences", 1),
        ("surprise", 1),
    ],
)
def test_value_that_cannot_be_is_named_in_a_line(place: str, value: Any, manifest: Manifest, tmp_path: Path) -> None:
    data = json.loads(json.dumps(manifest.to_dict()))
    replaced(data, place, value)
    (tmp_path / "manifest.json").write_text(seal(data))
    with pytest.raises(CompileError) as caught:
        Manifest.read(tmp_path)
    message = str(caught.value)
    assert "build the artifact again" in message
    assert len(message.splitlines()) == 1
    assert place.split(".")[0] in message


def test_what_a_call_names_is_there(manifest: Manifest, tmp_path: Path) -> None:
    """The number after the last is refused, the last itself is not."""
    for place, value, last in (
        ("calls.0.reads", [[len(manifest.tensors), 0, 1]], [[len(manifest.tensors) - 1, 0, 1]]),
        ("calls.0.writes", [[len(manifest.tensors), 0, 1]], [[len(manifest.tensors) - 1, 0, 1]]),
        ("calls.0.stage", manifest.stages, manifest.stages - 1),
    ):
        for given, right in ((value, False), (last, True)):
            data = json.loads(json.dumps(manifest.to_dict()))
            replaced(data, place, given)
            (tmp_path / "manifest.json").write_text(seal(data))
            with nullcontext() if right else pytest.raises(CompileError, match="tensor that is not there"):
                Manifest.read(tmp_path)


def test_versions_say_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "numpy":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(manifests, "version", version)
    versions = manifests.toolchain_versions()
    assert versions["numpy"] == "not installed"
    assert set(versions.values()) >= {"1.0", "not installed"}


def test_key_with_control_characters_stays_one_short_line(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(seal({**manifest.to_dict(), "\x1b[2J\n\ud800" + "x" * 10**5: 1}))
    with pytest.raises(CompileError) as caught:
        Manifest.read(tmp_path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_nested_beyond_reason(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": ' + "[" * 10**5)
    with pytest.raises(CompileError, match="damaged"):
        Manifest.read(tmp_path)


def test_number_that_is_none_is_neither_written_nor_read(manifest: Manifest, tmp_path: Path) -> None:
    broken = replace(manifest, build_seconds={"link": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        broken.write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "manifest.json").write_text(json.dumps(broken.to_dict()))
    with pytest.raises(CompileError, match="NaN"):
        Manifest.read(tmp_path)
