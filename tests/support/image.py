"""A DLL, or a library of Apple's, as its system's loader lays it out in memory: for tests/e2e/foreign."""

import struct
from pathlib import Path
from typing import Any

import lief


def write_image(library: Path, name: str, path: Path) -> Path:
    """Memory, the addresses in it that move with it, where imports go, and where `<name>_functions` is."""
    parts = (
        _of_dll(lief.PE.parse(str(library))) if library.suffix == ".dll" else _of_dylib(lief.MachO.parse(str(library)))
    )
    memory, moved, imports, exports = parts
    header = struct.pack("<4Q", len(memory), len(moved), len(imports), exports[f"{name}_functions"])
    names = b"".join(struct.pack("<Q56s", at, symbol.encode()) for at, symbol in imports)
    path.write_bytes(header + memory + struct.pack(f"<{len(moved)}Q", *moved) + names)
    return path


def _of_dll(dll: Any) -> tuple[bytearray, list[int], list[tuple[int, str]], dict[str, int]]:
    memory = bytearray(dll.optional_header.sizeof_image)
    for section in dll.sections:
        content = bytes(section.content)[: section.virtual_size]
        memory[section.virtual_address : section.virtual_address + len(content)] = content
    entries = [entry for block in dll.relocations for entry in block.entries]
    wide = lief.PE.RelocationEntry.BASE_TYPES.DIR64
    moved = [entry.address for entry in entries if entry.type == wide]
    for at in moved:
        struct.pack_into("<Q", memory, at, struct.unpack_from("<Q", memory, at)[0] - dll.optional_header.imagebase)
    imports = [(entry.iat_address, entry.name) for library in dll.imports for entry in library.entries]
    return memory, moved, imports, {entry.name: entry.address for entry in dll.get_export().entries}


def _of_dylib(fat: Any) -> tuple[bytearray, list[int], list[tuple[int, str]], dict[str, int]]:
    dylib = fat.at(0)
    memory = bytearray(max(segment.virtual_address + segment.virtual_size for segment in dylib.segments))
    for segment in dylib.segments:
        content = bytes(segment.content)
        memory[segment.virtual_address : segment.virtual_address + len(content)] = content
    imports = [(binding.address, binding.symbol.name.removeprefix("_")) for binding in dylib.bindings]
    moved = [relocation.address for relocation in dylib.relocations]
    exports = {export.symbol.name.removeprefix("_"): export.address for export in dylib.dyld_info.exports}
    return memory, moved, imports, exports
