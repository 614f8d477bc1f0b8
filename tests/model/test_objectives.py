"""Every objective against its equation, written out with loops in float64."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from model import Model, ModelError
from model.data.instances import IGNORED
from model.distill import (
    Distillation,
    PreTraining,
    Stage,
    Weights,
    attention_transfer,
    distillation,
    feature_map_transfer,
    masked_language_model,
    mean_transfer,
    next_sentence_prediction,
    normalized_feature_map_transfer,
    variance_transfer,
)
from model.lamb import Lamb

B, T, N, A, V = 2, 7, 12, 3, 11
RNG = np.random.default_rng(0)
TEACHER, STUDENT = RNG.normal(0.3, 1, (B, T, N)), RNG.normal(-0.1, 2, (B, T, N))
MASK = np.array([[1] * 7, [1] * 4 + [0] * 3])
TOKENS = [(b, t) for b in range(B) for t in range(T) if MASK[b, t]]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer_norm(h: np.ndarray) -> np.ndarray:
    return (h - h.mean()) / np.sqrt(((h - h.mean()) ** 2).mean())


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(np.asarray(a)) for a in arrays]


def per_token(f: Callable[[np.ndarray, np.ndarray], float]) -> float:
    return sum(f(TEACHER[b, t], STUDENT[b, t]) for b, t in TOKENS) / len(TOKENS)


@pytest.mark.parametrize(
    ("objective", "equation"),
    [
        (feature_map_transfer, lambda tr, st: sum((tr[n] - st[n]) ** 2 for n in range(N)) / N),
        (normalized_feature_map_transfer, lambda tr, st: sum((layer_norm(tr) - layer_norm(st)) ** 2) / N),
        (mean_transfer, lambda tr, st: (sum(tr) / N - sum(st) / N) ** 2),
        (variance_transfer, lambda tr, st: abs(np.var(tr) - np.var(st))),
    ],
)
def test_feature_map_objectives_are_their_equations(objective: Callable, equation: Callable) -> None:
    got = objective(*tensors(TEACHER, STUDENT, MASK))
    assert float(got) == pytest.approx(per_token(equation), rel=1e-5)
    elsewhere = np.where(MASK[..., None] == 1, STUDENT, 99.0)  # what stands in padding does not matter
    assert float(objective(*tensors(TEACHER, elsewhere, MASK))) == float(got)
    assert float(objective(*tensors(TEACHER, TEACHER, MASK))) == 0


def test_attention_transfer_is_its_equation() -> None:
    scores = [RNG.normal(0, 2, (B, A, T, T)) + (MASK[:, None, None] - 1) * 1e4 for _ in range(2)]
    expected = 0.0
    for b, t in TOKENS:
        for a in range(A):
            tr, st = softmax(scores[0][b, a, t]), softmax(scores[1][b, a, t])
            expected += sum(tr[k] * np.log(tr[k] / st[k]) for k in range(T) if tr[k] > 0)
    expected /= len(TOKENS) * A
    assert float(attention_transfer(*tensors(*scores, MASK))) == pytest.approx(expected, rel=1e-5)
    assert float(attention_transfer(*tensors(scores[0], scores[0] + 3, MASK))) == pytest.approx(0, abs=1e-6)


def test_pretraining_objectives_are_their_equations() -> None:
    teacher, student, labels = RNG.normal(0, 2, (5, V)), RNG.normal(0, 2, (5, V)), RNG.integers(0, V, 5)
    tr, st = softmax(teacher), softmax(student)
    mlm = -sum(np.log(st[i, labels[i]]) for i in range(5)) / 5
    kd = sum(tr[i, w] * np.log(tr[i, w] / st[i, w]) for i in range(5) for w in range(V)) / 5
    assert float(masked_language_model(*tensors(student, labels))) == pytest.approx(mlm, rel=1e-5)
    assert float(distillation(*tensors(teacher, student))) == pytest.approx(kd, rel=1e-5)
    pairs = np.array([[0.2, -1.0], [3.0, 0.5]])
    nsp = -(np.log(softmax(pairs)[0, 1]) + np.log(softmax(pairs)[1, 0])) / 2
    assert float(next_sentence_prediction(*tensors(pairs, np.array([1, 0])))) == pytest.approx(nsp, rel=1e-5)


@pytest.fixture
def pair(small: Callable, randomized: Callable) -> tuple[Model, Model]:
    student = small("mobilebert-paper", attention_dropout=0.0)
    teacher = small("ib-bert-large", attention_dropout=0.0)
    return randomized(student, "mlm", 1), randomized(teacher, "mlm", 2)


@pytest.fixture
def batch(pair: tuple[Model, Model], inputs: Callable) -> dict[str, torch.Tensor]:
    made = inputs(pair[0].config, 3, 12)
    labels = torch.full((3, 12), IGNORED)
    labels[:, 2:4] = torch.tensor([[5, 6], [7, 8], [9, 10]])
    return made | {"labels": labels, "next_sentence": torch.tensor([0, 1, 1])}


def test_the_default_factors_are_the_papers() -> None:
    w = Weights()
    assert (w.attention, w.feature_map, w.mean, w.variance, w.alpha) == (1, 100, 5000, 5, 0.5)


def test_a_stage_adds_its_terms_with_their_factors(pair: tuple, batch: dict) -> None:
    stage = Stage("all", 1, (1.0, 1.0), transfer=(0, 1))
    w = Weights(attention=2, feature_map=3, mean=5, variance=7, alpha=0.25)
    terms = {k: float(v.detach()) for k, v in Distillation(*pair, stage, w)(batch).items()}
    total = 2 * terms["at"] + 3 * terms["fmt"] + 5 * terms["mean"] + 7 * terms["variance"]
    total += 0.25 * terms["mlm"] + 0.75 * terms["kd"] + terms["nsp"]
    assert terms["loss"] == pytest.approx(total, rel=1e-5)
    plain = Distillation(*pair, stage, replace(w, feature_maps="plain"))(batch)
    assert set(plain) == {"loss", "at", "fmt", "mlm", "kd", "nsp"}
    states = [m.encoder.states(*(batch[k] for k in m.config.input_names)) for m in pair]
    maps = [s.feature_maps for s in states]
    mean = sum(feature_map_transfer(maps[1][i], maps[0][i], batch["attention_mask"]) for i in range(2)) / 2
    assert plain["fmt"].item() == pytest.approx(mean.item(), rel=1e-5)


def test_pretraining_predicts_as_the_whole_model_does(pair: tuple, batch: dict, assert_close: Callable) -> None:
    student, _ = pair
    terms = PreTraining(student)(batch)
    outputs = student(*(batch[k] for k in student.config.input_names))
    words = outputs["prediction_logits"].flatten(0, 1)
    mlm = torch.nn.functional.cross_entropy(words, batch["labels"].flatten(), ignore_index=IGNORED)
    nsp = torch.nn.functional.cross_entropy(outputs["seq_relationship_logits"], batch["next_sentence"])
    assert terms["loss"].item() == pytest.approx((mlm + nsp).item(), rel=1e-5)


def test_states_end_where_the_encoder_does(pair: tuple, batch: dict, assert_close: Callable) -> None:
    encoder, arguments = pair[0].encoder, [batch[k] for k in pair[0].config.input_names]
    states = encoder.states(*arguments)
    assert torch.equal(states.feature_maps[-1], encoder(*arguments))
    assert len(encoder.states(*arguments, depth=1).attention_scores) == 1
    maps = states.attention_scores[0].softmax(-1)
    assert maps.shape == (3, 4, 12, 12)
    assert float((maps * (1 - batch["attention_mask"])[:, None, None]).max()) == 0


def test_gradient_checkpointing_gives_the_same_gradients(pair: tuple, batch: dict) -> None:
    student, teacher = pair
    stage, gradients = Stage("all", 1, (1.0, 1.0), transfer=(0, 1)), []
    for checkpointing in (False, True):
        student.train().zero_grad()
        student.encoder.gradient_checkpointing = checkpointing
        Distillation(student, teacher, stage, Weights())(batch)["loss"].backward()
        gradients.append([p.grad for p in student.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_attention_is_compared_between_as_many_heads_and_words_of_one_vocabulary(
    pair: tuple, small: Callable, randomized: Callable, inputs: Callable
) -> None:
    stage = Stage("all", 1, (1.0, 1.0), transfer=(0, 1), pretraining=False)
    batch = inputs(pair[0].config)
    other = randomized(small("mobilebert-paper", num_attention_heads=2), "mlm")
    for student, terms in ((pair[0], {"at", "fmt", "mean", "variance"}), (other, {"fmt", "mean", "variance"})):
        assert set(Distillation(student, pair[1], stage, Weights())(batch)) == terms | {"loss"}
    with pytest.raises(ModelError, match="vocab_size is 500 in the student and 1000 in the teacher"):
        Distillation(randomized(small("mobilebert-paper", vocab_size=500), "mlm"), pair[1], stage, Weights())


@pytest.mark.parametrize(("ours", "theirs", "expected"), [(2, 2, [0, 1]), (2, 5, [1, 4]), (4, 2, [0, 0, 1, 1])])
def test_layers_learn_from_those_at_the_same_share_of_the_depth(
    ours: int, theirs: int, expected: list[int], small: Callable, randomized: Callable
) -> None:
    student = randomized(small("mobilebert-paper", num_hidden_layers=ours), "mlm")
    teacher = randomized(small("ib-bert-large", num_hidden_layers=theirs), "mlm")
    stage = Stage("all", 1, (1.0,) * ours, transfer=tuple(range(ours)), pretraining=False)
    task = Distillation(student, teacher, stage, Weights())
    assert [task.teacher_layer(i) for i in range(ours)] == expected
    assert task.teacher_depth() == theirs
    words = Stage("words", 1, (1.0,) * ours, transfer=(), pretraining=True)
    for alpha, depth in ((0.5, theirs), (1.0, 0)):  # where the words alone teach, the teacher runs no layer
        assert Distillation(student, teacher, words, Weights(alpha=alpha)).teacher_depth() == depth


def test_lamb_follows_its_algorithm() -> None:
    rng = np.random.default_rng(1)
    start, gradients = rng.normal(size=(4, 3)), rng.normal(size=(5, 4, 3))
    eta, beta1, beta2, eps, decay = 0.02, 0.8, 0.95, 1e-6, 0.1
    for adapt in (True, False):
        w, m, v = start.copy(), np.zeros((4, 3)), np.zeros((4, 3))
        parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
        zero = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        optimizer = Lamb([parameter, zero], eta, (beta1, beta2), eps, decay, adapt)
        for t, g in enumerate(gradients, 1):
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
            u = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps) + decay * w
            ratio = np.linalg.norm(w) / np.linalg.norm(u) if adapt else 1.0
            w = w - eta * ratio * u
            parameter.grad, zero.grad = torch.from_numpy(g), torch.ones(2, dtype=torch.float64)
            optimizer.step()
        np.testing.assert_allclose(parameter.detach().numpy(), w, rtol=1e-6)
        assert (zero != 0).all()
