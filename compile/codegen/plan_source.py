"""Plan -> C: one function a stage, one kernel call a line, every address a constant offset."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from compile.codegen.escape import c_comment, c_string, identifier
from compile.kernels.contract import ALIGNMENT, SLACK
from compile.planning.levels import Level
from compile.planning.plan import Plan
from compile.program import Argument, Call, FirstRow, Number, RowCount, Rows, TokenCount, Value, Whole, Workspace

# Calls in one C function: compilers take more than twice as long for one that is twice as long.
MOST_CALLS = 128
TYPES = {name: f"POCKETBERT_{name.upper()}" for name in ("float32", "int64", "int32", "bool")}


def plan_source(plan: Plan, threads: int) -> str:
    """The C source of the plan; `threads` is the default number of threads, 0 for as many as there are fast cores."""
    parts = [
        '#include "runtime.h"\n',
        f'_Static_assert(PB_ALIGNMENT == {ALIGNMENT} && PB_SLACK == {SLACK}, "contract.py");\n',
    ]
    parts += [_levels(plan), _stages(plan, ""), _stages(plan, "profiled_")]
    program = plan.program
    for name, values in (("inputs", program.inputs), ("outputs", program.outputs)):
        parts.append(f"static const pocketbert_info {name}[] = {{")
        parts += [f"    {_info(plan, value)}," for value in values]
        parts.append("};\n")
    parts.append(f"static const int32_t output_stages[] = {{{', '.join(map(str, plan.output_stages))}}};\n")
    parts.append(f"""const pb_plan pb_the_plan = {{
    .levels = levels,
    .level_count = {len(plan.levels)},
    .stages = stages,
    .profiled_stages = profiled_stages,
    .stage_count = {len(plan.stages)},
    .call_count = {len(program.calls)},
    .inputs = inputs,
    .input_count = {len(program.inputs)},
    .outputs = outputs,
    .output_count = {len(program.outputs)},
    .output_stages = output_stages,
    .tokens = {program.tokens},
    .gap = {plan.side_by_side.gap if plan.side_by_side else -1},
    .batch = {program.batch},
    .arena_bytes = {plan.arena_bytes},
    .scratch_row_bytes = {plan.scratch_row_bytes},
    .workspace_bytes = {plan.workspace_bytes},
    .weight_bytes = {plan.weight_bytes},
    .default_threads = {threads},
}};""")
    return "\n".join(parts) + "\n"


def _levels(plan: Plan) -> str:
    """The kernels as members of a struct, and for each level the functions that they are."""
    calls = {identifier(call.kernel.name): call for call in plan.program.calls}
    parts = [_prototype(call, level.symbol(n)) + ";" for level in plan.code_variants for n, call in calls.items()]
    parts += ["struct pb_kernels {", *(f"    {_prototype(call, f'(*{n})')};" for n, call in calls.items()), "};"]
    table = ["static const pb_level levels[] = {"]
    codes = [level.compiled_for for level in plan.code_variants]
    for index, level in enumerate(plan.code_variants):
        parts += [f"static const struct pb_kernels kernels_{index} = {{", *_members(level, calls), "};"]
    for level in plan.levels:
        features = " | ".join(f"PB_CPU_{feature}" for feature in level.cpu.required) or "0"
        table.append(f'    {{{features}, "{level.cpu.name}", &kernels_{codes.index(level.compiled_for)}}},')
    return "\n".join([*parts, *table, "};\n"])


def _members(level: Level, names: Iterable[str]) -> list[str]:
    return [f"    .{name} = {level.symbol(name)}," for name in names]


def _prototype(call: Call, name: str) -> str:
    kinds = ["void *" if isinstance(a, Rows | Whole | Workspace) else "int32_t" for a in call.arguments]
    return f"void {name}({', '.join(kinds)})"


def _stages(plan: Plan, prefix: str) -> str:
    """A function for each stage's serial calls and one for its rows, and the table of them.

    Those with the prefix "profiled_" log the time after each call; the others do nothing but call.
    """
    parts, table = [], [f"static const pb_stage {prefix}stages[] = {{"]
    number = {call: index for index, call in enumerate(plan.program.calls)}
    for index, stage in enumerate(plan.stages):
        names = []
        for kind, calls in (("serial", stage.serial), ("rows", stage.rows)):
            names.append(f"{prefix}stage_{index}_{kind}" if calls else "NULL")
            if calls:
                lines = [_call(plan, call, number[call], kind == "rows", profiled=bool(prefix)) for call in calls]
                parts.append(_functions(names[-1], lines, cold=bool(prefix)))
        table.append(f"    {{{', '.join(names)}}},")
    return "\n".join([*parts, *table, "};\n"])


def _functions(name: str, calls: list[str], cold: bool) -> str:
    """The C function `name` with these calls; where they are many, one that calls others with MOST_CALLS each."""
    parts = []
    if len(calls) > MOST_CALLS:
        starts = range(0, len(calls), MOST_CALLS)
        parts = [_functions(f"{name}_{i}", calls[i : i + MOST_CALLS], cold) for i in starts]
        calls = [f"    {name}_{i}(context, scratch, row, rows, log);" for i in starts]
    before = "__attribute__((cold)) " if cold else ""  # small, and apart from what every run goes through
    parameters = "const pb_context *context, char *scratch, int32_t row, int32_t rows, pb_log *log"
    lines = [f"{before}static void {name}({parameters})", "{"]
    lines.append("    const struct pb_kernels *const kernels = context->kernels;")
    lines.append("    (void)kernels, (void)scratch, (void)row, (void)rows, (void)log;")
    return "\n".join([*parts, *lines, *calls, "}\n"])


def _call(plan: Plan, call: Call, number: int, by_rows: bool, profiled: bool) -> str:
    several = plan.side_by_side
    parts = several is not None and (not by_rows or call in several.calls)
    arguments = ", ".join(_argument(plan, call, a, by_rows, parts) for a in call.arguments)
    line = f"    kernels->{call.kernel.name}({arguments}); // {c_comment(call.source)}"
    if parts:
        line = f"    EACH_PART\n    {line}"
    return f"{line}\n    pb_log_call(log, {number});" if profiled else line


def _argument(plan: Plan, call: Call, argument: Argument, by_rows: bool, parts: bool) -> str:
    """parts: whether the call is made for each sequence, of which it then gets what is called `part`."""
    if isinstance(argument, Number):
        return str(argument.value)
    if isinstance(argument, RowCount):
        return ("part.rows" if parts else "rows") if by_rows else str(call.rows)
    if isinstance(argument, FirstRow):
        return ("part.row - part.first" if parts else "row") if by_rows else "0"
    if isinstance(argument, TokenCount):
        return "part.tokens" if parts else "context->tokens"
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
    in_rows, stride = isinstance(argument, Rows) and by_rows, view.stride * size
    # A thread's scratch holds just its block's rows; everywhere else the block's rows are found by their number.
    if place.region == "scratch":
        return base + offset + (f" + (ptrdiff_t)(part.row - row) * {stride}" if in_rows and parts else "")
    if not parts:
        return base + offset + (f" + (ptrdiff_t)row * {stride}" if in_rows else "")
    assert plan.side_by_side
    first = plan.side_by_side.row_sizes.get(view.value, 0) * size
    if first:
        offset += f" + (ptrdiff_t)part.first * {first}"
    elif place.region == "output":
        offset += f" + (ptrdiff_t)part.index * {view.value.nbytes}"
    return base + offset + (f" + (ptrdiff_t)(part.row - part.first) * {stride}" if in_rows else "")


def _info(plan: Plan, value: Value) -> str:
    shape = ", ".join(map(str, plan.program.interface_shape(value)))
    allowed = plan.program.ranges.get(value.name)
    low, high = (allowed.low, allowed.high) if allowed else (0, 0)
    return (
        f"{{{c_string(value.name)}, {TYPES[value.dtype]}, {len(value.shape)}, "
        f"{{{shape or '0'}}}, {plan.token_axis(value)}, {low}, {high}, {value.nbytes * plan.program.batch}}}"
    )
