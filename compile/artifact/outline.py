"""What the manifest says of every kernel, call and tensor: enough to draw the model and to read a profile.

A library knows its calls by number only; their layers, kernels, FLOPs and bytes are here.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from compile.artifact import manifest
from compile.artifact.manifest import (
    GenericKernel,
    Kernel,
    Level,
    Manifest,
    Sizes,
    Tensor,
    TensorPlace,
    Tiling,
    sha256,
    toolchain_versions,
)
from compile.kernels.contract import KernelSpec, TiledKernel
from compile.planning.plan import Plan
from compile.program import Call, Rows, Value, Whole
from compile.targets import Target


def kernel_entries(plan: Plan) -> tuple[Kernel, ...]:
    """Every kernel, in the order in which they are first called."""
    calls = Counter(c.kernel.name for c in plan.program.calls)
    flops: Counter[str] = Counter()
    shared = {call.kernel.name for call in plan.in_rows}
    for call in plan.program.calls:
        flops[call.kernel.name] += call.flops
    entries = []
    for name, kernel in plan.program.kernels.items():
        entries.append(
            Kernel(
                name=name,
                description=kernel.describe(),
                family=kernel.family,
                precision="int8" if kernel.precision == "i8" else "float32",
                calls=calls[name],
                rows_shared_by_threads=name in shared,
                flops=flops[name],
                tile=kernel.tile_name,
                tiling=_tiling(kernel, plan.program.tokens),
            )
        )
    return tuple(entries)


def _tiling(kernel: KernelSpec, tokens: int) -> Tiling | None:
    if not isinstance(kernel, TiledKernel):
        return None
    key, tile = kernel.tile_key(tokens), kernel.tile
    return Tiling(key.k, key.n, tile.mr, tile.nr, tile.k_unroll)


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


def tensor_places(plan: Plan) -> tuple[TensorPlace, ...]:
    """Where each of `tensors` lives."""
    entries = []
    for value in tensors(plan):
        place = plan.place(value)
        size = value.nbytes // (plan.program.tokens if place.region == "scratch" else 1)
        entries.append(TensorPlace(value.name, tuple(value.shape), value.dtype, place.region, place.offset, size))
    return tuple(entries)


def call_entries(plan: Plan) -> tuple[manifest.Call, ...]:
    """Each call, in the order of its number."""
    number = {value: index for index, value in enumerate(tensors(plan))}
    stages = {call: index for index, stage in enumerate(plan.stages) for call in (*stage.serial, *stage.rows)}
    in_rows = plan.in_rows

    def parts(call: Call, written: bool) -> tuple[manifest.Part, ...]:
        views = [a.view for a in call.arguments if isinstance(a, Rows | Whole)]
        return tuple(
            (number[v.value], v.offset % v.stride, v.columns)
            for v in views
            if v.value in number and (v.value in call.outputs) == written
        )

    return tuple(
        manifest.Call(
            kernel=call.kernel.name,
            layer=layer,
            stage=stages[call],
            shared=call in in_rows,
            rows=call.rows,
            flops=call.flops,
            bytes=_bytes(call),
            reads=parts(call, written=False),
            writes=parts(call, written=True),
        )
        for call, layer in zip(plan.program.calls, layers(plan), strict=True)
    )


def _bytes(call: Call) -> int:
    """Memory a call goes through once. Of a table, a lookup reads only the rows that it copies."""
    total = 0
    for parameter, argument in zip(call.kernel.signature(), call.arguments, strict=True):
        if isinstance(argument, Rows | Whole):
            view = argument.view
            rows = min(view.rows, call.rows) if parameter.role == "table" else view.rows
            total += rows * view.columns * np.dtype(view.value.dtype).itemsize
    return total


def interface_entries(plan: Plan, values: list[Value]) -> tuple[Tensor, ...]:
    """In- or outputs as whoever runs the library sees them."""
    entries = []
    for value in values:
        axis, allowed = plan.token_axis(value), plan.program.ranges.get(value.name)
        entries.append(
            Tensor(
                name=value.name,
                shape=plan.program.interface_shape(value),
                dtype=value.dtype,  # type: ignore[arg-type]
                token_axis=axis if axis >= 0 else None,
                range=(allowed.low, allowed.high) if allowed else None,
            )
        )
    return tuple(entries)


def make_manifest(plan: Plan, name: str, target: Target, library: Path, **made: Any) -> Manifest:
    """The manifest of a linked `library`. made: what `plan` and `target` do not say, as `Manifest` calls it."""
    program = plan.program
    kernels, weights = kernel_entries(plan), library.with_suffix(".weights")
    sizes = Sizes(
        library_bytes=library.stat().st_size + (weights.stat().st_size if target.is_web else 0),
        weights_bytes=plan.weight_bytes,
        arena_bytes=plan.arena_bytes,
        scratch_bytes_per_row=plan.scratch_row_bytes,
        workspace_bytes_per_thread=plan.workspace_bytes,
        tensors_bytes_without_sharing=plan.tensor_bytes,
    )
    return Manifest(
        name=name,
        target=target.name,
        cpu=target.cpu.name,
        inputs=interface_entries(plan, program.inputs),
        outputs=interface_entries(plan, program.outputs),
        versions=toolchain_versions(),
        library=library.name,
        header=f"include/{name}.h",
        sha256=sha256(library),
        triple=target.triple,
        isa=target.isa.name,
        cpu_features_required=target.cpu.required,
        levels=tuple(Level(level.cpu.name, level.cpu.required, level.compiled_for.name) for level in plan.levels),
        precision="int8" if any(k.precision == "int8" for k in kernels) else "float32",
        tokens=program.tokens,
        batch=program.batch,
        shorter_sequences=program.elastic,
        flops=sum(c.flops for c in program.calls),
        sizes=sizes,
        stages=len(plan.stages),
        kernels=kernels,
        generic_kernels=tuple(GenericKernel(operator, reason) for operator, reason in program.generic),
        calls=call_entries(plan),
        tensors=tensor_places(plan),
        **made,
    )
