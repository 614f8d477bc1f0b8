"""The last rungs of the ladder of truth: the linked library against ONNX Runtime on the exported model.

A library for this machine runs here in a process of its own; an arm64 library runs under qemu-aarch64, on a CPU as old
as each of its levels allows. Any other runner may be given: a phone's, for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from compile.artifact.manifest import Manifest, Verification
from compile.errors import CompileError
from compile.running.runners import qemu
from compile.running.runners.base import RunFailed, Runner
from compile.running.runners.local import LocalRunner
from compile.running.samples import Sample, random_samples
from compile.targets import CPUS, TARGETS, Target, runs_here, with_cpu
from pocketbert.numerics import TOLERANCE, Outputs, relative_error


def can_run(target: Target) -> str | None:
    """None if a library for `target` can be run on this machine, else what to install for it."""
    if runs_here(target):
        return None
    return qemu.missing() if target.arch == "aarch64" else f"a machine that runs {target.cpu.name} code"


def reference(model: onnx.ModelProto, samples: Sequence[Sample]) -> list[Outputs]:
    """ONNX Runtime's outputs."""
    from passes.verify import run_model

    return run_model(model, samples)


def verify(
    folder: Path,
    model: onnx.ModelProto,
    runner: Runner | None = None,
    samples: int | None = None,
    manifest: Manifest | None = None,
) -> tuple[Verification, ...]:
    """Compare the artifact with `model` on random inputs; one Verification for each CPU that ran it.

    runner: by default this machine, or an emulated core for each of the library's levels;
    samples: by default 3, or 1 where each takes half a minute of emulation; manifest: of a folder that has none yet.
    Raises CompileError if nothing here can run it, if it fails, or if it differs by more than TOLERANCE.
    """
    manifest = manifest or Manifest.read(folder)
    target = with_cpu(TARGETS[manifest.target], manifest.cpu)
    if runner is None and (missing := can_run(target)):
        raise CompileError(f"--verify: {target.name} libraries run here only with {missing}: install it")
    emulated = runner is None and not runs_here(target)
    given = random_samples(manifest, samples or (1 if emulated else 3))
    wanted = reference(model, given)
    if runner:
        return (_compare(runner, folder, manifest, given, wanted),)
    results = []
    for core in [CPUS[level.cpu].emulated for level in manifest.levels] if emulated else [""]:
        with qemu.QemuRunner(core) if emulated else LocalRunner() as one:
            results.append(_compare(one, folder, manifest, given, wanted))
    return tuple(results)


def _compare(
    runner: Runner, folder: Path, manifest: Manifest, given: list[Sample], wanted: list[Outputs]
) -> Verification:
    defect = "this is a defect of the compiler, please report the model"
    try:
        got, where = runner.outputs(folder / manifest.library, manifest, given)
    except RunFailed as error:
        raise CompileError(f"verification failed: the library {error}; {defect}") from error
    worst = max(relative_error(g, w) for g, w in zip(got, wanted, strict=True))
    if not worst <= TOLERANCE:
        words = f"error {worst:.1e} of the output range, allowed {TOLERANCE:.0e}"
        raise CompileError(f"verification failed on {where}: {words}; {defect}")
    return Verification(where, len(got), worst, TOLERANCE, passed=True)
