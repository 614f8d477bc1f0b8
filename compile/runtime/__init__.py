"""The C that goes into every library, by kind; this module says where it lies.

include/ is for programs that load a library, src/ goes into it, templates/ become its own header and CMake package,
generated/ is written by compile/codegen/unicode_tables.py, tools/ are programs that run libraries elsewhere.
"""

from __future__ import annotations

from pathlib import Path

RUNTIME = Path(__file__).parent
INCLUDE, SRC, GENERATED = RUNTIME / "include", RUNTIME / "src", RUNTIME / "generated"
TEMPLATES, TOOLS = RUNTIME / "templates", RUNTIME / "tools"
