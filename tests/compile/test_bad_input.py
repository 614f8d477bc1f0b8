"""Bad input gets one line that says what to do, exit status 2, no traceback, and leaves nothing behind."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import model
from compile import __main__ as command_line
from compile import pipeline
from compile.artifact import folder as artifact_folder
from compile.linking import link
from compile.running import verify
from compile.running.runners import qemu

PROGRESS = re.compile(r".{24} {1,6}\d+\.\d s\n")


@pytest.fixture
def small_model(graph: type, tmp_path: Path) -> Path:
    b = graph()
    path = tmp_path / "given" / "small.onnx"
    path.parent.mkdir()
    onnx.save(b.model(b.linear(b.input("x", [1, 8, 16]), 16, 4)), path)
    return path


# torch's cache, and the lock that lets one library at a time be run on a machine.
STAYS = ("torchinductor", "pocketbert-measuring-")


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """refused(arguments, words): the command fails as it should. Returns its one line."""
    place = tmp_path / "place"
    scratch = tmp_path / "scratch"
    place.mkdir()
    scratch.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))

    def check(*arguments: Any, words: tuple[str, ...] = (), left: tuple[str, ...] = ()) -> str:
        try:
            status = command_line.main([str(a) for a in arguments])
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        assert status == 2, out + err
        err = "".join(line for line in err.splitlines(keepends=True) if not PROGRESS.fullmatch(line))
        assert len(err.strip().splitlines()) == 1, err
        assert "Traceback" not in err
        assert "unexpected" not in err, err
        assert all(word in err for word in words), err
        assert sorted(p.name for p in place.iterdir()) == sorted(left)
        assert [p.name for p in scratch.iterdir() if not p.name.startswith(STAYS)] == []
        return err

    return check


def test_mistakes_do_not_wait_for_tvm_to_be_imported() -> None:
    code = "import sys, compile.__main__, compile.profile; sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_greatest_numbers_are_taken(refused: Callable) -> None:
    refused("nowhere.onnx", "--seq-len", 1 << 20, "--batch", 4096, "--threads", 64, words=("no such file",))


def test_unknown_preset(refused: Callable) -> None:
    refused("mobilebart", words=("'mobilebart'", "mobilebert"))


def test_folder_that_is_no_checkpoint(refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", words=("config.json",))


def test_missing_file(refused: Callable) -> None:
    refused("nowhere.onnx", words=("nowhere.onnx", "no such file"))


@pytest.mark.parametrize("damage", ["truncated", "text", "nothing", "zeros"])
def test_file_that_is_not_onnx(damage: str, refused: Callable, small_model: Path) -> None:
    data = small_model.read_bytes()
    broken = {"truncated": data[: len(data) // 2], "text": b"not a model\n" * 9, "nothing": b"", "zeros": bytes(500)}
    small_model.write_bytes(broken[damage])
    refused(small_model, "--seq-len", 8, words=("small.onnx", "ONNX"))


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/../../secret"])
def test_external_data_outside_the_folder(location: str, refused: Callable, small_model: Path) -> None:
    (small_model.parent.parent / "secret").write_bytes(bytes(256))
    model = onnx.load(small_model)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    small_model.write_bytes(model.SerializeToString())
    refused(small_model, "--seq-len", 8, words=(weight.name, location, "outside"))


def test_external_data_that_is_missing(refused: Callable, small_model: Path) -> None:
    model = onnx.load(small_model)
    onnx.save(model, small_model, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (small_model.parent / "weights.bin").unlink()
    refused(small_model, "--seq-len", 8, words=("weights.bin",))


def test_model_that_onnx_runtime_refuses(refused: Callable, small_model: Path) -> None:
    model = onnx.load(small_model)
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.zeros((3, 5), np.float32), model.graph.initializer[0].name)
    )
    small_model.write_bytes(model.SerializeToString())
    refused(small_model, "--seq-len", 8)


def test_operator_of_another_domain(refused: Callable, small_model: Path) -> None:
    model = onnx.load(small_model)
    model.graph.node[0].domain = "com.example"
    model.graph.node[0].name = "special"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    small_model.write_bytes(model.SerializeToString())
    refused(small_model, "--seq-len", 8, words=("com.example", "special"))


@pytest.mark.parametrize(
    ("domain", "op", "inputs", "attributes", "reason"),
    [
        ("", "Attention", ["q", "k", "v", "", "k", "v"], {}, "cannot be lowered: the attention has a cache"),
        (
            "com.microsoft",
            "MultiHeadAttention",
            list("qkv"),
            {"num_heads": 2, "unidirectional": 1},
            ", and it belongs to",
        ),
    ],
)
def test_operator_that_a_pass_has_left_with_its_reason(
    domain: str, op: str, inputs: list[str], attributes: dict[str, int], reason: str, refused: Callable, tmp_path: Path
) -> None:
    shape = [1, 8, 8] if domain else [1, 2, 8, 4]
    given = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "qkv"]
    outputs = ["y"] if domain else ["y", "keys", "values"]
    made = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
    node = helper.make_node(op, inputs, outputs, domain=domain, **attributes)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "g", given, made)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "a.onnx")
    refused(tmp_path / "a.onnx", "--seq-len", 8, words=(op, reason))


def test_checkpoint_with_a_tensor_of_the_wrong_shape(refused: Callable, randomized: Callable, tmp_path: Path) -> None:
    from dataclasses import replace

    from safetensors.numpy import load_file, save_file

    import model

    config = replace(model.PRESETS["mobilebert-tiny"], num_hidden_layers=1, vocab_size=100)
    model.save_checkpoint(randomized(config), tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if n.endswith("intermediate.dense.weight"))
    tensors[name] = tensors[name][:, :100].copy()
    save_file(tensors, file)
    refused(tmp_path / "checkpoint", words=(name, "100"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "arm64-abacus"], ("'arm64-abacus'", "arm64-android")),
        (["--cpu", "pentium"], ("'pentium'", "cortex-a53")),
        (["--target", "x86_64-linux", "--cpu", "cortex-a53"], ("'cortex-a53'", "x86-64-v3")),
        (["--head", "poetry"], ("poetry", "mlm")),
        (["--seq-len", "0"], ("--seq-len 0",)),
        (["--seq-len", "999999999999"], ("--seq-len 999999999999", "1 to 1048576 tokens")),
        (["--seq-len", "-4"], ("--seq-len -4",)),
        (["--seq-len", "many"], ("--seq-len", "many")),
        (["--seq-len", "8,,16"], ("--seq-len", "8,,16")),
        (["--seq-len", "8,0"], ("--seq-len 8,0",)),
        (["--threads", "65"], ("--threads 65", "64")),
        (["--threads", "-1"], ("--threads -1",)),
        (["--name", "My Model"], ("--name My Model: it begins every function", "my_model")),
        (["--frobnicate"], ("--frobnicate", "--help")),
        (["mobilebert-tiny", "--seq-len", "513"], ("513", "512")),
    ],
)
def test_wrong_option(arguments: list[str], words: tuple[str, ...], refused: Callable) -> None:
    refused(*arguments, words=words)


def test_sequence_length_that_the_file_was_not_exported_for(refused: Callable, small_model: Path) -> None:
    refused(small_model, "--seq-len", 16, words=("8 tokens", "--seq-len 8"))


def test_head_for_a_file(refused: Callable, small_model: Path) -> None:
    refused(small_model, "--head", "mlm", words=("--head mlm",))


def test_head_that_a_folder_has_no_weights_for(refused: Callable, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "embedding_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    config = replace(model.PRESETS["bert-base"], num_hidden_layers=1, vocab_size=99, **sizes)
    folder = model.save_checkpoint(model.create(config), tmp_path / "bert")
    arguments = (folder, "--head", "question-answering", "--target", "host")
    refused(*arguments, words=("no question-answering head", "qa_outputs.weight", "--random-head"))


def test_output_folder_that_is_not_an_artifact(refused: Callable, small_model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "place" / "thesis"
    mine.mkdir()
    (mine / "chapter1.txt").write_text("Call me Ishmael.")
    refused(small_model, "--seq-len", 8, "--out", mine, words=("thesis", "not an artifact"), left=("thesis",))
    assert (mine / "chapter1.txt").read_text() == "Call me Ishmael."


def test_output_that_is_a_file(refused: Callable, small_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "place" / "notes"
    file.write_text("keep")
    refused(small_model, "--seq-len", 8, "--out", file, words=("notes",), left=("notes",))
    refused(small_model, "--seq-len", 8, "--out", file / "below", words=("notes",), left=("notes",))
    assert file.read_text() == "keep"


def test_output_that_cannot_be_written(refused: Callable, small_model: Path) -> None:
    refused(small_model, "--seq-len", 8, "--out", "/proc/artifact", words=("cannot write", "/proc"))


def test_dump_folder_that_cannot_be_written(refused: Callable, small_model: Path) -> None:
    refused(small_model, "--seq-len", 8, "--target", "host", "--dump", "/proc/dump", words=("/proc/dump",))


def test_no_linker(refused: Callable, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link.importlib.util, "find_spec", lambda name: None)
    refused(small_model, words=("no linker", "pip install ziglang", "ANDROID_NDK_HOME"))


def test_linker_that_fails(refused: Callable, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = link.Toolchain(("/bin/false",), "a broken compiler")
    monkeypatch.setattr(pipeline, "find_toolchain", lambda *_: broken)
    refused(small_model, "--seq-len", 8, "--target", "host", words=("a broken compiler failed",))


@pytest.mark.parametrize("folder", ["/nowhere/ndk", ""])
def test_ndk_that_is_not_there(
    folder: str, refused: Callable, small_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANDROID_NDK_HOME", folder or str(tmp_path))
    refused(small_model, words=("ANDROID_NDK_HOME", "clang", "unset"))


def test_nothing_to_emulate_with(
    refused: Callable, small_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(verify, "runs_here", lambda target: False)
    monkeypatch.setattr(qemu.shutil, "which", lambda name: None)
    refused(small_model, "--seq-len", 8, "--verify", words=("qemu-user",))
    monkeypatch.setattr(qemu.shutil, "which", lambda name: name)
    nowhere = replace(qemu.EMULATORS["aarch64"], root=tmp_path / "nowhere")
    monkeypatch.setitem(qemu.EMULATORS, "aarch64", nowhere)
    refused(small_model, "--seq-len", 8, "--verify", words=("libc6-arm64-cross",))


def test_verification_that_fails_leaves_no_artifact(
    refused: Callable, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "TOLERANCE", -1.0)
    refused(small_model, "--seq-len", 8, "--target", "host", "--verify", words=("verification failed",))


def test_too_little_space(refused: Callable, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 30, (1 << 30) - 4096, 4096))
    refused(small_model, "--seq-len", 8, "--target", "host", words=("0 MiB left", "free some space"))


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (pipeline, "write_weights"),
        (pipeline, "compile_kernels"),
        (pipeline, "write_interface"),
        (pipeline, "write_report"),
        (pipeline.Manifest, "write"),
        (artifact_folder, "_replace"),
    ],
)
def test_disk_that_is_full_all_of_a_sudden(
    module: Any, function: str, refused: Callable, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/some/file")

    monkeypatch.setattr(module, function, full)
    refused(small_model, "--seq-len", 8, "--target", "host", words=("disk full", "/some/file"))


def test_full_disk_under_the_linker(refused: Callable, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise link.CompileError("zig failed: error: unable to write: NoSpaceLeft")

    monkeypatch.setattr(pipeline, "link_library", full)
    refused(small_model, "--seq-len", 8, "--target", "host", words=("disk full", "zig failed"))


def test_artifact_of_before_survives_a_failure(
    refused: Callable, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "place" / "artifact"
    arguments = [small_model, "--seq-len", "8", "--target", "host", "--out", out]
    assert command_line.main([str(a) for a in arguments]) == 0

    def contents() -> dict[Path, bytes]:
        return {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}

    before = contents()
    assert {p.name for p in out.iterdir()} == {"libsmall.so", "include", "cmake", "manifest.json", "report.html"}
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "check_library", lambda *args: (_ for _ in ()).throw(OSError(5, "broken", "disk")))
        refused(*arguments, words=("broken",), left=("artifact",))
    assert contents() == before
    assert command_line.main([str(a) for a in [*arguments, "--threads", 2]]) == 0
    assert json.loads((out / "manifest.json").read_text())["default_threads"] == 2
    assert [p.name for p in out.parent.iterdir()] == ["artifact"]


def test_interrupted(refused: Callable, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                     capsys: pytest.CaptureFixture) -> None:  # fmt: skip
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "link_library", interrupt)
    assert command_line.main([str(small_model), "--seq-len", "8", "--target", "host"]) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert list((tmp_path / "place").iterdir()) == []


def test_debug_shows_the_traceback(small_model: Path) -> None:
    with pytest.raises(Exception, match="8 tokens"):
        command_line.main([str(small_model), "--seq-len", "16", "--debug"])
