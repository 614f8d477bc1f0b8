"""Malformed models and files: one PassError that names the culprit, and no output file."""

from io import StringIO

import numpy as np
import onnx
import pytest
from google.protobuf.message import EncodeError
from onnx import TensorProto, helper
from rich.console import Console

import passes
from passes import files
from passes.__main__ import main, print_report


@pytest.fixture
def small(build):
    b = build()
    x = b.input("x", [2, 4, 8])
    return b.model(b("Relu", b.norm(b.linear(x, 8, 6), 6)))


@pytest.fixture
def saved(small, tmp_path):
    path = tmp_path / "small.onnx"
    onnx.save(small, path)
    return path


def external(model, path, location="weights.bin"):
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    stored = onnx.load(path, load_external_data=False)
    for tensor in stored.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(stored.SerializeToString())
    return path


def test_missing_file():
    with pytest.raises(passes.PassError, match="no such file"):
        passes.run("nowhere.onnx")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 this is a zip file", b"\x00" * 100])
def test_file_that_is_not_onnx(tmp_path, content):
    path = tmp_path / "not.onnx"
    path.write_bytes(content)
    with pytest.raises(passes.PassError, match=r"not an ONNX file|holds no ONNX graph"):
        passes.run(path)


def test_truncated_file(saved):
    saved.write_bytes(saved.read_bytes()[:-20])
    with pytest.raises(passes.PassError, match="cut short"):
        passes.run(saved)


def test_missing_initializer_is_named(small):
    name = small.graph.initializer[0].name
    del small.graph.initializer[0]
    with pytest.raises(passes.PassError, match=name):
        passes.run(small)


def test_cycle_is_reported(small):
    relu = small.graph.node[-1]
    first = small.graph.node[0]
    first.input[0] = relu.output[0]
    with pytest.raises(passes.PassError, match="cycle"):
        passes.run(small)


def test_value_made_twice(small):
    small.graph.node.append(small.graph.node[0])
    small.graph.node[-1].name = "another"
    with pytest.raises(passes.PassError, match="exists already"):
        passes.run(small)


def test_wrong_types_are_refused_by_the_referee(small):
    small.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(passes.PassError, match="ONNX Runtime cannot run the input model"):
        passes.run(small)


def test_custom_domain_is_named(small):
    small.graph.node[-1].domain = "example.custom"
    small.opset_import.append(helper.make_opsetid("example.custom", 1))
    with pytest.raises(passes.PassError, match=r"example\.custom::Relu"):
        passes.run(small)


def test_external_data_beside_the_model_is_read(small, tmp_path):
    result, _ = passes.run(external(small, tmp_path / "m.onnx"))
    assert not files.external_tensors(result)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname"])
def test_external_data_outside_the_folder_is_refused(small, tmp_path, location):
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(b"0" * 4096)
    with pytest.raises(passes.PassError, match="outside the model's folder"):
        passes.run(external(small, folder / "m.onnx", location))


def test_external_data_that_is_missing(small, tmp_path):
    path = external(small, tmp_path / "m.onnx")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(passes.PassError, match="not there"):
        passes.run(path)


def test_external_data_over_two_gigabytes(small, tmp_path):
    path = external(small, tmp_path / "m.onnx")
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "length":
            entry.value = str(3 << 30)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(passes.PassError, match="external data; these passes handle models up to 2 GiB"):
        passes.run(path)


def test_unloaded_external_data_in_a_proto(small, tmp_path):
    with pytest.raises(passes.PassError, match="pass the model's path"):
        passes.run(onnx.load(external(small, tmp_path / "m.onnx"), load_external_data=False))


def test_nodes_out_of_order_are_sorted(small, check):
    nodes = list(small.graph.node)[::-1]
    del small.graph.node[:]
    small.graph.node.extend(nodes)
    result, _ = passes.run(small)
    onnx.checker.check_model(result)


def test_the_model_given_is_not_changed(small):
    before = small.SerializeToString()
    passes.run(small)
    assert small.SerializeToString() == before


def test_command_line_writes_model_and_report(saved, tmp_path, capsys):
    out, report, stages = tmp_path / "out.onnx", tmp_path / "report.json", tmp_path / "stages"
    assert main([str(saved), "-o", str(out), "--report", str(report), "--dump", str(stages)]) == 0
    onnx.checker.check_model(str(out))
    assert '"tolerance": 0.0001' in report.read_text()
    assert len(list(stages.iterdir())) == len(passes.pipeline.NAMES)
    assert "wrote" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["missing.onnx", "-o", "o.onnx"], [], ["MODEL", "-o", "/dev/null/o.onnx"],
                  ["MODEL", "-o", "o.onnx", "--only", "unheard_of"]],
)  # fmt: skip
def test_command_line_errors_are_one_line_and_leave_no_file(saved, tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert main([str(saved) if a == "MODEL" else a for a in arguments]) == 2
    *progress, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert all("nodes left" in line for line in progress)
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.onnx"]


def test_every_pass_is_listed_with_a_summary(capsys):
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert [name for name in passes.pipeline.NAMES if name not in listed] == []


def test_full_disk_leaves_no_file(small, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(passes.PassError, match="disk full"):
        files.write(small, tmp_path / "o.onnx")
    assert not list(tmp_path.iterdir())


def test_scalar_and_float_inputs_are_filled(build):
    b = build()
    y = b("Add", b.input("x", []), b.input("mask", ["n"]))
    feeds = passes.inputs.random_inputs(b.model(y), 0)
    assert feeds["x"].shape == ()
    assert set(np.unique(feeds["mask"])) <= {0.0, 1.0}


def test_a_model_that_protobuf_cannot_write_is_named(small, tmp_path, monkeypatch):
    for error in (EncodeError("too large"), ValueError("too large")):

        def fail(_self, error=error, **_):
            raise error

        monkeypatch.setattr(type(small), "SerializeToString", fail, raising=False)
        with pytest.raises(passes.PassError, match="larger than 2 GiB"):
            files.write(small, tmp_path / "out.onnx")
        assert not list(tmp_path.iterdir())


def layer(name, precision, snr, reason=""):
    return passes.report.LayerPrecision(name, "linear", f"{name}.weight", (4, 4), precision, reason, snr, snr)


def printed(report):
    console = Console(file=StringIO(), width=200)
    print_report(console, report)
    return console.file.getvalue()


def test_the_printed_report_says_what_was_done_in_the_units_it_names():
    refusals = (passes.report.Refusal("too [noisy]", "here", 2),)
    entry = passes.report.PassReport(
        "quantize_linears", "quantize", 3, {"a": 7}, refusals, 11, 9, 0.0123, 2.5e-5,
        (layer("one", "int8", 40.0), layer("two", "int8", 31.5), layer("three", "float32", 12.0, "too noisy")),
    )  # fmt: skip
    size = passes.report.Size(11, 1234567, 2_500_000_000), passes.report.Size(9, 1000, 1_250_000_000)
    report = passes.Report(*size, (entry,), True, 1e-4, 3e-5, 1.26, 28.0)
    text = printed(report)
    for words in (
        "quantize_linears", "11 → 9", "12", "2.5e-05", "a 7", "quantize_linears: 2 × too [noisy] (first: here)",
        "int8: 2 of 3 layers; least signal-to-noise ratio 31.5 dB (two.weight); outputs 28.0 dB",
        "float32: three.weight: too noisy (12.0 dB)",
        "nodes 11 → 9, parameters 1,234,567 → 1,000, GFLOPs 2.500 → 1.250, error 3.0e-05 of range, 1.3 s",
    ):  # fmt: skip
        assert words in text
    assert [one.name for one in report.noisiest()] == ["two", "one"]


def test_the_printed_report_leaves_out_what_nobody_knows():
    size = passes.report.Size(2, 3, None)
    text = printed(passes.Report(size, size, (), False, 1e-4, None, 0.0))
    assert "nodes 2 → 2, parameters 3 → 3, 0.0 s" in text
    assert not any(word in text for word in ("GFLOPs", "error 0", "int8", "float32"))
