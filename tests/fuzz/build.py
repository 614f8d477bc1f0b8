"""Fuzz `compile.build` with ONNX graphs that nobody wrote: each is computed right, or refused in one line in time.

    python tests/fuzz/build.py [--graphs 2000] [--files 2000] [--seed 0] [--seconds 600] [--keep FOLDER]

Graphs are random operators on random shapes; files are those of small encoders with bytes changed, cut or repeated.
ONNX Runtime is the referee, or ONNX's own reference where the two differ, as they do on what is not a number. Where
the referee itself moves as far once its last bits do, nobody can tell, and the graph is counted as ill-conditioned.
A build runs in a process of its own, which may crash, and is killed once it has worked for LIMIT seconds; what goes
wrong is printed with the file that does it, which --keep keeps.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.graphs import Builder  # noqa: E402

TOKENS, LIMIT, BOUND = 4, 10.0, 1e-4
BOUND_OF = {onnx.TensorProto.FLOAT16: 1e-3, onnx.TensorProto.BFLOAT16: 8e-3}
UNARY = (
    *("Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity", "IsNaN", "LeakyRelu"),
    *("Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus"),
    *("Softsign", "Sqrt", "Tanh", "ThresholdedRelu", "Gelu"),
)
BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Equal", "Greater", "Less", "And", "PRelu", "MatMul", "Mod")
REDUCE = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceLogSumExp")
OTHERS = (
    *("Transpose", "Reshape", "Concat", "Split", "Slice", "Gather", "Squeeze", "Unsqueeze", "Expand", "Cast", "Where"),
    *(
        "Softmax",
        "LogSoftmax",
        "LayerNormalization",
        "Gemm",
        "Clip",
        "CumSum",
        "Tile",
        "Pad",
        "ArgMax",
        "TopK",
        "Trilu",
    ),
    *(
        "Trilu",
        "linear",
        "norm",
        "attention",
        "Einsum",
        "Flatten",
        "Shape",
        "ConstantOfShape",
        "OneHot",
        "GatherElements",
    ),
)


def random_graph(rng: np.random.Generator) -> onnx.ModelProto:
    """One to a dozen operators on tensors of few elements; what ONNX's own shape inference refuses is drawn again."""
    while True:
        try:
            return _draw(rng)
        except Exception:  # an operator that does not fit its operands
            continue


def _draw(rng: np.random.Generator) -> onnx.ModelProto:
    b = Builder(int(rng.integers(1 << 30)))
    shape = [[1, TOKENS, 8], [TOKENS, 8], [1, TOKENS], [2, TOKENS, 6], [3], [1, 2, TOKENS, 4]][rng.integers(6)]
    values = [b.input("x", shape)]
    if rng.random() < 0.3:
        values.append(b("Gather", b.normal(16, 8), b.input("ids", [1, TOKENS], 7)))
    if rng.random() < 0.2:
        values.append(b.input("mask", [1, TOKENS], 7))

    def value() -> str:
        """Mostly the last one made."""
        return values[min(len(values) - 1, int(rng.integers(2 * len(values))))]

    for _ in range(rng.integers(1, 12)):
        kind = str(rng.choice(["unary", "binary", "reduce", "other"], p=[0.25, 0.3, 0.1, 0.35]))
        made = _operator(b, rng, kind, value)
        values += made if isinstance(made, list) else [made]
        b.model(values[-1])  # raises where shapes or types do not fit
    outputs = [values[-1], *(v for v in values[1:-1] if rng.random() < 0.1)]
    model = b.model(*dict.fromkeys(outputs))
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model, strict_mode=True), full_check=True)
    return model


def _operator(b: Builder, rng: np.random.Generator, kind: str, value: Callable[[], str]) -> Any:
    x, axis = value(), int(rng.integers(-3, 4))
    axes = b.const(np.array([axis]))
    if kind == "unary":
        return b(str(rng.choice(UNARY)), x)
    if kind == "binary":
        constant = [b.normal(8), b.normal(1), b.normal(TOKENS, 1), b.const(float(rng.normal())), b.normal(8, 8)]
        other = value() if rng.random() < 0.5 else constant[rng.integers(len(constant))]
        op = str(rng.choice(BINARY))
        return b(op, *((x, other) if rng.random() < 0.7 else (other, x)), **({"fmod": 1} if op == "Mod" else {}))
    if kind == "reduce":
        return b(str(rng.choice(REDUCE)), x, axes, keepdims=int(rng.integers(2)))
    op, flag = str(rng.choice(OTHERS)), int(rng.integers(2))

    def vector(low: int, high: int, most: int = 3) -> str:
        return b.const(rng.integers(low, high, rng.integers(1, most + 1)))

    def one(values: Any) -> Any:
        return values[rng.integers(len(values))]

    make: dict[str, Callable[[], Any]] = {
        "Transpose": lambda: b(op, x, perm=[int(p) for p in rng.permutation(rng.integers(2, 5))]),
        "Reshape": lambda: b(op, x, b.const(np.array(one([[-1], [0, -1], [-1, 8], [1, -1, 4], [2, -1]])))),
        "Concat": lambda: b(op, x, value(), axis=axis),
        "Split": lambda: b(op, x, axis=axis, num_outputs=2, outputs=2),
        "Slice": lambda: b(op, x, *(b.const(rng.integers(*ends, 1)) for ends in ((-5, 5), (-5, 9))), axes),
        "Gather": lambda: b(op, x, b.const(rng.integers(-2, 2, rng.integers(0, 3))), axis=axis),
        "Squeeze": lambda: b(op, x, axes),
        "Unsqueeze": lambda: b(op, x, axes),
        "Expand": lambda: b(op, x, vector(1, 5)),
        "Cast": lambda: b(op, x, to=one([1, 6, 7, 9, 10, 11])),
        "Where": lambda: b(op, b("Greater", x, b.const(0.0)), x, value()),
        "Softmax": lambda: b(op, x, axis=axis),
        "LogSoftmax": lambda: b(op, x, axis=axis),
        "LayerNormalization": lambda: b(op, x, b.normal(8), b.normal(8), axis=one([-1, 2, 1])),
        "Gemm": lambda: b(op, x, b.normal(8, 8), b.normal(8), transB=flag, alpha=one([1.0, 0.5]), beta=one([1.0, 2.0])),
        "Clip": lambda: b(op, x, b.const(-1.0), b.const(1.0)),
        "CumSum": lambda: b(op, x, b.const(np.array(axis)), exclusive=flag, reverse=one([0, 1])),
        "Tile": lambda: b(op, x, vector(1, 3)),
        "Pad": lambda: b(op, x, b.const(rng.integers(-1, 3, 2 * rng.integers(1, 4))), mode=one(["constant", "edge"])),
        "ArgMax": lambda: b(op, x, axis=axis, keepdims=flag),
        "TopK": lambda: b(op, x, vector(1, 5, 1), axis=axis, outputs=2),
        "Trilu": lambda: b(op, x, b.const(np.array(axis)), upper=flag),
        "linear": lambda: b.linear(x, 8, 8, gemm=bool(flag)),
        "norm": lambda: b.norm(x, 8),
        "attention": lambda: b.attention(x, TOKENS, 2, 4, scale=one(["scores", "both", "q"])),
        "Einsum": lambda: b(op, x, b.normal(8, 8), equation=one(["bth,hk->btk", "th,hk->tk", "bth,hk->bkt"])),
        "Flatten": lambda: b(op, x, axis=axis),
        "Shape": lambda: b("Cast", b(op, x), to=1),
        "ConstantOfShape": lambda: b("Add", x, b(op, b("Shape", x))),
        "OneHot": lambda: b(op, b("Cast", x, to=7), b.const(np.array(8)), b.const(np.array([0.0, 1.0])), axis=axis),
        "GatherElements": lambda: b(op, x, b.const(np.zeros((1, 1, 1), np.int64)), axis=axis),
    }
    return make[op]()


def mutated(rng: np.random.Generator, whole: bytes) -> bytes:
    """`whole` with bytes changed, a piece cut out, repeated or moved, or its end missing."""
    data = bytearray(whole)
    for _ in range(rng.integers(1, 6)):
        begin = int(rng.integers(len(data)))
        length = int(min(len(data) - begin, 1 << rng.integers(0, 10)))
        how = int(rng.integers(5))
        if how == 0:
            data[begin] = int(rng.integers(256))
        elif how == 1:
            data[begin] ^= 1 << int(rng.integers(8))
        elif how == 2:
            del data[begin : begin + length]
        elif how == 3:
            data[begin:begin] = data[begin : begin + length]
        elif rng.random() < 0.2:
            del data[begin:]
        data = data or bytearray(b"\0")
    return bytes(data)


def encoders() -> list[bytes]:
    """What files are made from: attention, norms, embeddings and a head, with weights of a few bytes."""
    made = []
    for seed in range(3):
        b = Builder(seed)
        x = b("Add", b("Gather", b.normal(16, 8), b.input("ids", [1, TOKENS], 7)), b.normal(1, TOKENS, 8))
        mask = b("Unsqueeze", b("Cast", b.input("mask", [1, TOKENS], 7), to=1), b.const(np.array([1, 2])))
        mask = b("Mul", b("Sub", b.const(1.0), mask), b.const(-1e4))
        x = b.norm(b("Add", b.attention(x, TOKENS, 2, 4, mask), x), 8)
        x = b(
            "LayerNormalization", b("Add", b.linear(b("Relu", b.linear(x, 8, 16)), 16, 8), x), b.normal(8), b.normal(8)
        )
        made.append(
            b.model(x, b("Tanh", b.linear(b("Gather", x, b.const(np.array(0)), axis=1), 8, 8))).SerializeToString()
        )
    return made


def attempt(path: Path, work: Path) -> str:
    """ "right", "ill-conditioned" where last bits decide, "refused: …", or what is wrong."""
    import compile
    from compile.running.samples import random_samples
    from compile.running.verify import reference
    from pocketbert.errors import PocketBERTError
    from pocketbert.numerics import relative_error

    try:
        built = compile.build(path, target="host", seq_len=TOKENS, out=work / "artifact")
    except PocketBERTError as error:
        return f"refused: {error}" if "\n" not in str(error) else f"several lines: {error}"
    model = onnx.load(path)
    samples = random_samples(built.manifest, 2)
    try:
        wanted = reference(model, samples)
    except Exception as error:
        return f"refused: by the referee: {str(error).splitlines()[0]}"  # nothing to compare with
    kinds = {o.type.tensor_type.elem_type for o in model.graph.output}
    kinds |= {a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to"}
    bound = max(BOUND_OF.get(kind, BOUND) for kind in kinds)  # halves are computed in float32, and the referee rounds
    with compile.load(built.folder, threads=2) as library:
        for sample, want in zip(samples, wanted, strict=True):
            got = library.run(sample)
            error = relative_error(got, want)
            if error <= bound or relative_error(got, second_opinion(model, sample)) <= bound:
                continue
            moved = max(relative_error(reference(noisy(model, seed), [sample])[0], want) for seed in range(5))
            if not error <= 10 * moved:
                return f"wrong: error {error:.1e} of the range, {moved:.1e} with noise in the referee"
            return "ill-conditioned"
    return "right"


def noisy(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The model with every float that a node makes off by a few last bits: what that moves, no referee knows better."""
    rng, changed = np.random.default_rng(seed), onnx.shape_inference.infer_shapes(model)
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*changed.graph.value_info, *changed.graph.output)}
    nodes = list(changed.graph.node)
    del changed.graph.node[:]
    for node in nodes:
        floats = [name for name in node.output if kinds.get(name) == onnx.TensorProto.FLOAT]
        node.output[:] = [f"{name}.exact" if name in floats else name for name in node.output]
        changed.graph.node.append(node)
        for name in floats:
            factor = np.array(1 + 3e-7 * rng.standard_normal(), np.float32)
            changed.graph.initializer.append(onnx.numpy_helper.from_array(factor, f"{name}.noise"))
            changed.graph.node.append(onnx.helper.make_node("Mul", [f"{name}.exact", f"{name}.noise"], [name]))
    return changed


def second_opinion(model: onnx.ModelProto, sample: Any) -> dict[str, Any]:
    names = [output.name for output in model.graph.output]
    return dict(zip(names, ReferenceEvaluator(model).run(names, sample), strict=True))


def work(pipe: Connection) -> None:
    """The process that builds: a path in, a verdict out."""
    import traceback

    while path := pipe.recv():
        with tempfile.TemporaryDirectory(prefix="pocketbert-fuzz-") as folder:
            try:
                pipe.send(attempt(Path(path), Path(folder)))
            except BaseException:
                pipe.send(f"traceback: {traceback.format_exc()}")


class Builds:
    """A process that builds, and another one where it hangs or crashes."""

    def __init__(self) -> None:
        self.process: Any = None

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def verdict(self, path: Path) -> str:
        if self.process is None:
            self.start()
            self.pipe.send(str(WARM_UP))  # imports tvm and the rest, which is not timed
            self.pipe.recv()
        self.pipe.send(str(path))
        begun = self.worked()
        try:
            while not self.pipe.poll(0.2):
                if self.worked() - begun > LIMIT:
                    return self.end(f"worked for {LIMIT:.0f} s")
            return self.pipe.recv()
        except (EOFError, FileNotFoundError):
            return self.end("crashed")

    def worked(self) -> float:
        """Seconds of processor time, its programs' included: another process may keep it waiting."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")

    def end(self, verdict: str) -> str:
        self.process.kill()
        self.process.join()
        self.process = None
        return verdict


WARM_UP = Path(tempfile.gettempdir()) / "pocketbert-fuzz-warm-up.onnx"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=2000, help="random graphs (default: 2000)")
    parser.add_argument("--files", type=int, default=2000, help="mutated files (default: 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--keep", type=Path, help="keep the files that go wrong")
    args = parser.parse_args()
    rng, counts, begun = np.random.default_rng(args.seed), Counter[str](), time.monotonic()
    whole = encoders()
    WARM_UP.write_bytes(whole[0])
    builds, bad = Builds(), 0
    todo = [True] * args.graphs + [False] * args.files
    with tempfile.TemporaryDirectory(prefix="pocketbert-fuzz-") as folder:
        for number, is_graph in enumerate(todo):
            if time.monotonic() - begun > args.seconds:
                break
            path = Path(folder) / f"{number}.onnx"
            data = random_graph(rng).SerializeToString() if is_graph else mutated(rng, whole[number % len(whole)])
            path.write_bytes(data)
            verdict = builds.verdict(path)
            kind = verdict.split(":")[0]
            counts[("graph " if is_graph else "file ") + kind] += 1
            if kind not in ("right", "refused", "ill-conditioned"):
                bad += 1
                print(f"{path.name}: {verdict}", flush=True)
                if args.keep:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / path.name).write_bytes(data)
            path.unlink()
    print(", ".join(f"{kind}: {count}" for kind, count in sorted(counts.items())))
    print(f"{sum(counts.values())} builds in {time.monotonic() - begun:.0f} s, {bad} wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
