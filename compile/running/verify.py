"""The last rungs of the ladder of truth: the linked library against ONNX Runtime on the exported model.

A library for this machine runs here in a process of its own; others run under qemu, on a CPU as old as each of their
levels allows, WebAssembly modules in Node.js, and a DLL under Wine. Any other runner may be given: a phone's, for one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from compile.artifact.manifest import Manifest, Verification
from compile.cpus import CPUS
from compile.errors import CompileError
from compile.running.runners import node, qemu, wine
from compile.running.runners.base import RunFailed, Runner
from compile.running.runners.local import LocalRunner
from compile.running.samples import Sample, random_samples, shortened
from compile.targets import TARGETS, Target, runs_here, with_cpu
from passes.int8 import decibels
from passes.spell_rounding import spell_rounding
from pocketbert.numerics import TOLERANCE, Outputs, relative_error

# An almost equal sum rounds an element the other way, and later layers pass that on as they pass on int8's own noise:
# the outputs may be as far from the referee's as those are from float32, and little noisier.
LEAST_TOLERANCE = 1e-3
NOISIER = 3.0  # decibels
FEW = 64  # numbers of an output, as a score's or a label's are: how large their noise is, is chance


# What answers to samples besides the exported model: its name and the answers, or the reason why it cannot.
Original = Callable[[list[Sample]], tuple[str, list[Sample]] | str]


def can_run(target: Target) -> str | None:
    """None if a library for `target` can be run on this machine, else what to install for it."""
    if runs_here(target):
        return None
    if target.is_web:
        return node.missing()
    if target.is_windows and target.arch == "x86_64":
        return wine.missing()
    if not target.is_elf:
        return f"a machine with {target.description}"
    emulated = all(level.qemu_cpu for level in target.levels)
    return qemu.missing(target.arch) if emulated else f"a machine that runs {target.cpu.name} code"


def reference(model: onnx.ModelProto, samples: Sequence[Sample], batch: int = 1) -> list[Outputs]:
    """ONNX Runtime's outputs; where the model is for one sequence those of each of `batch`, one after the other."""
    from passes.verify import run_model

    if batch == 1 or model.graph.input[0].type.tensor_type.shape.dim[0].dim_value != 1:
        return run_model(model, samples)
    rows = [{name: value[i : i + 1] for name, value in s.items()} for s in samples for i in range(batch)]
    answers = run_model(model, rows)
    groups = [answers[i : i + batch] for i in range(0, len(answers), batch)]
    return [{name: np.concatenate([one[name] for one in group]) for name in group[0]} for group in groups]


def verify(
    folder: Path,
    model: onnx.ModelProto,
    runner: Runner | None = None,
    samples: int | None = None,
    manifest: Manifest | None = None,
    quantized: onnx.ModelProto | None = None,
    texts: Sequence[Sample] = (),
    original: Original | None = None,
) -> tuple[Verification, ...]:
    """Compare the artifact with ONNX Runtime on random inputs and texts; one Verification for each CPU that ran it.

    runner: by default this machine, an emulated core for each of the library's levels, or Node.js for those it runs;
    samples: by default 3, or 1 where each takes half a minute of emulation; manifest: of a folder that has none yet;
    quantized: `model` with int8 weights. It is the referee then, with the rows rounded as int8 kernels round them if
    the library has such, and `model` says how much int8 costs, on the texts if there are any;
    original: what `model` was exported from, which is asked in place of it if it can answer.
    Raises CompileError if nothing here can run it, if it fails, or if it differs by more than the referee's tolerance.
    """
    manifest = manifest or Manifest.read(folder)
    target = with_cpu(TARGETS[manifest.target], manifest.cpu)
    if runner is None and (missing := can_run(target)):
        raise CompileError(f"--verify: {target.name} libraries run here only with {missing}: install it")
    if runner is None and target.is_windows and not runs_here(target):
        runner = wine.WineRunner()
    emulated = runner is None and not (runs_here(target) or target.is_web)
    texts = [{name: np.repeat(value, manifest.batch, axis=0) for name, value in text.items()} for text in texts]
    texts = texts[:1] if emulated else texts
    given = [*texts, *random_samples(manifest, samples or (1 if emulated else 3))]
    referee = _referee(model, quantized, manifest, given, len(texts), original)
    if runner:
        return (_compare(runner, folder, manifest, given, referee),)
    if target.is_web:
        return tuple(_compare(node.NodeRunner(one), folder, manifest, given, referee) for one in node.levels(folder))
    if quantized is None:  # the referee of integers has one length
        given, referee = _with_shorter(model, manifest, given, referee, original)
    results = []
    for core in [CPUS[level.cpu].qemu_cpu for level in manifest.levels] if emulated else [""]:
        with qemu.QemuRunner(core, target) if emulated else LocalRunner() as one:
            results.append(_compare(one, folder, manifest, given, referee))
    return tuple(results)


@dataclass(frozen=True)
class _Referee:
    """What the library should answer, and what the model answers that was not quantised, if it was.

    texts: how many of the samples are texts; they come first. lengths: those of shorter samples, which come last.
    """

    name: str
    outputs: list[Outputs]
    tolerance: float
    exact: list[Outputs] | None = None
    texts: int = 0
    lengths: tuple[int, ...] = ()


def _referee(
    model: onnx.ModelProto,
    quantized: onnx.ModelProto | None,
    manifest: Manifest,
    given: list[Sample],
    texts: int,
    original: Original | None,
) -> _Referee:
    answer, batch = original(given) if original else None, manifest.batch
    exact: list[Outputs]
    if isinstance(answer, tuple):
        name, exact = answer[0], [*answer[1]]
    else:
        name = f"ONNX Runtime on our own export ({answer})" if answer else "ONNX Runtime without its optimisations"
        exact = reference(model, given, batch)
    if quantized is None:
        return _Referee(name, exact, TOLERANCE)
    if manifest.precision == "float32":
        return _Referee("ONNX Runtime on the int8 weights", reference(quantized, given, batch), TOLERANCE, exact, texts)
    outputs = reference(spell_rounding(quantized), given, batch)
    noise = max(relative_error(rounded, wanted) for rounded, wanted in zip(outputs, exact, strict=True))
    return _Referee(
        "ONNX Runtime with rows rounded as the kernels round them", outputs, max(LEAST_TOLERANCE, noise), exact, texts
    )


def _with_shorter(
    model: onnx.ModelProto, manifest: Manifest, given: list[Sample], referee: _Referee, original: Original | None
) -> tuple[list[Sample], _Referee]:
    """Samples of one token and of half as many as the model takes too, where the referee has an answer to them."""
    lengths = sorted({1, manifest.tokens // 2} - {0, manifest.tokens}) if manifest.shorter_sequences else []
    shorter = [shortened(manifest, given[-1], length) for length in lengths]
    answer = original(shorter) if original and shorter else None
    answers: list[Outputs]
    try:
        answers = [*answer[1]] if isinstance(answer, tuple) else reference(model, shorter, manifest.batch)
    except Exception:  # a file of one length: ONNX Runtime refuses others, each operator in words of its own
        return given, referee
    return [*given, *shorter], replace(referee, outputs=referee.outputs + answers, lengths=tuple(lengths))


def _snrs(got: Sequence[Outputs], exact: Sequence[Outputs]) -> list[tuple[float, int]]:
    """The signal-to-noise ratio of each output of a sample, in decibels, and how many numbers that has."""
    pairs = [(g[name], wanted) for g, e in zip(got, exact, strict=True) for name, wanted in e.items()]
    return [(decibels(wanted, wanted - value), wanted.size) for value, wanted in pairs]


def _compare(runner: Runner, folder: Path, manifest: Manifest, given: list[Sample], referee: _Referee) -> Verification:
    defect = "this is a defect of the compiler, please report the model"
    try:
        got, where = runner.outputs(folder / manifest.library, manifest, given)
    except RunFailed as error:
        raise CompileError(f"verification failed: the library {error}; {defect}") from error
    worst = max(relative_error(g, w) for g, w in zip(got, referee.outputs, strict=True))
    if not worst <= referee.tolerance:
        words = f"error {worst:.1e} of the output range to {referee.name}, allowed {referee.tolerance:.0e}"
        raise CompileError(f"verification failed on {where}: {words}; {defect}")
    ratio = None
    if referee.exact:
        count = referee.texts or len(got)
        ours, theirs = (_snrs(found[:count], referee.exact[:count]) for found in (got, referee.outputs))
        ratio = min(ours)[0]
        own, wanted = (min((r for r, size in of if size >= FEW), default=math.inf) for of in (ours, theirs))
        if own < wanted - NOISIER:
            words = f"outputs are {own:.1f} dB to float32 where {referee.name} gives {wanted:.1f}"
            raise CompileError(f"verification failed on {where}: {words}; {defect}")
    return Verification(
        where, len(got), worst, referee.tolerance, True, referee.name, ratio, referee.texts, referee.lengths
    )
