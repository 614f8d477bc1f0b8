"""The referee: the model before and after a pass must agree in ONNX Runtime.

Each model runs once on the same random valid inputs (token ids in their table's range, masks as prefixes with
padding), without ONNX Runtime's own graph optimisations, so that the referee shares no rewrite with the passes.
Two outputs agree when their `relative_error` is at most TOLERANCE.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from passes.errors import BrokenPassError, PassError
from passes.in_float32 import has_other_floats
from passes.inputs import random_inputs
from pocketbert.errors import first_line
from pocketbert.numerics import TOLERANCE, Outputs, relative_error

SEEDS = (0, 1)
WORSE_THAN_RANDOM = 4.0  # times as much as rounding at random: a pass that is broken, not one that rounds


class Referee:
    """Runs models on inputs chosen once, from the model before any pass."""

    def __init__(self, model: onnx.ModelProto, seeds: tuple[int, ...] = SEEDS) -> None:
        self.feeds = [
            {
                name: a if a.dtype.isbuiltin == 1 else a.astype(np.float32)
                for name, a in random_inputs(model, seed).items()
            }
            for seed in seeds
        ]
        self.model = model  # the previous stage
        self.outputs: list[Outputs] | None = None  # of a type that ONNX Runtime cannot compute in, until it is another
        try:
            self.outputs = run_model(model, self.feeds)
        except Exception as error:
            if has_other_floats(model):
                return
            raise _cannot_run(error) from error
        self.first = self.outputs

    def check(
        self,
        model: onnx.ModelProto,
        name: str,
        tolerance: float = TOLERANCE,
        overflows: bool = False,
        rounds: bool = False,
    ) -> float | None:
        """Compare with the previous stage; return the error over the range, or raise BrokenPassError.

        A model that equals the previous stage is not run again. None: the previous one could not be run.
        overflows: what was not finite may be anything now. rounds: the pass rounds weights, so that outputs may change
        by more than the tolerance where rounding them at random does too: scores that cancel almost to nothing.
        """
        if model == self.model:
            return 0.0
        try:
            outputs = run_model(model, self.feeds)
        except Exception as error:
            if self.outputs is None:  # nor could it before
                raise _cannot_run(error) from error
            raise BrokenPassError(name, f"broke the model: ONNX Runtime says {first_line(error)}") from error
        before = _finite(self.outputs, outputs) if overflows else self.outputs
        if overflows or self.outputs is None:
            self.first = self.outputs = outputs
            self.model = model
        if before is None:
            return None
        try:
            difference = compare(before, outputs)
        except ValueError as mismatch:
            raise BrokenPassError(name, f"broke the model: {mismatch}") from mismatch
        if rounds and tolerance < difference < np.inf:
            tolerance = max(tolerance, WORSE_THAN_RANDOM * self._rounded_at_random())
        if not difference <= tolerance:
            change = f"{difference:.1e} of their range (allowed: {tolerance:.0e})"
            if difference == np.inf:
                change = "values that are no longer finite, or no longer NaN or infinite"
            raise BrokenPassError(name, f"changed the outputs by {change}")
        self.outputs, self.model = outputs, model
        return difference

    def _rounded_at_random(self) -> float:
        """How much the previous stage's outputs change where each matrix is rounded to int8, up or down by chance."""
        assert self.outputs is not None
        model, rng = onnx.ModelProto(), np.random.default_rng(0)
        model.CopyFrom(self.model)
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.ndim == 2 and values.dtype == np.float32:
                step = np.abs(values).max(axis=0) / 127
                noisy = values + step * rng.uniform(-0.5, 0.5, values.shape)
                tensor.CopyFrom(numpy_helper.from_array(noisy.astype(np.float32), tensor.name))
        return compare(self.outputs, run_model(model, self.feeds))

    def total_error(self) -> float | None:
        """The last checked model against the first one that could be run, in float32."""
        return compare(self.first, self.outputs) if self.first is not None and self.outputs is not None else None


def _cannot_run(error: Exception) -> PassError:
    reason = f"ONNX Runtime cannot run the input model ({first_line(error)})"
    return PassError(f"{reason}; repair the export, or skip the comparison with --no-verify")


def _finite(before: list[Outputs] | None, after: list[Outputs]) -> list[Outputs] | None:
    """`before` with what is not finite as it is `after`; None where nothing of an output is finite."""
    if before is None or any(not np.isfinite(value).any() for outputs in before for value in outputs.values()):
        return None
    return [
        {name: np.where(np.isfinite(value), value, new[name]) for name, value in old.items()}
        for old, new in zip(before, after, strict=True)
    ]


def open_session(model: onnx.ModelProto) -> ort.InferenceSession:
    """A session without graph optimisations, prepacked weights or worker threads that spin."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_model(model: onnx.ModelProto, feeds: Iterable[Mapping[str, np.ndarray]]) -> list[Outputs]:
    """ONNX Runtime's outputs, by name, for each of `feeds`."""
    session = open_session(model)
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, dict(feed)), strict=True)) for feed in feeds]


def compare(before: Sequence[Outputs], after: Sequence[Outputs]) -> float:
    """The largest `relative_error` of all seeds; ValueError where names, shapes or types of the outputs changed."""
    for first, second in zip(before, after, strict=True):
        if list(first) != list(second):
            raise ValueError(f"outputs {list(first)} became {list(second)}")
        for name, expected in first.items():
            if expected.dtype != second[name].dtype:
                raise ValueError(f"output {name!r} was {expected.dtype} and became {second[name].dtype}")
    return max((relative_error(second, first) for first, second in zip(before, after, strict=True)), default=0.0)
