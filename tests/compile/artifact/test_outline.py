"""What the manifest says of calls and tensors: layers found by structure, data that flows, counts that add up."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import passes
from compile.artifact.outline import call_entries, kernel_entries, layers, tensor_places
from compile.planning.plan import make_plan
from compile.running.load import read_manifest
from compile.targets import host_target


@pytest.fixture(scope="module")
def plan_of(exported: Callable, lowered: Callable) -> Callable[..., Any]:
    def make(preset: str, head: str = "none") -> Any:
        options = passes.Options(attention="matmuls")
        optimised, _ = passes.run(onnx.load(exported(preset, head, seq_len=16)), verify=False, options=options)
        return make_plan(lowered(optimised, 16), host_target())

    return make


@pytest.mark.parametrize(
    ("preset", "head"),
    [("mobilebert", "mlm"), ("mobilebert-without-opt", "none"), ("bert-base", "sequence-classification"),
     ("distilbert-6l", "question-answering")],
)  # fmt: skip
def test_every_layer_has_one_attention_and_as_many_calls(preset: str, head: str, plan_of: Callable) -> None:
    plan = plan_of(preset, head)
    program, found = plan.program, layers(plan)
    assert list(dict.fromkeys(found)) == ["embeddings", "layer 1", "layer 2", "head"]
    assert found.count("layer 1") == found.count("layer 2")
    attentions = [part for part, call in zip(found, program.calls, strict=True) if "attention" in call.kernel.name]
    assert attentions == ["layer 1", "layer 2"]
    # Matrix products and norms alone: the mask and the lookups are no layer's.
    inside = {type(c.kernel).__name__ for p, c in zip(found, program.calls, strict=True) if p.startswith("layer")}
    assert inside <= {"Attention", "Linear", "LayerNorm"}


def test_single_layer_ends_before_the_head(graph: type, lowered: Callable) -> None:
    b = graph()
    x = b("Add", b.attention(b.input("x", [1, 8, 16]), 8, 2, 8), "x")
    first = b("Gather", b("Relu", b.linear(x, 16, 16)), b.const([0]), axis=1)
    found = layers(make_plan(lowered(b.model(b("Tanh", b.linear(first, 16, 4)))), host_target()))
    assert found[0] == "layer 1"
    assert found[-1] == "head"
    assert set(found) == {"layer 1", "head"}


def test_no_attention_is_no_layer(graph: type, lowered: Callable) -> None:
    b = graph()
    program = lowered(b.model(b.linear(b.input("x", [1, 8, 16]), 16, 4)))
    assert set(layers(make_plan(program, host_target()))) == {"model"}


def test_counts_add_up(mobilebert_library: Path) -> None:
    facts = read_manifest(mobilebert_library)
    assert sum(c.flops for c in facts.calls) == facts.flops
    assert Counter(c.kernel for c in facts.calls) == {k.name: k.calls for k in facts.kernels}
    assert {c.stage for c in facts.calls} == set(range(facts.stages))
    widest = next(c for c in facts.calls if "_k512_n384_bias" in c.kernel)
    assert widest.flops == 2 * 128 * 512 * 384
    # Activations in, weights, bias padded to whole panels, activations out.
    assert widest.bytes == 4 * (128 * 512 + 512 * 384 + 384 + 128 * 384)
    lookup = next(c for c in facts.calls if c.kernel.startswith("gather_f32_v1000"))
    assert lookup.bytes == 128 * 8 + 2 * 4 * 128 * 128, "128 ids, and as many rows read and written, not the table"


def test_what_is_read_was_written(mobilebert_library: Path) -> None:
    facts = read_manifest(mobilebert_library)
    tensors = facts.tensors
    written = {index for index, t in enumerate(tensors) if t.region == "input"}
    for call in facts.calls:
        assert {index for index, _, _ in call.reads} <= written
        written |= {index for index, _, _ in call.writes}
        for index, column, columns in call.reads + call.writes:
            assert column >= 0
            shape = tensors[index].shape
            width = max(shape[-1], math.prod(shape) // 128)
            # A convolution over tokens reads three rows as one.
            assert column + columns <= width * (3 if "_k384_n512" in call.kernel else 1)
    assert written == set(range(len(tensors)))
    assert all(t.offset + t.bytes <= facts.sizes.arena_bytes for t in tensors if t.region == "arena")


def test_generic_kernels_are_described_by_their_operator(graph: type, lowered: Callable) -> None:
    b = graph()
    plan = make_plan(lowered(b.model(b("Softmax", b.input("x", [1, 8, 16])))), host_target())
    assert [k.description for k in kernel_entries(plan)] == ["generic nn.softmax"]
    assert [c.kernel for c in call_entries(plan)] == list(plan.program.kernels)
    assert [t.region for t in tensor_places(plan)][:2] == ["input", "output"]
