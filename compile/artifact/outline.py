"""What the manifest says of every kernel, call and tensor: enough to draw the model and to read a profile.

A library knows its calls by number only; their layers, kernels, FLOPs and bytes are here.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from compile.planning.plan import Plan
from compile.program import Call, Rows, Value, Whole


def kernel_entries(plan: Plan) -> list[dict[str, Any]]:
    """Every kernel with how often it is called, its schedule and tile, and the FLOPs (2 × multiply-adds) it does."""
    calls = Counter(c.kernel.name for c in plan.program.calls)
    flops: Counter[str] = Counter()
    shared = {call.kernel.name for call in plan.in_rows}
    for call in plan.program.calls:
        flops[call.kernel.name] += call.flops
    entries = []
    for name, kernel in plan.program.kernels.items():
        entries.append(
            {
                "name": name,
                "description": kernel.describe(),
                "calls": calls[name],
                "schedule": kernel.family,
                "tile": kernel.tile_name,
                "rows_shared_by_threads": name in shared,
                "flops": flops[name],
            }
        )
    return entries


def layers(plan: Plan) -> list[str]:
    """For each call the part of the model it belongs to: "embeddings", "layer 1" …, "head"; "model" without attention.

    A layer is an attention, what makes its queries, keys and values of the stream between layers, and all that follows
    up to the next layer's. The stream, a residual sum and its norm, belongs to the layer that writes it.
    """
    calls = plan.program.calls
    attentions = [index for index, call in enumerate(calls) if call.kernel.family == "attention"]
    if not attentions:
        return ["model"] * len(calls)
    makers = {value: index for index, call in enumerate(calls) for value in call.outputs}
    layer_of: dict[int, int] = {}
    for number, attention in enumerate(attentions):
        layer_of[attention], reached = number, [attention]
        while reached:
            for value, _ in calls[reached.pop()].reads():
                maker = makers.get(value)
                if maker is not None and maker not in layer_of and _projects(calls, maker, makers):
                    layer_of[maker] = number
                    reached.append(maker)
    rest = [index for index in range(attentions[0] + 1, len(calls)) if index not in layer_of]
    for index in rest:
        layer_of[index] = sum(a < index for a in attentions) - 1
    # The last layer has no next one to end it: it ends where the one before it did, or with the last call by tokens.
    last, before = ([i for i in rest if layer_of[i] == n] for n in (len(attentions) - 1, len(attentions) - 2))
    length = len(before) if len(attentions) > 1 else sum(calls[i] in plan.in_rows for i in last)
    head = set(last[length:])
    return [
        "head" if i in head else f"layer {layer_of[i] + 1}" if i in layer_of else "embeddings"
        for i in range(len(calls))
    ]  # fmt: skip


def _projects(calls: list[Call], index: int, makers: dict[Value, int]) -> bool:
    """Whether a call is a linear without a residual, or the norm of one."""
    call = calls[index]
    if call.kernel.family == "layernorm":
        source = makers.get(call.reads()[0][0])
        return source is not None and calls[source].kernel.family == "linear" and _projects(calls, source, makers)
    return call.kernel.family == "linear" and not call.kernel.adds_tensor


def tensors(plan: Plan) -> list[Value]:
    """Every in- and output and temporary, in the order in which the manifest lists them."""
    program = plan.program
    temporaries = (v for call in program.calls for v in call.outputs if v.kind == "temporary")
    return list(dict.fromkeys((*program.inputs, *program.outputs, *temporaries)))


def tensor_places(plan: Plan) -> list[dict[str, Any]]:
    """Where each lives: offset and bytes are those of its region, in "scratch" for one row; 0 for in- and outputs."""
    entries = []
    for value in tensors(plan):
        place = plan.place(value)
        size = value.nbytes // (plan.program.tokens if place.region == "scratch" else 1)
        entry = {"name": value.name, "shape": list(value.shape), "dtype": value.dtype, "region": place.region}
        entries.append({**entry, "offset": place.offset, "bytes": size})
    return entries


def call_entries(plan: Plan) -> list[dict[str, Any]]:
    """Each call, in the order of its number: bytes are all it reads and writes for the longest sequence.

    reads and writes name a tensor by its number, then the first column and how many; weights are counted in bytes only.
    """
    number = {value: index for index, value in enumerate(tensors(plan))}
    stages = {call: index for index, stage in enumerate(plan.stages) for call in (*stage.serial, *stage.rows)}
    in_rows, entries = plan.in_rows, []
    for call, layer in zip(plan.program.calls, layers(plan), strict=True):
        views = [a.view for a in call.arguments if isinstance(a, Rows | Whole)]
        parts = {
            kind: [
                [number[v.value], v.offset % v.stride, v.columns]
                for v in views
                if v.value in number and (v.value in call.outputs) == (kind == "writes")
            ]
            for kind in ("reads", "writes")
        }
        entries.append(
            {
                "kernel": call.kernel.name,
                "layer": layer,
                "stage": stages[call],
                "shared": call in in_rows,
                "rows": call.rows,
                "flops": call.flops,
                "bytes": _bytes(call),
                **parts,
            }
        )
    return entries


def _bytes(call: Call) -> int:
    """Memory a call goes through once. Of a table, a lookup reads only the rows that it copies."""
    total = 0
    for parameter, argument in zip(call.kernel.signature(), call.arguments, strict=True):
        if isinstance(argument, Rows | Whole):
            view = argument.view
            rows = min(view.rows, call.rows) if parameter.role == "table" else view.rows
            total += rows * view.columns * np.dtype(view.value.dtype).itemsize
    return total
