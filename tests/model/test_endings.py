"""Commands that train, besides distill: asked to end in the middle of a step, and in folders of any name."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from model import load_checkpoint
from model.__main__ import main
from model.trainer import Trainer
from tests.support.asked import last_words
from tests.support.paths import NASTY

FIELDS = {
    "num_hidden_layers": 1, "vocab_size": 200, "max_position_embeddings": 32, "embedding_size": 16, "hidden_size": 32,
    "bottleneck_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_feedforward_networks": 1,
}  # fmt: skip
PAIRS = "sentence1\tsentence2\tscore\n" + "a b\tb a\t5.0\nc d\te f\t0.5\n" * 8
LABELS = "sentence\tlabel\n" + "a b\t0\nc d\t1\n" * 8
SETTINGS: dict[str, dict[str, object]] = {
    "pretrain": {"data.folder": "data"},
    "finetune": {"task": "sst-2", "epochs": 2, "data.train": "labels.tsv", "data.dev": "labels.tsv"},
    "embed": {"epochs": 2, "data.train": "pairs.tsv", "data.dev": "pairs.tsv"},
}


@pytest.fixture
def prepare_command(corpus: Path, vocabulary: Path, prepared: Path) -> Callable[..., list[str]]:
    """prepare_command(command, place, mark): its arguments, of files in `place` whose names begin with `mark`."""

    def make(command: str, place: Path, mark: str = "") -> list[str]:
        for name, content in (("pairs.tsv", PAIRS), ("labels.tsv", LABELS), ("vocab.txt", vocabulary.read_text())):
            (place / f"{mark}{name}").write_text(content)
        (place / f"{mark}data").symlink_to(prepared)
        sets: dict[str, object] = {"output": "run", "model.preset": "mobilebert-paper", "model.fields": FIELDS}
        sets |= {"data.sequence_length": 16, "train.batch_size": 4, "train.device": "cpu", "train.optimizer": "adamw"}
        sets |= SETTINGS[command] | {"train.checkpoint_every": 2}
        sets |= {"train.steps": 4} if command == "pretrain" else {"data.vocabulary": "vocab.txt"}
        named = {"run", "data", "labels.tsv", "pairs.tsv", "vocab.txt"}
        lines: dict[str, list[str]] = {"": []}
        for name, value in sets.items():
            section, _, key = name.rpartition(".")
            value = f"{mark}{value}" if isinstance(value, str) and value in named else value
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            if isinstance(value, dict):
                text = "{ " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items()) + " }"
            lines.setdefault(section, []).append(f"{key} = {text}")
        tables = [*lines.pop(""), *(line for name, keys in lines.items() for line in (f"[{name}]", *keys))]
        (place / f"{mark}job.toml").write_text("\n".join(tables) + "\n")
        return [command, f"./{mark}job.toml"]

    return make


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("command", SETTINGS)
def test_a_command_asked_to_end_keeps_its_checkpoint_and_goes_on_from_it(
    command: str, number: signal.Signals, prepare_command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = prepare_command(command, tmp_path)
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    step, calls = Trainer._step, []

    def ask_to_end(*given: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), number)
        return step(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", ask_to_end)
        last = last_words(lambda: main(arguments), number, tmp_path / "said")
    assert last.startswith("interrupted: " if number == signal.SIGINT else f"stopped by {number.name}: ")
    assert {path.name for path in tmp_path.iterdir()} == {*before, "run", "said"}
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002.pt"]
    assert not (tmp_path / "run/model").exists()
    if number == signal.SIGTERM:
        assert main(arguments) == 0
        assert load_checkpoint(tmp_path / "run/model").config.num_hidden_layers == 1


@pytest.mark.parametrize("command", SETTINGS)
def test_a_command_in_and_into_a_folder_of_any_name(
    command: str, prepare_command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    place = tmp_path / NASTY
    place.mkdir()
    arguments = prepare_command(command, place, NASTY)
    monkeypatch.chdir(place)
    before = {path.name for path in place.iterdir()}
    assert main(arguments) == 0, capsys.readouterr()
    assert {path.name for path in place.iterdir()} == {*before, f"{NASTY}run"}
    assert load_checkpoint(place / f"{NASTY}run/model").config.num_hidden_layers == 1
    assert "\x1b[2J" not in capsys.readouterr().err
