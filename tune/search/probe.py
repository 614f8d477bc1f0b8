"""A library that does nothing but one kernel of a program, many times over: what the kernel costs, on any runner.

Every call has weights of its own, as in a model, so they come from where a model's come from and not from the
first-level cache. Inputs are the same for all calls, as a layer's are for the next.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from compile.program import Argument, Call, Program, Rows, Value, View, Whole

WEIGHT_BYTES = 4 << 20  # of all calls together, beyond the second-level cache
CALLS = (8, 64)  # at least, at most


def kernel_key(call: Call) -> str:
    """A kernel's name is its shape; how many rows it gets is the call's."""
    return f"{call.kernel.name}@{call.rows}"


@dataclass
class Probe(Program):
    """A program for its own number of tokens alone: what one kernel reads need not have a row a token."""

    elastic = False  # type: ignore[assignment]


def probe(call: Call, program: Program) -> tuple[Program, int]:
    """Copies of one of `program`'s calls, and how many. What the call reads and is no weight becomes an input."""
    read = [value for value, _ in call.reads()]
    weights = [value for value in read if value.kind == "weight"]
    least, most = CALLS
    count = max(least, min(most, WEIGHT_BYTES // max(1, sum(value.nbytes for value in weights))))
    inputs = {v: _as(v, "input", f"x{i}") for i, v in enumerate(read) if v.kind != "weight"}
    unused = Value("unused", "input", (1,), "float32")  # a library without any input cannot be run
    result = Probe(program.tokens, inputs=list(inputs.values()) or [unused])
    for value in read:
        if value.kind == "input" and value.name in program.ranges:
            result.ranges[inputs[value].name] = program.ranges[value.name]
    for number in range(count):
        last = number == count - 1
        made = {v: _as(v, "weight", f"{v.name}.{number}") for v in weights} | inputs
        kind = "output" if last else "temporary"
        made |= {v: _as(v, kind, f"y{i}.{number}") for i, v in enumerate(call.outputs)}
        outputs = tuple(made[v] for v in call.outputs)
        result.calls.append(replace(call, arguments=_moved(call.arguments, made), outputs=outputs))
        if last:
            result.outputs = list(outputs)
    return result, count


def _as(value: Value, kind: str, name: str) -> Value:
    data = value.data.copy() if kind == "weight" and value.data is not None else None
    return Value(name, kind, value.shape, value.dtype, data)  # type: ignore[arg-type]


def _moved(arguments: Iterable[Argument], made: dict[Value, Value]) -> tuple[Argument, ...]:
    def move(view: View) -> View:
        return replace(view, value=made[view.value])

    return tuple(replace(a, view=move(a.view)) if isinstance(a, Rows | Whole) else a for a in arguments)
