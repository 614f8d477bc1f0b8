"""What Android's loader and the Play store demand of a library, looked at in the linked file itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from elftools.elf.constants import P_FLAGS
from elftools.elf.elffile import ELFFile

from compile.errors import CompileError
from compile.targets import Target

PAGE = 16384
MACHINES = {"aarch64": "EM_AARCH64", "arm": "EM_ARM", "riscv64": "EM_RISCV", "x86_64": "EM_X86_64"}
DF_TEXTREL, DF_BIND_NOW = 4, 8


def check_library(path: Path, target: Target, name: str) -> list[str]:
    """The rules that the library at `path` meets, in words. Raises CompileError naming the first that it breaks."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        dynamic: Any = elf.get_section_by_name(".dynamic")
        tags: dict[str, list[Any]] = {}
        for tag in dynamic.iter_tags():
            value = getattr(tag, "needed", None) or getattr(tag, "soname", None) or tag.entry.d_val
            tags.setdefault(tag.entry.d_tag, []).append(value)
        segments = list(elf.iter_segments())
        symbols: Any = elf.get_section_by_name(".dynsym")
        public = sorted(s.name for s in symbols.iter_symbols() if s.entry["st_shndx"] != "SHN_UNDEF" and s.name)
        machine = elf["e_machine"]
        identified = elf.get_section_by_name(".note.gnu.build-id") is not None
    loads = [s for s in segments if s["p_type"] == "PT_LOAD"]
    stack = [s for s in segments if s["p_type"] == "PT_GNU_STACK"]
    flags = sum(int(v) for v in tags.get("DT_FLAGS", []))
    writable_code = P_FLAGS.PF_W | P_FLAGS.PF_X
    rules = [
        (f"machine is {target.arch}", machine == MACHINES[target.arch]),
        (f"SONAME is lib{name}.so", tags.get("DT_SONAME") == [f"lib{name}.so"]),
        (
            f"needs nothing but {target.libc} and {target.libm}, by plain soname",
            set(tags.get("DT_NEEDED", [])) <= {target.libc, target.libm},
        ),
        ("no text relocations", "DT_TEXTREL" not in tags and not flags & DF_TEXTREL),
        (
            "no segment both writable and executable",
            all(s["p_flags"] & writable_code != writable_code for s in segments),
        ),
        ("stack not executable", all(not s["p_flags"] & P_FLAGS.PF_X for s in stack) and bool(stack)),
        (
            "relocated data is read-only once the library is loaded",
            any(s["p_type"] == "PT_GNU_RELRO" for s in segments) and bool(flags & DF_BIND_NOW),
        ),
        ("GNU hash table", "DT_GNU_HASH" in tags),
        ("a build-id, by which crash reports tell builds apart", identified),
        (f"LOAD segments aligned to {PAGE // 1024} KiB", all(s["p_align"] % PAGE == 0 for s in loads)),
        (
            f"exports only {name}_* and JNI_OnLoad",
            "JNI_OnLoad" in public and all(s.startswith(f"{name}_") or s == "JNI_OnLoad" for s in public),
        ),
    ]
    for rule, holds in rules:
        if not holds:
            raise CompileError(f"{path.name} breaks a rule of its target: {rule}")
    return [rule for rule, _ in rules]
