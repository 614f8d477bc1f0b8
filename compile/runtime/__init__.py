"""The C that goes into every library, by kind; this module says where it lies.

include/ is for programs that load a library; src/ goes into it, compiled where it is, and api.h there becomes its own
header; templates/ become its CMake package; tools/ are programs that run libraries elsewhere. What a build adds to src/
has defaults in config.h.
"""

from __future__ import annotations

from pathlib import Path

RUNTIME = Path(__file__).parent
INCLUDE, SRC = RUNTIME / "include", RUNTIME / "src"
TEMPLATES, TOOLS = RUNTIME / "templates", RUNTIME / "tools"
