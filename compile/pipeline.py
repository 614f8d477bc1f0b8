"""The phases of a build, in order: this file is the table of contents of the compiler."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx

import passes
from compile.artifact.folder import staging
from compile.artifact.manifest import (
    FILE,
    KeptInFloat,
    Manifest,
    Precision,
    TextSetting,
    Verification,
    VocabularyFacts,
    list_files,
)
from compile.artifact.modules import link_modules, write_script
from compile.artifact.outline import make_manifest
from compile.artifact.packages import BENCHMARK, Packaging, benchmark_facts
from compile.artifact.report import write_report
from compile.artifact.signature import read_key, sign
from compile.blame import blame
from compile.codegen.escape import identifier
from compile.codegen.headers import write_interface
from compile.codegen.objects import compile_kernels
from compile.codegen.plan_source import plan_source
from compile.codegen.vocabulary import text_inputs, write_vocabulary
from compile.codegen.weights import assembler_source, reserving_source, write_weights
from compile.databases import summary, tile_table
from compile.errors import CompileError
from compile.importer.batch import file_batch, one_sequence, require_batch
from compile.importer.functions import spelt_out
from compile.importer.graph import (
    NAMESAKES,
    check_interface,
    check_operators,
    import_shaped,
    importable_operators,
    input_shapes,
)
from compile.importer.interface import with_own_types
from compile.linking.library_rules import check_library
from compile.linking.link import find_toolchain, link_library, require_space
from compile.linking.module_rules import check_modules
from compile.linking.program import link_benchmark
from compile.linking.symbols import check_symbols
from compile.lowering.lower import lower
from compile.planning.plan import make_plan
from compile.program import Program
from compile.running.verify import Original, verify
from compile.runtime import SRC
from compile.targets import Target
from compile.text.side import TextSide
from compile.text.task import Task
from passes.calibration import plain_inputs
from passes.calibration import text_inputs as calibration_inputs
from passes.fix_shapes import fix_shapes
from passes.in_float32 import in_float32_throughout

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class BuildOptions:
    """What `build` was asked for; options that are not listed are those of `build`.

    shorter: sequences below seq_len must run too.
    database: path of a tuning database; None for default tiles.
    keep_float, min_snr: as passes.Options has them.
    calibration: texts to sample layers on.
    shapes: of inputs whose open dimensions are neither batch nor tokens.
    skip, verify_passes: as passes.run has them.
    origin: where the model came from, for the manifest.
    original: what the model was exported from.
    """

    seq_len: int = 128
    batch: int | None = None
    shorter: bool = False
    threads: int = 0
    verify: bool = False
    sanitize: str = ""
    vocabulary: TextSide | None = None
    task: Task | None = None
    package: Packaging | None = None
    database: Path | None = None
    dump: Path | None = None
    precision: Precision = "float32"
    keep_float: tuple[str, ...] = ()
    min_snr: float = passes.Options().min_snr
    calibration: tuple[str, ...] = ()
    sign: Path | None = None
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    verify_passes: bool = True
    origin: dict[str, Any] = field(default_factory=dict)
    original: Original | None = None


@dataclass
class BuildResult:
    """The artifact's folder, its manifest, and the seconds that each phase took."""

    folder: Path
    manifest: Manifest
    seconds: dict[str, float] = field(default_factory=dict)


def build_library(
    model: onnx.ModelProto,
    name: str,
    target: Target,
    out: Path,
    options: BuildOptions,
    progress: Progress | None = None,
) -> BuildResult:
    """Compile `model` into the artifact folder `out`. Raises CompileError (or PassError) and then leaves nothing."""
    clock = Clock(progress)
    find_toolchain(target)  # fail early: passes take seconds
    if options.dump:
        options.dump.mkdir(parents=True, exist_ok=True)
    model = with_own_types(model)
    program, optimised, extra = lower_model(model, target, options, clock)
    compiling = _naming_the_node(optimised, options.seq_len, target)
    quantized = optimised if _holds_integers(model) or _holds_integers(optimised) else None
    texts = [dict(text) for text in _pass_options(model, options).calibration[::6]] if options.verify else []
    wide = in_float32_throughout(model)
    verifying = partial(verify, model=wide, quantized=quantized, original=options.original, texts=texts)
    return build_program(program, name, target, out, options, clock, extra, compiling, verifying)


def lower_model(
    model: onnx.ModelProto, target: Target, options: BuildOptions, clock: Clock, verify_passes: bool = True
) -> tuple[Program, onnx.ModelProto, dict[str, Any]]:
    """The phases up to a list of kernel calls: the calls, the graph that they compute, what the manifest says of both.

    Raises CompileError or PassError.
    """
    dump = options.dump
    with clock.phase("graph passes"):
        kept = dump / "passes" if dump else None
        model = fix_shapes(model, options.shapes)
        model, batch = _one_sequence(model, options)
        model = fix_shapes(model, input_shapes(model, options.seq_len))
        known = importable_operators()
        rewrite = partial(
            passes.run,
            options=_pass_options(model, options),
            skip=options.skip,
            verify=verify_passes and options.verify_passes,
            dump=kept,
            leave_out=True,
        )
        optimised, report = rewrite(spelt_out(model, known | NAMESAKES))
        if (rest := spelt_out(optimised, known)) is not optimised:  # what passes know better, but not this form of it
            optimised, report = rewrite(rest)
    with clock.phase("import into Relax"):
        refusals = [refusal for entry in report.passes for refusal in entry.refusals]
        check_operators(optimised, {refusal.operator: refusal.reason for refusal in refusals})
        shapes = input_shapes(optimised, options.seq_len)
        with _naming_the_node(optimised, options.seq_len, target):
            graph = import_shaped(optimised, shapes)
        check_interface(graph)
        if dump:
            (dump / "relax.py").write_text(graph.module.script())
    with clock.phase("lower to kernels"), _naming_the_node(optimised, options.seq_len, target):
        tiles, database = tile_table(options.database, target)
        program = lower(graph, options.seq_len, target.isa, tiles)
        program.batch = batch
        for value in (*program.inputs, *program.outputs) if batch > 1 else ():
            if value.shape[:1] != (1,):
                raise CompileError(f"--batch {batch}: {value.name!r} has shape {list(value.shape)} for one sequence")
        if options.shorter and not program.elastic:
            raise CompileError(
                f"--seq-len: this model computes {options.seq_len} tokens and no fewer: give that length alone"
            )
    layers = [layer for entry in report.passes for layer in entry.layers if layer.precision == "float32"]
    floats = tuple(KeptInFloat(layer.weight, layer.reason, layer.output_snr) for layer in layers)
    return program, optimised, {"passes": report, "kept_in_float": floats, "tuning": summary(tiles, database)}


def _one_sequence(model: onnx.ModelProto, options: BuildOptions) -> tuple[onnx.ModelProto, int]:
    """The model for one sequence and how many a run may have; a file for several that depend on each other is whole."""
    if options.batch:
        require_batch(model, options.batch)
    batch = options.batch or file_batch(model)
    if batch == 1:
        return model, 1
    shapes = {name: [1, *shape[1:]] for name, shape in input_shapes(model, options.seq_len).items()}
    try:
        return one_sequence(model, batch, shapes), batch
    except CompileError:
        if options.batch:
            raise
        return model, 1


def _holds_integers(model: onnx.ModelProto) -> bool:
    return any(node.op_type in ("DequantizeLinear", "MatMulInteger") for node in model.graph.node)


def _pass_options(model: onnx.ModelProto, options: BuildOptions) -> passes.Options:
    text = options.vocabulary
    samples: tuple[Mapping[str, Any], ...] = ()
    if text and options.calibration:
        samples = calibration_inputs(model, options.calibration, text.tokenizer)
    elif text and options.precision == "int8":
        samples = plain_inputs(model, text.tokenizer)
    return passes.Options(
        attention="matmuls",
        quantize="int8" if options.precision == "int8" else "none",
        keep_float=options.keep_float,
        min_snr=options.min_snr,
        calibration=samples,
    )


def build_program(
    program: Program,
    name: str,
    target: Target,
    out: Path,
    options: BuildOptions,
    clock: Clock,
    extra: dict[str, Any],
    compiling: AbstractContextManager[None] | None = None,
    verifying: Callable[..., tuple[Verification, ...]] | None = None,
) -> BuildResult:
    """The phases after lowering: a list of kernel calls becomes the artifact folder `out`.

    extra goes into the manifest; compiling is entered while kernels are compiled and may translate what is raised;
    verifying(folder, manifest=…) says what comparisons the manifest gets, where options ask for them.
    """
    identifier(name)
    toolchain, dump = find_toolchain(target, options.sanitize), options.dump
    with clock.phase("plan memory and stages"):
        plan = make_plan(program, target)
        takes = text_inputs(plan, options.vocabulary) if options.vocabulary else []
    with staging(out) as folder:
        require_space(
            folder, (4 + len(options.package.others) if options.package else 3) * plan.weight_bytes + (64 << 20)
        )
        work = folder / "work"
        work.mkdir()
        with clock.phase("compile kernels"), compiling or nullcontext():
            kernels = work / "kernels"
            kernels.mkdir()
            if dump:
                (dump / "kernels").mkdir(exist_ok=True)
            objects = [
                compile_kernels(level.symbols, target, kernels, level.compiled_for, dump and dump / "kernels")
                for level in plan.code_variants
            ]
            if not target.is_web:  # there the linker says what is missing
                check_symbols([path for paths in objects for path in paths], target)
        with clock.phase("pack weights"):
            write_weights(plan, folder / f"{name}.weights" if target.is_web else work / "pb_weights.bin")
        with clock.phase("link"):
            sources = _write_sources(plan, target, options, work, dump)
            outputs = [(value.name, value.shape) for value in plan.program.outputs]
            sources += write_vocabulary(options.vocabulary, takes, work, options.task, outputs)
            library = folder / target.library_name(name)
            if target.is_web:
                modules = link_modules(toolchain, target, plan, options.threads, work, sources, objects, library)
                write_script(toolchain, work, modules, folder)
            else:
                write_interface(plan, name, target, folder)
                kernel_objects = [path for paths in objects for path in paths]
                linked = link_library(toolchain, target, work, sources, kernel_objects, name, library)
                if options.package and options.package.kind == BENCHMARK:
                    facts = benchmark_facts(plan, name, target, library)
                    link_benchmark(target, work, linked, name, facts, folder / BENCHMARK)
        with clock.phase("check the library"):
            rules = check_modules(folder, name) if target.is_web else _check(library, target, name)
        shutil.rmtree(work)
        manifest = make_manifest(
            plan,
            name,
            target,
            library,
            linker=toolchain.description,
            model={key: value for key, value in options.origin.items() if value is not None},
            default_threads=options.threads,
            sanitize=options.sanitize,
            vocabulary=_vocabulary_facts(options.vocabulary),
            **_task_facts(options.task),
            checked=tuple(rules),
            **extra,
        )
        if options.package:
            with clock.phase("package"):
                manifest = replace(manifest, package=options.package.write(folder, manifest))
        if options.verify and verifying:
            with clock.phase("verify"):
                manifest = replace(manifest, verification=verifying(folder, manifest=manifest))
        for _, other in options.package.others if options.package else ():
            manifest = replace(manifest, verification=manifest.verification + other.verification)
        write_report(folder, manifest)
        manifest = replace(manifest, build_seconds=clock.seconds, files=list_files(folder))
        manifest.write(folder)
        if options.sign:
            sign(folder, (folder / FILE).read_bytes(), read_key(options.sign))
    return BuildResult(out, manifest, clock.seconds)


def _check(library: Path, target: Target, name: str) -> list[str]:
    """The rules of its target that the library meets. Raises CompileError naming the first that it breaks."""
    if target.is_windows:
        from compile.linking.dll_rules import check_dll  # lief

        return check_dll(library, target, name)
    if target.is_apple:
        from compile.linking.dylib_rules import check_dylib  # lief

        return check_dylib(library, target, name)
    return check_library(library, target, name)


def _task_facts(task: Task | None) -> dict[str, Any]:
    if task is None:
        return {}
    activation = task.activation if task.labels else None
    facts = {"task": task.kind, "labels": task.labels, "activation": activation, "pooling": task.pooling}
    return facts | {"normalized": task.normalize}


def _vocabulary_facts(text: TextSide | None) -> VocabularyFacts | None:
    if text is None:
        return None
    settings = tuple(TextSetting(s.name, s.value, s.source) for s in text.settings)
    return VocabularyFacts(len(text.names), text.cased, text.sha256, text.kind, text.max_tokens, settings)


def _write_sources(plan: Any, target: Target, options: BuildOptions, work: Path, dump: Path | None) -> list[Path]:
    text = plan_source(plan, options.threads)
    (work / "plan.c").write_text(text)
    if dump:
        (dump / "plan.c").write_text(text)
    reserved = reserving_source("pb_weights", plan.weight_bytes)
    (work / "weights.c").write_text(reserved if target.is_web else assembler_source("pb_weights"))
    runtime = [source for source in sorted(SRC.glob("*.c")) if source.name != "jni.c" or not target.is_web]
    return [*runtime, work / "weights.c", *([] if target.is_web else [work / "plan.c"])]


@contextmanager
def _naming_the_node(model: onnx.ModelProto, tokens: int, target: Target) -> Iterator[None]:
    """A failure inside becomes a CompileError that names the node it comes from, if there is one."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise blame(model, tokens, target, error) from error


class Clock:
    """Times the phases of a build."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}

    def phase(self, name: str) -> _Phase:
        return _Phase(self, name)


class _Phase:
    def __init__(self, clock: Clock, name: str) -> None:
        self.clock, self.name = clock, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            if isinstance(error, OSError):
                where = f" ({error.filename})" if error.filename else ""
                raise CompileError(f"{self.name}: {error.strerror}{where}") from error
            return
        duration = time.perf_counter() - self.start
        self.clock.seconds[self.name] = round(duration, 3)
        if self.clock.progress:
            self.clock.progress(self.name, duration)
