"""Several sequences in one run, behind one another along the rows, so that weights are read once for all of them.

Linears, norms and maps take the rows of all as they come. Calls to which it matters where a sequence begins are made
for each: attentions, convolutions' ends, what adds positions, and what works on one row or makes one of all tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compile.program import Call, Program, Rows, TokenCount, Value, Whole


@dataclass(frozen=True)
class SideBySide:
    """gap: rows between two sequences, one where each needs rows of zeros around it;
    row_sizes: of what has a row a token, the elements in it;
    calls: those by rows that are made for each sequence.
    """

    gap: int
    row_sizes: dict[Value, int]
    calls: frozenset[Call]


def side_by_side(
    program: Program, serial: Sequence[Sequence[Call]], rows: Sequence[Sequence[Call]]
) -> SideBySide | None:
    """How a run computes several sequences, None where it cannot; serial, rows: the calls of each stage.

    It can where all that has no row a token is made and used up by the serial calls of one stage: they are made for one
    sequence after another.
    """
    if not program.elastic:
        return None
    calls, padded = program.calls, {v for c in program.calls if c.kernel.pads_tokens for v in c.outputs}
    by_token = {v for call in calls if call.per_token for v in call.outputs} | set(program.inputs)
    sizes = {v: v.shape[-1] if v in padded else v.size // program.tokens for v in by_token | padded}
    if any(program.tokens not in value.shape for value in program.inputs):
        return None
    stages_of: dict[Value, set[tuple[int, bool]]] = {}
    for shared, groups in ((False, serial), (True, rows)):
        for stage, group in enumerate(groups):
            for call in group:
                for value in {*call.outputs, *(value for value, _ in call.reads() if value.kind != "weight")} - {
                    *sizes
                }:
                    stages_of.setdefault(value, set()).add((stage, shared))
    if any(len(stages) > 1 or any(shared for _, shared in stages) for stages in stages_of.values()):
        return None
    if any(call.per_token and call.takes_blocks for group in serial for call in group):
        return None
    if any(_tensors(call) & {*sizes} and not _counts_tokens(call) for call in calls):
        return None  # it reads as many tokens as the longest sequence has
    by_sequence = [c for group in rows for c in group if _needs_beginning(c, sizes) or padded.intersection(c.outputs)]
    return SideBySide(int(bool(padded)), sizes, frozenset(by_sequence))


def _needs_beginning(call: Call, sizes: dict[Value, int]) -> bool:
    views = [argument.view for argument in call.arguments if isinstance(argument, Rows)]
    return _counts_tokens(call) or any(view.stride != sizes.get(view.value) for view in views)


def _counts_tokens(call: Call) -> bool:
    return any(isinstance(argument, TokenCount) for argument in call.arguments)


def _tensors(call: Call) -> set[Value]:
    """What the call reads or writes from its first row on, whichever it computes."""
    wholes = [argument.view.value for argument in call.arguments if isinstance(argument, Whole)]
    return {value for value in wholes if value.kind != "weight"}
