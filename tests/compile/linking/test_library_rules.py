"""What no library may have, each in one that has it and nothing else wrong."""

import subprocess
from pathlib import Path

import pytest
from elftools.elf.constants import P_FLAGS
from elftools.elf.elffile import ELFFile

from compile.errors import CompileError
from compile.linking import link
from compile.linking.library_rules import check_library
from compile.linking.link import Toolchain, find_toolchain, link_library, run_compiler
from compile.targets import TARGETS

TARGET = TARGETS["x86_64-linux"]
SOURCE = "int m_run(int x) { return x; }\nint JNI_OnLoad(void) { return 0; }\n"
OPTIONS = (
    "-Wl,--hash-style=gnu", "-Wl,-z,max-page-size=16384", "-Wl,-z,noexecstack", "-Wl,-z,relro", "-Wl,-z,now",
    "-Wl,-soname,libm.so", "-Wl,--version-script=symbols.map", "-Wl,--build-id=sha1",
)  # fmt: skip


def linked(
    folder: Path, options: tuple[str, ...] = OPTIONS, source: str = SOURCE, exports: str = "m_*; JNI_OnLoad"
) -> Path:
    (folder / "m.c").write_text(source)
    (folder / "symbols.map").write_text(f"{{ global: {exports}; local: *; }};\n")
    command = ["-shared", "-nostdlib", "-fPIC", "-O1", "-fno-sanitize=undefined", *options, "m.c"]
    run_compiler(find_toolchain(TARGET), [*command, "-o", "libm.so"], folder)
    return folder / "libm.so"


def without(option: str, *instead: str) -> tuple[str, ...]:
    assert option in OPTIONS
    return (*(word for word in OPTIONS if word != option), *instead)


def test_library_that_keeps_all_rules(tmp_path: Path) -> None:
    rules = check_library(linked(tmp_path), TARGET, "m")
    assert len(rules) == len(set(rules)) == 11


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("SONAME", without("-Wl,-soname,libm.so", "-Wl,-soname,libother.so")),
        ("SONAME", without("-Wl,-soname,libm.so")),
        ("GNU hash", without("-Wl,--hash-style=gnu", "-Wl,--hash-style=sysv")),
        ("aligned to 16 KiB", without("-Wl,-z,max-page-size=16384", "-Wl,-z,max-page-size=4096")),
        ("build-id", without("-Wl,--build-id=sha1", "-Wl,--build-id=none")),
        ("relocated data is read-only", without("-Wl,-z,relro", "-Wl,-z,norelro")),
        ("relocated data is read-only", without("-Wl,-z,now", "-Wl,-z,lazy")),
    ],
)
def test_way_of_linking_that_breaks_a_rule(rule: str, options: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=rule):
        check_library(linked(tmp_path, options), TARGET, "m")


@pytest.mark.parametrize(
    ("source", "exports"),
    [
        (SOURCE + "int other(void) { return 1; }\n", "m_*; JNI_OnLoad; other"),
        (SOURCE + "int m(void) { return 1; }\n", "m*; JNI_OnLoad"),
        (SOURCE.replace("JNI_OnLoad", "m_onload"), "m_*"),
    ],
)
def test_functions_that_everybody_sees(source: str, exports: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"exports only m_\* and JNI_OnLoad"):
        check_library(linked(tmp_path, source=source, exports=exports), TARGET, "m")


def test_text_relocation(tmp_path: Path) -> None:
    source = SOURCE + '__asm__(".text\\n.quad m_run\\n");\n'
    with pytest.raises(CompileError, match="no text relocations"):
        check_library(linked(tmp_path, (*OPTIONS, "-Wl,-z,notext"), source), TARGET, "m")


@pytest.mark.parametrize(
    ("segment", "field", "value", "rule"),
    [
        ("PT_GNU_STACK", 4, P_FLAGS.PF_R | P_FLAGS.PF_X, "stack not executable"),
        ("PT_GNU_STACK", 0, 0, "stack not executable"),  # without such a header the system decides
        ("PT_LOAD", 4, P_FLAGS.PF_R | P_FLAGS.PF_W | P_FLAGS.PF_X, "writable and executable"),
    ],
)
def test_segment(segment: str, field: int, value: int, rule: str, tmp_path: Path) -> None:
    """zig's linker makes no such library: the program header of a good one is changed."""
    library = linked(tmp_path)
    with library.open("rb") as file:
        elf = ELFFile(file)
        index = next(i for i, s in enumerate(elf.iter_segments()) if s["p_type"] == segment)
        header = elf["e_phoff"] + index * elf["e_phentsize"]
    with library.open("r+b") as file:
        file.seek(header + field)
        file.write(value.to_bytes(4, "little"))
    with pytest.raises(CompileError, match=rule):
        check_library(library, TARGET, "m")


def test_library_that_needs_another(tmp_path: Path) -> None:
    (tmp_path / "other.c").write_text("int other(void) { return 1; }\n")
    command = ["-shared", "-nostdlib", "-fPIC", "-Wl,-soname,libother.so", "other.c", "-o", "libother.so"]
    run_compiler(find_toolchain(TARGET), command, tmp_path)
    source = SOURCE + "int other(void);\nint m_other(void) { return other(); }\n"
    with pytest.raises(CompileError, match=r"needs nothing but libc.so.6 and libm.so.6"):
        check_library(linked(tmp_path, (*OPTIONS, "libother.so"), source), TARGET, "m")


@pytest.mark.parametrize(("target", "name"), [("arm64-linux", "m"), ("x86_64-linux", "n")])
def test_library_of_another_target_or_name(target: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="machine is aarch64" if name == "m" else "SONAME is libn.so"):
        check_library(linked(tmp_path), TARGETS[target], name)


@pytest.mark.parametrize("call", ["malloc", "printf", "_exit", "lgamma"])
def test_code_that_calls_what_no_target_has_to_have(call: str, tmp_path: Path) -> None:
    (tmp_path / "m.c").write_text(f"void {call}(void);\n{SOURCE}int m_x(void) {{ {call}(); return 0; }}\n")
    options = ["-fno-builtin", "-fPIC", "-c", "m.c", "-o", "kernel.o"]
    run_compiler(find_toolchain(TARGET), options, tmp_path)
    with pytest.raises(CompileError, match=f"a kernel calls {call}, which is neither"):
        link_library(find_toolchain(TARGET), TARGET, tmp_path, [], [tmp_path / "kernel.o"], "m", tmp_path / "libm.so")
    assert not (tmp_path / "libm.so").exists()


def test_code_that_calls_libc_and_libm_gets_them_by_their_sonames(tmp_path: Path) -> None:
    body = "void *memcpy(void *, const void *, unsigned long);\nfloat expf(float);\n"
    body += "float m_x(void *a, void *b, unsigned long n) { memcpy(a, b, n); return expf((float)n); }\n"
    (tmp_path / "m.c").write_text(SOURCE + body)
    run_compiler(find_toolchain(TARGET), ["-fPIC", "-c", "m.c", "-o", "kernel.o"], tmp_path)
    link_library(find_toolchain(TARGET), TARGET, tmp_path, [], [tmp_path / "kernel.o"], "m", tmp_path / "libm.so")
    assert check_library(tmp_path / "libm.so", TARGET, "m")


@pytest.mark.parametrize(
    ("status", "said", "line"),
    [
        (-9, "", "exit status -9"),  # killed, and so without a word
        (1, "a note\nm.c:1: error: no such type\nmore", "m.c:1: error: no such type"),
        (1, "it went wrong\nmore", "it went wrong"),
    ],
)
def test_compiler_that_fails(
    status: int, said: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], status, "", said))
    with pytest.raises(CompileError, match=f"^zig failed: {line}$"):
        run_compiler(Toolchain(("zig",), "zig"), [], tmp_path)
