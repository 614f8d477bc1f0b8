"""The JavaScript of a WebAssembly artifact: the folder is an npm package."""

from __future__ import annotations

import json
from pathlib import Path

WEB = Path(__file__).parent


def write_package(name: str, folder: Path) -> None:
    """package.json, index.js and index.d.ts beside `<name>.wasm`."""
    script = (WEB / "index.js").read_text().replace("@NAME@", name)
    (folder / "index.js").write_text(script)
    (folder / "index.d.ts").write_text((WEB / "index.d.ts").read_text())
    package = {
        "name": name.replace("_", "-").lower(),
        "version": "1.0.0",
        "type": "module",
        "main": "index.js",
        "types": "index.d.ts",
        "files": ["index.js", "index.d.ts", f"{name}.wasm"],
        "private": True,
    }
    (folder / "package.json").write_text(json.dumps(package, indent=2) + "\n")
