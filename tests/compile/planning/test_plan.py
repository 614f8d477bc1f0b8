"""Plans, executed symbolically: every byte remembers what was last written to it, threads take turns at random.

A value whose bytes another has taken, or that a thread has not written yet, is noticed when it is read.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import passes
from compile.cpus import AVX2
from compile.importer.graph import import_model
from compile.lowering.lower import lower
from compile.planning.plan import Plan, make_plan
from compile.program import Call, Rows, Whole
from compile.targets import find_target, host_target

NOTHING = -1


class Machine:
    """The memory of an open model. Each four bytes hold which element of which value they are."""

    def __init__(self, plan: Plan, threads: int, seed: int) -> None:
        self.plan, self.threads, self.rng = plan, threads, random.Random(seed)
        self.tokens = plan.program.tokens
        self.block = -(-self.tokens // threads)
        self.arena = np.full(plan.arena_bytes // 4, NOTHING, np.int64)
        self.scratch = [np.full(plan.scratch_row_bytes * self.block // 4, NOTHING, np.int64) for _ in range(threads)]
        self.buffers: dict[int, np.ndarray] = {}
        self.numbers: dict[int, int] = {}
        for value in plan.program.inputs:
            self.buffers[id(value)] = self.tags(value, 0, value.size)

    def tags(self, value: Any, first: int, count: int) -> np.ndarray:
        number = self.numbers.setdefault(id(value), len(self.numbers))
        return number * (1 << 32) + np.arange(first, first + count)

    def run(self) -> None:
        for stage in self.plan.stages:
            self.run_stage(stage.serial, stage.rows)
            for scratch in self.scratch:
                scratch[:] = NOTHING  # nothing in it may be wanted after a barrier
        for value in self.plan.program.outputs:
            whole = np.array_equal(self.buffers[id(value)], self.tags(value, 0, value.size))
            assert whole, f"{value.name} is not whole"

    def run_stage(self, serial: list[Call], rows: list[Call]) -> None:
        blocks = list(range(0, self.tokens, self.block)) if rows else []
        queues: list[list[tuple[Call, int, int]]] = [[] for _ in range(self.threads)]
        queues[0] = [(call, 0, call.rows) for call in serial]
        while any(queues) or blocks:
            thread = self.rng.randrange(self.threads)
            if not queues[thread] and blocks:
                first = blocks.pop(0)
                queues[thread] = [(call, first, min(self.block, self.tokens - first)) for call in rows]
            for _ in range(self.rng.randrange(4)):
                if queues[thread]:
                    self.execute(thread, *queues[thread].pop(0))

    def execute(self, thread: int, call: Call, first: int, rows: int) -> None:
        written = []
        for argument in call.arguments:
            if not isinstance(argument, Rows | Whole) or argument.view.value.kind == "weight":
                continue
            view, block = argument.view, (first, rows)
            if isinstance(argument, Whole) or not call.takes_blocks:
                block = (0, view.rows)
            if view.value in call.outputs:
                written.append((view, block))
                continue
            for place, tags in self.addresses(thread, view, *block, first):
                assert np.array_equal(place, tags), f"{call.kernel.name} ({call.source}) reads {view.value.name}"
        for view, block in written:
            for place, tags in self.addresses(thread, view, *block, first):
                place[:] = tags

    def addresses(self, thread: int, view: Any, first: int, rows: int, block_first: int) -> Any:
        """For each row: the memory where it is, and what must be there."""
        value, place = view.value, self.plan.place(view.value)
        item = np.dtype(value.dtype).itemsize
        for row in range(first, first + rows):
            element = view.offset + row * view.stride
            if place.region in ("input", "output"):
                memory = self.buffers.setdefault(id(value), np.full(value.size, NOTHING, np.int64))
                yield memory[element : element + view.columns], self.tags(value, element, view.columns)
                continue
            if place.region == "scratch":
                base, memory = place.offset * self.block, self.scratch[thread]
                at = base + (view.offset + (row - block_first) * view.stride) * item
            else:
                memory, at = self.arena, place.offset + element * item
            count = -(-view.columns * item // 4)
            assert at % min(item, 4) == 0
            assert at // 4 + count <= memory.size, f"{value.name} lies outside {place.region}"
            yield memory[at // 4 : at // 4 + count], self.tags(value, element * item // 4, count)


def holds(program: Any, runs: int = 6) -> Plan:
    plan = make_plan(program, host_target())
    for seed in range(runs):
        Machine(plan, threads=1 + seed % 4, seed=seed).run()
    return plan


@pytest.mark.parametrize("preset", ["mobilebert", "mobilebert-tiny", "bert-base", "distilbert-6l"])
@pytest.mark.parametrize("optimised", [True, False], ids=["after the passes", "as exported"])
def test_plan_of_a_real_model(preset: str, optimised: bool, exported: Callable, lowered: Callable) -> None:
    model = onnx.load(exported(preset))
    if optimised:
        model, _ = passes.run(model, options=passes.Options(attention="matmuls"), verify=False)
    plan = holds(lowered(model, 128), runs=3)
    assert plan.arena_bytes < plan.tensor_bytes
    if optimised:
        assert plan.scratch_row_bytes > 0


def test_what_several_calls_write_is_kept_from_the_first_on(graph: type, lowered: Callable) -> None:
    """Columns that are brought side by side, in memory that a part of them would otherwise share."""
    b = graph()
    x = b("Gather", b.normal(50, 16), b.input("ids", [1, 6], onnx.TensorProto.INT64))
    wide = b("Concat", x, b.normal(1, 6, 4), b.normal(1, 6, 4), axis=2)
    holds(lowered(b.model(b("Add", b.linear(b.linear(wide, 24, 16), 16, 16), x)), 6))
    holds(lowered(b.model(b.linear(b.linear(wide, 24, 16), 16, 16)), 6))


def test_a_part_that_is_written_early_is_kept_for_the_late_one(graph: type, lowered: Callable) -> None:
    """What the first attention keeps is not alive any more when the second one's part is written."""
    b = graph()
    x = b("Gather", b.normal(50, 16), b.input("ids", [1, 6], onnx.TensorProto.INT64))
    late = b.attention(b.attention(x, 6, 2, 8), 6, 2, 8)
    for parts in ([late, x], [late, b.normal(1, 6, 16)]):
        program = lowered(b.model(b.linear(b("Concat", *parts, axis=2), 32, 16)), 6)
        assert not program.generic
        holds(program)


def random_model(graph: type, seed: int, tokens: int = 6) -> onnx.ModelProto:
    """Linears, residuals, attentions, parts of tensors and operators without a kernel of ours, in any order."""
    b, rng = graph(seed), random.Random(seed)
    width = rng.choice([8, 12, 20])
    if seed % 2:
        x = b.linear(b.input("x", [1, tokens, width]), width, width)
    else:  # rows are known to be tokens, and parts are brought side by side by calls of ours
        x = b("Gather", b.normal(50, width), b.input("ids", [1, tokens], onnx.TensorProto.INT64))
    known, outputs = [x], []
    for _ in range(rng.randrange(4, 14)):
        x, kind = rng.choice(known[-4:]), rng.randrange(8)
        if kind == 0:
            y = b.attention(x, tokens, 2, width // 2)
        elif kind == 1:
            y = b("Add", b.linear(x, width, width), rng.choice(known))
        elif kind == 2:
            y = b.linear(b("Relu", b.linear(x, width, 3 * width)), 3 * width, width)
        elif kind == 3:
            y = b("Softmax", x, axis=-1)
        elif kind == 4:
            parts = b("Split", b.linear(x, width, 2 * width), outputs=2, axis=2, num_outputs=2)
            y = b("Add", b.linear(parts[0], width, width), b.linear(parts[1], width, width))
        elif kind == 5:
            wide = b("Concat", x, rng.choice(known), axis=2)
            y = b.linear(wide, 2 * width, width)
        elif kind == 6:
            y = b("LayerNormalization", b("Add", x, rng.choice(known)), b.normal(width), b.normal(width), axis=-1)
        else:
            shifted = b("Pad", x, b.const(np.array([0, 1, 0, 0, -1, 0])), b.const(0.0))
            y = b.linear(shifted, width, width)
        known.append(y)
        if rng.random() < 0.2:
            outputs.append(y)
    outputs = list(dict.fromkeys([*outputs, known[-1]]))
    return b.model(*outputs)


@pytest.mark.parametrize("seed", range(40))
def test_plan_of_a_random_model(seed: int, graph: type, lowered: Callable) -> None:
    holds(lowered(random_model(graph, seed), 6))


@pytest.mark.parametrize(("seed", "cpu"), [(3, "x86-64-v3"), (24, "x86-64-v4"), (17, "x86-64-v3"), (26, "x86-64-v4")])
def test_random_model_computes_what_onnx_runtime_does(
    seed: int, cpu: str, graph: type, agree: Callable, host_level: Callable
) -> None:
    agree(random_model(graph, seed), tokens=6, samples=3, target=host_level(cpu))


def test_chain_on_tokens_alone_needs_no_barrier_and_no_arena(graph: type, lowered: Callable) -> None:
    b = graph()
    x = b.input("x", [1, 8, 16])
    for _ in range(4):
        x = b("Add", b.linear(b("Relu", b.linear(x, 16, 48)), 48, 16), x)
    plan = holds(lowered(b.model(x)))
    assert len(plan.stages) == 1
    assert plan.tensor_bytes > 0
    assert all(place.region != "arena" for place in plan.places.values())


def test_attention_needs_one_barrier(graph: type, lowered: Callable) -> None:
    b = graph()
    plan = holds(lowered(b.model(b.linear(b.attention(b.input("x", [1, 8, 16]), 8, 2, 8), 16, 16))))
    assert len(plan.stages) == 2
    # Keys and values cross the barrier, the queries of a thread's rows do not have to.
    assert sum(place.region == "arena" for place in plan.places.values()) <= 3


def test_equal_weights_are_stored_once(graph: type) -> None:
    b = graph()
    weight = b.rng.standard_normal((64, 64)).astype(np.float32)
    x = b.input("x", [1, 8, 64])
    for _ in range(3):
        x = b("Relu", b("MatMul", x, b.const(weight.copy())))
    program = lower(import_model(b.model(x), 8), 8, AVX2)  # with panels of 16 columns
    plan = make_plan(program, find_target("x86_64-linux"))
    assert weight.nbytes <= plan.weight_bytes < 2 * weight.nbytes
