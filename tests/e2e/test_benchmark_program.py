"""The program that measures a model on any device: here, and an arm64 phone's under qemu, whose times are refused."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

import compile
from compile.errors import CompileError
from compile.running.load import read_manifest
from tune.__main__ import main as tune


def build(model: Path, target: str, folder: Path, tokens: int = 128) -> Path:
    out = folder / target
    return compile.build(model, target=target, seq_len=tokens, package="benchmark", out=out, name="measured").folder


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def test_this_machine_measures_itself(mobilebert: Path, tmp_path: Path) -> None:
    artifact = build(mobilebert, "host", tmp_path)
    manifest = read_manifest(artifact)
    with (artifact / "benchmark").open("rb") as file:
        assert not [s for s in ELFFile(file).iter_segments() if s["p_type"] in ("PT_INTERP", "PT_DYNAMIC")]
    done = run(artifact / "benchmark", 5)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert (printed["model"], printed["sha256"], printed["tokens"]) == ("measured", manifest.sha256, 128)
    assert printed["cpu"] in {level.cpu for level in manifest.levels}
    assert printed["emulated"] is False
    for cluster in printed["clusters"]:
        alone, *others = cluster["results"]
        assert [alone["threads"], *(r["threads"] for r in others)] == sorted({1, len(cluster["cores"])})
        for result in cluster["results"]:
            samples = sorted(result["samples_ms"])
            assert (len(samples), result["p50_ms"], result["p90_ms"]) == (5, samples[2], samples[4])
            assert result["first_ms"] > result["open_ms"] > 0
            assert manifest.sizes.weights_bytes / 2 < result["resident_bytes"]
        assert len(alone["calls_ms"]) == len(manifest.calls)
        assert sum(alone["calls_ms"]) < 2 * max(alone["samples_ms"])
    for runs in ("0", "x", "10001"):
        refused = run(artifact / "benchmark", runs)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    (tmp_path / "here.json").write_text(done.stdout)
    given = ["import", str(tmp_path / "here.json"), "--artifact", str(artifact), "--db", str(tmp_path / "db.jsonl")]
    assert tune(given) == 0
    assert len(read_manifest(artifact).measured) == sum(len(c["results"]) for c in printed["clusters"])


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu: Debian package qemu-user")
@pytest.mark.parametrize(
    ("target", "qemu", "core", "cpu"),
    [
        ("arm64-android", "qemu-aarch64", "cortex-a76", "cortex-a76"),
        ("armv7-android", "qemu-arm", "cortex-a7", "armv7"),
        ("riscv64-linux", "qemu-riscv64", "rv64", "rv64gc"),
    ],
)
def test_another_devices_program_runs_under_qemu_and_says_so(
    target: str, qemu: str, core: str, cpu: str, exported: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = build(exported("mobilebert", seq_len=16), target, tmp_path, tokens=16)
    done = run(qemu, "-cpu", core, artifact / "benchmark", 1)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert (printed["cpu"], printed["emulated"]) == (cpu, True)
    (tmp_path / "emulated.json").write_text(done.stdout)
    assert tune(["import", str(tmp_path / "emulated.json"), "--artifact", str(artifact)]) == 2
    assert "taken under an emulator" in capsys.readouterr().err


def test_only_linux_and_android_have_such_a_program() -> None:
    with pytest.raises(CompileError, match=r"^--package benchmark: it is a program for Linux and Android, not"):
        compile.build("mobilebert", target="arm64-macos", package="benchmark")
    with pytest.raises(
        CompileError, match=r"^--package benchmark: wasm32 libraries do not go into one; choose --package npm$"
    ):
        compile.build("mobilebert", target="wasm32", package="benchmark")
    with pytest.raises(CompileError, match=r"^--version: the benchmark program has none: leave it out$"):
        compile.build("mobilebert", target="arm64-linux", package="benchmark", version="1.0")
