"""OpenVINO on a static QDQ file by ONNX Runtime's quantiser, calibrated with eight random sequences."""

from pathlib import Path

from benchmarks.peers import openvino

PACKAGES = (*openvino.PACKAGES, "onnxruntime")
SEQUENCES = 8
prepare = openvino.prepare


def convert(source: Path) -> Path:
    import numpy as np
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    sample = dict(np.load(source.with_name("sample.npz")))
    drawn = np.random.default_rng(0)

    class Reader(CalibrationDataReader):
        left = SEQUENCES

        def get_next(self) -> dict[str, np.ndarray] | None:
            self.left -= 1
            ids = drawn.integers(0, sample["input_ids"].max() + 1, sample["input_ids"].shape)
            return None if self.left < 0 else {**sample, "input_ids": ids}

    target = source.with_name(f"{source.stem}.static.onnx")
    quantize_static(
        source, target, Reader(), per_channel=True, weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8
    )
    return target
