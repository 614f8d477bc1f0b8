"""Graph passes: an exported ONNX graph becomes the cheapest equivalent standard-ONNX graph."""

from typing import TYPE_CHECKING, Any

from passes.errors import PassError
from passes.options import Options
from passes.report import PassReport, Refusal, Report

if TYPE_CHECKING:
    from passes.pipeline import PHASES, run

__all__ = ["PHASES", "Options", "PassError", "PassReport", "Refusal", "Report", "run"]


def __getattr__(name: str) -> Any:  # their module imports ONNX Runtime and onnxsim; who reads a report needs neither
    if name not in ("PHASES", "run"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from passes import pipeline

    return getattr(pipeline, name)
