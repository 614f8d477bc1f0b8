"""The page that every build leaves beside its library: what was compiled, drawn from the manifest alone."""

from compile.artifact.report.page import render, write_report

__all__ = ["render", "write_report"]
