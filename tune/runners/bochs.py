"""An emulated x86-64 machine, whose processor may have AVX-512: Bochs, with no system in it to boot.

A ROM of our own (machine/) starts the processor and stands in for Linux, as far as the program that runs a library asks
for one. Needs Debian's packages bochs and bochs-term.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile

from compile.linking.link import WARNINGS, find_toolchain, run_compiler
from compile.running.runners.base import RunFailed, RunnerError
from compile.targets import TARGETS
from pocketbert.temporary import TemporaryFolder
from tune.runners.program import OPTIONS, compile_device

SOURCES = Path(__file__).with_name("machine")
# Processors as Bochs calls them, the first with AVX-512 (all of x86-64-v4), the second with AVX2.
AVX512_CPU, AVX2_CPU = "corei7_skylake_x", "corei7_haswell_4770"
# Registers that the system saves, as XCR0 has them: up to ymm, and zmm as well.
YMM, ZMM = 0x07, 0xE7
ROM, ROM_BYTES, DISK = 0xFFFF0000, 1 << 16, 0x1000000
HEADS, SECTORS = 16, 63
COUNT, STATUS = 0xFE, 0xFF
MOST_ENTRIES = 16


@dataclass(frozen=True)
class Result:
    """outputs: those of the model; counts: how often each instruction ran, by its offset in the file."""

    outputs: bytes
    counts: Counter[int]


def missing() -> str | None:
    """What to install for a Machine, or None."""
    if not shutil.which("bochs"):
        return "bochs (Debian package bochs)"
    if not list(Path("/usr/lib").glob("*/bochs/plugins/libbx_term_gui.so")):
        return "Bochs's text display (Debian package bochs-term)"
    return None


class Machine:
    """Raises RunnerError if Bochs is absent. Use as a context manager."""

    def __init__(self) -> None:
        if lacking := missing():
            raise RunnerError(f"{lacking} was not found: install it")
        self._work = TemporaryFolder()
        self._rom = self._work.path / "rom"
        self._rom.write_bytes(build_rom(self._work.path))

    def run(
        self,
        library: Path,
        name: str,
        inputs: bytes,
        *,
        tokens: int | None = None,
        counted: bool = False,
        cpu: str = AVX512_CPU,
        registers: int | None = None,
        timeout: float = 600.0,
    ) -> Result:
        """One inference on one core, and a second one, counted, if asked for: instruction by instruction, and slow.

        tokens: how many the inputs have, if fewer than the model takes. registers: YMM or ZMM, by default as the CPU.
        Raises RunFailed.
        """
        arguments = ["device", "library", name, "inputs", "outputs", "1", str(int(counted))]
        if tokens:
            arguments.append(str(tokens))
        files = {"library": library.read_bytes(), "inputs": inputs}
        disk = disk_image(arguments, files, registers or (ZMM if cpu == AVX512_CPU else YMM))
        with TemporaryFolder() as folder:
            return read_printed(self._start(folder, disk, cpu, timeout))

    def _start(self, folder: Path, disk: bytes, cpu: str, timeout: float) -> bytes:
        """What came out of the printer's port."""
        (folder / "disk").write_bytes(disk)
        (folder / "commands").write_text("continue\nquit\n")  # for Bochs's debugger
        cylinders = len(disk) // (512 * HEADS * SECTORS)
        memory = 64 + 3 * (len(disk) >> 20)
        (folder / "bochsrc").write_text(
            f"cpu: model={cpu}, reset_on_triple_fault=0\n"
            f"memory: guest={memory}, host={memory}\n"
            f"romimage: file={self._rom}, address={ROM:#x}\n"
            f"ata0-master: type=disk, path=disk, mode=flat, cylinders={cylinders}, heads={HEADS}, spt={SECTORS}\n"
            "parport1: enabled=1, file=printed\n"
            "plugin_ctrl: speaker=0\n"
            "display_library: term\n"
            "clock: sync=none\n"
            "log: log\n"
            "panic: action=fatal\n"
        )
        command = ["bochs", "-q", "-f", "bochsrc", "-rc", "commands"]
        environment = os.environ | {"TERM": "xterm"}
        try:
            subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RunFailed(f"hung: no result after {timeout:g} s of emulation") from None
        printed, log = folder / "printed", folder / "log"
        if not printed.exists():
            problems = [line for line in log.read_text().splitlines() if "PANIC" in line] if log.exists() else []
            raise RunFailed(f"failed: Bochs stopped: {(problems or ['without a word'])[0]}")
        return printed.read_bytes()

    def close(self) -> None:
        self._work.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def build_rom(folder: Path) -> bytes:
    """What the processor finds in the last 64 KiB below 4 GiB. Raises CompileError."""
    target = TARGETS["x86_64-linux"]
    bare = find_toolchain(target).with_triple("x86_64-linux-none")
    options = [*OPTIONS, "-fno-pic", "-mgeneral-regs-only"]
    run_compiler(bare, [*options, *WARNINGS, "-c", str(SOURCES / "machine.c"), "-o", "machine.o"], folder)
    run_compiler(bare, ["-c", str(SOURCES / "entry.S"), "-o", "entry.o"], folder)
    objects = ["entry.o", "machine.o", compile_device(target, folder)]
    script = f"-Wl,-T,{SOURCES / 'machine.ld'}"
    run_compiler(bare, ["-nostdlib", "-static", "-no-pie", script, *objects, "-o", "machine"], folder)
    rom = bytearray(ROM_BYTES)
    with (folder / "machine").open("rb") as file:
        for segment in ELFFile(file).iter_segments("PT_LOAD"):
            if data := segment.data():
                start = segment["p_paddr"] - ROM
                rom[start : start + len(data)] = data
    return bytes(rom)


def disk_image(arguments: list[str], files: dict[str, bytes], registers: int) -> bytes:
    """The struct `disk` of machine.c and the files, in whole cylinders."""
    head = struct.calcsize("<4Q") + MOST_ENTRIES * struct.calcsize("<48s2Q")
    entries = [struct.pack("<48s2Q", argument.encode(), 0, 0) for argument in arguments]
    body = b""
    for name, data in files.items():
        body += bytes(-(head + len(body)) % 4096)
        entries.append(struct.pack("<48s2Q", name.encode(), DISK + head + len(body), len(data)))
        body += data
    start = struct.pack("<4Q", head + len(body), registers, len(arguments), len(entries)) + b"".join(entries)
    image = start.ljust(head, b"\0") + body
    return image + bytes(-len(image) % (512 * HEADS * SECTORS))


def read_printed(printed: bytes) -> Result:
    """Raises RunFailed if the program did, or did not come to its end."""
    counts: Counter[int] = Counter()
    outputs, messages, status, at = b"", b"", None, 0
    while at + 9 <= len(printed):
        kind, size = struct.unpack_from("<BQ", printed, at)
        data = printed[at + 9 : at + 9 + size]
        at += 9 + size
        if kind == COUNT:
            offset, count = struct.unpack("<2Q", data)
            counts[offset] = count
        elif kind == STATUS:
            (status,) = struct.unpack("<Q", data)
        elif kind == 2:
            messages += data
        elif kind != 1:
            outputs += data
    if status is None:
        raise RunFailed("failed: the emulated machine stopped before the program's end")
    if status > 128:
        raise RunFailed(f"crashed with signal {status - 128}")
    if status:
        raise RunFailed(f"failed: {messages.decode(errors='replace').strip()}")
    return Result(outputs, counts)
