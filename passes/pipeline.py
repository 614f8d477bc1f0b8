"""The phases, in order. Every pass takes and leaves a valid model; the referee compares them after each one."""

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from passes import (
    canonical_attention,
    canonical_weights,
    deduplicate_constants,
    drop_activation_rounding,
    expand_attention,
    files,
    finite_mask,
    flatten_tokens,
    fold_attention_scale,
    fold_nonorm,
    fuse_attention,
    fuse_bottleneck_linears,
    fuse_gelu,
    fuse_layer_norm,
    fuse_residual_add,
    names,
    quantize_linears,
    quantize_tables,
    recognise_cast_weights,
    recognise_dynamic_quantization,
    recognise_quantized_tables,
    simplify,
    tidy,
)
from passes.check import check
from passes.check_quantized import check_quantized
from passes.cost import measure
from passes.errors import PassError
from passes.graph import infer_shapes
from passes.keep import check_patterns
from passes.options import Options
from passes.report import Outcome, PassReport, Refusal, Report
from passes.samples import int8_snr
from passes.verify import TOLERANCE, Referee
from pocketbert.errors import first_line

COARSE = 0.25  # of the range: rounding weights adds up over layers; more is a broken pass, or a model that int8 breaks


@dataclass(frozen=True)
class Pass:
    """A rewrite, by name: changes the model in place and says what it did.

    opset: the oldest it can write; tolerance: how much the outputs may change, as a share of their range.
    """

    name: str
    run: Callable[[ir.Model, Options], Outcome]
    opset: int = 18
    tolerance: float = TOLERANCE


@dataclass(frozen=True)
class Phase:
    name: str
    passes: tuple[Pass, ...]


PHASES = (
    # Before onnxsim, which knows less about integers.
    Phase(
        "read integers",
        (
            Pass("recognise_dynamic_quantization", recognise_dynamic_quantization.run, opset=13, tolerance=COARSE),
            Pass("recognise_cast_weights", recognise_cast_weights.run, opset=13),
            Pass("recognise_quantized_tables", recognise_quantized_tables.run, opset=13),
            Pass("canonical_weights", canonical_weights.run, opset=13),
            Pass("drop_activation_rounding", drop_activation_rounding.run, opset=13, tolerance=COARSE),
        ),
    ),
    Phase("simplify", (Pass("onnxsim", simplify.run, opset=1),)),
    Phase(
        "recognise",
        (
            Pass("fuse_layer_norm", fuse_layer_norm.run),
            Pass("fuse_gelu", fuse_gelu.run),
            Pass("finite_mask", finite_mask.run),
            Pass("expand_attention", expand_attention.run),
            Pass("canonical_attention", canonical_attention.run),
        ),
    ),
    Phase("flatten", (Pass("flatten_tokens", flatten_tokens.run),)),
    Phase(
        "fold",
        (
            Pass("fold_attention_scale", fold_attention_scale.run),
            Pass("fold_nonorm", fold_nonorm.run),
        ),
    ),
    Phase(
        "fuse",
        (
            Pass("fuse_bottleneck_linears", fuse_bottleneck_linears.run),
            Pass("fuse_residual_add", fuse_residual_add.run),
            Pass("fuse_attention", fuse_attention.run),
        ),
    ),
    # Nothing after it may fold weights back to float, as onnxsim would.
    Phase(
        "quantize",
        (
            Pass("quantize_linears", quantize_linears.run, tolerance=COARSE),
            Pass("quantize_tables", quantize_tables.run, tolerance=COARSE),
        ),
    ),
    Phase(
        "clean",
        (
            Pass("deduplicate_constants", deduplicate_constants.run, opset=1),
            Pass("tidy", tidy.run, opset=1),
        ),
    ),
)

NAMES = tuple(entry.name for phase in PHASES for entry in phase.passes)
Progress = Callable[[PassReport], None]


def run(
    model: onnx.ModelProto | str | os.PathLike[str],
    *,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
    verify: bool = True,
    dump: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    options: Options | None = None,
) -> tuple[onnx.ModelProto, Report]:
    """Rewrite a model; the one given is left as it is.

    only, skip: names of passes (`NAMES`). verify: compare before and after every pass in ONNX Runtime.
    dump: folder that receives the model after every pass. progress: called with each pass's report.
    Raises PassError for a model that cannot be read, checked or run, and for a pass that broke it.
    """
    started = time.perf_counter()
    chosen = select(only, skip)
    options = options or Options()
    proto = model if isinstance(model, onnx.ModelProto) else files.read(model)
    check(proto)
    check_quantized(proto)
    referee = Referee(proto) if verify else None
    feeds = referee.feeds[0] if referee else None
    before = measure(proto, feeds)
    graph = ir.from_proto(proto)
    infer_shapes(graph)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    reports: list[PassReport] = []
    for phase in PHASES:
        for entry in phase.passes:
            if entry.name in chosen:
                reports.append(_run_pass(entry, phase.name, graph, options, referee, dump, len(reports)))
                if progress:
                    progress(reports[-1])
    layers = [layer for entry in reports for layer in entry.layers]
    check_patterns(options.keep_float, [name for layer in layers for name in dict.fromkeys((layer.weight, layer.name))])
    result = ir.to_proto(graph)
    error = referee.total_error() if referee else None
    seconds = time.perf_counter() - started
    after = measure(result, feeds)
    ratio = int8_snr(proto, result, options) if verify and any(layer.precision == "int8" for layer in layers) else None
    return result, Report(before, after, tuple(reports), verify, TOLERANCE, error, seconds, ratio)


def select(only: Collection[str] | None, skip: Collection[str]) -> frozenset[str]:
    """Names of the passes to run; PassError for a name that does not exist."""
    unknown = (set(only or ()) | set(skip)) - set(NAMES)
    if unknown:
        raise PassError(f"unknown pass {min(unknown)!r}; there are: {', '.join(NAMES)}")
    return frozenset(NAMES if only is None else only) - frozenset(skip)


def _run_pass(
    entry: Pass,
    phase: str,
    model: ir.Model,
    options: Options,
    referee: Referee | None,
    dump: str | os.PathLike[str] | None,
    index: int,
) -> PassReport:
    before = len(model.graph)
    started = time.perf_counter()
    try:
        outcome = _too_old(entry, model) or entry.run(model, options)
        names.rename_nodes(model.graph)
    except PassError:
        raise
    except Exception as error:
        raise PassError(
            f"pass {entry.name!r} failed on this model ({first_line(error)}); --skip {entry.name}"
        ) from error
    seconds = time.perf_counter() - started
    difference = None
    if referee or dump is not None:
        proto = ir.to_proto(model)
        if dump is not None:
            _dump(proto, Path(dump), f"{index:02d}_{entry.name}.onnx")
        difference = referee.check(proto, entry.name, entry.tolerance) if referee else None
    return PassReport(
        name=entry.name,
        phase=phase,
        applied=outcome.applied,
        counts=outcome.counts or {},
        refusals=outcome.refusals,
        nodes_before=before,
        nodes_after=len(model.graph),
        seconds=seconds,
        error=difference,
        layers=outcome.layers,
    )


def _too_old(entry: Pass, model: ir.Model) -> Outcome | None:
    version = model.graph.opset_imports.get("", entry.opset)
    if version >= entry.opset:
        return None
    reason = f"the model's opset {version} is older than {entry.opset} and could not be converted; export it again"
    return Outcome(refusals=(Refusal(reason, "graph"),))


def _dump(proto: onnx.ModelProto, folder: Path, name: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PassError(f"{folder}: cannot be made ({error.strerror}); choose another --dump folder") from error
    files.write(proto, folder / name)
