"""What an app compiles against: the C and C++ headers, and a CMake package that finds them and the library."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from compile.codegen.escape import c_comment, fill
from compile.planning.plan import Plan
from compile.program import Value
from compile.runtime import INCLUDE, SRC, TEMPLATES
from compile.targets import Target

SHARED_HEADERS = ("pocketbert.h", "pocketbert.hpp", "pocketbert_loader.h")


def write_interface(plan: Plan, name: str, target: Target, folder: Path) -> None:
    """`include/`: `<name>.h` and the headers that all models share; `cmake/`: for find_package(<name> CONFIG)."""
    include, cmake = folder / "include", folder / "cmake"
    include.mkdir()
    cmake.mkdir()
    (include / f"{name}.h").write_text(header(name, _describe(plan)))
    for shared in SHARED_HEADERS:
        shutil.copy(INCLUDE / shared, include / shared)
    library = target.library_name(name)
    facts = {
        "NAME": name,
        "ABI": str(abi_version()),
        "TARGET": target.name,
        "SYSTEM": target.system,
        "ARCH": target.arch,
    }
    facts |= {"LIBRARY": library, "SONAME": target.install_name(library) if target.is_apple else library}
    for file in ("config", "config-version"):
        (cmake / f"{name}-{file}.cmake").write_text(fill((TEMPLATES / f"{file}.cmake.in").read_text(), facts))


def header(name: str, tensors: str) -> str:
    """The C interface for symbols that begin with `name`; `tensors` are lines of its first comment."""
    text = (SRC / "api.h").read_text().replace("PB_API_H", f"{name.upper()}_H")
    return fill(re.sub(r"\bPB\((\w+)\)", rf"{name}_\1", text), {"TENSORS": tensors, "NAME": name})


def abi_version() -> int:
    """POCKETBERT_ABI: the version of the C interface."""
    match = re.search(r"POCKETBERT_ABI = (\d+)", (INCLUDE / "pocketbert.h").read_text())
    assert match
    return int(match[1])


def _describe(plan: Plan) -> str:
    """The model's tensors, as lines of a comment."""
    lines = []
    for kind, values in (("Inputs", plan.program.inputs), ("Outputs", plan.program.outputs)):
        lines.append(f" * {kind}, in order:")
        lines += [f" *   {_describe_tensor(plan, value)}" for value in values]
    return "\n".join(lines)


def _describe_tensor(plan: Plan, value: Value) -> str:
    allowed = plan.program.ranges.get(value.name)
    limits = f", {allowed.low} <= id < {allowed.high}" if allowed else ""
    shape = ", ".join(map(str, plan.program.interface_shape(value)))
    return f"{c_comment(value.name)}: {value.dtype} [{shape}]{limits}"
