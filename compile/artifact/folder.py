"""The artifact folder: library, interface, manifest. Written beside its place and renamed, so it is whole or absent."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile.errors import CompileError
from compile.program import Value
from compile.runtime import GENERATED, INCLUDE, SRC
from compile.targets import Target

if TYPE_CHECKING:
    from compile.planning.plan import Plan

FORMAT = 2
MANIFEST_WIDTH = 240


def runtime_sources(folder: Path) -> list[Path]:
    """Copy the runtime into the build folder, beside the generated plan."""
    for directory in (INCLUDE, GENERATED, SRC):
        for file in sorted(directory.glob("*.[ch]")):
            shutil.copy(file, folder / file.name)
    return sorted(folder / source.name for source in SRC.glob("*.c"))


def tensor_entries(plan: Plan, values: list[Value]) -> list[dict[str, Any]]:
    entries = []
    for value in values:
        entry: dict[str, Any] = {"name": value.name, "shape": list(value.shape), "dtype": value.dtype}
        if (axis := plan.token_axis(value)) >= 0:
            entry["token_axis"] = axis  # may be any length up to the shape's
        if allowed := plan.program.ranges.get(value.name):
            entry["range"] = [allowed.low, allowed.high]
        entries.append(entry)
    return entries


def toolchain_versions() -> dict[str, str]:
    packages = ("pocketbert", "apache-tvm", "apache-tvm-ffi", "onnx", "onnxsim", "onnxruntime", "ziglang", "numpy")
    return {name: _version(name) for name in packages}


def _version(name: str) -> str:
    try:
        return version(name)
    except Exception:
        return "not installed"


def manifest(plan: Plan, name: str, target: Target, linker: str, extra: dict[str, Any]) -> dict[str, Any]:
    from compile.artifact.outline import call_entries, kernel_entries, tensor_places  # tvm

    program = plan.program
    return {
        "format": FORMAT,
        "name": name,
        "library": f"lib{name}.so",
        "header": f"include/{name}.h",
        "target": target.name,
        "triple": target.triple,
        "cpu": target.cpu.name,
        "isa": target.isa.name,
        "cpu_features_required": list(target.cpu.required),
        "levels": [
            {"cpu": level.cpu.name, "features": list(level.cpu.required), "kernels_for": level.code.name}
            for level in plan.levels
        ],
        "precision": "float32",
        "tokens": program.tokens,
        "shorter_sequences": program.elastic,
        "inputs": tensor_entries(plan, program.inputs),
        "outputs": tensor_entries(plan, program.outputs),
        "flops": sum(c.flops for c in program.calls),
        "sizes": {
            "weights_bytes": plan.weight_bytes,
            "arena_bytes": plan.arena_bytes,
            "scratch_bytes_per_row": plan.scratch_row_bytes,
            "workspace_bytes_per_thread": plan.workspace_bytes,
            "tensors_bytes_without_sharing": plan.tensor_bytes,
        },
        "stages": len(plan.stages),
        "kernels": kernel_entries(plan),
        "generic_kernels": [{"operator": op, "reason": why} for op, why in program.generic],
        "calls": call_entries(plan),
        "tensors": tensor_places(plan),
        "linker": linker,
        "versions": toolchain_versions(),
        **extra,
    }


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_manifest(folder: Path, data: dict[str, Any]) -> None:
    library = folder / data["library"]
    data["sizes"]["library_bytes"] = library.stat().st_size
    data["sha256"] = sha256(library)
    (folder / "manifest.json").write_text(seal(data))


def seal(data: dict[str, Any]) -> str:
    """The manifest as text. Its last entry is the sha256 of that text without the digest itself."""
    text = _json({**data, "manifest_sha256": ""}) + "\n"
    return text.replace(_sealed(""), _sealed(hashlib.sha256(text.encode()).hexdigest()))


def is_sealed(text: str, digest: str) -> bool:
    """Whether `text` is as `seal` made it, to the last bit."""
    return hashlib.sha256(text.replace(_sealed(digest), _sealed("")).encode()).hexdigest() == digest


def _sealed(digest: str) -> str:
    return f'"manifest_sha256": "{digest}"'


def _json(value: Any, margin: str = "\n") -> str:
    """JSON, indented down to what fits on one line."""
    text, inner = json.dumps(value), margin + "  "
    if len(margin) + len(text) <= MANIFEST_WIDTH or not value or not isinstance(value, dict | list):
        return text
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {_json(v, inner)}" for key, v in value.items()]
        return "{" + inner + f",{inner}".join(parts) + margin + "}"
    return "[" + inner + f",{inner}".join(_json(v, inner) for v in value) + margin + "]"


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`; takes its place when the block ends well, and leaves nothing when it does not.

    Raises CompileError if `out` cannot be written, or is a folder that no build made.
    """
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / "manifest.json").exists())):
        raise CompileError(f"--out {out} exists and is not an artifact folder: choose another, or remove it")
    new_parents = [p for p in out.parents if not p.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        _remove_empty(new_parents)
        raise CompileError(f"cannot write to {out.parent}: {error.strerror}; choose another --out") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        _replace(out, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(new_parents)


def _replace(out: Path, new: Path) -> None:
    """Rename `new` to `out`; what was there before goes only once that has worked."""
    if not out.exists():
        new.rename(out)
        return
    old = new.with_name(f"{new.name}-old")
    out.rename(old)
    try:
        new.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, innermost first, as far as they are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
