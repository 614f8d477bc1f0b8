"""What training has and prediction has not: dropout in its places, a teacher that stands still, modes given back."""

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

from model import Model, ModelConfig
from model.data.instances import IGNORED, Masking
from model.distill import Distillation, Stage, Weights
from model.finetune.embedding import embed, sentence_part
from model.finetune.losses import Classification, Taught, predict
from model.finetune.spans import SpanSettings
from model.finetune.teacher import TeacherModel
from model.recipes.distill import Transfer
from model.recipes.embed import Objective
from model.recipes.evaluate import evaluate_words
from model.settings import TrainSettings

HEADS = ("none", "mlm", "sequence-classification", "token-classification", "question-answering")
BERT = {"hidden_dropout": 0.2, "attention_dropout": 0.3}


def dropouts(module: nn.Module) -> dict[str, nn.Dropout]:
    return {name: part for name, part in module.named_modules() if isinstance(part, nn.Dropout)}


def outputs(module: Model, batch: dict[str, torch.Tensor], seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    with torch.no_grad():
        return list(module(*batch.values()).values())


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("preset", ["bert-base", "mobilebert"])
def test_every_dropout_acts_in_training_alone(
    preset: str, head: str, small: Callable, randomized: Callable, inputs: Callable
) -> None:
    module = randomized(small(preset, **BERT), head)
    batch = inputs(module.config)
    exact, places = outputs(module, batch), dropouts(module)
    rates = {name: part.p for name, part in places.items()}
    for part in places.values():
        part.p = 0.0
    module.train()
    assert all(torch.equal(a, b) for a, b in zip(outputs(module, batch), exact, strict=True))
    for name, part in places.items():
        if not rates[name]:
            continue
        part.p = 0.6
        first, second = outputs(module, batch, 1), outputs(module, batch, 2)
        assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True)), name
        assert all(torch.equal(a, b) for a, b in zip(outputs(module.eval(), batch), exact, strict=True)), name
        module.train()
        part.p = 0.0


@pytest.mark.parametrize("preset", ["bert-base", "mobilebert"])
def test_dropout_stands_where_bert_and_mobilebert_have_it(preset: str, small: Callable, randomized: Callable) -> None:
    """Attention has a rate of its own; a MobileBERT drops nothing inside a layer but attention's weights."""
    module = randomized(small(preset, **BERT), "sequence-classification")
    rates = {name: part.p for name, part in dropouts(module).items()}
    assert {p for name, p in rates.items() if name.endswith("attention_dropout")} == {0.3}
    assert sum(p == 0.3 for p in rates.values()) == 2
    assert sum(p == 0.2 for p in rates.values()) == (2 + 2 * 2 if preset == "bert-base" else 2 + 2)
    assert rates["head.dropout"] == rates["encoder.embeddings.dropout"] == 0.2


@pytest.fixture
def pair(small: Callable, randomized: Callable) -> tuple[Model, Model]:
    student = randomized(small("mobilebert-paper", attention_dropout=0.0), "mlm", 1)
    return student, randomized(small("ib-bert-large", attention_dropout=0.5, hidden_dropout=0.5), "mlm", 2)


@pytest.fixture
def batch(pair: tuple[Model, Model], inputs: Callable) -> dict[str, torch.Tensor]:
    labels = torch.full((3, 12), IGNORED)
    labels[:, 2:4] = torch.tensor([[5, 6], [7, 8], [9, 10]])
    return inputs(pair[0].config, 3, 12) | {"labels": labels, "next_sentence": torch.tensor([0, 1, 1])}


def test_a_teacher_stands_still_while_its_student_trains(pair: tuple[Model, Model], batch: dict) -> None:
    student, teacher = pair
    teacher.train()
    task = Distillation(student, teacher, Stage("all", 1, (1.0, 1.0), transfer=(0, 1)), Weights()).train()
    assert student.training
    assert not any(part.training for part in teacher.modules())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        terms = task(batch)
        losses.append([float(value.detach()) for value in terms.values()])
    assert losses[0] == losses[1]
    terms["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())
    assert {id(p) for p in task.parameters()} == {id(p) for p in student.parameters()}
    assert not any(name.startswith("_teacher") for name in task.state_dict())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_a_tasks_teacher_stands_still_too(small: Callable, randomized: Callable) -> None:
    student, teacher = (randomized(small("bert-base", **BERT), "sequence-classification", seed) for seed in (1, 2))
    task = Taught(Classification(student), TeacherModel(teacher.train()), 0.0, 1.0).train()
    assert student.training
    assert not any(part.training for part in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert {id(p) for p in task.parameters()} == {id(p) for p in student.parameters()}


@pytest.mark.parametrize("pretraining", [False, True])
def test_a_student_has_dropout_where_it_predicts_words_alone(
    pretraining: bool, pair: tuple[Model, Model], small: Callable, randomized: Callable, batch: dict
) -> None:
    student = randomized(small("mobilebert-paper", attention_dropout=0.5, hidden_dropout=0.5), "mlm", 1)
    stage = Stage("one", 1, (1.0, 1.0), transfer=(0, 1), pretraining=pretraining)
    task = Distillation(student, pair[1], stage, Weights()).train()
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        losses.append(float(task(batch)["loss"].detach()))
    assert (losses[0] != losses[1]) == pretraining
    assert student.encoder.training  # gradient checkpointing goes by that
    Distillation(student, pair[1], Stage("next", 1, (1.0, 1.0)), Weights()).train()
    assert all(part.training for part in dropouts(student).values())


@pytest.mark.parametrize("training", [False, True])
def test_prediction_is_without_dropout_and_gives_the_mode_back(
    training: bool, small: Callable, randomized: Callable, inputs: Callable
) -> None:
    module = randomized(small("bert-base", **BERT), "sequence-classification").train(training)
    batch = inputs(module.config)
    rows = [predict(module, [batch, batch]) for _ in range(2)]
    assert module.training is training
    assert len(rows[0]) == 2 * len(batch["input_ids"])
    for mine, again in zip(*rows, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, again, strict=True))
        assert not any(value.requires_grad for value in mine)


@pytest.mark.parametrize("training", [False, True])
def test_vectors_are_without_dropout_and_give_the_mode_back(
    training: bool, small: Callable, randomized: Callable, inputs: Callable
) -> None:
    module = randomized(small("bert-base", **BERT)).train(training)
    module.end_in(sentence_part("max", module.config.hidden_size, 0, 0).train(training))
    batch = inputs(module.config) | {"label": torch.zeros(3)}
    first, second = (embed(module, [batch, batch]) for _ in range(2))
    assert (module.training, module.encoder.training) == (training, training)
    assert np.array_equal(first, second)
    assert first.shape == (6, module.config.hidden_size)
    assert np.allclose(np.linalg.norm(first, axis=1), 1)


def test_held_out_words_are_judged_without_dropout_and_over_every_batch(
    small: Callable, randomized: Callable, inputs: Callable
) -> None:
    module = randomized(small("bert-base", **BERT), "mlm").train()
    made, seen = [], []
    for seed in range(3):
        labels = torch.full((2, 12), IGNORED)
        labels[:, 2 : 4 + seed] = torch.arange(2 * (2 + seed)).reshape(2, -1) + seed
        sentences = {"next_sentence": torch.tensor([seed % 2, 1])}
        made.append(inputs(module.config, 2, 12, seed) | {"labels": labels} | sentences)

    class Stub:
        def batch(self, number: int, rank: int, world: int, size: int) -> dict[str, torch.Tensor]:
            assert (rank, world, size) == (0, 1, 2)
            seen.append(number)
            return made[number]

    got = evaluate_words(module, Stub(), 3, 2)  # type: ignore[arg-type]
    assert (seen, module.training) == ([0, 1, 2], True)
    module.eval()
    words, sentences = [], []
    for batch in made:
        logits, follows = outputs(module, {name: batch[name] for name in module.config.input_names})
        chosen = batch["labels"] != IGNORED
        words.append((logits[chosen], batch["labels"][chosen]))
        sentences.append((follows, batch["next_sentence"]))
    expected = {}
    for name, parts in (("mlm", words), ("nsp", sentences)):
        scores, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        expected[name] = float(nn.functional.cross_entropy(scores, labels))
        expected[f"{name}_accuracy"] = float((scores.argmax(-1) == labels).float().mean())
    assert got == pytest.approx(expected, rel=1e-5)


def test_defaults_are_berts() -> None:
    assert asdict(Masking()) == {"share": 0.15, "masked": 0.8, "random": 0.1, "short_pairs": 0.1}
    assert asdict(SpanSettings()) == {
        "stride": 128, "question_length": 64, "answer_length": 30, "best": 20, "null_threshold": 0.0,
    }  # fmt: skip
    stage = Stage("everything", 1, (1.0,))
    assert (stage.embeddings, stage.head, stage.transfer, stage.pretraining) == (1.0, 1.0, (), True)
    assert (TrainSettings().weight_decay, ModelConfig().pad_token_id) == (0.01, 0)
    transfer = asdict(Transfer())  # the factors: "The default factors are the papers'"
    assert (transfer["strategy"], transfer["transfer_steps"], transfer["calibrate"]) == ("progressive", 0, True)
    assert asdict(Objective()) == {
        "contrastive": 0.0, "cosine": 1.0, "distilled": 0.0, "temperature": 0.05, "positive": 4.0,
    }  # fmt: skip
