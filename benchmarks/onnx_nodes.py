"""How much of ONNX's own node suite compiles: each case is computed right, or refused in one line, in time.

    python benchmarks/onnx_nodes.py [--only softmax] [--limit 20] [--json]

The cases are those of the onnx package; the outputs stored with a case are the referee, within the case's own bounds.
A compiled library has fixed shapes, so vectors of integers after the first input (axes, shapes, repeats), which
exports of models have as constants, are made constants. Every case runs in a process of its own, which may crash.
"""

import argparse
import multiprocessing
import re
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from command import measure_and_show, new_parser, number

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

Case = Any  # onnx.backend.test.case.test_case.TestCase
ROUNDING = {"float16": 5e-3, "bfloat16": 4e-2}  # of outputs that the library has in float32
FORK = multiprocessing.get_context("fork")


def suite(only: str) -> Iterator[Case]:
    """The cases whose name has `only` in it."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, of cases about overflow
        cases = collect_testcases(None)
    return (case for case in cases if only in case.name)


def plain(value: Any) -> Any:
    """An array, also of a number, and of what a case keeps as a tensor of ONNX's."""
    if isinstance(value, np.generic):
        return np.asarray(value)
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def with_constants(model: onnx.ModelProto, inputs: list[Any]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The model with constants in place of inputs that shapes depend on or that hold nothing, and what is left to feed.

    Those are vectors of integers after the first input, and where that leaves a shape open all vectors and numbers.
    """
    values = [plain(given) for given in inputs]
    empty = [isinstance(value, np.ndarray) and not value.size for value in values]
    vectors = [isinstance(value, np.ndarray) and value.ndim <= 1 and value.dtype.kind in "biuf" for value in values]
    integers = [vector and index > 0 and values[index].dtype.kind == "i" for index, vector in enumerate(vectors)]
    fixed, feeds = _with_constants(model, values, [a or b for a, b in zip(empty, integers, strict=True)])
    return (fixed, feeds) if _is_static(fixed) else _with_constants(model, values, vectors)


def _with_constants(
    model: onnx.ModelProto, values: list[Any], constant: list[bool]
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    fixed, feeds = onnx.ModelProto(), {}
    fixed.CopyFrom(model)
    del fixed.graph.input[:]
    for info, value, is_constant in zip(model.graph.input, values, constant, strict=True):
        if is_constant:
            fixed.graph.initializer.append(onnx.numpy_helper.from_array(value, info.name))
        else:
            fixed.graph.input.append(info)
            feeds[info.name] = value
    return fixed, feeds


def _is_static(model: onnx.ModelProto) -> bool:
    """Whether the inputs' shapes and the constants say how large every result is."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    kinds = [value.type.tensor_type for value in onnx.shape_inference.infer_shapes(bare, data_prop=True).graph.output]
    return all(kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim) for kind in kinds)


def attempt(case: Case) -> str:
    """ "right", "refused: …" or what is wrong."""
    import compile
    from pocketbert.errors import PocketBERTError

    for inputs, outputs in case.data_sets:
        model, feeds = with_constants(case.model, inputs)
        with tempfile.TemporaryDirectory(prefix="pocketbert-nodes-") as folder:
            path = Path(folder) / "case.onnx"
            onnx.save(model, path)
            try:
                built = compile.build(path, target="host", out=Path(folder) / "artifact")
                with compile.load(built.folder, threads=1) as library:
                    inputs = library.manifest.inputs
                    got = library.run({e.name: np.asarray(feeds[e.name]).astype(e.dtype) for e in inputs})
            except PocketBERTError as error:
                return f"refused: {error}" if "\n" not in str(error) else f"several lines: {error}"
        for info, want in zip(model.graph.output, map(plain, outputs), strict=True):
            found = got[info.name]
            if found.shape != want.shape:
                return f"wrong: {info.name} has shape {list(found.shape)} instead of {list(want.shape)}"
            kind, rtol = want.dtype, max(case.rtol, ROUNDING.get(str(want.dtype), 0))
            if kind.kind in "iub" and not np.array_equal(found, want.astype(found.dtype)):
                return f"wrong: {info.name} is {found.ravel()[:4]} … instead of {want.ravel()[:4]} …"
            if kind.kind not in "iub" and not np.allclose(
                found, want.astype(np.float32), rtol, max(case.atol, rtol / 100, 1e-6), equal_nan=True
            ):
                return f"wrong: {info.name} is off by {np.abs(found - want.astype(np.float32)).max():.1e}"
    return "right"


def verdict(case: Case, limit: float) -> str:
    """Of a process of its own."""
    pipe, other = FORK.Pipe()

    def work() -> None:
        try:
            other.send(attempt(case))
        except BaseException as error:
            other.send(f"traceback: {type(error).__name__}: {error}")

    process = FORK.Process(target=work, daemon=True)
    process.start()
    other.close()
    try:
        if not pipe.poll(limit):
            return f"hangs: no verdict in {limit:.0f} s"
        return str(pipe.recv())
    except EOFError:
        return "crashed"
    finally:
        process.kill()
        process.join()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    import_module("compile.pipeline")  # every case's process has it

    result: dict[str, str] = {}
    for case in islice(suite(args.only), 0, None, args.every):
        result[case.name] = verdict(case, args.limit)
        if not result[case.name].startswith(("right", "refused")) or args.verbose:
            print(f"{case.name}: {result[case.name]}", file=sys.stderr, flush=True)
    return result


def show(result: dict[str, Any]) -> None:
    counts = Counter(text.partition(":")[0] for text in result.values())
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, text in result.items():
        if text.startswith("refused"):
            reasons[re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "…", text.removeprefix("refused: "))].append(name)
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1]))[:40]:
        print(f"{len(names):5}  {reason[:150]}  ({names[0]})")
    total = sum(counts.values())
    print(", ".join(f"{kind} {count} ({count / total:.0%})" for kind, count in counts.most_common()))


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--every", type=number(int, 1, 1000), default=1, metavar="N", help="one case of N (default: 1)")
    parser.add_argument("--limit", type=number(float, 1, 600), default=30.0, help="seconds for a case (default: 30)")
    parser.add_argument("--verbose", action="store_true", help="every case on standard error")
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
