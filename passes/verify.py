"""The referee: the model before and after a pass must agree in ONNX Runtime.

Each model runs once on the same random valid inputs (token ids in their table's range, masks as prefixes with
padding), without ONNX Runtime's own graph optimisations, so that the referee shares no rewrite with the passes.
Two outputs agree when their largest absolute difference is at most TOLERANCE of the first one's range and they agree on
which values are not finite. The range is the largest − the smallest finite value, or the largest magnitude where that
is more: two scores that happen to be almost equal leave no range, but each of them is rounded as a number of its size.
"""

import numpy as np
import onnx
import onnxruntime as ort

from passes.errors import PassError
from passes.inputs import random_inputs
from pocketbert.errors import first_line

TOLERANCE = 1e-4
SEEDS = (0, 1)

Outputs = list[dict[str, np.ndarray]]  # one dict of named outputs per seed


class Referee:
    """Runs models on inputs chosen once, from the model before any pass."""

    def __init__(self, model: onnx.ModelProto, seeds: tuple[int, ...] = SEEDS) -> None:
        self.feeds = [random_inputs(model, seed) for seed in seeds]
        self.data = model.SerializeToString()
        try:
            self.outputs = self._run(self.data)
        except Exception as error:
            raise PassError(
                f"ONNX Runtime cannot run the input model ({first_line(error)}); repair the export, or skip the "
                "comparison with --no-verify"
            ) from error
        self.first = self.outputs

    def check(self, model: onnx.ModelProto, name: str, tolerance: float = TOLERANCE) -> float:
        """Compare with the previous stage; return the error over the range, or raise PassError naming the pass.

        A model with the bytes of the previous stage is not run again.
        """
        data = model.SerializeToString()
        if data == self.data:
            return 0.0
        try:
            outputs = self._run(data)
        except Exception as error:
            raise PassError(
                f"pass {name!r} broke the model: ONNX Runtime says {first_line(error)}; --skip {name}"
            ) from error
        try:
            difference = compare(self.outputs, outputs)
        except ValueError as mismatch:
            raise PassError(f"pass {name!r} broke the model: {mismatch}; --skip {name}") from mismatch
        if not difference <= tolerance:
            change = f"{difference:.1e} of their range (allowed: {tolerance:.0e})"
            raise PassError(f"pass {name!r} changed the outputs by {change}; --skip {name}")
        self.outputs, self.data = outputs, data
        return difference

    def total_error(self) -> float:
        """The last checked model against the first one."""
        return compare(self.first, self.outputs)

    def _run(self, data: bytes) -> Outputs:
        session = open_session(data)
        names = [output.name for output in session.get_outputs()]
        return [dict(zip(names, session.run(names, feeds), strict=True)) for feeds in self.feeds]


def open_session(model: onnx.ModelProto | bytes) -> ort.InferenceSession:
    """A session without graph optimisations, prepacked weights or worker threads that spin."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def compare(before: Outputs, after: Outputs) -> float:
    """Largest difference over the range of `before`, over all outputs; ValueError where they cannot be compared."""
    worst = 0.0
    for first, second in zip(before, after, strict=True):
        if list(first) != list(second):
            raise ValueError(f"outputs {list(first)} became {list(second)}")
        for name, expected in first.items():
            worst = max(worst, _difference(name, expected, second[name]))
    return worst


def _difference(name: str, expected: np.ndarray, actual: np.ndarray) -> float:
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        raise ValueError(
            f"output {name!r} was {expected.dtype}{expected.shape} and became {actual.dtype}{actual.shape}"
        )
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], actual[~finite], equal_nan=True):
        raise ValueError(f"output {name!r} differs in its infinities or NaNs")
    if not finite.any():
        return 0.0
    if not np.isfinite(actual[finite]).all():
        raise ValueError(f"output {name!r} is no longer finite")
    span = max(1e-30, float(np.ptp(expected[finite])), float(np.abs(expected[finite]).max()))
    return float(np.abs(expected[finite] - actual[finite]).max()) / span
