"""What the graph passes are worth: size, error and ONNX Runtime's time, before and after.

    python benchmarks/passes.py [--layers 24] [--runs 80] [--only ours] [--json FILE]

"Before" is the graph after onnxsim. MobileBERT as released, sequence length 128, batch 1, norms and biases random.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

# A script's own folder comes first on the path, and this file is named like the package that it measures.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.command import INTERRUPTED, LAYERS, RUNS, new_file, new_parser
from pocketbert.command import exit_status

GRAPHS = ("ours", "transformers torchscript", "transformers dynamo")
SEQUENCE = 128
NAMES = ["input_ids", "attention_mask", "token_type_ids"]


@dataclass(frozen=True)
class Result:
    """One graph. Times in ms, 1 thread: medians of interleaved runs, and of their ratios; errors over the range."""

    graph: str
    nodes_exported: int
    nodes_onnxsim: int
    nodes_after: int
    norm_multiplies_left: int
    parameters_before: int
    parameters_after: int
    gflops_before: float | None
    gflops_after: float | None
    ort_before_ms: float
    ort_after_ms: float
    ort_ratio: float
    error_narrow: float
    error_wide: float
    restarts_wide: int
    pipeline_s: float
    pipeline_peak_gib: float
    idempotent: bool
    deterministic: bool


def build(graph: str, layers: int, path: Path, wide: bool) -> None:
    """Export one of GRAPHS with random norms and biases."""
    import torch

    torch.manual_seed(0)
    if graph == "ours":
        import model as core

        ours = core.create(replace(core.PRESETS["mobilebert"], num_hidden_layers=layers))
        randomize(ours, wide, ours)
        core.export(ours, path, seq_len=SEQUENCE, batch=1)
        return
    from transformers import MobileBertConfig, MobileBertModel

    config = MobileBertConfig(num_hidden_layers=layers, attn_implementation="eager")
    theirs = MobileBertModel(config).eval()

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = theirs

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            result = self.model(**dict(zip(NAMES, inputs, strict=True)))
            return result.last_hidden_state, result.pooler_output

    wrapped = Positional().eval()
    randomize(theirs, wide, wrapped)
    ids = torch.ones((1, SEQUENCE), dtype=torch.int64)
    dynamo = graph.endswith("dynamo")
    options = {"external_data": False, "opset_version": 20} if dynamo else {"opset_version": 17}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(wrapped, (ids, ids, ids), str(path), input_names=NAMES, dynamo=dynamo, **options)


def randomize(module, wide: bool, runner) -> None:
    """γ from U(0.8, 1.2), or log-uniform in [0.05, 20] with random signs and 1 % exact zeros; biases from N(0, 0.1).

    With wide γ the activations of 24 layers overflow float32 in any implementation, so every linear's weights are
    divided by the deviation of its output on one input, in order of execution.
    """
    import torch

    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            size = tuple(parameter.shape)
            if name.endswith("bias"):
                parameter.copy_(torch.tensor(rng.normal(0, 0.1, size)))
            elif "orm" in name and len(size) == 1:
                values = rng.uniform(0.8, 1.2, size)
                if wide:
                    values = np.exp(rng.uniform(np.log(0.05), np.log(20), size)) * rng.choice([-1, 1], size)
                    values[rng.random(size) < 0.01] = 0
                parameter.copy_(torch.tensor(values))
        if wide:
            _normalize_linears(module, runner)


def _normalize_linears(module, runner) -> None:
    import torch

    def divide(linear, _, output):
        deviation = output.std()
        linear.weight.div_(deviation)
        if linear.bias is not None:
            linear.bias.div_(deviation)
        return output / deviation

    hooks = [m.register_forward_hook(divide) for m in module.modules() if isinstance(m, torch.nn.Linear)]
    ids = torch.randint(0, 30000, (1, SEQUENCE), generator=torch.Generator().manual_seed(0))
    runner(ids, torch.ones_like(ids), torch.zeros_like(ids))
    for hook in hooks:
        hook.remove()


def pipeline_in_process(source: Path, target: Path) -> dict:
    """The whole command in a process of its own, for its time and peak memory; with the report it wrote."""
    code = (
        "import json, resource, sys, time; started = time.perf_counter(); import passes; from passes import files\n"
        "result, report = passes.run(sys.argv[1]); files.write(result, sys.argv[2])\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20\n"
        "print(json.dumps({'s': time.perf_counter() - started, 'gib': peak, 'report': report.to_dict()}))"
    )
    done = subprocess.run([sys.executable, "-c", code, source, target], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def errors(before: Path, after: Path) -> float:
    """Largest error over the range on three inputs that the pipeline has not seen."""
    from passes.inputs import random_inputs
    from passes.verify import compare, open_session

    models = [onnx.load(path) for path in (before, after)]
    feeds = [random_inputs(models[0], seed) for seed in (101, 102, 103)]
    sessions = [open_session(model) for model in models]
    names = [output.name for output in sessions[0].get_outputs()]
    runs = [[dict(zip(names, s.run(names, f), strict=True)) for f in feeds] for s in sessions]
    if not all(np.isfinite(value).all() for run in runs[0] for value in run.values()):
        raise SystemExit("the reference is not finite: no error can be measured")
    return compare(*runs)


def time_ort(before: Path, after: Path, runs: int) -> tuple[float, float, float]:
    """Median ms per inference of each model and median ratio of neighbouring runs, 1 thread, all optimisations on.

    Runs are interleaved, each pair in the other order, so that a slow second of the machine weighs on both sides.
    """
    from passes.inputs import random_inputs

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    sessions = [ort.InferenceSession(str(p), options, providers=["CPUExecutionProvider"]) for p in (before, after)]
    feeds = random_inputs(onnx.load(before), 0)
    times = np.empty((runs + 3, 2))
    for index, pair in enumerate(times):
        for side in (0, 1) if index % 2 else (1, 0):
            started = time.perf_counter()
            sessions[side].run(None, feeds)
            pair[side] = 1e3 * (time.perf_counter() - started)
    slow, fast = times[3:].T  # the first three warm up
    return float(np.median(slow)), float(np.median(fast)), float(np.median(slow / fast))


def measure(graph: str, layers: int, runs: int, folder: Path) -> Result:
    import onnxsim

    source, wide = folder / "source.onnx", folder / "wide.onnx"
    build(graph, layers, source, wide=False)
    build(graph, layers, wide, wide=True)
    first = pipeline_in_process(source, folder / "first.onnx")
    pipeline_in_process(source, folder / "again.onnx")
    pipeline_in_process(folder / "first.onnx", folder / "second.onnx")
    spread = pipeline_in_process(wide, folder / "wide_after.onnx")
    simplified, _ = onnxsim.simplify(onnx.load(source))
    onnx.save(simplified, folder / "onnxsim.onnx")
    before_ms, after_ms, ratio = time_ort(folder / "onnxsim.onnx", folder / "first.onnx", runs)
    report, outputs = first["report"], (folder / "first.onnx").read_bytes()
    fold = {name: next(p["counts"] for p in entry["report"]["passes"] if p["name"] == "fold_nonorm")
            for name, entry in (("narrow", first), ("wide", spread))}  # fmt: skip
    flops = [report[side]["flops"] for side in ("before", "after")]
    return Result(
        graph=graph,
        nodes_exported=report["before"]["nodes"],
        nodes_onnxsim=sum(node.op_type != "Constant" for node in simplified.graph.node),
        nodes_after=report["after"]["nodes"],
        norm_multiplies_left=fold["narrow"]["scales_left"],
        parameters_before=report["before"]["parameters"],
        parameters_after=report["after"]["parameters"],
        gflops_before=flops[0] and flops[0] / 1e9,
        gflops_after=flops[1] and flops[1] / 1e9,
        ort_before_ms=before_ms,
        ort_after_ms=after_ms,
        ort_ratio=ratio,
        error_narrow=errors(source, folder / "first.onnx"),
        error_wide=errors(wide, folder / "wide_after.onnx"),
        restarts_wide=fold["wide"]["restarts"],
        pipeline_s=first["s"],
        pipeline_peak_gib=first["gib"],
        idempotent=outputs == (folder / "second.onnx").read_bytes(),
        deterministic=outputs == (folder / "again.onnx").read_bytes(),
    )


def machine() -> str:
    """Processor, cores and versions, for the heading."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    load = os.getloadavg()[0]
    return f"{model}, {os.cpu_count()} cores, load {load:.1f}, ONNX Runtime {ort.__version__}, 1 thread, seq {SEQUENCE}"


def show(results: list[Result], console: Console) -> None:
    table = Table("", *(result.graph for result in results), title=machine())
    rows = [
        ("nodes: exported → onnxsim → after", lambda r: f"{r.nodes_exported} → {r.nodes_onnxsim} → {r.nodes_after}"),
        ("scales left (one at the output)", lambda r: str(r.norm_multiplies_left)),
        ("parameters", lambda r: f"{r.parameters_before:,} → {r.parameters_after:,}"),
        ("GFLOPs", lambda r: " → ".join("?" if f is None else f"{f:.3f}" for f in (r.gflops_before, r.gflops_after))),
        ("ONNX Runtime, onnxsim → after, ms", lambda r: f"{r.ort_before_ms:.1f} → {r.ort_after_ms:.1f}"),
        ("faster by", lambda r: f"{r.ort_ratio:.3f} ×"),
        ("error / range, γ ∈ U(0.8, 1.2)", lambda r: f"{r.error_narrow:.1e}"),
        ("error / range, γ ∈ ±[0.05, 20] and 0", lambda r: f"{r.error_wide:.1e} ({r.restarts_wide} restarts)"),
        ("pipeline, verified", lambda r: f"{r.pipeline_s:.1f} s, {r.pipeline_peak_gib:.2f} GiB"),
        ("second run same bytes", lambda r: str(r.idempotent)),
        ("same bytes again", lambda r: str(r.deterministic)),
    ]
    for name, cell in rows:
        table.add_row(name, *(cell(result) for result in results))
    console.print(table)


def compare_and_show(args: argparse.Namespace) -> None:
    results = []
    for graph in args.only:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(graph, args.layers, args.runs, Path(folder)))
    show(results, Console(width=140))
    if args.json:
        args.json.write_text(
            json.dumps({"machine": machine(), "results": [asdict(r) for r in results]}, indent=2) + "\n"
        )


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--layers", type=LAYERS, default=24)
    parser.add_argument("--runs", type=RUNS, default=80, help="interleaved timed runs of each model")
    parser.add_argument("--only", nargs="+", choices=GRAPHS, default=GRAPHS, help="graphs to measure")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="also write the figures here")
    return exit_status(compare_and_show, parser.parse_args(), INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
