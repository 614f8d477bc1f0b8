"""ONNX Runtime's dynamic quantisation: weights in int8 a channel, activations in uint8 a tensor as they come."""

from pathlib import Path

from benchmarks.peers import onnxruntime

PACKAGES = onnxruntime.PACKAGES
prepare = onnxruntime.prepare


def convert(source: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = source.with_name(f"{source.stem}.dynamic.onnx")
    quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)
    return target
