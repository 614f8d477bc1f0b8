"""What objects define and what they want of elsewhere, and what a library may take from each target."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from compile.errors import CompileError
from compile.targets import Target

# What a library may take from the target; anything else is a mistake that must not reach a phone.
LIBC = frozenset(
    (
        *("clock_gettime", "getauxval", "memcpy", "memmove", "memset", "mmap", "munmap", "pthread_create"),
        *("pthread_join", "syscall"),
    )
)
# What clang makes of memcpy and memset on 32-bit Arm, and of one that asks for zeros.
LIBC |= {f"__aeabi_{name}{align}" for name in ("memclr", "memcpy", "memmove", "memset") for align in ("", "4", "8")}
LIBM = frozenset(
    f"{name}{suffix}"
    for suffix in ("", "f")
    for name in (
        *("acos", "asin", "atan", "atan2", "ceil", "cos", "cosh", "erf", "exp", "exp2", "expm1", "floor", "fma"),
        *("fmax", "fmin", "fmod", "log", "log10", "log1p", "log2", "nearbyint", "pow", "rint", "round", "sin"),
        *("sinh", "sqrt", "tan", "tanh", "trunc"),
    )
)
# All of it public: the App Store takes nothing else.
LIBSYSTEM = LIBM | {
    *("bzero", "clock_gettime_nsec_np", "getpid", "memcpy", "memmove", "memset", "memset_pattern16", "mmap", "munmap"),
    *("memset_pattern4", "memset_pattern8", "pthread_cond_broadcast", "pthread_cond_init", "pthread_cond_wait"),
    *("pthread_create", "pthread_join", "pthread_mutex_init", "pthread_mutex_lock", "pthread_mutex_unlock"),
    *("pthread_set_qos_class_self_np", "sysctlbyname"),
}
# By the DLLs of Windows 10 that have it.
DLLS = {
    "KERNEL32.dll": frozenset(
        (
            *("CloseHandle", "CreateThread", "GetCurrentProcess", "GetCurrentProcessId", "GetCurrentThread"),
            *("GetProcessAffinityMask", "GetSystemCpuSetInformation", "IsProcessorFeaturePresent", "VirtualFree"),
            *("QueryPerformanceCounter", "QueryPerformanceFrequency", "SetThreadAffinityMask", "VirtualAlloc"),
            "WaitForSingleObject",
        )
    ),
    "api-ms-win-core-synch-l1-2-0.dll": frozenset(["WaitOnAddress", "WakeByAddressAll"]),
    "api-ms-win-crt-private-l1-1-0.dll": frozenset(["memcpy", "memmove"]),
    "api-ms-win-crt-string-l1-1-0.dll": frozenset(["memset"]),
    "api-ms-win-crt-math-l1-1-0.dll": LIBM,
}
ELF_TABLE = "_GLOBAL_OFFSET_TABLE_"
# What kernels may call besides that the runtime has: arm32.c and platform_windows.c.
HELPERS = frozenset(["__floatdisf", "___chkstk_ms", "__chkstk"])

# Of Mach-O (mach-o/loader.h, mach-o/nlist.h): a load command, the size of its table's entries, bits of their types.
MACH_O = b"\xcf\xfa\xed\xfe"
LC_SYMTAB, NLIST, N_STAB, N_PEXT, N_TYPE, N_EXT = 2, 16, 0xE0, 0x10, 0x0E, 0x01
# Of COFF (the PE format's specification): bytes of its header, of a section's and of a symbol, and the class of a
# symbol with a definition beside it.
COFF_HEADER, COFF_SECTION, COFF_SYMBOL, WEAK_EXTERNAL = 20, 40, 18, 105


def available(target: Target) -> frozenset[str]:
    """All that a library for `target` may take from there."""
    if target.is_windows:
        return frozenset().union(*DLLS.values())
    return LIBSYSTEM if target.is_apple else LIBC | LIBM


def symbols(path: Path) -> tuple[set[str], set[str]]:
    """Names of an ELF, COFF or Mach-O object as C has them: those it takes from elsewhere, and those it defines."""
    data = path.read_bytes()
    if data.startswith(b"\x7fELF"):
        with path.open("rb") as file:
            table: Any = ELFFile(file).get_section_by_name(".symtab")
            pairs = [(s.name, s.entry["st_shndx"] != "SHN_UNDEF") for s in table.iter_symbols() if s.name]
    elif data.startswith(MACH_O):
        pairs = [(name[1:], bool(kind & N_TYPE)) for name, kind, _ in _mach_symbols(data) if not kind & N_STAB]
    else:
        pairs = _coff_symbols(data)
    return {name for name, here in pairs if not here}, {name for name, here in pairs if here}


def check_symbols(kernels: list[Path], target: Target) -> None:
    """Raises CompileError for a kernel that calls what no library may take from its target."""
    allowed = available(target) | HELPERS | {ELF_TABLE}
    for path in kernels:
        if foreign := symbols(path)[0] - allowed:
            raise CompileError(f"a kernel calls {min(foreign)}, which no library may take from its target")


def _mach_symbols(data: bytes | bytearray) -> list[tuple[str, int, int]]:
    """Name and type of each symbol, and where in `data` the type is."""
    count, at = struct.unpack_from("<16xI", data)[0], 32
    for _ in range(count):
        command, size = struct.unpack_from("<II", data, at)
        if command == LC_SYMTAB:
            break
        at += size
    else:
        return []
    first, number, strings = struct.unpack_from("<8xIII", data, at)
    found = []
    for entry in range(first, first + number * NLIST, NLIST):
        name = strings + struct.unpack_from("<I", data, entry)[0]
        found.append((data[name : data.index(0, name)].decode(), data[entry + 4], entry + 4))
    return found


def _coff_symbols(data: bytes) -> list[tuple[str, bool]]:
    """Name of each symbol, without what marks one of a DLL, and whether it is defined here."""
    first, count = struct.unpack_from("<II", data, 8)
    strings, found, index = first + count * COFF_SYMBOL, [], 0
    while index < count:
        short, section, kind, more = struct.unpack_from("<8s4xh2xBB", data, first + index * COFF_SYMBOL)
        start = strings + int.from_bytes(short[4:], "little")
        name = short.rstrip(b"\0") if any(short[:4]) else data[start : data.index(0, start)]
        found.append((name.decode().removeprefix("__imp_"), section != 0 or kind == WEAK_EXTERNAL))
        index += 1 + more
    return found


def hide_symbols(path: Path) -> None:
    """What a kernel's object defines is seen within the library alone.

    zig's linker takes no list of what a Mach-O library exports; on Windows TVM exports every kernel.
    """
    data = bytearray(path.read_bytes())
    if data.startswith(MACH_O):
        for _, kind, at in _mach_symbols(data):
            if kind & N_EXT and kind & N_TYPE and not kind & N_STAB:
                data[at] |= N_PEXT
    else:
        for section in range(struct.unpack_from("<2xH", data)[0]):
            name, size, start = struct.unpack_from("<8s8xII", data, COFF_HEADER + section * COFF_SECTION)
            if name == b".drectve":  # words for the linker
                data[start : start + size] = b" " * size
    path.write_bytes(data)
