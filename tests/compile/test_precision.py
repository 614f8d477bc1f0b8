"""`--precision int8`: what is quantised, said and verified; files that are quantised already; calibration texts."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from compile import __main__ as command_line
from compile.artifact.manifest import Manifest
from compile.build import build

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "##a", "##b"]


@pytest.fixture
def encoder(graph: type, tmp_path: Path) -> Path:
    """ids → lookup → FFN with a residual → head, for 8 tokens; embedding, FFN and head have names."""
    b = graph()
    ids = b.input("input_ids", [1, 8], TensorProto.INT64)
    x = b("Gather", b.const(b.rng.standard_normal((64, 32)), "words"), ids)
    mask = b("Cast", b.input("attention_mask", [1, 8], TensorProto.INT64), to=TensorProto.FLOAT)
    x = b("Mul", x, b("Unsqueeze", mask, b.const(np.array([2]))))
    inner = b("Relu", b("MatMul", x, b.const(b.rng.standard_normal((32, 64)) / 6, "ffn.weight")))
    x = b("Add", x, b("MatMul", inner, b.const(b.rng.standard_normal((64, 32)) / 8, "out.weight")))
    y = b("MatMul", x, b.const(b.rng.standard_normal((32, 4)), "classifier.weight"))
    onnx.save(b.model(y), tmp_path / "encoder.onnx")
    return tmp_path / "encoder.onnx"


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return tmp_path / "vocab.txt"


def test_the_manifest_and_the_summary_say_what_stayed_float(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, host: object
) -> None:
    arguments = [encoder, "--target", "host", "--seq-len", 8, "--out", tmp_path / "a", "--precision", "int8"]
    arguments += ["--keep-float", "classifier*", "--verify"]
    assert command_line.main([str(a) for a in arguments]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    manifest = Manifest.read(tmp_path / "a")
    assert [(kept.layer, kept.reason) for kept in manifest.kept_in_float] == [
        ("classifier.weight", "--keep-float classifier*")
    ]
    assert manifest.passes is not None
    assert manifest.passes.int8_snr is not None
    assert 25 < manifest.passes.int8_snr < 60
    [check] = manifest.verification
    assert check.passed
    assert check.referee.startswith("ONNX Runtime ")
    assert check.snr_db is not None
    assert check.snr_db > 25
    least = manifest.passes.noisiest()[0]
    assert f"int8 layers 3 of 4; least {least.output_snr:.1f} dB, {least.weight}; outputs" in text
    assert "dB to float32 on random inputs" in text
    page = (tmp_path / "a/report.html").read_text()
    assert f"{least.output_snr:.1f} dB" in page[page.index("noisiest in int8") :]
    assert "in float32 classifier.weight: --keep-float classifier*" in text
    assert "dB to the model as given" in text


def test_texts_are_what_layers_are_sampled_on(encoder: Path, vocabulary: Path, tmp_path: Path, host: object) -> None:
    (tmp_path / "texts.txt").write_text("a b c\n\nhello world\n")
    options = {"target": "host", "seq_len": 8, "precision": "int8", "vocab": vocabulary, "verify": True}
    ratios = []
    for name, texts in (("random", None), ("texts", tmp_path / "texts.txt")):
        manifest = build(encoder, out=tmp_path / name, calibrate=texts, **options).manifest
        assert manifest.passes is not None
        assert manifest.passes.texts == (2 if texts else 0)
        assert manifest.verification[0].texts == (1 if texts else 0)
        ratios.append(manifest.passes.int8_snr)
    assert None not in ratios
    assert ratios[0] != ratios[1]


@pytest.mark.parametrize(("content", "words"), [
    (b"", "holds no text"), (b"\n  \n", "holds no text"), (b"a\xff", "not UTF-8 at byte 1"), (None, "cannot be read"),
])  # fmt: skip
def test_calibration_files_that_are_none(
    encoder: Path, vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture, content: bytes | None, words: str
) -> None:
    texts = tmp_path / "texts.txt"
    if content is not None:
        texts.write_bytes(content)
    given = [encoder, "--target", "host", "--precision", "int8", "--vocab", vocabulary, "--calibrate", texts]
    assert command_line.main([str(a) for a in given]) == 2
    error = capsys.readouterr().err
    assert f"{texts}: {words}" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(("arguments", "words"), [
    (["--keep-float", "x"], "give --precision int8"), (["--min-snr", "30"], "give --precision int8"),
    (["--precision", "int8", "--calibrate", "t.txt"], "give --vocab"),
    (["--precision", "int8", "--keep-float", "nosuch"], "--keep-float nosuch: no layer has such a name"),
])  # fmt: skip
def test_options_that_do_not_fit(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], words: str
) -> None:
    out = tmp_path / "out"
    given = [str(encoder), "--target", "host", "--seq-len", "8", "--out", str(out), *arguments]
    assert command_line.main(given) == 2
    *_, last = capsys.readouterr().err.strip().splitlines()  # after the phases
    assert words in last
    assert not out.exists()


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_file_that_is_quantised_already(encoder: Path, tmp_path: Path, host: object, kind: str) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

    class Samples(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(
                [
                    {"input_ids": np.arange(i, i + 8)[None], "attention_mask": np.ones((1, 8), int)}
                    for i in range(0, 64, 8)
                ]
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    file = tmp_path / "quantised.onnx"
    if kind == "dynamic":
        quantize_dynamic(encoder, file, weight_type=QuantType.QInt8, per_channel=True)
    else:
        quantize_static(encoder, file, Samples(), weight_type=QuantType.QInt8, per_channel=True)
    manifest = build(file, target="host", seq_len=8, out=tmp_path / "a", verify=True).manifest
    [check] = manifest.verification
    assert check.passed
    assert check.snr_db is not None
    assert check.snr_db > 20
    if kind == "static":  # the file's own integers of every row, so that only the order of sums differs
        assert check.error < 1e-6
        assert sum("_static_" in kernel.name for kernel in manifest.kernels) == 3
