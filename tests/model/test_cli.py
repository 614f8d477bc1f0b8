import json
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from model.__main__ import main


def test_inspect_prints_layers_and_totals(capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", "mobilebert-paper"]) == 0
    out = capsys.readouterr().out
    assert "layer.attention.query" in out
    assert "512 → 128" in out
    assert "25,359,104" in out
    assert "25.3M, 5.7B" in out


def test_inspect_all_as_json(capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", "--all", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    base = next(r for r in rows if (r["preset"], r["figure"]) == ("bert-base", "flops"))
    assert (base["paper"], base["ours"], base["note"]) == (22.5, 22.498, "")


def test_inspect_all_numbers_its_notes(capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", "--all"]) == 0
    out = capsys.readouterr().out
    assert "\n[1] the released code" in out
    rows, _, notes = out.partition("\n\n")
    assert {*re.findall(r"\[(\d+)\]$", rows, re.MULTILINE)} == {*re.findall(r"^\[(\d+)\]", notes, re.MULTILINE)}


def test_export_then_inspect_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import model

    config = model.PRESETS["tinybert"]
    folder = model.save_checkpoint(model.create(config, "sequence-classification"), tmp_path / "checkpoint")
    out = tmp_path / "m.onnx"
    assert main(["export", str(folder), "-o", str(out), "--seq-len", "dynamic", "--batch", "2"]) == 0
    assert [o.name for o in onnx.load(out).graph.output] == ["logits"]
    assert main(["inspect", str(folder), "--json", "--seq-len", "64"]) == 0
    assert json.loads(capsys.readouterr().out.split("\n", 1)[1])["config"]["hidden_size"] == 312


BAD = [
    ("inspect mobilbert", "did you mean mobilebert"),
    ("inspect nothing-like-it-at-all-xyz", "--list-models lists the presets"),
    (
        "inspect ./mobilebert-tyny",
        "./mobilebert-tyny does not exist: give a folder",
    ),
    ("inspect runs/mobilebert-tyny", "runs/mobilebert-tyny does not exist: give a folder"),
    ("inspect", "give either a preset or folder, or --all"),
    ("inspect tinybert --seq-len 513", "--seq-len 513 is outside the position table: 1 to 512"),
    ("inspect .", "has no config.json"),
    ("export tinybert", "-o/--output"),
    ("export TinyBERT -o m.onnx", "did you mean tinybert"),
    ("export tinybert -o m.onnx --seq-len 513", "sequence length 513 exceeds the position table's 512"),
    ("export tinybert -o m.onnx --seq-len long", "'long' is neither a positive number nor 'dynamic'"),
    ("export tinybert -o m.onnx --head tail", "invalid choice: 'tail'"),
    ("export tinybert -o /dev/null/m.onnx", "cannot write /dev/null"),
]


@pytest.mark.parametrize(("command", "message"), BAD)
def test_bad_input_is_one_line_and_status_2(
    command: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main(command.split())
    except SystemExit as exit:
        status = exit.code
    captured = capsys.readouterr()
    assert status == 2
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "model", "export", "mobilbert", "-o", "m.onnx"]
    plain = subprocess.run(command, capture_output=True, text=True)
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True)
    assert (plain.returncode, plain.stderr.count("\n")) == (2, 1)
    assert debug.returncode != 0
    assert "Traceback" in debug.stderr


def test_help_and_import_do_not_load_torch() -> None:
    code = "import sys, model, model.__main__; assert 'torch' not in sys.modules and 'onnx' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_lists_every_setting_with_its_default(capsys: pytest.CaptureFixture) -> None:
    for command, line in (
        ("distill", r"transfer.mean = 5000.0 +β"),
        ("finetune", r"train.learning_rate = 5e-05 +at its highest"),
        ("evaluate", r"quantize = \"none\" +int8: every linear"),
    ):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert re.search(line, capsys.readouterr().out)
