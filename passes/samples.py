"""What values are at run time: some rows of the activations in ONNX Runtime, on calibration or on random inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from passes import int8
from passes.inputs import random_inputs
from passes.options import Options
from passes.spell_rounding import spell_rounding
from passes.verify import SEEDS, open_session

ROWS = 1024  # kept of each value, spread evenly over what the samples give


def sample_inputs(model: ir.Model, options: Options) -> Sequence[Mapping[str, np.ndarray]]:
    """The samples that the caller brought, else random inputs."""
    if options.calibration:
        return options.calibration
    proto = ir.to_proto(model)
    return [random_inputs(proto, seed) for seed in SEEDS]


def activations(model: ir.Model, values: Iterable[ir.Value], options: Options) -> dict[str, np.ndarray]:
    """Rows [rows, channels] of each value, by name; without those of padding, as far as a mask says which they are."""
    names = list(dict.fromkeys(f"{value.name}" for value in values))
    if not names:
        return {}
    proto = ir.to_proto(model)
    output_names = {output.name for output in proto.graph.output}
    for name in names:
        if name not in output_names:
            proto.graph.output.add().name = name
    session = open_session(proto)
    samples = sample_inputs(model, options)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    share = -(-ROWS // len(samples))
    for feeds in samples:
        for name, result in zip(names, session.run(names, dict(feeds)), strict=True):
            flat = result.reshape(-1, result.shape[-1])
            flat = flat[_real(feeds, len(flat))]
            rows[name].append(flat[:: -(-len(flat) // share)])
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def _real(feeds: Mapping[str, np.ndarray], rows: int) -> np.ndarray | slice:
    """Which rows are of tokens."""
    masks = (mask.reshape(-1) > 0 for name, mask in feeds.items() if "mask" in name and mask.size == rows)
    return next((mask for mask in masks if mask.any()), slice(None))


def held_out(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Three of four rows to choose something by, and the others to see what it is worth."""
    other = np.arange(len(rows)) % 4 == 3
    return rows[~other], rows[other] if other.any() else rows


def int8_snr(model: onnx.ModelProto, result: onnx.ModelProto, options: Options) -> float:
    """The outputs' signal-to-noise ratio in decibels, the least of all: `result` by int8 kernels against `model`."""
    samples = options.calibration or [random_inputs(model, seed) for seed in SEEDS]
    sessions = open_session(model), open_session(spell_rounding(result))
    exact, rounded = ([session.run(None, dict(feeds)) for feeds in samples] for session in sessions)
    pairs = [[np.concatenate([o.ravel() for o in output]) for output in zip(*runs, strict=True)]
             for runs in (exact, rounded)]  # fmt: skip
    return min(int8.decibels(y, y - z) for y, z in zip(*pairs, strict=True))
