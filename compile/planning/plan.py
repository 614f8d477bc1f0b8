"""Program -> Plan: which calls run between two barriers, and where every tensor lives.

All row-wise kernels between two attentions touch each token alone, so a thread runs the whole chain on a block of rows
while they sit in its cache; threads meet only where an attention needs every key and value. A tensor that lives and
dies inside such a stage needs memory for one block of rows a thread ("scratch"); what crosses a barrier gets its place
in one static arena, shared by tensors that are never alive together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from compile.kernels.contract import ALIGNMENT, SLACK
from compile.planning.levels import Level, make_levels
from compile.planning.side_by_side import SideBySide, side_by_side
from compile.program import Call, Program, Rows, Value
from compile.targets import Target


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
    places: dict[Value, Place]
    arena_bytes: int
    scratch_row_bytes: int
    workspace_bytes: int
    weight_bytes: int
    tensor_bytes: int  # what all tensors would take without sharing

    @property
    def code_variants(self) -> list[Level]:
        """The levels that have code of their own."""
        return [level for level in self.levels if level.compiled_for is level.cpu]

    @property
    def in_rows(self) -> set[Call]:
        """The calls that threads share by rows."""
        return {call for stage in self.stages for call in stage.rows}

    def place(self, value: Value) -> Place:
        return self.places[value]

    @property
    def output_stages(self) -> list[int]:
        """Of each output the stage that makes it by rows, where one alone does; else −1."""
        outputs = self.program.outputs
        makers = [{i for i, s in enumerate(self.stages) for c in s.rows if v in c.outputs} for v in outputs]
        serial = {v for stage in self.stages for call in stage.serial for v in call.outputs}
        return [
            min(stages) if len(stages) == 1 and v not in serial else -1
            for v, stages in zip(outputs, makers, strict=True)
        ]

    @cached_property
    def side_by_side(self) -> SideBySide | None:
        """How one run computes several sequences; None where it computes one alone."""
        return side_by_side(self.program, [s.serial for s in self.stages], [s.rows for s in self.stages])

    def token_axis(self, value: Value) -> int:
        """The dimension of an in- or output that a shorter sequence makes shorter, or −1."""
        by_token = value.kind == "input" or any(c.per_token for c in self.program.calls if value in c.outputs)
        tokens = self.program.tokens
        return value.shape.index(tokens) if self.program.elastic and by_token and tokens in value.shape else -1


def make_plan(program: Program, target: Target) -> Plan:
    levels = make_levels(program, target)
    by_rows = {call for call in program.calls if _in_rows(call, program.tokens)}
    stage_of = _assign_stages(program, by_rows)
    stages = [Stage() for _ in range(max(stage_of.values(), default=-1) + 1)]
    for call in program.calls:
        stage = stages[stage_of[call]]
        (stage.rows if call in by_rows else stage.serial).append(call)
    places: dict[Value, Place] = {}
    for index, value in enumerate(program.inputs):
        places[value] = Place("input", index)
    for index, value in enumerate(program.outputs):
        places[value] = Place("output", index)
    weight_bytes = 0
    for weight in program.weights:
        places[weight] = Place("weight", weight_bytes)
        weight_bytes += _align(weight.nbytes)
    scratch = _place_scratch(program, stages, places)
    arena = _place_arena(program, stage_of, places)
    temporaries = {v for c in program.calls for v in c.outputs if v.kind == "temporary"}
    workspace = max(level.workspace_bytes(program) for level in levels)
    return Plan(
        program=program,
        levels=levels,
        stages=stages,
        places=places,
        arena_bytes=arena + SLACK,
        scratch_row_bytes=scratch,
        workspace_bytes=_align(workspace) + SLACK,
        weight_bytes=weight_bytes,
        tensor_bytes=sum(value.nbytes for value in temporaries),
    )


def _align(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _in_rows(call: Call, tokens: int) -> bool:
    """Whether threads can share the call by rows: all it addresses by row has one row a token."""
    views = [a.view for a in call.arguments if isinstance(a, Rows)]
    return call.takes_blocks and call.rows == tokens and all(v.rows == tokens for v in views)


def _assign_stages(program: Program, by_rows: set[Call]) -> dict[Call, int]:
    """The earliest stage for each call: a barrier lies between it and any result that other threads must finish."""
    makers: dict[Value, list[Call]] = {}
    stage_of: dict[Call, int] = {}
    for call in program.calls:
        stage = 0
        for value, whole in call.reads():
            for maker in makers.get(value, []):
                together = (call in by_rows) == (maker in by_rows) and not (call in by_rows and whole)
                stage = max(stage, stage_of[maker] + (0 if together else 1))
        stage_of[call] = stage
        for value in call.outputs:
            makers.setdefault(value, []).append(call)
    return stage_of


@dataclass
class _Block:
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


def _place_scratch(program: Program, stages: list[Stage], places: dict[Value, Place]) -> int:
    """Place what a stage's rows make and use up themselves; returns the bytes that the hungriest stage needs a row."""
    outside, made = set(program.outputs), set[Value]()
    for stage in stages:
        made_here = {value for call in stage.rows for value in call.outputs}
        outside |= made & made_here  # whose parts are made in several stages
        made |= made_here
        outside |= {value for call in stage.serial for value in (*call.outputs, *(read for read, _ in call.reads()))}
        outside |= {value for call in stage.rows for value, _ in call.reads() if value not in made_here}
    total = 0
    for calls in (stage.rows for stage in stages):
        blocks: dict[Value, _Block] = {}
        for index, call in enumerate(calls):
            for value, _ in call.reads():
                if value in blocks:
                    blocks[value].last = index
            for value in call.outputs:
                if value in blocks:  # another part of it
                    blocks[value].last = index
                elif value not in outside:
                    blocks[value] = _Block(_align(value.nbytes // program.tokens), index, index)
        total = max(total, _pack(list(blocks.values())))
        places |= {value: Place("scratch", block.offset) for value, block in blocks.items()}
    return total


def _place_arena(program: Program, stage_of: dict[Call, int], places: dict[Value, Place]) -> int:
    """Place every other temporary; returns the arena's bytes."""
    blocks: dict[Value, _Block] = {}
    for call, stage in stage_of.items():
        for value, _ in call.reads():
            if value in blocks:
                blocks[value].last = max(blocks[value].last, stage)
        for value in call.outputs:
            if value in blocks:
                blocks[value].last = max(blocks[value].last, stage)
                blocks[value].first = min(blocks[value].first, stage)
            elif value not in places:
                blocks[value] = _Block(_align(value.nbytes + SLACK), stage, stage)
    total = _pack(list(blocks.values()))
    places |= {value: Place("arena", block.offset) for value, block in blocks.items()}
    return total
