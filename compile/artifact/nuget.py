"""A NuGet package: the assembly of the binding, compiled with the C# compiler at hand, and the library.

Its layout is NuGet's: `lib/` is for every .NET since Standard 2.0, `runtimes/<rid>/native/` for one system.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from compile.artifact.jar import write_archive
from compile.artifact.licence import licence
from compile.artifact.manifest import Manifest, Package
from compile.bindings.csharp import CSHARP, namespace
from compile.errors import CompileError

CONTENT_TYPES = """<?xml version="1.0" encoding="utf-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
  <Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml" />
  <Default Extension="nuspec" ContentType="application/octet" />
  <Default Extension="dll" ContentType="application/octet" />
  <Default Extension="so" ContentType="application/octet" />
  <Override PartName="/LICENSE" ContentType="application/octet" />
</Types>
"""
RELATIONSHIPS = """<?xml version="1.0" encoding="utf-8"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
  <Relationship Type="http://schemas.microsoft.com/packaging/2010/07/manifest" Target="/{name}.nuspec" Id="R1" />
</Relationships>
"""


def find_csharp() -> str:
    """The C# compiler. Raises CompileError if there is none."""
    compiler = shutil.which("mcs")
    if compiler is None:
        raise CompileError("--package nuget needs Mono's C# compiler, mcs: install it (Debian package mono-mcs)")
    return compiler


def pack(folder: Path, manifest: Manifest, version: str) -> Package:
    """From the rendered `folder`/nuget, which has the library, the package itself beside them."""
    place, name = folder / CSHARP.package, namespace(manifest.name)
    assembly, package = place / f"{name}.dll", place / f"{name}.{version}.nupkg"
    command = [find_csharp(), "-target:library", "-optimize", "-warnaserror", "-langversion:7", f"-out:{assembly.name}"]
    done = subprocess.run([*command, "Model.cs"], cwd=place, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "error" in line] or ["?"]
        raise CompileError(f"mcs failed: {lines[0]}")
    rid = CSHARP.platform(manifest.target)["rid"]
    write_archive(
        package,
        {
            "[Content_Types].xml": CONTENT_TYPES.encode(),
            "_rels/.rels": RELATIONSHIPS.format(name=name).encode(),
            f"{name}.nuspec": place / f"{name}.nuspec",
            f"lib/netstandard2.0/{name}.dll": assembly,
            f"runtimes/{rid}/native/{manifest.library}": place / manifest.library,
            "LICENSE": licence(),
        },
    )
    return Package(f"{CSHARP.package}/{package.name}")
