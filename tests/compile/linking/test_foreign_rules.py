"""What no DLL and no library of Apple's systems may have, each in one that has it and nothing else wrong."""

import struct
from collections.abc import Callable
from pathlib import Path

import lief
import pytest

from compile.errors import CompileError
from compile.linking.dll_rules import check_dll
from compile.linking.dylib_rules import check_dylib
from compile.linking.link import find_toolchain, link_library, public_functions, run_compiler
from compile.linking.symbols import symbols
from compile.targets import TARGETS

WINDOWS, APPLE = ("x86_64-windows", "arm64-windows"), ("arm64-macos", "arm64-ios", "arm64-ios-simulator")
PUBLIC = '#define PUBLIC __attribute__((visibility("default")))\n'


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """linked(target): a library with the public functions, and a kernel that TVM would mark as public."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            target, folder = TARGETS[name], tmp_path_factory.mktemp(name)
            code = [f"PUBLIC int m_{function}(int x) {{ return x; }}" for function in public_functions()]
            taken = "" if target.is_windows else " + getpid()"  # of the system's
            code += ["int kernel(int x);", "int getpid(void);"]
            code += [f"PUBLIC int JNI_OnLoad(void) {{ return kernel(1) + kernel(2){taken}; }}"]
            code += ["int DllMainCRTStartup(void) { return 1; }"] * target.is_windows
            (folder / "m.c").write_text("\n".join([PUBLIC, *code, ""]))
            word = "__declspec(dllexport) " * target.is_windows
            (folder / "kernel.c").write_text(f"{word}int kernel(int x) {{ return x; }}\n")
            options = ["-O1", "-fno-sanitize=undefined", "-c", "kernel.c", "-o", "kernel.o"]
            run_compiler(find_toolchain(target), options, folder)
            path = folder / target.library_name("m")
            link_library(find_toolchain(target), target, folder, [folder / "m.c"], [folder / "kernel.o"], "m", path)
            made[name] = path
        return made[name]

    return make


@pytest.mark.parametrize("name", [*WINDOWS, *APPLE])
def test_library_that_keeps_all_rules(name: str, linked: Callable) -> None:
    check = check_dll if name in WINDOWS else check_dylib
    rules = check(linked(name), TARGETS[name], "m")
    assert len(rules) == len(set(rules)) == (11 if name in WINDOWS else 10)


@pytest.mark.parametrize("name", [*WINDOWS, *APPLE])
def test_kernel_that_calls_what_no_target_has_to_have(name: str, linked: Callable, tmp_path: Path) -> None:
    target = TARGETS[name]
    (tmp_path / "k.c").write_text("void malloc_zone_log(void); void kernel(void) { malloc_zone_log(); }\n")
    run_compiler(find_toolchain(target), ["-w", "-c", "k.c", "-o", "k.o"], tmp_path)
    assert "malloc_zone_log" in symbols(tmp_path / "k.o")[0]
    with pytest.raises(CompileError, match="a kernel calls malloc_zone_log"):
        link_library(find_toolchain(target), target, tmp_path, [], [tmp_path / "k.o"], "m", tmp_path / "m")


def patched(path: Path, folder: Path, *changes: tuple[int, bytes]) -> Path:
    data = bytearray(path.read_bytes())
    for at, new in changes:
        data[at : at + len(new)] = new
    copy = folder / path.name
    copy.write_bytes(data)
    if path.with_suffix(".lib").exists():
        copy.with_suffix(".lib").write_bytes(path.with_suffix(".lib").read_bytes())
    return copy


# Where fields are in a PE file, counted from its signature.
MACHINE, CHARACTERISTICS, OPTIONAL, SECTIONS = 4, 22, 24, 264
FLAGS, EXCEPTIONS, TLS = OPTIONAL + 70, OPTIONAL + 112 + 3 * 8, OPTIONAL + 112 + 9 * 8
SECTION_FLAGS = SECTIONS + 36


@pytest.mark.parametrize(
    ("at", "new", "rule"),
    [
        (CHARACTERISTICS, struct.pack("<H", 0x22), "a DLL in PE32"),
        (MACHINE, struct.pack("<H", 0xAA64), "machine is x86_64"),
        (FLAGS, struct.pack("<H", 0x120), "any address of 64 bits"),
        (FLAGS, struct.pack("<H", 0x140), "any address of 64 bits"),
        (FLAGS, struct.pack("<H", 0x60), "data is not executable"),
        (EXCEPTIONS, struct.pack("<II", 0, 0), "frames that can be undone"),
        (TLS, struct.pack("<II", 0x1000, 40), "no thread-local storage"),
        (SECTION_FLAGS, struct.pack("<I", 0xE0000020), "both writable and executable"),
    ],
)
def test_dll_that_breaks_a_rule(at: int, new: bytes, rule: str, linked: Callable, tmp_path: Path) -> None:
    whole = linked("x86_64-windows")
    start = struct.unpack_from("<I", whole.read_bytes(), 0x3C)[0]
    with pytest.raises(CompileError, match=rule):
        check_dll(patched(whole, tmp_path, (start + at, new)), TARGETS["x86_64-windows"], "m")


def test_dll_of_another_name_or_export_or_without_what_programs_link(linked: Callable, tmp_path: Path) -> None:
    whole = linked("x86_64-windows")
    with pytest.raises(CompileError, match=r"called n\.dll"):
        check_dll(whole, TARGETS["x86_64-windows"], "n")
    exported = whole.read_bytes().index(b"m_open\0")
    with pytest.raises(CompileError, match=r"exports only m_\*"):
        check_dll(patched(whole, tmp_path, (exported, b"x")), TARGETS["x86_64-windows"], "m")
    alone = patched(whole, tmp_path)
    alone.with_suffix(".lib").unlink()
    with pytest.raises(CompileError, match=r"m\.lib beside it names each"):
        check_dll(alone, TARGETS["x86_64-windows"], "m")


def test_dylib_that_breaks_a_rule(linked: Callable, tmp_path: Path) -> None:
    path, target = linked("arm64-ios"), TARGETS["arm64-ios"]
    dylib = lief.MachO.parse(str(path)).at(0)
    version = dylib.build_version.command_offset
    text = next(s for s in dylib.segments if s.name == "__TEXT").command_offset
    for at, new, rule in (
        (4, struct.pack("<I", 0x01000007), "machine is arm64"),
        (12, struct.pack("<I", 2), "a dynamic library"),
        (version + 8, struct.pack("<I", 7), "made for arm64-ios 14.0"),
        (version + 12, struct.pack("<I", 15 << 16), "made for arm64-ios 14.0"),
        (text + 56, struct.pack("<I", 7), "both writable and executable"),
        (path.read_bytes().index(b"@rpath/m.fr"), b"@rpath/n", "install name is @rpath/m.framework/m"),
        (path.read_bytes().index(b"dyld_stub_binder\0"), b"dyld_stub_finder", "takes public functions alone"),
        (path.read_bytes().index(b"/usr/lib/libSystem.B"), b"/usr/lib/libSystem.C", "needs nothing but"),
    ):
        with pytest.raises(CompileError, match=rule):
            check_dylib(patched(path, tmp_path, (at, new)), target, "m")


def test_what_is_no_library_at_all(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"\x7fELF and no more")
    with pytest.raises(CompileError, match="a DLL in PE32"):
        check_dll(tmp_path / "m", TARGETS["x86_64-windows"], "m")
    with pytest.raises(CompileError, match="a dynamic library in Mach-O format"):
        check_dylib(tmp_path / "m", TARGETS["arm64-macos"], "m")
