"""The referee: valid inputs, and a pass that breaks a model is named and stops the run."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto

import passes
from passes import pipeline
from passes.inputs import random_inputs
from passes.report import Outcome
from passes.verify import Referee, compare
from tests.support.facts import changeable


@pytest.fixture
def embedding(build):
    """Token ids and types index tables; the mask is summed over the sequence."""
    b = build()
    ids, kinds, mask = (b.input(name, ["batch", "seq"], TensorProto.INT64) for name in ("ids", "kinds", "mask"))
    words = b("Gather", b.normal(1000, 8), b("Cast", ids, to=TensorProto.INT32))
    x = b("Add", words, b("Gather", b.normal(2, 8), kinds))
    weights = b("Unsqueeze", b("Cast", mask, to=TensorProto.FLOAT), b.const(np.array([2])))
    return b.model(b("ReduceSum", b("Mul", x, weights), b.const(np.array([1])), keepdims=0))


def test_ids_stay_in_their_tables_and_masks_are_prefixes(embedding):
    feeds = random_inputs(embedding, 0)
    assert 2 < feeds["ids"].max() < 1000
    assert set(np.unique(feeds["kinds"])) == {0, 1}
    assert feeds["mask"].dtype == np.int64
    assert np.all(np.diff(feeds["mask"], axis=1) <= 0)
    assert 0 < feeds["mask"].mean() < 1
    assert feeds["ids"].shape == feeds["mask"].shape == (2, 12)


def sabotage(monkeypatch, run):
    phases = (*pipeline.PHASES, pipeline.Phase("broken", (pipeline.Pass("sabotage", run),)))
    monkeypatch.setattr(pipeline, "PHASES", phases)
    monkeypatch.setattr(pipeline, "NAMES", (*pipeline.NAMES, "sabotage"))


def test_a_pass_that_changes_the_outputs_is_named(embedding, monkeypatch):
    def run(model, _options):
        changes_the_outputs(model)
        return Outcome(1)

    sabotage(monkeypatch, run)
    with pytest.raises(passes.PassError, match="'sabotage' changed the outputs"):
        passes.run(embedding)
    passes.run(embedding, verify=False)


def test_a_pass_whose_outputs_are_no_longer_numbers_is_named(embedding, monkeypatch):
    """In one place alone: max(0, nan) is 0."""

    def run(model, _options):
        (words,) = (v for v in model.graph.initializers.values() if v.shape == (1000, 8))
        broken = words.const_value.numpy().copy()
        broken[:, 3] = np.nan
        words.const_value = ir.tensor(broken, name=words.name)
        return Outcome(1)

    sabotage(monkeypatch, run)
    with pytest.raises(passes.PassError, match="'sabotage' changed the outputs by values that are no longer finite"):
        passes.run(embedding)


def test_outputs_keep_their_order_shapes_and_types():
    y = np.arange(4, dtype=np.float32)
    assert compare([{"y": y}], [{"y": y + 0.3}]) == pytest.approx(0.1)
    others = ({"z": y}, {"y": y, "z": y}, {"y": y[None]}, {"y": y.astype(np.float64)})
    for other in others:
        with pytest.raises(ValueError, match="output"):
            compare([{"y": y}], [other])
    with pytest.raises(ValueError, match="outputs"):
        compare([{"y": y, "z": y}], [{"z": y, "y": y}])


def test_a_pass_that_makes_an_invalid_model_is_named(embedding, monkeypatch):
    def run(model, _options):
        model.graph.node(0).op_type = "NoSuchOperator"
        return Outcome(1)

    sabotage(monkeypatch, run)
    with pytest.raises(passes.PassError, match="'sabotage' broke the model"):
        passes.run(embedding)


def changes_the_outputs(model):
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.001), name=value.name)


def makes_it_invalid(model):
    model.graph.node(0).op_type = "NoSuchOperator"


def fails_halfway(model):
    changes_the_outputs(model)
    raise KeyError("x")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (changes_the_outputs, "changed the outputs"),
        (makes_it_invalid, "broke the model"),
        (fails_halfway, "failed on this model"),
    ],
)
def test_a_pass_that_breaks_a_model_can_be_left_out(embedding, monkeypatch, broken, reason):
    """The passes after it see the graph as it was before."""

    def run(model, _options):
        broken(model)
        return Outcome(1)

    wanted, _ = passes.run(embedding)
    first = pipeline.Phase("first", (pipeline.Pass("sabotage", run),))
    monkeypatch.setattr(pipeline, "PHASES", (pipeline.PHASES[0], first, *pipeline.PHASES[1:]))
    monkeypatch.setattr(pipeline, "NAMES", (*pipeline.NAMES, "sabotage"))
    result, report = passes.run(embedding, leave_out=True)
    (entry,) = (entry for entry in report.passes if entry.name == "sabotage")
    assert entry.applied == 0
    assert [refusal.reason.startswith(f"left out: it {reason}") for refusal in entry.refusals] == [True]
    assert [n.op_type for n in result.graph.node] == [n.op_type for n in wanted.graph.node]
    assert report.error <= 1e-6


def test_int8_that_was_asked_for_is_not_left_out(embedding, monkeypatch):
    def run(model, _options):
        changes_the_outputs(model)
        return Outcome(1)

    phases = (*pipeline.PHASES, pipeline.Phase("quantize", (pipeline.Pass("sabotage", run),)))
    monkeypatch.setattr(pipeline, "PHASES", phases)
    monkeypatch.setattr(pipeline, "NAMES", (*pipeline.NAMES, "sabotage"))
    with pytest.raises(passes.PassError, match="'sabotage' changed the outputs"):
        passes.run(embedding, leave_out=True)


def test_the_report_is_plain_json(embedding):
    _, report = passes.run(embedding)
    plain = report.to_dict()
    assert plain["verified"] is True
    assert plain["error"] <= plain["tolerance"] == 1e-4
    assert [entry["name"] for entry in plain["passes"]] == list(pipeline.NAMES)


def test_only_and_skip_choose_passes(embedding):
    _, report = passes.run(embedding, only=["onnxsim"], skip=["onnxsim"])
    assert report.passes == ()


@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_whatever_its_phase_is_called_a_pass_can_be_left_out(embedding, monkeypatch, name):
    def run(model, _options):
        changes_the_outputs(model)
        return Outcome(1)

    monkeypatch.setattr(pipeline, "PHASES", (pipeline.Phase(name, (pipeline.Pass("sabotage", run),)),))
    monkeypatch.setattr(pipeline, "NAMES", ("sabotage",))
    _, report = passes.run(embedding, leave_out=True)
    assert report.passes[0].refusals[0].reason.startswith("left out")


def test_facts_are_not_changed_on_the_way():
    assert changeable("passes") == set()


def test_matrices_alone_are_rounded_by_chance(build):
    """A bias and integers are not: of a matrix of zeros nothing changes."""
    b = build()
    rows = b("Gather", b.input("x", [2, 4, 6]), b.const(np.array([[0, 1], [1, 0]])), axis=0)
    zeros, bias = b.const(np.zeros((6, 3))), b.normal(3)
    model = b.model(b("Add", b("MatMul", rows, zeros), bias))
    assert Referee(model)._rounded_at_random() == 0
    assert Referee(b.model(b("MatMul", rows, b.normal(6, 3))))._rounded_at_random() > 0
