"""OpenVINO in float32: where the CPU has bfloat16 it would take that by itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("openvino",)


def convert(source: Path) -> Path:
    return source


def prepare(file: Path, sample: dict[str, Any], threads: int) -> Callable[[], list[Any]]:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(str(file), "CPU", settings).create_infer_request()
    return lambda: list(request.infer(sample).values())
