"""An embedding that is tied to the output layer is stored once: lookups read the output layer's packed weight."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from compile.kernels.linear import Linear
from compile.kernels.rowwise import Gather
from compile.program import Call, Program, Value, View, Whole


def share_tables(program: Program) -> None:
    """Point every lookup whose table is part of some linear's weight at that weight."""
    weights = [(call.kernel, _weight(call)) for call in program.calls if isinstance(call.kernel, Linear)]
    for index, call in enumerate(program.calls):
        if not isinstance(call.kernel, Gather):
            continue
        for linear, weight in weights:
            if _holds(linear, weight, call.kernel, _weight(call)):
                program.calls[index] = _redirect(call, linear, weight)
                break


def _weight(call: Call) -> Value:
    """The first weight among the arguments: a linear's matrix, a lookup's table."""
    return next(a.view.value for a in call.arguments if isinstance(a, Whole) and a.view.value.kind == "weight")


def _holds(linear: Linear, weight: Value, gather: Gather, table: Value) -> bool:
    """Whether column v of the linear's (K, N) weight begins with row v of the table, for all v."""
    if linear.n != gather.table_rows or linear.k < gather.n:
        return False
    assert weight.data is not None
    assert table.data is not None
    columns = weight.data[:, : gather.n, :].transpose(0, 2, 1).reshape(-1, gather.n)
    return np.array_equal(columns[: gather.table_rows], table.data)


def _redirect(call: Call, linear: Linear, weight: Value) -> Call:
    assert isinstance(call.kernel, Gather)
    old = _weight(call)
    view = View.of(weight, weight.size // linear.tile.nr, linear.tile.nr)
    arguments = tuple(Whole(view) if isinstance(a, Whole) and a.view.value is old else a for a in call.arguments)
    return replace(call, kernel=replace(call.kernel, panel=(linear.k, linear.tile.nr)), arguments=arguments)
