"""The JavaScript of a WebAssembly artifact."""

from __future__ import annotations

from pathlib import Path

WEB = Path(__file__).parent
