"""An embedding that is tied to the output layer is stored once: lookups read the output layer's packed weight."""

from __future__ import annotations

from dataclasses import replace

from compile.program import Call, Program, Value, View, Whole


def share_tables(program: Program) -> None:
    """Point every lookup whose table is part of some linear's weight at that weight."""
    for index, call in enumerate(program.calls):
        table = _constant(call, "table")
        if table is None:
            continue
        for other in program.calls:
            if (weight := _constant(other, "weight")) and (shared := _redirect(call, table, other, weight)):
                program.calls[index] = shared
                break


def _constant(call: Call, role: str) -> Value | None:
    """What a call reads as its table or its weight."""
    arguments = zip(call.kernel.signature(), call.arguments, strict=True)
    return next((a.view.value for p, a in arguments if p.role == role and isinstance(a, Whole)), None)


def _redirect(call: Call, table: Value, other: Call, weight: Value) -> Call | None:
    """`call` reading its table from `other`'s weight; None where it does not lie there."""
    assert weight.data is not None
    assert table.data is not None
    panel = other.kernel.table_panel(weight.data, table.data)
    kernel = call.kernel.reading_panels(panel) if panel else None
    if panel is None or kernel is None:
        return None
    width = panel[1]
    view = View.of(weight, weight.size // width, width)
    arguments = tuple(Whole(view) if isinstance(a, Whole) and a.view.value is table else a for a in call.arguments)
    return replace(call, kernel=kernel, arguments=arguments)
