"""The artifact as a wheel: library, loader and tasks as one Python package, which needs numpy alone.

The loader is the one of `compile.running`, file by file. Tags and records are those of the binary distribution format
(packaging.python.org/specifications/binary-distribution-format).
"""

from __future__ import annotations

import base64
import hashlib
import json
import keyword
import sys
from pathlib import Path

from compile.artifact.jar import write_archive
from compile.artifact.licence import licence
from compile.artifact.manifest import Manifest, Package
from compile.codegen.escape import identifier
from compile.errors import CompileError

RUNNING = Path(__file__).parents[1] / "running"
# A file of the package, and the one of compile/running that it is.
FILES = {name: name for name in ("load.py", "tasks.py", "arrays.py")} | {"opening.py": "opening_in_wheel.py"}
FACTS = (
    *("name", "library", "sha256", "target", "cpu", "precision", "tokens", "shorter_sequences", "inputs", "outputs"),
    *("task", "labels", "activation", "pooling", "normalized"),
)
# glibc has had all that a library takes since 2.17, and musl too; Android's number is the API level.
PLATFORMS = {
    "x86_64-linux": "manylinux_2_17_x86_64.musllinux_1_1_x86_64",
    "arm64-linux": "manylinux_2_17_aarch64.musllinux_1_1_aarch64",
    "riscv64-linux": "manylinux_2_31_riscv64.musllinux_1_2_riscv64",
    "x86_64-windows": "win_amd64",
    "arm64-windows": "win_arm64",
    "arm64-macos": "macosx_11_0_arm64",
    "arm64-ios": "ios_14_0_arm64_iphoneos",
    "arm64-ios-simulator": "ios_14_0_arm64_iphonesimulator",
    "arm64-android": "android_23_arm64_v8a",
    "armv7-android": "android_23_armeabi_v7a",
    "x86_64-android": "android_23_x86_64",
}

PACKAGE = '''"""The model {name}, compiled by PocketBERT: `load()` opens it."""

from __future__ import annotations

from pathlib import Path

from .load import Library, Record, Tokens
from .opening import Manifest, ModelError, RunError, Tensor
from .tasks import Answer, Entity, Label

__all__ = ["Answer", "Entity", "Label", "Library", "Manifest", "ModelError", "Record", "RunError", "Tensor", "Tokens"]
__all__ += ["load"]
__version__ = "{version}"


def load(threads: int = 0, profile: bool = False, verify: bool = False) -> Library:
    """Open the model.

    threads: 0 is the library's own default;
    profile: keep when every kernel ran, for `Library.profile`;
    verify: read the whole library first and compare its sha256 with the build's.

    Raises ModelError.
    """
    return Library(Path(__file__).parent, threads, profile, verify=verify)
'''

METADATA = """Metadata-Version: 2.4
Name: {project}
Version: {version}
Summary: The model {name}, compiled by PocketBERT {pocketbert}
License-Expression: Apache-2.0
License-File: LICENSE
Requires-Python: >=3.11
Requires-Dist: numpy>=1.26

The library and its loader are under the licence stated here; the model's weights are under that of the model.
"""

WHEEL = """Wheel-Version: 1.0
Generator: pocketbert ({pocketbert})
Root-Is-Purelib: false
{tags}
"""


def require_module_name(name: str) -> None:
    """Raises CompileError for a word of Python's, and for a module that a wheel would stand in for."""
    if keyword.iskeyword(name) or name in sys.stdlib_module_names or name == "numpy":
        raise CompileError(f"--package wheel: {name} is a name of Python's own: give another with --name")


def write_wheel(folder: Path, manifest: Manifest, version: str) -> Package:
    """Write the wheel of `manifest`'s library into the artifact `folder`, which has that."""
    name = identifier(manifest.name)
    facts = {
        "name": name,
        "project": name.replace("_", "-"),
        "version": version,
        "platform": PLATFORMS[manifest.target],
    }
    facts["tags"] = "\n".join(f"Tag: py3-none-{tag}" for tag in facts["platform"].split("."))
    facts |= {"pocketbert": manifest.versions["pocketbert"]}
    info = f"{name}-{version}.dist-info"
    entries: dict[str, bytes | Path] = {
        f"{name}/__init__.py": PACKAGE.format_map(facts).encode(),
        **{f"{name}/{file}": RUNNING / source for file, source in FILES.items()},
        f"{name}/py.typed": b"",
        f"{name}/facts.json": _facts(manifest),
        f"{name}/{manifest.library}": folder / manifest.library,
        f"{info}/METADATA": METADATA.format_map(facts).encode(),
        f"{info}/WHEEL": WHEEL.format_map(facts).encode(),
        f"{info}/licenses/LICENSE": licence(),
    }
    record = "".join(f"{path},{_digest(content)}\n" for path, content in entries.items())
    entries[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    wheel = folder / f"{name}-{version}-py3-none-{facts['platform']}.whl"
    write_archive(wheel, entries)
    return Package(wheel.name)


def _facts(manifest: Manifest) -> bytes:
    data = manifest.to_dict()
    known = {key: data[key] for key in FACTS if key in data}
    if text := data.get("vocabulary"):
        known["vocabulary"] = {key: text[key] for key in ("pieces", "cased", "kind", "max_tokens") if key in text}
    return (json.dumps(known, indent=1, ensure_ascii=True) + "\n").encode()


def _digest(content: bytes | Path) -> str:
    """The hash and the size of a file, as RECORD has them."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            digest, size = hashlib.file_digest(file, "sha256").digest(), content.stat().st_size
    else:
        digest, size = hashlib.sha256(content).digest(), len(content)
    return f"sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()},{size}"
