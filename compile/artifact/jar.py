"""com.pocketbert, the Java side of a library, compiled from source with the JDK at hand and put into an archive."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path

from compile.errors import CompileError
from compile.linking.library_rules import PAGE
from pocketbert.temporary import TemporaryFolder

SOURCES = Path(__file__).parents[1] / "java"
ENTRY_HEADER = 30  # bytes before an entry's name and extra fields
PADDING_FIELD = 0xD935  # the extra field in which Android's own tools keep their padding


def find_javac() -> str:
    """The Java compiler in JAVA_HOME or on the path. Raises CompileError if there is none."""
    home = os.environ.get("JAVA_HOME")
    javac = shutil.which("javac", path=str(Path(home) / "bin")) if home else shutil.which("javac")
    if javac is None:
        where = f"JAVA_HOME is {home!r} but holds no bin/javac" if home else "javac is not installed"
        raise CompileError(f"--package needs a Java compiler and {where}: install a JDK (Debian: default-jdk-headless)")
    return javac


def java_sources() -> dict[str, bytes | Path]:
    """The sources of com.pocketbert by their place in an archive."""
    return {path.relative_to(SOURCES).as_posix(): path for path in sorted(SOURCES.rglob("*.java"))}


def write_jar(path: Path, more: Mapping[str, bytes | Path] | None = None) -> None:
    """Compile com.pocketbert to Java 8 class files, which every Android takes, and write them to the jar at `path`.

    more: other entries of it.
    """
    with TemporaryFolder() as folder:
        options = ["--release", "8", "-encoding", "UTF-8", "-Xlint:-options", "-d", str(folder)]
        _run([find_javac(), *options, *map(str, java_sources().values())])
        write_archive(path, _files(folder) | dict(more or {}))


def write_javadoc(path: Path, more: Mapping[str, bytes | Path]) -> None:
    """The documentation of com.pocketbert's public classes as a jar, the same whenever it is made."""
    with TemporaryFolder() as folder:
        javadoc = Path(find_javac()).with_name("javadoc")
        options = ["-quiet", "-notimestamp", "-noindex", "-encoding", "UTF-8", "-Xdoclint:none", "-d", str(folder)]
        _run([str(javadoc), *options, *map(str, java_sources().values())])
        write_archive(path, _files(folder) | dict(more))


def _files(folder: Path) -> dict[str, bytes | Path]:
    return {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}


def _run(command: list[str]) -> None:
    """A tool of the JDK's. Raises CompileError with its first line if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CompileError(f"{command[0]} cannot be run ({error.strerror}): install a whole JDK") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).splitlines() or ["?"]
        tool = Path(command[0]).name
        raise CompileError(f"{tool} failed: {lines[0].strip()} (version 9 or later is needed)")


def write_archive(path: Path, entries: Mapping[str, bytes | Path]) -> None:
    """A zip file of `entries`, bytes or files by their names: uncompressed, undated, so the same input gives the same.

    Libraries begin at a multiple of 16 KiB, so that they could be mapped into memory where they lie.
    """
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            info.file_size = content.stat().st_size if isinstance(content, Path) else len(content)
            if name.endswith(".so"):
                padding = -(file.tell() + ENTRY_HEADER + len(name) + 6) % PAGE
                info.extra = struct.pack("<HHH", PADDING_FIELD, 2 + padding, PAGE) + bytes(padding)
            with archive.open(info, "w") as entry:
                if isinstance(content, Path):
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, entry, 1 << 20)
                else:
                    entry.write(content)
            info.extra = b""  # padding is for the entry itself, not for the directory at the end
