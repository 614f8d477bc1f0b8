"""The forms in which people have an encoder, each written from a family's small random model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.families import TOKENS, Absent, Encoder
from pocketbert.errors import first_line
from pocketbert.numerics import relative_error

LENGTHS = (TOKENS, 11, 5)
TOLERANCE = 1e-4
COARSE = 0.25  # a file in int8 that is further off is of no use to anybody
HALF_TOLERANCE = 5e-3  # weights and tables that were rounded to eleven bits

Answer = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Written:
    """What `compile` is given, what the answer to ids and mask is, and how far off it may be, of the answer's range."""

    source: Path
    answer: Answer
    tolerance: float = TOLERANCE


def samples(lengths: tuple[int, ...] = LENGTHS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids and masks (1, T): no padding, padding behind of two lengths, padding in front, holes."""
    rng = np.random.default_rng(0)
    for length in lengths:
        ids = rng.integers(5, 90, (1, length))
        for begin, end, step in ((0, length, 1), (0, length - 1, 1), (0, 2, 1), (2, length, 1), (0, length, 2)):
            mask = np.zeros((1, length), np.int64)
            mask[:, begin:end:step] = 1
            yield ids, mask


def feeds(names: list[str], ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """For inputs by name: zeros where it is neither of the two."""
    values = {name: mask if "mask" in name else ids if "ids" in name else np.zeros_like(ids) for name in names}
    return values | {name: np.zeros_like(ids) for name in names if "type" in name}


def export(encoder: Encoder, folder: Path, *, dynamic: bool, dynamo: bool = False) -> Path:
    """The file that torch's older exporter or its newer one (dynamo) writes."""
    import torch

    path, ids = folder / "model.onnx", torch.randint(5, 90, (2 if dynamic and dynamo else 1, TOKENS))
    names = ["input_ids", "attention_mask"]
    options: dict[str, Any] = {"opset_version": 18 if dynamo else 17, "dynamo": dynamo, "input_names": names}
    if dynamo:
        options["external_data"] = False
    if dynamo and dynamic:
        axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        options["dynamic_shapes"] = (axes, axes)
    elif dynamic:
        options["dynamic_axes"] = {name: {0: "batch_size", 1: "sequence_length"} for name in [*names, "y"]}
    try:
        torch.onnx.export(
            encoder.module, (ids, torch.ones_like(ids)), str(path), output_names=["y"], verbose=False, **options
        )
    except Exception as error:
        raise Absent(f"torch.onnx: {first_line(error)}") from error
    return path


def onnx_file(encoder: Encoder, folder: Path, **options: bool) -> Written:
    return Written(export(encoder, folder, **options), encoder)


def hugging_face(encoder: Encoder, folder: Path) -> Written:
    """A folder that save_pretrained leaves."""
    if encoder.is_part:
        raise Absent("transformers saves the decoder with it")
    encoder.model.save_pretrained(folder / "saved")
    return Written(folder / "saved", encoder)


def sentence_transformers(encoder: Encoder, folder: Path) -> Written:
    """A folder with its modules: the mean over what is no padding, of length one."""
    saved = hugging_face(encoder, folder).source
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (saved / "modules.json").write_text(json.dumps(modules))
    (saved / "1_Pooling").mkdir()
    (saved / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))

    def embedding(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        mean = encoder(ids, mask)[mask == 1].mean(0, keepdims=True)
        return np.asarray(mean / np.linalg.norm(mean))

    return Written(saved, embedding)


def half(encoder: Encoder, folder: Path) -> Written:
    """float16 throughout, in- and outputs included."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(export(encoder, folder, dynamic=True)))
    onnx.save(model, folder / "half.onnx")
    return Written(folder / "half.onnx", encoder, HALF_TOLERANCE)


def quantized(encoder: Encoder, folder: Path, *, static: bool) -> Written:
    """By onnxruntime.quantization: weights alone, or activations too by QuantizeLinear and DequantizeLinear.

    The latter of products and lookups: where masks are quantised too, whose numbers are 0 and −3.4e38, ONNX Runtime
    itself is 0.3 to 0.7 of the range off.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

    source, path = export(encoder, folder, dynamic=True), folder / "quantized.onnx"
    given = [feeds(_inputs(source), *sample) for sample in samples()]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        waiting = iter(given)

        def get_next(self) -> Any:
            return next(self.waiting, None)

    products = ["MatMul", "Gemm", "Gather"]
    try:
        if static:
            quantize_static(
                source, path, Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=products, per_channel=True
            )
        else:
            quantize_dynamic(source, path)
        theirs = error_in_onnxruntime(path, encoder)
    except Exception as error:  # also in calibration, where a file takes one length alone
        raise Absent(f"onnxruntime: {first_line(error)}") from error
    if theirs > COARSE:
        raise Absent(f"onnxruntime.quantization: what it leaves is {theirs:.1f} off in ONNX Runtime itself")
    # Ours may be as far off as ONNX Runtime's own, and half as much again: it rounds otherwise.
    return Written(path, encoder, 1.5 * theirs + TOLERANCE)


def fused(encoder: Encoder, folder: Path) -> Written:
    """What onnxruntime.transformers.optimizer leaves: EmbedLayerNormalization, Attention, SkipLayerNormalization …"""
    from onnxruntime.transformers.optimizer import optimize_model

    source, path = export(encoder, folder, dynamic=True), folder / "fused.onnx"
    try:
        optimize_model(str(source), "bert", num_heads=4, hidden_size=32, opt_level=0).save_model_to_file(str(path))
        off = error_in_onnxruntime(path, encoder)
    except Exception as error:
        raise Absent(f"onnxruntime.transformers: {first_line(error)}") from error
    if off > TOLERANCE:
        raise Absent(f"onnxruntime.transformers: what it leaves is {off:.0e} off in ONNX Runtime itself")
    return Written(path, encoder)


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _inputs(path: Path) -> list[str]:
    return [value.name for value in _session(path).get_inputs()]


def error_in_onnxruntime(path: Path, answer: Answer, lengths: tuple[int, ...] = LENGTHS) -> float:
    """The greatest error of a file there, as a share of the answer's range. Raises what ONNX Runtime raises."""
    session = _session(path)
    names = [value.name for value in session.get_inputs()]
    return max(
        relative_error({"y": session.run(None, feeds(names, *sample))[0]}, {"y": answer(*sample)})
        for sample in samples(lengths)
    )


FORMS: dict[str, Callable[[Encoder, Path], Written]] = {
    "folder": hugging_face,
    "static": lambda encoder, folder: onnx_file(encoder, folder, dynamic=False),
    "dynamic": lambda encoder, folder: onnx_file(encoder, folder, dynamic=True),
    "dynamo": lambda encoder, folder: onnx_file(encoder, folder, dynamic=True, dynamo=True),
    "sentence": sentence_transformers,
    "fused": fused,
    "fp16": half,
    "int8": lambda encoder, folder: quantized(encoder, folder, static=False),
    "qdq": lambda encoder, folder: quantized(encoder, folder, static=True),
}
