"""ONNX Runtime, all of its graph optimisations on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("onnxruntime",)


def convert(source: Path) -> Path:
    return source


def prepare(file: Path, sample: dict[str, Any], threads: int) -> Callable[[], list[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, sample)
