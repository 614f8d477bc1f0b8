"""What Windows demands of a library, looked at in the linked files themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lief

from compile.errors import CompileError
from compile.linking.symbols import DLLS
from compile.targets import Target

lief.logging.disable()  # what is wrong with a file is ours to say

MACHINES = {"x86_64": lief.PE.Header.MACHINE_TYPES.AMD64, "aarch64": lief.PE.Header.MACHINE_TYPES.ARM64}


def check_dll(path: Path, target: Target, name: str) -> list[str]:
    """The rules that the DLL at `path` meets, in words. Raises CompileError naming the first that it breaks."""
    dll = lief.PE.parse(str(path))
    rules = [("a DLL in PE32+ format", dll is not None and _is_dll(dll))]
    if rules[0][1]:
        rules += _rules(dll, path, target, name)
    for rule, holds in rules:
        if not holds:
            raise CompileError(f"{path.name} breaks a rule of its target: {rule}")
    return [rule for rule, _ in rules]


def _is_dll(dll: Any) -> bool:
    library = dll.header.has_characteristic(lief.PE.Header.CHARACTERISTICS.DLL)
    return bool(library and dll.optional_header.magic == lief.PE.PE_TYPE.PE32_PLUS)


def _rules(dll: Any, path: Path, target: Target, name: str) -> list[tuple[str, bool]]:
    flags, kinds = lief.PE.OptionalHeader.DLL_CHARACTERISTICS, lief.PE.Section.CHARACTERISTICS
    header, exports = dll.optional_header, dll.get_export()
    public = {entry.name for entry in exports.entries} if exports else set()
    taken = {(library.name, entry.name) for library in dll.imports for entry in library.entries}
    writable_code = (kinds.MEM_WRITE, kinds.MEM_EXECUTE)
    directories = lief.PE.DataDirectory.TYPES
    library = path.with_suffix(".lib")
    return [
        (f"machine is {target.arch}", dll.header.machine == MACHINES[target.arch]),
        (f"called {name}.dll", bool(exports) and exports.name == f"{name}.dll"),
        (
            f"takes nothing but public functions of {', '.join(DLLS)}",
            all(symbol in DLLS.get(library, ()) for library, symbol in taken),
        ),
        ("may lie at any address of 64 bits", all(map(header.has, (flags.DYNAMIC_BASE, flags.HIGH_ENTROPY_VA)))),
        ("data is not executable", header.has(flags.NX_COMPAT)),
        (
            "no section both writable and executable",
            not any(all(map(section.has_characteristic, writable_code)) for section in dll.sections),
        ),
        ("frames that can be undone", dll.data_directory(directories.EXCEPTION_TABLE).size > 0),
        ("no thread-local storage", dll.data_directory(directories.TLS_TABLE).size == 0),
        (
            f"exports only {name}_* and JNI_OnLoad",
            "JNI_OnLoad" in public and all(s.startswith(f"{name}_") or s == "JNI_OnLoad" for s in public),
        ),
        (
            f"{library.name} beside it names each of them",
            library.is_file() and all(symbol.encode() in library.read_bytes() for symbol in public),
        ),
    ]
