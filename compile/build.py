"""`build`: a model's name, folder or file in, an artifact folder out. The command line calls it with what it parsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import passes
from compile.artifact.folder import require_replaceable
from compile.artifact.manifest import Precision
from compile.artifact.packages import check_packaging
from compile.artifact.signature import read_key
from compile.artifact.wheel import require_module_name
from compile.codegen.escape import library_name
from compile.databases import read, shipped
from compile.errors import CompileError
from compile.linking.link import find_toolchain
from compile.running.verify import can_run
from compile.source import obtain, require_name
from compile.targets import GROUPS, find_targets
from compile.text.read import read_folder, read_vocabulary
from compile.text.side import TextSide
from compile.text.task import read_task, stated_task
from passes.calibration import read_texts
from pocketbert.temporary import TemporaryFolder

MOST_SEQUENCES, MOST_TOKENS = 1 << 12, 1 << 20

if TYPE_CHECKING:
    from compile.pipeline import BuildResult, Progress


def build(
    model: str | Path = "mobilebert",
    *,
    target: str = "arm64-android",
    cpu: str | None = None,
    seq_len: int | Sequence[int] | None = None,
    batch: int | None = None,
    threads: int = 0,
    out: str | Path | None = None,
    head: str | None = None,
    random_head: bool = False,
    seed: int = 0,
    vocab: str | Path | None = None,
    cased: bool = False,
    text: bool = True,
    task: str | None = None,
    labels: Sequence[str] | None = None,
    package: str | None = None,
    name: str | None = None,
    group: str | None = None,
    version: str | None = None,
    verify: bool = False,
    sanitize: str = "",
    db: str | Path | None = None,
    dump: str | Path | None = None,
    precision: Precision = "float32",
    keep_float: Sequence[str] = (),
    min_snr: float | None = None,
    calibrate: str | Path | None = None,
    sign: str | Path | None = None,
    fix_shape: Mapping[str, Sequence[int]] | None = None,
    skip: Sequence[str] = (),
    verify_passes: bool = True,
    progress: Progress | None = None,
) -> BuildResult:
    """Compile `model` (a preset, a Hugging Face folder or an .onnx file) into the artifact folder `out`.

    target, cpu: names from `compile.TARGETS` and `compile.CPUS`; "android" is all of its ABIs in one archive, and the
        artifact is arm64's; "ios" is devices and simulator in one archive. Without cpu
        the library runs on every CPU of the target, with kernels of their own for newer ones.
    seq_len: tokens in the longest sequence, by default those that an .onnx file was exported for, else 128; a library
        runs shorter ones at their own length. Where several are given it is an error if the model does not allow that.
    batch: sequences that a run may have side by side, by default those that an .onnx file was exported for, else 1.
    threads: the library's default, 1 to 64; 0 for one a core up to four.
    out: the artifact folder, by default build/<name>-<target>.
    head: what the model ends in, by default a checkpoint's own or none.
    random_head: let a checkpoint's head be random where its weights are missing.
    seed: of random weights: a preset's, or a head's.
    vocab: the vocab.txt of a preset or an .onnx file, for a library that takes text as well as ids; a folder brings its
        own tokenizer, which this overrules.
    cased: the vocabulary tells upper from lower case.
    text: take a folder's tokenizer in.
    task: what a preset or an .onnx file with a vocab is for: classify, entities, fill or embed (the mean of the tokens'
        vectors); by default what `head` says. labels: names of the logits, in their order. A folder says both itself.
    package: "aar", for Gradle, "jar", for Java on Linux (both take a JDK), "xcframework", for Xcode, "wheel", for pip,
        "go", a module, "crate", for Cargo, "nuget", for .NET (takes Mono's compiler), or
        "benchmark", a program that measures the model, beside the library.
    name: of the library and its package, by default the model's own.
    group, version: what else Maven and pip call the package.
    verify: run the library here and compare it with ONNX Runtime.
    sanitize: clang's sanitizers to compile runtime and plan with, for programs on this machine that are built with the
        same ones. Kernels are machine code that TVM made and stay as they are.
    db: a tuning database, by default the one shipped for the CPU; "none" for none.
    dump: a folder for the intermediate representations.
    precision: "int8" stores linears and embedding tables so.
    keep_float: patterns; linears and tables whose node or weight matches one stay float32.
    min_snr: decibels, by default 25; layers whose signal-to-noise ratio in int8 would be lower stay float32.
    calibrate: a file of texts to sample layers on, for models with a vocab.
    sign: the file of an Ed25519 key to sign the artifact with.
    fix_shape: shapes by name, for inputs whose open dimensions are neither batch nor tokens.
    skip: graph passes to leave out, by name.
    verify_passes: compare the model before and after each graph pass in ONNX Runtime.
    progress: called with each phase's name and seconds.

    Raises CompileError, passes.PassError or model.ModelError, one line that says what to do; `out` is then as it was.
    """
    lengths = [128] if seq_len is None else [seq_len] if isinstance(seq_len, int) else list(seq_len)
    if not lengths or min(lengths) < 1 or max(lengths) > MOST_TOKENS:
        raise CompileError(f"--seq-len {','.join(map(str, lengths))}: a sequence has 1 to {MOST_TOKENS} tokens")
    longest = max(lengths)
    if batch is not None and not 1 <= batch <= MOST_SEQUENCES:
        raise CompileError(f"--batch {batch}: choose 1 to {MOST_SEQUENCES}")
    if not 0 <= threads <= 64:
        raise CompileError(f"--threads {threads}: choose 1 to 64, or 0 for one a core")
    if cased and not vocab:
        raise CompileError("--cased says how text is read: give --vocab as well")
    if precision not in ("float32", "int8"):
        raise CompileError(f"--precision {precision}: choose float32 or int8")
    if precision != "int8" and (keep_float or min_snr is not None or calibrate):
        raise CompileError("--keep-float, --min-snr and --calibrate say how to quantise: give --precision int8 as well")
    spec, *others = find_targets(target, cpu)
    members, archive = GROUPS.get(target, ((), None))
    if others and package != archive:
        raise CompileError(
            f"--target {target} is one archive for all: give --package {archive}, or name one of {', '.join(members)}"
        )
    if vocab and not text:
        raise CompileError("--no-text leaves the tokenizer out and --vocab gives one: leave out one of them")
    side = _read_text_side(Path(model), Path(vocab) if vocab else None, cased) if text else None
    folder_given = Path(model).is_dir()
    if folder_given and (task or labels is not None):
        raise CompileError("--task and --labels are for presets and .onnx files: a folder's config.json says both")
    if (task or labels is not None) and not side:
        raise CompileError("--task and --labels say what is made of a text: give --vocab as well")
    stated = None if folder_given else stated_task(task, head, labels)
    if calibrate and not side:
        raise CompileError("--calibrate: texts need the model's words: give --vocab as well")
    texts = read_texts(Path(calibrate)) if calibrate else []
    if package == "benchmark" and sanitize:
        raise CompileError("--sanitize: sanitized code says nothing of times: leave out that or --package benchmark")
    if verify and sanitize:
        raise CompileError("--verify: only a program with the same sanitizers can load the library: leave out one")
    for one in (spec, *others):
        find_toolchain(one, sanitize)  # fail early: imports and weights take seconds
    packaging = check_packaging(package, spec, group, version)
    if name is not None and library_name(name) != name:
        raise CompileError(f"--name {name}: it begins every function of the library: {library_name(name)} will do")
    if name is None:
        require_name(Path(model))
    database = None if str(db) == "none" else Path(db) if db else shipped(spec.cpu)
    if database:
        read(database, spec.cpu)
    if out:
        require_replaceable(Path(out))
    if sign:
        read_key(Path(sign))
    for one in (spec, *others) if verify else ():
        if missing := can_run(one):
            raise CompileError(f"--verify: {one.name} libraries run here only with {missing}: install it")
    purpose = read_task(Path(model), head) if side and folder_given else stated if side else None
    if side and purpose:
        side = replace(side, settings=side.settings + purpose.settings)
    pooled = purpose is None or purpose.pooling is None  # else the runtime pools, at any length
    source = obtain(str(model), longest, head, random_head, seed, progress, pooled)
    from compile.importer.graph import file_tokens
    from compile.pipeline import BuildOptions, build_library  # tvm: a model that is none should not wait for it

    folder = Path(out) if out else Path("build") / f"{name or source.name}-{target}"
    keep = Path(dump) if dump else None
    options = BuildOptions(
        seq_len=longest if seq_len is not None else file_tokens(source.graph, longest),
        batch=batch,
        shorter=min(lengths) < longest,
        threads=threads,
        verify=verify,
        sanitize=sanitize,
        vocabulary=side,
        task=purpose,
        package=packaging,
        database=database,
        dump=keep,
        precision=precision,
        keep_float=tuple(keep_float),
        min_snr=passes.Options().min_snr if min_snr is None else min_snr,
        calibration=tuple(texts),
        sign=Path(sign) if sign else None,
        shapes=fix_shape or {},
        skip=tuple(skip),
        verify_passes=verify_passes,
        origin=source.origin,
        original=source.original,
    )
    name = name or library_name(source.name)
    if package == "wheel":
        require_module_name(name)
    with TemporaryFolder() as work:
        for other in others:
            assert packaging
            alone = replace(options, package=None, dump=None, sign=None, verify_passes=False)
            alone = replace(alone, database=database and shipped(other.cpu))
            built = build_library(
                source.graph, name, other, work / other.name, alone, _saying(other.abi or other.name, progress)
            )
            packaging = replace(packaging, others=(*packaging.others, (built.folder, built.manifest)))
        return build_library(source.graph, name, spec, folder, replace(options, package=packaging), progress)


def _saying(abi: str, progress: Progress | None) -> Progress | None:
    """Each phase with the ABI that it was for."""
    return progress and (lambda phase, seconds: progress(f"{phase}, {abi}", seconds))


def _read_text_side(model: Path, vocab: Path | None, cased: bool) -> TextSide | None:
    if vocab:
        return read_vocabulary(vocab, cased)
    return read_folder(_text_folder(model)) if model.is_dir() else None


def _text_folder(model: Path) -> Path:
    """Where a folder's tokenizer is: older sentence-transformers ones have it beside the encoder, in 0_Transformer."""
    inner = model / "0_Transformer"
    own = any((model / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"))
    return inner if inner.is_dir() and (model / "modules.json").exists() and not own else model
