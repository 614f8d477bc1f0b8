"""How many instructions an arm64 library executes for one inference, counted by an emulator.

Exact and repeatable, so what a change of kernels does is seen to the last instruction, on any machine. It is no time:
cycles depend on the core.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from compile.errors import CompileError
from compile.link import find_toolchain, run_compiler
from compile.load import read_manifest
from compile.targets import TARGETS, host_target, with_cpu
from compile.verify import can_run, emulator, random_samples

SOURCE = Path(__file__).with_name("instructions.c")


def count_instructions(folder: Path, cpu: str = "cortex-a53") -> int:
    """Instructions of one inference at full length with one thread, of the arm64 artifact in `folder` on qemu's `cpu`.

    The second of two inferences is what counts: loading and opening do not. Raises CompileError where nothing here can
    run the artifact.
    """
    manifest = read_manifest(folder)
    target = with_cpu(TARGETS[manifest["target"]], manifest["cpu"])
    if target.arch != "aarch64":
        raise CompileError(f"{folder} holds {target.arch} code: instructions are counted for arm64 targets only")
    if not shutil.which("qemu-aarch64") or (missing := can_run(target)):
        raise CompileError(f"counting instructions needs {missing or 'qemu-aarch64 (Debian package qemu-user)'}")
    sample = random_samples(manifest, 1)
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as name, emulator(target) as run:
        work = Path(name)
        plugin, result = _build_plugin(work), work / "count"
        executed = []
        for times in (1, 2):
            run(folder, cpu, sample * times, options=["-plugin", f"{plugin},out={result}"])
            if not result.is_file():
                raise CompileError("this qemu-aarch64 does not count instructions: it was built without plugins")
            executed.append(int(result.read_text()))
    return executed[1] - executed[0]


def _build_plugin(work: Path) -> Path:
    plugin = work / "instructions.so"
    arguments = ["-shared", "-fPIC", "-O2", "-Wl,-z,undefs", str(SOURCE), "-o", str(plugin)]  # qemu defines the rest
    run_compiler(find_toolchain(host_target()), arguments, work)
    return plugin
