"""Graph passes: an exported ONNX graph becomes the cheapest equivalent standard-ONNX graph."""

from passes.errors import PassError
from passes.options import Options
from passes.pipeline import PHASES, run
from passes.report import PassReport, Refusal, Report

__all__ = ["PHASES", "Options", "PassError", "PassReport", "Refusal", "Report", "run"]
