"""The phases, in order. Every pass takes and leaves a valid model; the referee compares them after each one."""

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from passes import files
from passes.broadcast_late import broadcast_late
from passes.canonical_attention import canonical_attention
from passes.canonical_weights import canonical_weights
from passes.center_channels import center_channels
from passes.check import check
from passes.check_quantized import check_quantized
from passes.cost import measure
from passes.deduplicate_constants import deduplicate_constants
from passes.drop_activation_rounding import drop_activation_rounding
from passes.drop_gathers import drop_gathers
from passes.drop_scatters import drop_scatters
from passes.equalize_channels import equalize_channels
from passes.errors import BrokenPassError, PassError
from passes.expand_attention import expand_attention
from passes.finite_mask import finite_mask
from passes.flatten_tokens import flatten_tokens
from passes.fold_attention_scale import fold_attention_scale
from passes.fold_nonorm import fold_nonorm
from passes.fold_shapes import fold_shapes
from passes.fuse_attention import fuse_attention
from passes.fuse_bottleneck_linears import fuse_bottleneck_linears
from passes.fuse_gelu import fuse_gelu
from passes.fuse_layer_norm import fuse_layer_norm
from passes.fuse_residual_add import fuse_residual_add
from passes.graph import infer_shapes
from passes.in_float32 import in_float32
from passes.keep import check_patterns
from passes.merge_branches import merge_branches
from passes.options import Options
from passes.pad_by_concat import pad_by_concat
from passes.quantize_linears import quantize_linears
from passes.quantize_tables import quantize_tables
from passes.recognise_cast_weights import recognise_cast_weights
from passes.recognise_dynamic_quantization import recognise_dynamic_quantization
from passes.recognise_quantized_tables import recognise_quantized_tables
from passes.rename import rename_nodes
from passes.report import Outcome, PassReport, Refusal, Report
from passes.rotate_tokens import rotate_tokens
from passes.samples import int8_snr
from passes.simplify import simplify
from passes.spell_fused import spell_fused
from passes.swap_pairs import swap_pairs
from passes.tidy import tidy
from passes.tokens_first import tokens_first
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
    Phase("types", (Pass("in_float32", in_float32, opset=1),)),
    Phase("spell", (Pass("spell_fused", spell_fused, opset=1),)),
    # Before onnxsim, which knows less about integers.
    Phase(
        "read integers",
        (
            Pass("recognise_dynamic_quantization", recognise_dynamic_quantization, opset=13, tolerance=COARSE),
            Pass("recognise_cast_weights", recognise_cast_weights, opset=13),
            Pass("recognise_quantized_tables", recognise_quantized_tables, opset=13),
            Pass("canonical_weights", canonical_weights, opset=13),
            Pass("drop_activation_rounding", drop_activation_rounding, opset=13, tolerance=COARSE),
        ),
    ),
    Phase(
        "simplify",
        (
            Pass("onnxsim", simplify, opset=1),
            Pass("fold_shapes", fold_shapes),
            Pass("merge_branches", merge_branches),
            Pass("drop_gathers", drop_gathers),
            Pass("drop_scatters", drop_scatters),
            Pass("broadcast_late", broadcast_late),
            Pass("pad_by_concat", pad_by_concat),
            Pass("tokens_first", tokens_first),
        ),
    ),
    Phase(
        "recognise",
        (
            Pass("fuse_layer_norm", fuse_layer_norm),
            Pass("fuse_gelu", fuse_gelu),
            Pass("finite_mask", finite_mask),
            Pass("expand_attention", expand_attention),
            Pass("swap_pairs", swap_pairs),
            Pass("rotate_tokens", rotate_tokens),
            Pass("canonical_attention", canonical_attention),
        ),
    ),
    Phase("flatten", (Pass("flatten_tokens", flatten_tokens),)),
    Phase(
        "fold",
        (
            Pass("fold_attention_scale", fold_attention_scale),
            Pass("fold_nonorm", fold_nonorm),
        ),
    ),
    Phase(
        "fuse",
        (
            Pass("fuse_bottleneck_linears", fuse_bottleneck_linears),
            Pass("fuse_residual_add", fuse_residual_add),
            Pass("fuse_attention", fuse_attention),
        ),
    ),
    # Nothing after it may fold weights back to float, as onnxsim would.
    Phase(
        "quantize",
        (
            Pass("center_channels", center_channels),
            Pass("equalize_channels", equalize_channels),
            Pass("quantize_linears", quantize_linears, tolerance=COARSE),
            Pass("quantize_tables", quantize_tables, tolerance=COARSE),
        ),
    ),
    Phase(
        "clean",
        (
            Pass("deduplicate_constants", deduplicate_constants, opset=1),
            Pass("tidy", tidy, opset=1),
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
    leave_out: bool = False,
) -> tuple[onnx.ModelProto, Report]:
    """Rewrite a model; the one given is left as it is.

    only, skip: names of passes (`NAMES`). verify: compare before and after every pass in ONNX Runtime.
    dump: folder that receives the model after every pass. progress: called with each pass's report.
    leave_out: go on without a pass that broke the model, as far as verify sees it; the reason is one of its refusals.
    Raises PassError for a model that cannot be read, checked or run, and for a pass that broke it; with leave_out only
    for those of the types and quantize phases, which nothing can go on without.
    """
    started = time.perf_counter()
    chosen = select(only, skip)
    options = options or Options()
    if options.min_snr != options.min_snr:
        raise PassError("--min-snr nan: give a number of decibels, as 25")
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
                may = leave_out and phase.name not in ("types", "quantize")
                reports.append(_run_pass(entry, phase.name, graph, options, referee, dump, len(reports), may))
                if progress:
                    progress(reports[-1])
    layers = [layer for entry in reports for layer in entry.layers]
    check_patterns(options.keep_float, [name for layer in layers for name in dict.fromkeys((layer.weight, layer.name))])
    result = ir.to_proto(graph)
    error = referee.total_error() if referee else None
    seconds = time.perf_counter() - started
    after = measure(result, feeds)
    ratio = int8_snr(proto, result, options) if verify and any(layer.precision == "int8" for layer in layers) else None
    return result, Report(
        before, after, tuple(reports), verify, TOLERANCE, error, seconds, ratio, len(options.calibration)
    )


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
    leave_out: bool,
) -> PassReport:
    before = len(model.graph)
    started = time.perf_counter()
    difference = None
    try:
        outcome = _outcome(entry, model, options)
        seconds = time.perf_counter() - started
        if referee or dump is not None:
            proto = ir.to_proto(model)
            if dump is not None:
                _dump(proto, Path(dump), f"{index:02d}_{entry.name}.onnx")
            tolerance = outcome.tolerance or entry.tolerance
            if referee:
                rounds = entry.tolerance == COARSE
                difference = referee.check(proto, entry.name, tolerance, bool(outcome.tolerance), rounds)
    except BrokenPassError as error:
        if not (leave_out and referee):
            raise
        model.graph = ir.from_proto(referee.model).graph
        infer_shapes(model)
        outcome = Outcome(refusals=(Refusal(f"left out: it {error.reason}", "graph"),))
        seconds, difference = time.perf_counter() - started, 0.0
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


def _outcome(entry: Pass, model: ir.Model, options: Options) -> Outcome:
    try:
        outcome = _too_old(entry, model) or entry.run(model, options)
        rename_nodes(model.graph)
    except PassError:
        raise
    except Exception as error:
        raise BrokenPassError(entry.name, f"failed on this model ({first_line(error)})") from error
    return outcome


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
