"""Latency of the compiled library beside its peers, in turns, in one run on this machine.

    python benchmarks/latency.py [--model mobilebert] [--precision float32] [--seq-len 128] [--threads 1 2] [--runs 30]
                                 [--peer-python PATH] [--json]

The model is a preset, or an embedder by its architecture as transformers has it (minilm-l12, nomic-embed, …).

Seeded random weights with NoNorm weights and biases random too (at 1 and 0 an optimiser could drop them). Medians, and
medians of each turn's ratio to ours; the share of peak is against the multiply-add rate of the cores, measured in the
same turns. In float32 a peer whose outputs are not ours is refused; in int8, where each quantises in its own way, the
table says for each how far its outputs are from the float32 model's, as a signal-to-noise ratio in dB.

`pip install -e '.[bench]'` brings OpenVINO and MNN beside ONNX Runtime. LiteRT and ExecuTorch bring converters with
many pins: give them an environment of their own and name its interpreter (several are tried in order):

    python -m venv peers
    peers/bin/pip install torch==2.13.0 ai-edge-litert==2.3.0 litert-torch==0.10.0 ai-edge-quantizer executorch==1.5.1
    python benchmarks/latency.py --peer-python peers/bin/python

Every peer is converted and run in a process of its own and takes its turn over a pipe, which is not timed.
"""

import argparse
import contextlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
from rich.console import Console
from rich.table import Column, Table

# A script's own folder comes first on the path; the project's root must.
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import compile
import model as core
import passes
from benchmarks.command import LAYERS, RUNS, THREADS, measure_and_show, new_parser, number
from benchmarks.families import EMBEDDERS, embedder
from benchmarks.interleaved import heading, in_turns, machine, paired_ratio, progress_console
from benchmarks.presets import SEQUENCE, create
from compile.running.load import read_manifest
from compile.running.profile.machine import measure_peak
from compile.running.samples import random_samples
from passes.int8 import decibels

SHORT = 32
OURS = "PocketBERT"
ABSENT = 3  # a worker's exit status
SETTLE = 2  # untimed runs before a timed one
TOLERANCE = 1e-3  # of the range of the hidden states
NOISY = 3.0  # dB: with less its outputs have nothing to do with the model


class PeerFailed(Exception):
    """A peer's process ended. name: the peer's; the message is the last that it said."""

    def __init__(self, name: str, log: Path) -> None:
        super().__init__(last_line(log))
        self.name = name


@dataclass(frozen=True)
class Peer:
    """name: in the table; module: in benchmarks/peers; source: what it is made from; pip: what brings it."""

    name: str
    module: str
    source: str
    pip: str


LITERT = "ai-edge-litert==2.3.0 litert-torch==0.10.0"
PEERS = {
    "float32": [
        Peer("ONNX Runtime on onnxsim's graph", "onnxruntime", "onnxsim.onnx", "onnxruntime"),
        Peer("ONNX Runtime on our passes' graph", "onnxruntime", "passes.onnx", "onnxruntime"),
        Peer("OpenVINO", "openvino", "exported.onnx", "openvino"),
        Peer("LiteRT (XNNPACK)", "litert", "exported.pt2", LITERT),
        Peer("ExecuTorch (XNNPACK)", "executorch", "exported.pt2", "executorch==1.5.1"),
        Peer("MNN", "mnn", "exported.onnx", "MNN==3.6.1"),
    ],
    "int8": [
        Peer("ONNX Runtime, dynamic int8", "onnxruntime_int8", "onnxsim.onnx", "onnxruntime"),
        Peer("OpenVINO, static int8", "openvino_int8", "onnxsim.onnx", "openvino"),
        Peer("LiteRT, dynamic int8", "litert_int8", "exported.pt2", f"{LITERT} ai-edge-quantizer"),
    ],
}


def prepare(preset: str, layers: int | None, precision: str, seq_len: int, folder: Path) -> None:
    """Write what the peers are made from, a sample, and the compiled library."""
    import torch

    exported = folder / "exported.onnx"
    if preset in EMBEDDERS:
        module, names = embedder(preset, layers), ["input_ids", "attention_mask"]
        ids = torch.ones(1, seq_len, dtype=torch.int64)
        torch.onnx.export(
            module, (ids, ids), exported, input_names=names, output_names=["last_hidden_state"], opset_version=17,
            dynamo=False,
        )  # fmt: skip
    else:
        module, names = create(preset, layers), core.PRESETS[preset].input_names
        core.export(module, exported, seq_len=seq_len, batch=1)
    onnx.save(passes.run(exported, only=["onnxsim"], verify=False)[0], folder / "onnxsim.onnx")
    if precision == "float32":
        onnx.save(passes.run(exported, verify=False)[0], folder / "passes.onnx")
    compile.build(exported, target="host", seq_len=seq_len, precision=precision, out=folder / "artifact")
    drawn = random_samples(read_manifest(folder / "artifact"), 1)[0]
    sample = {name: drawn[name] for name in names}  # in the order of the program's arguments
    sample["attention_mask"].fill(1)
    np.savez(folder / "sample.npz", **sample)
    np.savez(folder / "reference.npz", float32_outputs(exported, sample))
    arguments = tuple(map(torch.from_numpy, sample.values()))
    torch.export.save(torch.export.export(module, arguments), folder / "exported.pt2")


def float32_outputs(path: Path, sample: dict[str, np.ndarray]) -> np.ndarray:
    """The last hidden state as ONNX Runtime computes it from the exported model."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["last_hidden_state"], sample)[0]


def start(python: str, log: Path, *arguments: object) -> subprocess.Popen:
    """benchmarks/peers/__main__.py under that interpreter."""
    command = [python, "-m", "benchmarks.peers", *map(str, arguments)]
    pipe = subprocess.PIPE
    with log.open("w") as errors:
        return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=errors, text=True)


def convert(peer: Peer, pythons: list[str], folder: Path) -> dict[str, Any]:
    """The peer's file, versions and interpreter; or why it has none: {"absent": ...}."""
    log = folder / f"{peer.module}.log"
    for python in pythons:
        process = start(python, log, "convert", peer.module, folder / peer.source)
        answer, _ = process.communicate()
        if process.returncode == 0:
            return {**json.loads(answer), "python": python}
        if process.returncode != ABSENT:
            return {"absent": f"failed to convert: {last_line(log)}"}
    return {"absent": f"not installed: pip install {peer.pip}"}


def last_line(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]


@contextlib.contextmanager
def served(
    peer: Peer, artifact: dict[str, Any], folder: Path, threads: int
) -> Iterator[tuple[Callable[[], float], Any]]:
    """A function that gives the ms of one run, as the peer's own process measures them; and the outputs of one run."""
    log = folder / f"{peer.module}.log"
    arguments = ("serve", peer.module, artifact["file"], folder / "sample.npz", threads)
    with start(artifact["python"], log, *arguments) as process:
        assert process.stdin
        assert process.stdout

        def read() -> str:
            if line := process.stdout.readline():
                return line.strip()
            raise PeerFailed(peer.name, log)

        def time_one_run() -> float:
            with contextlib.suppress(BrokenPipeError):  # `read` says what became of it
                process.stdin.write("run\n")
                process.stdin.flush()
            return float(read())

        yield time_one_run, np.load(read())
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def agrees(outputs: list[np.ndarray], reference: np.ndarray) -> bool:
    """Whether one of the outputs is the float32 reference."""
    same = [array for array in outputs if array.shape == reference.shape]
    return any(np.abs(array - reference).max() <= TOLERANCE * np.ptp(reference) for array in same)


def signal_to_noise(outputs: list[np.ndarray], reference: np.ndarray) -> float:
    """dB of the reference's power over that of the error, for the output that comes closest to it."""
    same = [array for array in outputs if array.shape == reference.shape]
    return max((decibels(reference, array - reference) for array in same), default=-math.inf)


def measure_prepared(folder: Path, count: int, runs: int) -> dict[str, Any]:
    """One number of threads, in a process of its own."""
    artifacts = json.loads((folder / "found.json").read_text())
    manifest = read_manifest(folder / "artifact")
    sample = dict(np.load(folder / "sample.npz"))
    library = compile.load(folder / "artifact", threads=count)
    precision = manifest.precision
    reference = np.load(folder / "reference.npz")["arr_0"]
    quality = {OURS: signal_to_noise([library.run(sample)["last_hidden_state"]], reference)}
    calls: dict[str, Callable[[], Any]] = {OURS: ignoring(library, sample)}
    if manifest.shorter_sequences:
        short = {name: array[:, :SHORT] for name, array in sample.items()}
        calls[f"{OURS}, {SHORT} tokens"] = ignoring(library, short)
    refused = {}
    with contextlib.ExitStack() as stack:
        for peer in PEERS[precision]:
            if peer.name in artifacts:
                try:
                    call, answer = stack.enter_context(served(peer, artifacts[peer.name], folder, count))
                except PeerFailed as failure:
                    refused[peer.name] = f"failed with {count} threads: {failure}"
                    continue
                outputs = [answer[key] for key in answer]
                quality[peer.name] = signal_to_noise(outputs, reference)
                if quality[peer.name] < NOISY or (precision == "float32" and not agrees(outputs, reference)):
                    error = f"{quality[peer.name]:.1f} dB with {count} threads"
                    refused[peer.name] = f"its outputs are not the model's ({error})"
                else:
                    calls[peer.name] = call
        rate, peaks = measure_peak(folder, count), []
        calls["peak"] = lambda: peaks.append(rate())
        while True:
            try:
                times = in_turns(calls, runs, f"{count} threads", settle=SETTLE)
                break
            except PeerFailed as failure:  # the others take their turns again without it
                del calls[failure.name]
                refused[failure.name] = f"failed with {count} threads: {failure}"
    del times["peak"]
    peak = median(peaks)
    rows = []
    for name, values in times.items():
        flops = manifest.flops if "tokens" not in name and precision == "float32" else None
        row = {"name": name, "threads": count, "median_ms": median(values), "min_ms": min(values)}
        row["ratio"] = paired_ratio(values, times[OURS])
        row["snr_db"] = quality.get(name)
        row["share_of_peak"] = flops and flops / (median(values) * 1e6) / (peak * count)
        rows.append(row)
    library_bytes = manifest.sizes.library_bytes
    return {"flops": manifest.flops, "bytes": library_bytes, "peak": peak, "rows": rows, "refused": refused}


def ignoring(library: compile.Library, sample: dict[str, np.ndarray]) -> Callable[[], None]:
    """A run whose outputs are dropped."""

    def call() -> None:
        library.run(sample)

    return call


def measure(args: argparse.Namespace) -> dict[str, Any]:
    if args.prepared:
        return measure_prepared(args.prepared, args.threads[0], args.runs)
    pythons = [sys.executable, *args.peer_python]
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as name, progress_console.status("model") as status:
        folder = Path(name)
        prepare(args.model, args.layers, args.precision, args.seq_len, folder)
        artifacts, absent = {}, {}
        for peer in PEERS[args.precision]:
            status.update(f"convert for {peer.name}")
            answer = convert(peer, pythons, folder)
            (absent if "absent" in answer else artifacts)[peer.name] = answer.get("absent", answer)
        (folder / "found.json").write_text(json.dumps(artifacts))
        status.stop()
        parts = []
        for count in args.threads:
            command = [sys.executable, __file__, "--prepared", name, "--threads", str(count), "--runs", str(args.runs)]
            done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, check=False)
            if done.returncode:
                sys.exit(done.returncode)
            parts.append(json.loads(done.stdout))
    peak = median(part["peak"] for part in parts)
    return {
        "machine": machine(),
        "model": args.model,
        "tokens": args.seq_len,
        "precision": args.precision,
        "library_bytes": parts[0]["bytes"],
        "runs": args.runs,
        "gflop": parts[0]["flops"] / 1e9,
        "peak_gflops_per_core": peak,
        "floor_ms": parts[0]["flops"] / peak / 1e6,
        "versions": {package: v for peer in artifacts.values() for package, v in peer["versions"].items()},
        "absent": absent | {name: reason for part in parts for name, reason in part["refused"].items()},
        "results": [row for part in parts for row in part["rows"]],
    }


def show(result: dict[str, Any]) -> None:
    console = Console()
    console.print(
        f"{result['model']}, {result['tokens']} tokens, {result['precision']}: {heading(result['machine'])}",
        soft_wrap=True,
    )
    console.print(
        f"{result['gflop']:.2f} GFLOP; peak {result['peak_gflops_per_core']:.1f} GFLOP/s a core, so no less than "
        f"{result['floor_ms']:.1f} ms on one in float32; our library {result['library_bytes'] / 1e6:.1f} MB; "
        f"medians of {result['runs']} interleaved runs",
        soft_wrap=True,
    )
    table = Table(
        "", *(Column(title, justify="right") for title in ("threads", "ms", "least", "× ours", "of peak", "dB"))
    )
    for row in result["results"]:
        share = f"{row['share_of_peak']:.0%}" if row["share_of_peak"] else ""
        snr = f"{row['snr_db']:.1f}" if row["snr_db"] is not None else ""
        figures = (f"{row['median_ms']:.1f}", f"{row['min_ms']:.1f}", f"{row['ratio']:.2f}", share, snr)
        table.add_row(row["name"], str(row["threads"]), *figures)
    console.print(table)
    console.print(", ".join(f"{package} {version}" for package, version in result["versions"].items()), soft_wrap=True)
    for name, reason in result["absent"].items():
        console.print(f"{name}: {reason}", soft_wrap=True, markup=False)


def interpreter(text: str) -> str:
    """An argument's type."""
    if not shutil.which(text):
        raise argparse.ArgumentTypeError(f"{text}: there is no such interpreter")
    return text


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--model", choices=[*core.PRESETS, *EMBEDDERS], default="mobilebert", metavar="PRESET")
    parser.add_argument("--layers", type=LAYERS, help="instead of the preset's, for a quick look")
    parser.add_argument("--precision", choices=PEERS, default="float32")
    parser.add_argument("--seq-len", type=number(int, SHORT, 512), default=SEQUENCE, help="tokens (default: 128)")
    parser.add_argument("--threads", type=THREADS, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=RUNS, default=30, help="timed turns for each number of threads (default: 30)")
    help_peers = "interpreters that have peers"
    parser.add_argument("--peer-python", type=interpreter, nargs="+", default=[], metavar="PATH", help=help_peers)
    parser.add_argument("--prepared", type=Path, help=argparse.SUPPRESS)
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
