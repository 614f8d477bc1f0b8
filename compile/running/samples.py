"""Random inputs for an artifact, and the bytes in which a program on a device takes and gives them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.artifact.manifest import LibraryFacts
from pocketbert.numerics import random_input

Sample = dict[str, NDArray[Any]]


def random_samples(facts: LibraryFacts, count: int, seed: int = 0) -> list[Sample]:
    """Valid random inputs: ids inside their tables, masks that are ones and then zeros, of random lengths."""
    rng = np.random.default_rng(seed)
    return [{e.name: random_input(rng, e.name, e.shape, e.dtype, e.range) for e in facts.inputs} for _ in range(count)]


def full_sample(facts: LibraryFacts, tokens: int | None = None) -> Sample:
    """Random inputs in which no token is padding; of `tokens`, where the library takes fewer than its shapes say."""
    (sample,) = random_samples(facts, 1)
    for entry in facts.inputs:
        if not entry.range and entry.dtype != "float32":
            sample[entry.name][...] = 1
    return shortened(facts, sample, tokens) if tokens else sample


def shortened(facts: LibraryFacts, sample: Sample, tokens: int) -> Sample:
    """The first `tokens` of a sample."""
    axes = {entry.name: entry.token_axis for entry in facts.inputs}
    return {
        name: value if (axis := axes[name]) is None else value.take(range(tokens), axis=axis)
        for name, value in sample.items()
    }


def shaped_for(facts: LibraryFacts, sample: Sample) -> LibraryFacts:
    """`facts` with the shapes that in- and outputs have for a sample of fewer tokens."""
    lengths = [sample[e.name].shape[e.token_axis] for e in facts.inputs if e.token_axis is not None]
    if not lengths:
        return facts
    inputs, outputs = (
        tuple(replace(entry, shape=entry.shape_for(lengths[0])) for entry in entries)
        for entries in (facts.inputs, facts.outputs)
    )
    return replace(facts, inputs=inputs, outputs=outputs)


def input_bytes(facts: LibraryFacts, sample: Sample) -> bytes:
    """What runtime/tools/runner.c reads: a sample's inputs in the model's order."""
    return b"".join(np.ascontiguousarray(sample[entry.name]).tobytes() for entry in facts.inputs)


def read_outputs(facts: LibraryFacts, data: bytes) -> Sample:
    """What runtime/tools/runner.c wrote: a sample's outputs in the model's order."""
    outputs, offset = {}, 0
    for entry in facts.outputs:
        array = np.frombuffer(data, entry.dtype, math.prod(entry.shape), offset).reshape(entry.shape)
        outputs[entry.name], offset = array, offset + array.nbytes
    return outputs
