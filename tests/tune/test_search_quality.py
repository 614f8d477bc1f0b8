"""Quality of a candidate: the user's command, or a short distillation."""

import fcntl
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from model.recipes.sources import ModelSource, TextData
from model.settings import TrainSettings
from tune.errors import TuneError
from tune.search.artifact import Build
from tune.search.quality import Command, Distillation, DistillationConfig, alone_in
from tune.search.space import SPACES

SPACE = SPACES["mobilebert-toy"]
CONFIG = SPACE.rows[SPACE.reference]
BUILD = Build(seq_len=16)


def command(code: str, timeout: float | None = None) -> Command:
    return Command(f"{sys.executable} -c {code!r} {{config}}", timeout)


def test_the_last_line_is_the_number_and_the_candidate_is_given():
    code = "import json, sys; print(0.5); print(json.load(open(sys.argv[1]))['bottleneck_size'] / 4)"
    assert command(code).measure(CONFIG, [BUILD]) == [16.0]


def test_a_command_that_takes_a_seed_gets_it():
    seeded = Command(f"{sys.executable} -c 'import sys; print(sys.argv[1])' {{seed}}")
    assert seeded.has_seeds
    assert [seeded.measure(CONFIG, [BUILD]), seeded.measure(CONFIG, [BUILD], 2)] == [[0.0], [2.0]]
    assert not command("print(1)").has_seeds


def test_a_command_is_told_how_the_library_is_built():
    both = Command(f"{sys.executable} -c 'import sys; print(4 * (sys.argv[1] == \"int8\") + int(sys.argv[2]))' "
                   "{precision} {seq_len}")  # fmt: skip
    assert both.check(["precision", "seq_len"]).measure(CONFIG, [BUILD, Build(seq_len=8, precision="int8")]) == [16, 12]
    with pytest.raises(TuneError, match=r"several values of --seq-len need \{seq_len\} in it"):
        command("print(1)").check(["seq_len"])


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
        command(code).measure(CONFIG, [BUILD])


def test_a_command_that_hangs_or_is_not_there():
    with pytest.raises(TuneError, match="took more than"):
        command("import time; time.sleep(60)", 0.3).measure(CONFIG, [BUILD])
    with pytest.raises(TuneError, match="cannot run 'no-such-program'"):
        Command("no-such-program {config}").measure(CONFIG, [BUILD])


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
    quality = distillation.measure(small, [BUILD])
    assert -6 < quality[0] < -4  # about log 200 nats so early
    assert distillation.measure(small, [BUILD]) == quality
    assert distillation.measure(small, [BUILD], 1) != quality
    # One student, judged in every build: as int8, and on shorter sequences where lengths are searched.
    builds = [BUILD, Build(seq_len=16, precision="int8"), Build(seq_len=8)]
    values = distillation.measure(small, builds)
    assert values[0] == values[2] == quality[0] != values[1]
    values = replace(distillation, lengths=(16, 8)).measure(small, builds)
    assert values[0] == quality[0] != values[2]


def test_the_teachers_folder_is_made_with_those_above_it_and_is_one_processs_at_a_time(tmp_path: Path):
    place = tmp_path / "runs" / "search"
    with alone_in(place):
        assert place.is_dir()
        with (place / ".lock").open("w") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with alone_in(place):
        pass  # once more


def test_candidates_are_judged_on_no_more_than_they_are_trained_on():
    shipped = Path(__file__).parents[2] / "configs/search-quality.toml"
    assert Distillation.read(shipped, ["float32", "int8"], [32, 16]).name.endswith("tokens, as float32 or int8")
    with pytest.raises(TuneError, match="--seq-len 128: candidates are trained on 32 tokens"):
        Distillation.read(shipped, ["float32"], [128, 16])


def test_the_teacher_is_trained_once(distillation):
    distillation.prepare()
    trained = (distillation._teacher() / "config.json").stat().st_mtime_ns
    distillation.prepare()
    assert (distillation._teacher() / "config.json").stat().st_mtime_ns == trained
