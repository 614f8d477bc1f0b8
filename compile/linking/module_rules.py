"""What a browser demands of a WebAssembly module, looked at in the linked file itself."""

from __future__ import annotations

from pathlib import Path

from compile.errors import CompileError

IMPORTS, EXPORTS, START = 2, 7, 8  # sections, of the WebAssembly core specification
MAGIC = b"\0asm\x01\0\0\0"
CLOCK = "pocketbert.now"


class _Reader:
    """Numbers and names of a section, one after the other."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def number(self) -> int:
        """Unsigned LEB128."""
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def name(self) -> str:
        size = self.number()
        self.at += size
        return self.data[self.at - size : self.at].decode()


def _sections(data: bytes) -> dict[int, bytes]:
    sections, reader = {}, _Reader(data, len(MAGIC))
    while reader.at < len(data):
        kind = reader.number()
        size = reader.number()
        sections[kind] = data[reader.at : reader.at + size]
        reader.at += size
    return sections


def _imports(section: bytes) -> list[str]:
    reader = _Reader(section)
    names = []
    for _ in range(reader.number()):
        names.append(f"{reader.name()}.{reader.name()}")
        if reader.number() != 0:  # anything but a function
            raise CompileError(f"the module imports {names[-1]}, which is no function")
        reader.number()
    return names


def _exports(section: bytes) -> list[str]:
    reader = _Reader(section)
    names = []
    for _ in range(reader.number()):
        names.append(reader.name())
        reader.number(), reader.number()
    return names


def check_module(path: Path, name: str) -> list[str]:
    """The rules that the module at `path` meets, in words. Raises CompileError naming the first that it breaks."""
    data = path.read_bytes()
    sections = _sections(data) if data.startswith(MAGIC) else {}
    exports = set(_exports(sections.get(EXPORTS, b"\0")))
    rules = [
        ("WebAssembly, version 1", bool(sections)),
        (f"imports nothing but {CLOCK}", set(_imports(sections.get(IMPORTS, b"\0"))) <= {CLOCK}),
        ("runs nothing when it is loaded", START not in sections),
        (
            f"exports only {name}_*, its memory and _initialize",
            "memory" in exports and all(e.startswith(f"{name}_") for e in exports - {"memory", "_initialize"}),
        ),
    ]
    for rule, holds in rules:
        if not holds:
            raise CompileError(f"{path.name} breaks a rule of its target: {rule}")
    return [rule for rule, _ in rules]


def check_modules(folder: Path, name: str) -> list[str]:
    """The rules that all modules in a folder meet. Raises CompileError as `check_module`."""
    *_, rules = (check_module(path, name) for path in sorted(folder.glob("*.wasm")))
    return rules
