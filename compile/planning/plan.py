"""Program -> Plan: which calls run between two barriers, and where every tensor lives.

All row-wise kernels between two attentions touch each token alone, so a thread runs the whole chain on a block of rows
while they sit in its cache; threads meet only where an attention needs every key and value. A tensor that lives and
dies inside such a stage needs memory for one block of rows a thread ("scratch"); what crosses a barrier gets its place
in one static arena, shared by tensors that are never alive together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from compile.planning.levels import Level, make_levels
from compile.program import Call, Program, Rows, Value, Workspace
from compile.targets import Target

ALIGNMENT = 64
# A vector kernel may read, never write, up to one vector past the last column of a tensor's last row.
SLACK = 64


@dataclass(frozen=True)
class Place:
    """Where a value is: an offset in bytes; for "scratch" in bytes a row of the block; an index for in- and outputs."""

    region: Literal["arena", "scratch", "input", "output", "weight"]
    offset: int


@dataclass
class Stage:
    """Between two barriers: `serial` calls on one thread, in order; `rows` calls by every thread on its own rows."""

    serial: list[Call] = field(default_factory=list)
    rows: list[Call] = field(default_factory=list)


@dataclass
class Plan:
    """arena_bytes is shared; each thread has scratch_row_bytes for each row of its block, and workspace_bytes."""

    program: Program
    levels: list[Level]
    stages: list[Stage]
    places: dict[int, Place]
    arena_bytes: int
    scratch_row_bytes: int
    workspace_bytes: int
    weight_bytes: int
    tensor_bytes: int  # what all tensors would take without sharing

    @property
    def codes(self) -> list[Level]:
        """The levels that have code of their own."""
        return [level for level in self.levels if level.code is level.cpu]

    def place(self, value: Value) -> Place:
        return self.places[id(value)]

    def token_axis(self, value: Value) -> int:
        """The dimension of an in- or output that a shorter sequence makes shorter, or −1."""
        by_token = value.kind == "input" or any(c.per_token for c in self.program.calls if value in c.outputs)
        return value.shape.index(self.program.tokens) if self.program.elastic and by_token else -1


def in_rows(call: Call, tokens: int) -> bool:
    """Whether threads can share the call by rows: all it addresses by row has one row a token."""
    views = [a.view for a in call.arguments if isinstance(a, Rows)]
    return call.takes_blocks and call.rows == tokens and all(v.rows == tokens for v in views)


def make_plan(program: Program, target: Target) -> Plan:
    levels = make_levels(program, target)
    stage_of = _assign_stages(program)
    stages = [Stage() for _ in range(max(stage_of, default=-1) + 1)]
    for call, index in zip(program.calls, stage_of, strict=True):
        stage = stages[index]
        (stage.rows if in_rows(call, program.tokens) else stage.serial).append(call)
    places: dict[int, Place] = {}
    for region, values in (("input", program.inputs), ("output", program.outputs)):
        for index, value in enumerate(values):
            places[id(value)] = Place(region, index)  # type: ignore[arg-type]
    weight_bytes = 0
    for weight in program.weights:
        places[id(weight)] = Place("weight", weight_bytes)
        weight_bytes += _align(weight.nbytes)
    scratch = _place_scratch(program, stages, stage_of, places)
    arena = _place_arena(program, stage_of, places)
    temporaries = {id(v): v for c in program.calls for v in c.outputs if v.kind == "temporary"}
    workspace = max((a.nbytes for c in program.calls for a in c.arguments if isinstance(a, Workspace)), default=0)
    workspace = max(workspace, *(level.workspace_bytes(program.tokens) for level in levels))
    return Plan(
        program,
        levels,
        stages,
        places,
        arena + SLACK,
        scratch,
        _align(workspace) + SLACK,
        weight_bytes,
        sum(v.nbytes for v in temporaries.values()),
    )


def _align(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _assign_stages(program: Program) -> list[int]:
    """The earliest stage for each call: a barrier lies between it and any result that other threads must finish."""
    makers: dict[int, list[int]] = {}
    stage_of: list[int] = []
    for index, call in enumerate(program.calls):
        by_rows = in_rows(call, program.tokens)
        stage = 0
        for value, whole in call.reads():
            for maker in makers.get(id(value), []):
                together = by_rows == in_rows(program.calls[maker], program.tokens) and not (by_rows and whole)
                stage = max(stage, stage_of[maker] + (0 if together else 1))
        stage_of.append(stage)
        for value in call.outputs:
            makers.setdefault(id(value), []).append(index)
    return stage_of


@dataclass
class _Block:
    value: Value
    size: int
    first: int
    last: int
    offset: int = 0


def _pack(blocks: list[_Block]) -> int:
    """Give every block an offset such that blocks alive together never overlap; largest first. Returns the total."""
    placed: list[_Block] = []
    total = 0
    for block in sorted(blocks, key=lambda b: -b.size):
        offset = 0
        for other in sorted((o for o in placed if o.first <= block.last and block.first <= o.last), key=_offset):
            if offset + block.size <= other.offset:
                break
            offset = max(offset, other.offset + other.size)
        block.offset = offset
        placed.append(block)
        total = max(total, offset + block.size)
    return total


def _offset(block: _Block) -> int:
    return block.offset


def _place_scratch(program: Program, stages: list[Stage], stage_of: list[int], places: dict[int, Place]) -> int:
    """Place what a stage's rows make and use up themselves; returns the bytes that the hungriest stage needs a row."""
    outside = {id(v) for v in program.outputs}
    for call, stage in zip(program.calls, stage_of, strict=True):
        by_rows = in_rows(call, program.tokens)
        for value, whole in call.reads():
            if whole or not by_rows or not any(value in c.outputs for c in stages[stage].rows):
                outside.add(id(value))
    total = 0
    for stage_calls in (s.rows for s in stages):
        blocks: dict[int, _Block] = {}
        for index, call in enumerate(stage_calls):
            for value, _ in call.reads():
                if id(value) in blocks:
                    blocks[id(value)].last = index
            for value in call.outputs:
                if id(value) not in outside:
                    blocks[id(value)] = _Block(value, _align(value.nbytes // program.tokens), index, index)
        total = max(total, _pack(list(blocks.values())))
        for block in blocks.values():
            places[id(block.value)] = Place("scratch", block.offset)
    return total


def _place_arena(program: Program, stage_of: list[int], places: dict[int, Place]) -> int:
    blocks: dict[int, _Block] = {}
    for call, stage in zip(program.calls, stage_of, strict=True):
        for value, _ in call.reads():
            if id(value) in blocks:
                blocks[id(value)].last = max(blocks[id(value)].last, stage)
        for value in call.outputs:
            if id(value) in blocks:
                blocks[id(value)].last = max(blocks[id(value)].last, stage)
                blocks[id(value)].first = min(blocks[id(value)].first, stage)
            elif id(value) not in places:
                blocks[id(value)] = _Block(value, _align(value.nbytes + SLACK), stage, stage)
    total = _pack(list(blocks.values()))
    for block in blocks.values():
        places[id(block.value)] = Place("arena", block.offset)
    return total
