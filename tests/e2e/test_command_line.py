"""`python -m compile` as a user runs it, from checkpoints and files of others to an artifact."""

import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers as hf

import compile
from compile import __main__ as command_line
from pocketbert.numerics import relative_error

THIRD_PARTY = Path(os.environ.get("POCKETBERT_ONNX", Path(__file__).parents[2] / "../shared/data/onnx"))
PROGRESS = re.compile(r"[a-zA-Z ]+ +\d+\.\d s")  # a phase and how long it took


def test_preset_to_verified_artifact_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "compile", "mobilebert-tiny", "--target", "host", "--seq-len", "16", "--verify"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for words in ("graph passes", "compile kernels", "link"):
        assert words in done.stderr  # progress
    for words in ("verified", "passed on", "weights"):
        assert words in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["build"]
    (folder,) = (tmp_path / "build").iterdir()
    assert folder.name == "mobilebert-tiny-host"
    assert {p.suffix for p in folder.iterdir() if p.is_file()} == {".so", ".json", ".html"}


def test_json_is_the_manifest(mobilebert: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    arguments = [str(mobilebert), "--target", "host", "--out", str(tmp_path / "a"), "--json"]
    assert command_line.main(arguments) == 0
    out, err = capfd.readouterr()
    assert "graph passes" in err  # progress
    printed = json.loads(out)
    assert printed == json.loads((tmp_path / "a" / "manifest.json").read_text())


def test_dump_keeps_every_phase(graph_file: Path, tmp_path: Path) -> None:
    compile.build(graph_file, target="host", seq_len=8, out=tmp_path / "a", dump=tmp_path / "dump")
    kept = {p.name for p in (tmp_path / "dump").iterdir()}
    assert kept >= {"passes", "relax.py", "kernels", "plan.c"}
    assert all(p.is_dir() or p.stat().st_size > 0 for p in (tmp_path / "dump").iterdir())


@pytest.fixture
def graph_file(tmp_path: Path) -> Path:
    weight = onnx.numpy_helper.from_array(np.eye(16, dtype=np.float32), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    infos = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 8, 16]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "test", infos[:1], infos[1:], [weight])
    path = tmp_path / "tiny.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_lists(capsys: pytest.CaptureFixture) -> None:
    assert command_line.main(["--list-targets"]) == 0
    targets = capsys.readouterr().out
    assert all(name in targets for name in (*compile.TARGETS, *compile.CPUS, "host"))
    assert command_line.main(["--list-models"]) == 0
    models = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert models["mobilebert"].split() == ["24.6", "M", "5.39", "G"]
    assert models["bert-base"].split() == ["108.9", "M", "22.35", "G"]
    assert {"mobilebert-tiny", "tinybert", "distilbert-6l"} <= set(models)


SMALL = {"vocab_size": 500, "max_position_embeddings": 64}
CHECKPOINTS = {
    "mobilebert answers questions": (
        hf.MobileBertForQuestionAnswering, hf.MobileBertConfig(**SMALL, num_hidden_layers=2)),
    "mobilebert with layer norm and gelu": (
        hf.MobileBertModel,
        hf.MobileBertConfig(**SMALL, num_hidden_layers=1, normalization_type="layer_norm", hidden_act="gelu")),
    "bert names entities": (
        hf.BertForTokenClassification,
        hf.BertConfig(**SMALL, num_hidden_layers=2, hidden_size=60, num_attention_heads=4, intermediate_size=100,
                      num_labels=7)),
    "distilbert classifies": (
        hf.DistilBertForSequenceClassification,
        hf.DistilBertConfig(**SMALL, n_layers=2, dim=96, n_heads=4, hidden_dim=200, num_labels=3)),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKPOINTS)
@torch.no_grad()
def test_checkpoint_of_transformers_to_library(name: str, tmp_path: Path) -> None:
    """The outside referee for the whole way: torch in `transformers` against the library."""
    kind, config = CHECKPOINTS[name]
    torch.manual_seed(1)
    theirs = kind(config).eval()
    for key, parameter in theirs.named_parameters():
        if "norm.weight" in key.lower():
            parameter.uniform_(0.7, 1.3)
        elif key.endswith("bias"):
            parameter.normal_(0, 0.1)
        elif "query" in key or "key" in key or "q_lin" in key or "k_lin" in key:
            parameter.mul_(4)
    theirs.save_pretrained(tmp_path / "checkpoint")
    result = compile.build(tmp_path / "checkpoint", target="host", seq_len=21, out=tmp_path / "artifact")
    rng = np.random.default_rng(0)
    with compile.load(result.folder, threads=2) as library:
        for length in (1, 10, 21):
            sample = {
                "input_ids": rng.integers(0, 500, (1, 21)),
                "attention_mask": (np.arange(21) < length).astype(np.int64)[None],
                "token_type_ids": rng.integers(0, 2, (1, 21)),
            }
            sample = {entry.name: sample[entry.name] for entry in result.manifest.inputs}
            wanted = theirs(**{key: torch.from_numpy(value) for key, value in sample.items()})
            got = library.run(sample)
            assert relative_error(got, {key: wanted[key].numpy() for key in got}) <= 1e-4


@pytest.mark.skipif(not THIRD_PARTY.is_dir(), reason=f"needs models of others in {THIRD_PARTY} (POCKETBERT_ONNX)")
@pytest.mark.parametrize("file", sorted(THIRD_PARTY.glob("*.onnx")), ids=lambda path: path.stem)
def test_models_of_others_compile_or_are_refused_in_one_line(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    graph = onnx.load(file, load_external_data=False).graph
    lengths = [v.type.tensor_type.shape.dim[1].dim_value for v in graph.input if len(v.type.tensor_type.shape.dim) == 2]
    arguments = [str(file), "--target", "host", "--seq-len", str(max(lengths, default=0) or 16), "--verify"]
    status = command_line.main([*arguments, "--out", str(tmp_path / "artifact")])
    gc.collect()  # what was left half-made speaks up when it is freed
    err = capfd.readouterr().err
    assert status in (0, 2), err
    lines = [line for line in err.splitlines() if not PROGRESS.fullmatch(line)]
    assert len(lines) == (status != 0), err
    assert "unexpected" not in err
    assert (tmp_path / "artifact").exists() == (status == 0)


def test_position_table_is_the_limit(tmp_path: Path, randomized: Callable, capsys: pytest.CaptureFixture) -> None:
    import model

    config = replace(model.PRESETS["mobilebert-tiny"], num_hidden_layers=1, vocab_size=100, max_position_embeddings=20)
    model.save_checkpoint(randomized(config), tmp_path / "checkpoint")
    arguments = [str(tmp_path / "checkpoint"), "--target", "host", "--out", str(tmp_path / "a"), "--seq-len"]
    assert command_line.main([*arguments, "21"]) == 2
    assert "20" in capsys.readouterr().err
    assert command_line.main([*arguments, "20"]) == 0
