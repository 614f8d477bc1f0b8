"""The artifact as an npm package: modules, weights and JavaScript with types, which needs nothing else.

An archive as `npm pack` makes it; `npm install FILE` takes it, and so does a registry.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from compile.artifact.licence import licence
from compile.artifact.manifest import Manifest, Package
from compile.codegen.escape import identifier

EXAMPLES = {
    "classify": 'model.classify("a text"); // [{ label, score }, …], best first',
    "entities": 'model.entities("a text"); // [{ label, score, begin, end, text }, …]',
    "embed": 'model.embed("a text"); // Float32Array',
    "fill": 'model.fill("a [MASK]"); // for each mask [{ label, score }, …]',
    "answer": 'model.answer("a question?", "a text with the answer"); // [{ text, score, begin, end }, …]',
}

README = """# {project}

The model {name} in WebAssembly, compiled by PocketBERT {pocketbert}, for browsers and Node.js. Nothing leaves the page.

```js
import {{ load }} from "{project}";

const model = await load();
{example}
model.close();
```

`load` reads the module that suits the engine, and {weights:.1f} MB of weights, from beside `index.js`; where a bundler
puts them elsewhere, `load({{ base: "https://…/folder/" }})`. `index.d.ts` has the rest. A page that must stay smooth
calls the model in a worker.

Everything but the weights is under the licence in LICENSE; the weights are under that of the model.
"""


def project(name: str) -> str:
    """What a model is called in npm."""
    return identifier(name).lower().replace("_", "-").strip("-") or "model"


def description(name: str, version: str, files: list[str]) -> dict[str, Any]:
    """package.json; version: one to four numbers, of which npm takes the first three."""
    numbers = [str(int(number)) for number in version.split(".")]
    return {
        "name": project(name),
        "version": ".".join([*numbers, "0", "0"][:3]),
        "description": f"The model {name}, compiled by PocketBERT",
        "license": "Apache-2.0",
        "type": "module",
        "main": "index.js",
        "types": "index.d.ts",
        "files": files,
    }


def write_npm(folder: Path, manifest: Manifest, version: str) -> Package:
    """Write the package of `manifest`'s modules into the artifact `folder`, which has those."""
    name = manifest.name
    files = ["index.js", "index.d.ts", *sorted(path.name for path in folder.glob(f"{name}*.wasm")), f"{name}.weights"]
    about = description(name, version, files)
    facts = {"name": name, "project": about["name"], "pocketbert": manifest.versions["pocketbert"]}
    example = EXAMPLES.get(manifest.task or "", "model.run(inputs); // { output: { data, shape } }")
    readme = README.format(**facts, example=example, weights=manifest.sizes.weights_bytes / 1e6)
    entries: dict[str, bytes | Path] = {
        "package.json": (json.dumps(about, indent=2) + "\n").encode(),
        **{file: folder / file for file in files},
        "README.md": readme.encode(),
        "LICENSE": licence(),
    }
    path = folder / f"{about['name']}-{about['version']}.tgz"
    with gzip.GzipFile(path, "wb", mtime=0) as file, tarfile.open(fileobj=file, mode="w") as archive:
        for entry, content in entries.items():
            data = content.read_bytes() if isinstance(content, Path) else content
            info = tarfile.TarInfo(f"package/{entry}")
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    return Package(path.name)
