"""Plan -> C: one function a stage, one kernel call a line, every address a constant offset."""

from __future__ import annotations

import json

import numpy as np

from compile.plan import Plan
from compile.program import Argument, Call, Number, RowCount, Rows, TokenCount, Value, Whole, Workspace
from compile.targets import Target

TYPES = {name: f"POCKETBERT_{name.upper()}" for name in ("float32", "int64", "int32", "bool")}
CPU_FEATURES = {
    "dotprod": "PB_CPU_DOTPROD",
    "fp16": "PB_CPU_FP16",
    "avx2": "PB_CPU_AVX2",
    "fma": "PB_CPU_FMA",
    "avx512f": "PB_CPU_AVX512F",
}
MAX_RANK = 4


def plan_source(plan: Plan, target: Target, threads: int) -> str:
    """The C source of the plan; `threads` is the default number of threads, 0 for as many as there are fast cores."""
    parts = ['#include "runtime.h"\n']
    parts += [_prototype(call) for call in {c.kernel.name: c for c in plan.program.calls}.values()]
    for index, stage in enumerate(plan.stages):
        parts.append(_function(plan, f"stage_{index}_serial", stage.serial, by_rows=False))
        parts.append(_function(plan, f"stage_{index}_rows", stage.rows, by_rows=True))
    parts.append("static const pb_stage stages[] = {")
    for index, stage in enumerate(plan.stages):
        serial = f"stage_{index}_serial" if stage.serial else "NULL"
        rows = f"stage_{index}_rows" if stage.rows else "NULL"
        parts.append(f"    {{{serial}, {rows}}},")
    parts.append("};\n")
    program = plan.program
    for name, values in (("inputs", program.inputs), ("outputs", program.outputs)):
        parts.append(f"static const pocketbert_info {name}[] = {{")
        parts += [f"    {_info(plan, value)}," for value in values]
        parts.append("};\n")
    features = " | ".join(CPU_FEATURES[f] for f in target.cpu.required) or "0"
    parts.append(f"""const pb_plan pb_the_plan = {{
    .stages = stages,
    .stage_count = {len(plan.stages)},
    .inputs = inputs,
    .input_count = {len(program.inputs)},
    .outputs = outputs,
    .output_count = {len(program.outputs)},
    .tokens = {program.tokens},
    .arena_bytes = {plan.arena_bytes},
    .scratch_row_bytes = {plan.scratch_row_bytes},
    .workspace_bytes = {plan.workspace_bytes},
    .weight_bytes = {plan.weight_bytes},
    .default_threads = {threads},
    .cpu_features = {features},
    .cpu_name = "{target.cpu.name}",
}};""")
    return "\n".join(parts) + "\n"


def _prototype(call: Call) -> str:
    kinds = ["void *" if isinstance(a, Rows | Whole | Workspace) else "int32_t" for a in call.arguments]
    return f"void {call.kernel.name}({', '.join(kinds)});"


def _function(plan: Plan, name: str, calls: list[Call], by_rows: bool) -> str:
    if not calls:
        return ""
    lines = [f"static void {name}(const pb_context *context, char *scratch, int32_t row, int32_t rows)", "{"]
    lines.append("    (void)context, (void)scratch, (void)row, (void)rows;")
    for call in calls:
        arguments = ", ".join(_argument(plan, call, a, by_rows) for a in call.arguments)
        lines.append(f"    {call.kernel.name}({arguments}); // {_printable(call.source)}")
    return "\n".join([*lines, "}\n"])


def _argument(plan: Plan, call: Call, argument: Argument, by_rows: bool) -> str:
    if isinstance(argument, Number):
        return str(argument.value)
    if isinstance(argument, RowCount):
        return "rows" if by_rows else str(call.rows)
    if isinstance(argument, TokenCount):
        return "context->tokens"
    if isinstance(argument, Workspace):
        return "WORKSPACE(scratch)"
    view = argument.view
    size = np.dtype(view.value.dtype).itemsize
    place = plan.place(view.value)
    base = {
        "arena": f"ARENA({place.offset})",
        "scratch": f"SCRATCH({place.offset})",
        "input": f"INPUT({place.offset})",
        "output": f"OUTPUT({place.offset})",
        "weight": f"WEIGHT({place.offset})",
    }[place.region]
    offset = f" + {view.offset * size}" if view.offset else ""
    # A thread's scratch holds just its block's rows; everywhere else the block's rows are found by their number.
    step = f" + (size_t)row * {view.stride * size}" if isinstance(argument, Rows) and by_rows else ""
    return base + offset + ("" if place.region == "scratch" else step)


def _info(plan: Plan, value: Value) -> str:
    shape = ", ".join(str(d) for d in value.shape)
    allowed = plan.program.ranges.get(value.name)
    low, high = (allowed.low, allowed.high) if allowed else (0, 0)
    return (
        f"{{{json.dumps(value.name)}, {TYPES[value.dtype]}, {len(value.shape)}, "
        f"{{{shape or '0'}}}, {plan.token_axis(value)}, {low}, {high}, {value.nbytes}}}"
    )


def _printable(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._-/:" else "_" for c in text)
