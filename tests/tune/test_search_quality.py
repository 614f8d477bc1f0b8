"""Quality of a candidate: the user's command, or a short distillation."""

import sys
from dataclasses import replace

import pytest

from model.recipes.sources import ModelSource, TextData
from model.settings import TrainSettings
from tune.errors import TuneError
from tune.search.quality import Command, Distillation, DistillationConfig
from tune.search.space import SPACES

SPACE = SPACES["mobilebert-toy"]
CONFIG = SPACE.rows[SPACE.reference]


def command(code: str, timeout: float | None = None) -> Command:
    return Command(f"{sys.executable} -c {code!r} {{config}}", timeout)


def test_the_last_line_is_the_number_and_the_candidate_is_given():
    code = "import json, sys; print(0.5); print(json.load(open(sys.argv[1]))['bottleneck_size'] / 4)"
    assert command(code).measure(CONFIG) == 16.0


def test_a_command_that_takes_a_seed_gets_it():
    seeded = Command(f"{sys.executable} -c 'import sys; print(sys.argv[1])' {{seed}}")
    assert seeded.has_seeds
    assert [seeded.measure(CONFIG), seeded.measure(CONFIG, 2)] == [0.0, 2.0]
    assert not command("print(1)").has_seeds


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('accuracy')", "no number: accuracy"),
        ("print('nan')", "no number"),
        ("pass", "no number: nothing"),
        ("print(1.0); raise SystemExit('no data')", "status 1 and no number: no data"),
    ],
)
def test_a_command_without_a_number_says_what_it_said(code, said):
    with pytest.raises(TuneError, match=said):
        command(code).measure(CONFIG)


def test_a_command_that_hangs_or_is_not_there():
    with pytest.raises(TuneError, match="took more than"):
        command("import time; time.sleep(60)", 0.3).measure(CONFIG)
    with pytest.raises(TuneError, match="cannot run 'no-such-program'"):
        Command("no-such-program {config}").measure(CONFIG)


@pytest.fixture(scope="module")
def distillation(tmp_path_factory):
    """A teacher and students of two layers, on a text of a few hundred sentences."""
    folder = tmp_path_factory.mktemp("quality")
    text = "the quick brown fox jumps over a lazy dog while seven wizards mix strong jars of blue ink"
    words = text.split(" ")
    sentences = [" ".join(words[(i * k) % len(words)] for k in range(1, 9)) + "." for i in range(1, 400)]
    for name, part in (("train", sentences[:300]), ("valid", sentences[300:])):
        (folder / f"{name}.txt").write_text("\n".join(s + ("\n" if i % 5 == 4 else "") for i, s in enumerate(part)))
    fields = {
        "vocab_size": 200, "max_position_embeddings": 128, "num_hidden_layers": 1, "embedding_size": 64,
        "hidden_size": 64, "bottleneck_size": 64, "intermediate_size": 64,
    }  # fmt: skip
    train = TrainSettings(steps=2, batch_size=2, optimizer="adamw", device="cpu")
    text, held_out = (
        TextData(str(folder / name), (str(folder / f"{name}.txt"),), str(folder / "vocab.txt"), 16)
        for name in ("train", "valid")
    )
    source = ModelSource(preset="ib-bert-large", fields=fields)
    return Distillation(DistillationConfig(str(folder), source, text, held_out, train, train, batches=1))


def test_a_short_distillation_gives_minus_the_held_out_loss_and_the_same_again(distillation):
    distillation.prepare()
    small = replace(CONFIG, num_hidden_layers=1, vocab_size=200, hidden_size=64, bottleneck_size=32, embedding_size=32)
    quality = distillation.measure(small)
    assert -6 < quality < -4  # about log 200 nats so early
    assert distillation.measure(small) == quality
    assert distillation.measure(small, 1) != quality


def test_the_teacher_is_trained_once(distillation):
    distillation.prepare()
    trained = (distillation._teacher() / "config.json").stat().st_mtime_ns
    distillation.prepare()
    assert (distillation._teacher() / "config.json").stat().st_mtime_ns == trained
