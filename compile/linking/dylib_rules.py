"""What Apple's loader and App Store demand of a library, looked at in the linked file itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lief

from compile.errors import CompileError
from compile.linking.symbols import LIBSYSTEM
from compile.targets import Target

lief.logging.disable()  # what is wrong with a file is ours to say

PAGE = 16384
LIBRARY = "/usr/lib/libSystem.B.dylib"
PLATFORMS = {
    "arm64-macos": lief.MachO.BuildVersion.PLATFORMS.MACOS,
    "arm64-ios": lief.MachO.BuildVersion.PLATFORMS.IOS,
    "arm64-ios-simulator": lief.MachO.BuildVersion.PLATFORMS.IOS_SIMULATOR,
}
# What zig's linker puts into every library, and into what it exports.
LINKERS_OWN = {"__mh_dylib_header", "___dso_handle"}
LINKERS_WANT = {"dyld_stub_binder"}
WRITE, EXECUTE = 2, 4


def check_dylib(path: Path, target: Target, name: str) -> list[str]:
    """The rules that the library at `path` meets, in words. Raises CompileError naming the first that it breaks."""
    fat = lief.MachO.parse(str(path))
    rules = [("a dynamic library in Mach-O format", fat is not None and _is_dylib(fat))]
    if fat is not None and rules[0][1]:
        rules += _rules(fat.at(0), target, name)
    for rule, holds in rules:
        if not holds:
            raise CompileError(f"{path.name} breaks a rule of its target: {rule}")
    return [rule for rule, _ in rules]


def _is_dylib(fat: Any) -> bool:
    return bool(fat.size == 1 and fat.at(0).header.file_type == lief.MachO.Header.FILE_TYPE.DYLIB)


def _rules(dylib: Any, target: Target, name: str) -> list[tuple[str, bool]]:
    identity = [c.name for c in dylib.commands if c.command == lief.MachO.LoadCommand.TYPE.ID_DYLIB]
    needed = {library.name for library in dylib.libraries} - set(identity)
    version = dylib.build_version
    least = ".".join(map(str, version.minos[:2])) if version else ""
    public = {export.symbol.name for export in dylib.dyld_info.exports} - LINKERS_OWN
    wanted = {binding.symbol.name for binding in dylib.bindings} - LINKERS_WANT
    own = target.install_name(target.library_name(name))
    protections = [segment.max_protection for segment in dylib.segments]
    return [
        ("machine is arm64", dylib.header.cpu_type == lief.MachO.Header.CPU_TYPE.ARM64),
        (f"install name is {own}", identity == [own]),
        (f"needs nothing but {LIBRARY}", needed == {LIBRARY}),
        ("takes public functions alone", wanted <= {f"_{symbol}" for symbol in LIBSYSTEM}),
        (
            f"made for {target.name} {target.least_version} and later",
            bool(version) and version.platform == PLATFORMS[target.name] and least == target.least_version,
        ),
        ("no segment both writable and executable", all(p & (WRITE | EXECUTE) != WRITE | EXECUTE for p in protections)),
        (
            f"segments aligned to {PAGE // 1024} KiB",
            all(segment.virtual_address % PAGE == 0 and segment.file_offset % PAGE == 0 for segment in dylib.segments),
        ),
        ("a UUID, by which crash reports tell builds apart", dylib.has_uuid),
        (
            f"exports only {name}_*, JNI_OnLoad and the linker's own",
            "_JNI_OnLoad" in public and all(s.startswith(f"_{name}_") or s == "_JNI_OnLoad" for s in public),
        ),
    ]
