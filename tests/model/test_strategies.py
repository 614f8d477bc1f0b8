from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model import Model, ModelConfig, ModelError, create
from model.data import PreTrainingBatches
from model.distill import Distillation, Stage, Weights, auxiliary, copy_ends, ends_fit, joint, progressive
from model.distill.objectives import project
from model.distill.strategies import without_copies
from model.processes import gathered, join
from model.settings import TrainSettings
from model.trainer import Trainer

TINY = ModelConfig(
    vocab_size=200, max_position_embeddings=32, embedding_size=8, num_hidden_layers=3, hidden_size=16,
    bottleneck_size=8, attention_input="stream", num_attention_heads=2, intermediate_size=8,
    num_feedforward_networks=2, attention_dropout=0.0,
)  # fmt: skip
TINY_TEACHER = replace(
    TINY, bottleneck_size=24, intermediate_size=32, num_feedforward_networks=1, normalization="layer-norm",
    activation="gelu",
)  # fmt: skip
SETTINGS = TrainSettings(batch_size=2, optimizer="adamw", learning_rate=1e-2, warmup=0.0, weight_decay=0.0)


def parts(before: dict, after: dict) -> set[str]:
    """The parts of the model in which anything moved."""
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    return {".".join(n.split(".")[1:3]) if ".layers." in n else n.split(".")[0 if n[0] == "h" else 1] for n in moved}


def run(
    stages: tuple[Stage, ...], student: Model, teacher: Model, prepared: Path, folder: Path,
    settings: TrainSettings = SETTINGS,
) -> list[set[str]]:  # fmt: skip
    """What moved in each stage, the copy at its beginning left out."""
    seen, moved = [], []

    def begin(model: Model, stage: Stage) -> None:
        if seen:
            moved.append(parts(seen.pop(), student.state_dict()))
        if stage.copies_ends:
            copy_ends(teacher, student)
        seen.append({name: value.clone() for name, value in student.state_dict().items()})

    batches = PreTrainingBatches(prepared, 32, 200)
    task = lambda model, stage: Distillation(model, teacher, stage, Weights())  # noqa: E731
    Trainer(student, task, stages, batches, folder, settings, join("cpu"), begin).fit()
    return [*moved, parts(seen.pop(), student.state_dict())]


@pytest.fixture
def pair(randomized: Callable) -> tuple[Model, Model]:
    return randomized(TINY, "mlm", 1), randomized(TINY_TEACHER, "mlm", 2)


EVERYTHING = {"embeddings", "head", "layers.0", "layers.1", "layers.2"}
LAYERS = EVERYTHING - {"embeddings", "head"}


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (auxiliary(3, 2, 2), [EVERYTHING]),
        (joint(3, 2, 2), [LAYERS, EVERYTHING]),
        (progressive(3, 3, 2), [{"layers.0"}, {"layers.1"}, {"layers.2"}, EVERYTHING]),
        (progressive(3, 3, 2, 0.1), [{"layers.0"}, {"layers.0", "layers.1"}, LAYERS, EVERYTHING]),
    ],
    ids=["auxiliary", "joint", "progressive", "softened"],
)
def test_each_stage_moves_its_own_parameters(
    stages: tuple[Stage, ...], expected: list[set[str]], pair: tuple, prepared: Path, tmp_path: Path
) -> None:
    student, teacher = pair
    taught = {name: value.clone() for name, value in teacher.state_dict().items()}
    assert run(stages, student, teacher, prepared, tmp_path / "run") == expected
    assert all(torch.equal(taught[name], value) for name, value in teacher.state_dict().items())


def test_what_a_stage_gives_no_gradient_does_not_decay_in_it(
    pair: tuple[Model, Model], prepared: Path, tmp_path: Path
) -> None:
    """Though it may move, and had a gradient in the stage before."""
    rates = (1.0, 1.0, 1.0)
    stages = (Stage("words", 2, rates), Stage("first", 2, rates, transfer=(0,), pretraining=False))
    decaying = replace(SETTINGS, weight_decay=0.1)
    assert run(stages, *pair, prepared, tmp_path, decaying) == [EVERYTHING, {"embeddings", "layers.0"}]


def test_ends_fit_where_every_size_is_the_same(pair: tuple, randomized: Callable) -> None:
    student, teacher = pair
    assert ends_fit(teacher, student)
    assert not ends_fit(teacher, randomized(replace(TINY, vocab_size=TINY.vocab_size + 1), "mlm", 1))


def test_strategies_take_the_same_number_of_steps() -> None:
    for strategy in (auxiliary, joint, progressive):
        assert sum(stage.steps for stage in strategy(3, 7, 5)) == 12
        assert {len(stage.layers) for stage in strategy(3, 7, 5)} == {3}
    assert [stage.steps for stage in progressive(3, 7, 5)] == [3, 2, 2, 5]
    assert [stage.name for stage in progressive(3, 7, 5)] == ["layer 1", "layer 2", "layer 3", "distillation"]
    with pytest.raises(ModelError, match="needs one a layer, 3"):
        progressive(3, 2, 5)


def test_an_embedding_that_is_not_copied_is_trained_at_first_and_at_last() -> None:
    stages = without_copies(progressive(3, 3, 2, 0.1), 0.1)
    assert [stage.embeddings for stage in stages] == [1.0, 0.1, 0.1, 1.0]
    assert not any(stage.copies_ends for stage in stages)
    assert [stage.layers for stage in stages] == [stage.layers for stage in progressive(3, 3, 2, 0.1)]


def test_softened_layers_move_by_the_small_rate(pair: tuple, prepared: Path, tmp_path: Path) -> None:
    student, teacher = pair
    stage = Stage("soft", 1, (1.0, 0.01, 0.0), 0.0, 0.0, (0, 1), False)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    run((stage,), student, teacher, prepared, tmp_path / "run")
    steps = {}
    for layer in (0, 1):  # Adam's first step is the learning rate wherever there is a gradient
        steps[layer] = max(
            float((value - before[name]).abs().max()) for name, value in student.state_dict().items()
            if f"layers.{layer}." in name
        )  # fmt: skip
    assert steps[0] == pytest.approx(1e-2, rel=1e-2)
    assert steps[1] == pytest.approx(1e-4, rel=1e-2)


def test_ends_are_copied_and_a_nonorm_gets_the_nearest_constant(pair: tuple, inputs: Callable) -> None:
    student, teacher = pair
    copy_ends(teacher, student)
    ours, theirs = student.state_dict(), teacher.state_dict()
    for name in ours:
        if "layers." not in name:
            assert torch.equal(ours[name], theirs[name]), name
    batch = inputs(student.config, 8, 24)
    batch["input_ids"].clamp_(max=199)
    arguments = batch["input_ids"], batch["token_type_ids"]
    expected = teacher.encoder.embeddings(*arguments)[batch["attention_mask"].bool()]
    errors = []
    for given in (None, batch):
        copy_ends(teacher, student, given)
        got = student.encoder.embeddings(*arguments)[batch["attention_mask"].bool()]
        errors.append((got - expected).square().mean().item())
    assert errors[1] < errors[0] / 4


def test_ends_of_another_size_are_refused(pair: tuple, randomized: Callable) -> None:
    other = randomized(replace(TINY, embedding_size=4), "mlm")
    with pytest.raises(ModelError, match=r"word.weight is \(200, 4\) in the student and \(200, 8\) in the teacher"):
        copy_ends(pair[1], other)


@pytest.mark.parametrize(("ours", "theirs"), [(64, 128), (128, 64), (64, 64)])
def test_features_of_another_width_are_projected_narrower_and_wider(ours: int, theirs: int) -> None:
    student, teacher = (create(replace(TINY, hidden_size=width), "mlm") for width in (ours, theirs))
    project(student, teacher, 0)
    made = [tuple(p.shape) for name, p in student.named_parameters() if name.startswith("transfer.")]
    assert made == [(theirs, ours)] * (TINY.num_hidden_layers if ours != theirs else 0)


def test_a_model_is_gathered_with_its_projections(pair: tuple[Model, Model]) -> None:
    student, teacher = pair
    project(student, create(replace(TINY, hidden_size=24, embedding_size=8), "mlm", 3), seed=0)
    student.encoder.gradient_checkpointing = student.encoder.embeddings.ignores_padding = True
    whole = gathered(student)
    assert whole.encoder.gradient_checkpointing
    assert whole.encoder.embeddings.ignores_padding
    ours, theirs = student.state_dict(), whole.state_dict()
    assert ours.keys() == theirs.keys() > teacher.state_dict().keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
