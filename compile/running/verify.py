"""The last rungs of the ladder of truth: the linked library against ONNX Runtime on the exported model.

A library for this machine is loaded; an arm64 library runs under qemu-aarch64, on a CPU as old as the target allows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from compile.artifact.manifest import LibraryFacts, Manifest, Verification
from compile.errors import CompileError
from compile.linking.link import build_runner
from compile.running.load import Library, read_manifest
from compile.targets import CPUS, TARGETS, Target, runs_here, with_cpu
from pocketbert.numerics import TOLERANCE, Outputs, random_input, relative_error

# Where Debian's libc6-arm64-cross puts glibc for arm64.
ARM64_ROOT = Path("/usr/aarch64-linux-gnu")

Sample = dict[str, NDArray[Any]]


def random_samples(manifest: Manifest, count: int, seed: int = 0) -> list[Sample]:
    """Valid random inputs: ids inside their tables, masks that are ones and then zeros, of random lengths."""
    rng = np.random.default_rng(seed)
    return [
        {e.name: random_input(rng, e.name, e.shape, e.dtype, e.range) for e in manifest.inputs} for _ in range(count)
    ]


def reference(model: onnx.ModelProto, samples: Sequence[Sample]) -> list[Outputs]:
    """ONNX Runtime's outputs."""
    from passes.verify import run_model

    return run_model(model, samples)


def can_run(target: Target) -> str | None:
    """None if a library for `target` can be run on this machine, else what to install for it."""
    if runs_here(target):
        return None
    if target.arch != "aarch64":
        return f"a machine that runs {target.cpu.name} code"
    if not shutil.which("qemu-aarch64"):
        return "qemu-aarch64 (Debian package qemu-user)"
    if not ARM64_ROOT.is_dir():
        return "glibc for arm64 (Debian package libc6-arm64-cross)"
    return None


def verify(
    folder: Path, model: onnx.ModelProto, samples: int | None = None, manifest: Manifest | None = None
) -> tuple[Verification, ...]:
    """Compare the artifact with `model` on random inputs; one Verification for each CPU that ran it.

    An emulated library is run on a core for each of its levels.

    samples: by default 3, or 1 where each takes half a minute of emulation; manifest: of a folder that has none yet.
    Raises CompileError if nothing here can run it, or if it differs by more than TOLERANCE.
    """
    manifest = manifest or read_manifest(folder)
    target = with_cpu(TARGETS[manifest.target], manifest.cpu)
    missing = can_run(target)
    if missing:
        raise CompileError(f"--verify: {target.name} libraries run here only with {missing}: install it")
    given = random_samples(manifest, samples or (3 if runs_here(target) else 1))
    wanted = reference(model, given)
    if runs_here(target):
        with Library(folder, manifest=manifest) as library:
            results = [_compare("this machine", [library.run(s) for s in given], wanted)]
    else:
        cpus = [CPUS[level.cpu].emulated for level in manifest.levels]
        with emulator(target) as run:
            answers = {cpu: run(folder, cpu, given, facts=manifest) for cpu in cpus}
        results = [_compare(f"qemu-aarch64 -cpu {cpu}", got, wanted) for cpu, got in answers.items()]
    for result in results:
        if not result.passed:
            raise CompileError(
                f"verification failed on {result.where}: error {result.error:.1e} of the output range, allowed "
                f"{TOLERANCE:.0e}; this is a defect of the compiler, please report the model"
            )
    return tuple(results)


def _compare(where: str, got: list[Any], wanted: list[Any]) -> Verification:
    error = max(relative_error(g, w) for g, w in zip(got, wanted, strict=True))
    return Verification(where, len(got), error, TOLERANCE, error <= TOLERANCE)


@contextmanager
def emulator(target: Target) -> Iterator[Any]:
    """Gives run(folder, cpu, samples, threads=1) -> outputs, for any artifact of `target`, under qemu-aarch64.

    run raises CompileError if the library cannot be loaded or a run fails.
    """
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as name:
        work = Path(name)
        runner = build_runner(target, work)
        # Android's sonames lead to glibc's files: the loader finds them already loaded.
        for soname, file in (("libc.so", "libc.so.6"), ("libm.so", "libm.so.6")):
            os.symlink(ARM64_ROOT / "lib" / file, work / soname)

        def run(
            folder: Path, cpu: str, samples: list[Sample], threads: int = 1, facts: Manifest | None = None
        ) -> list[dict[str, NDArray[Any]]]:
            manifest = facts or read_manifest(folder)
            command = ["qemu-aarch64", "-cpu", cpu, "-L", str(ARM64_ROOT), "-E", f"LD_LIBRARY_PATH={work}"]
            command += [str(runner), str((folder / manifest.library).resolve()), manifest.name]
            return _run_program(command, work, manifest, samples, threads)

        yield run


def _run_program(
    command: list[str], work: Path, manifest: Manifest, samples: list[Sample], threads: int
) -> list[dict[str, NDArray[Any]]]:
    given, taken = work / "inputs", work / "outputs"
    given.write_bytes(input_bytes(manifest, samples))
    done = subprocess.run([*command, str(given), str(taken), str(threads)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CompileError(f"the library failed when it was run: {done.stderr.strip() or done.returncode}")
    return read_outputs(manifest, taken.read_bytes(), len(samples))


def input_bytes(facts: LibraryFacts, samples: list[Sample]) -> bytes:
    """What runtime/tools/runner.c reads: every sample's inputs in the model's order."""
    return b"".join(np.ascontiguousarray(s[entry.name]).tobytes() for s in samples for entry in facts.inputs)


def read_outputs(facts: LibraryFacts, data: bytes, count: int) -> list[dict[str, NDArray[Any]]]:
    """What runtime/tools/runner.c wrote: the outputs of `count` samples."""
    offset, results = 0, []
    for _ in range(count):
        result = {}
        for entry in facts.outputs:
            size = int(np.prod(entry.shape))
            result[entry.name] = np.frombuffer(data, entry.dtype, size, offset).reshape(entry.shape)
            offset += result[entry.name].nbytes
        results.append(result)
    return results
