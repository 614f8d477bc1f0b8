"""What the pipeline did, as facts other programs can read."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """A place where a rewrite could have fired and did not: `times` places share the reason, `where` is the first.

    operator: what stays in the graph for that reason and only this rewrite would have replaced; "" for none.
    """

    reason: str
    where: str
    times: int = 1
    operator: str = ""

    def __str__(self) -> str:
        return f"{self.operator} is left: {self.reason}" if self.operator else self.reason


@dataclass(frozen=True)
class LayerPrecision:
    """A linear [K, N] or a table [rows, columns]: its precision and, where that is float32, the reason.

    name: of the node, or of the table; weight: of its constant. Signal-to-noise ratios in decibels, of the weight and
    of what the layer computes by passes.int8 on the samples; None where neither was reckoned.
    """

    name: str
    kind: str
    weight: str
    shape: tuple[int, int]
    precision: str
    reason: str
    weight_snr: float | None
    output_snr: float | None


@dataclass(frozen=True)
class Outcome:
    """What one rewrite hands back: how often it fired, its own counts, its refusals, and layers given a precision.

    tolerance: where it is not the pass's own; the input model rounds that much itself, and may overflow.
    """

    applied: int = 0
    counts: dict[str, int] | None = None
    refusals: tuple[Refusal, ...] = ()
    layers: tuple[LayerPrecision, ...] = ()
    tolerance: float | None = None


@dataclass(frozen=True)
class Size:
    """A graph's size: nodes, constant elements (each stored tensor counted once) and FLOPs (2 × multiply-adds).

    flops is None where a shape is unknown; it is taken at the shapes of the verification inputs.
    """

    nodes: int
    parameters: int
    flops: int | None


@dataclass(frozen=True)
class PassReport:
    """One pass: seconds without verification; error is the largest difference over the output's range, if verified."""

    name: str
    phase: str
    applied: int
    counts: dict[str, int]
    refusals: tuple[Refusal, ...]
    nodes_before: int
    nodes_after: int
    seconds: float
    error: float | None
    layers: tuple[LayerPrecision, ...] = ()


@dataclass(frozen=True)
class Report:
    """The whole run. error compares the result with the input model; tolerance is the bound every pass had to meet.

    int8_snr: decibels, of the outputs with rows rounded as int8 kernels do, to those of the input model; the least of
    the outputs'; None where nothing is int8. texts: calibration texts on which all of int8 was sampled; 0 for random
    inputs.
    """

    before: Size
    after: Size
    passes: tuple[PassReport, ...]
    verified: bool
    tolerance: float
    error: float | None
    seconds: float
    int8_snr: float | None = None
    texts: int = 0

    def noisiest(self) -> list[LayerPrecision]:
        """The int8 layers, those of least output_snr first."""
        layers = [one for entry in self.passes for one in entry.layers if one.precision == "int8"]
        return sorted((one for one in layers if one.output_snr is not None), key=lambda one: one.output_snr or 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, sort_keys=False) + "\n"


class Refusals:
    """Collects refusals; the same reason is kept once, with the number of places."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Refusal] = {}

    def add(self, reason: str, where: str, operator: str = "") -> None:
        found = self._found.get((reason, operator), Refusal(reason, where, 0, operator))
        self._found[reason, operator] = replace(found, times=found.times + 1)

    def all(self) -> tuple[Refusal, ...]:
        return tuple(self._found.values())
