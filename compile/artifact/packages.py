"""What --package makes beside the library: a table of kinds, and what a package is called."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from compile.artifact.aar import write_aar
from compile.artifact.jar import find_javac, write_jar
from compile.artifact.licence import licence
from compile.artifact.manifest import Manifest, Package, sha256
from compile.artifact.maven import GROUP, Coordinates, package_version
from compile.artifact.npm import write_npm
from compile.artifact.nuget import find_csharp, pack
from compile.artifact.wheel import write_wheel
from compile.artifact.xcframework import write_xcframework
from compile.bindings import LANGUAGES, Language, Model, write_binding
from compile.errors import CompileError
from compile.linking.program import musl
from compile.planning.plan import Plan
from compile.targets import Target


@dataclass(frozen=True)
class Packaging:
    """What package to write, under what group and version. Names are the library's own.

    others: artifact folders of the same model for other ABIs, to be in the same archive.
    """

    kind: str
    group: str = GROUP
    version: str = ""
    others: tuple[tuple[Path, Manifest], ...] = ()

    def write(self, folder: Path, manifest: Manifest) -> Package:
        """Into an artifact folder that has all but its manifest. Raises CompileError."""
        return PACKAGES[self.kind](folder, manifest, Coordinates(self.group, manifest.name, self.version), self.others)


Others = Sequence[tuple[Path, Manifest]]


def _write_plain_jar(folder: Path, manifest: Manifest, coordinates: Coordinates, _: Others) -> Package:
    """`pocketbert.jar`, the classes alone: Java on Linux loads the library from its file."""
    write_jar(folder / "pocketbert.jar")
    return Package("pocketbert.jar")


def _write_language(
    language: Language, folder: Path, manifest: Manifest, coordinates: Coordinates, _: Others
) -> Package:
    """A folder with the package of a language other than Java and Python."""
    version, place = coordinates.version, folder / language.package
    model = Model(
        manifest.name, manifest.library, manifest.target, manifest.task, version, manifest.versions["pocketbert"]
    )
    write_binding(language, model, folder / manifest.library, place)
    (place / "LICENSE").write_bytes(licence())
    if language.package == "nuget":
        return pack(folder, manifest, version)
    return Package(f"{language.package}/{next(iter(language.templates))}")


PACKAGES: dict[str, Callable[[Path, Manifest, Coordinates, Others], Package]] = {
    "aar": write_aar,
    "xcframework": write_xcframework,
    "jar": _write_plain_jar,
    "npm": lambda folder, manifest, coordinates, _: write_npm(folder, manifest, coordinates.version),
    "wheel": lambda folder, manifest, coordinates, _: write_wheel(folder, manifest, coordinates.version),
    "benchmark": lambda *_: Package(BENCHMARK),
    **{kind: partial(_write_language, language) for kind, language in LANGUAGES.items()},
}
BENCHMARK = "benchmark"  # linked beside the library, of the same objects
WITH_JAVA = ("aar", "jar")


def benchmark_facts(plan: Plan, name: str, target: Target, library: Path) -> dict[str, str]:
    """What the benchmark program states of the model, by its macros."""
    int8 = any(kernel.precision == "i8" for kernel in plan.program.kernels.values())
    facts = {"MODEL": name, "TARGET": target.name, "SHA256": sha256(library)}
    return facts | {"PRECISION": "int8" if int8 else "float32"}


def check_packaging(kind: str | None, target: Target, group: str | None, version: str | None) -> Packaging | None:
    """The packaging that was asked for. Raises CompileError if it cannot be made here for `target`."""
    if kind is None:
        if group or version:
            raise CompileError("--group and --version say what a package is called: give --package as well")
        return None
    if kind not in PACKAGES:
        raise CompileError(f"--package {kind}: choose one of {', '.join(PACKAGES)}")
    if target.is_web != (kind == "npm"):
        fitting = "npm" if target.is_web else "jar (Java) or wheel (Python)"
        raise CompileError(f"--package {kind}: {target.name} libraries do not go into one; choose --package {fitting}")
    if kind == "aar" and not target.is_android:
        raise CompileError(
            f"--package aar: {target.name} is not Android; there choose --package jar (Java) or wheel (Python)"
        )
    if kind == "xcframework" and target.system != "iOS":
        raise CompileError(f"--package xcframework: {target.name} is not iOS; choose --target ios")
    if group is not None and kind not in ("aar", "xcframework"):
        raise CompileError(f"--group is a part of Maven's coordinates, and --package {kind} has none: leave it out")
    if group is not None and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", group, re.ASCII):
        raise CompileError(f"--group {group}: give a name with dots, as in com.example.models")
    if version is not None and kind == "jar":
        raise CompileError("--version: the jar holds PocketBERT's classes alone, which have a version: leave it out")
    if version is not None and kind == "go":
        raise CompileError("--version: a Go module's is that of its repository: leave it out")
    if version is not None and kind == "crate" and not re.fullmatch(r"\d+\.\d+\.\d+", version, re.ASCII):
        raise CompileError(f"--version {version}: Cargo wants three numbers with dots, as in 1.2.0")
    if version is not None and not re.fullmatch(r"\d+(\.\d+){0,3}", version, re.ASCII):  # all that CMake takes
        raise CompileError(f"--version {version}: give one to four numbers with dots, as in 1.2.0")
    if version is not None and kind == "npm" and version.count(".") > 2:
        raise CompileError(f"--version {version}: npm takes three numbers: leave out the last")
    if kind == BENCHMARK:
        musl(target)
    if kind == BENCHMARK and version is not None:
        raise CompileError("--version: the benchmark program has none: leave it out")
    if kind in LANGUAGES:
        LANGUAGES[kind].platform(target.name)
    if kind in WITH_JAVA:
        find_javac()
    if kind == "nuget":
        find_csharp()
    return Packaging(kind, group or GROUP, version or package_version())
