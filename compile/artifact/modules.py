"""The modules of a WebAssembly artifact, one for each level of engine, and the JavaScript that chooses between them."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from compile.artifact.maven import package_version
from compile.artifact.npm import description
from compile.codegen.plan_source import plan_source
from compile.linking.link import Toolchain, compile_sources, link_library, run_compiler
from compile.planning.plan import Plan
from compile.targets import Target
from compile.web import WEB

PROBE_OPTIONS = ("-O2", "-nostdlib", "-mcpu=generic+simd128+relaxed_simd", "-Wl,--no-entry", "-Wl,-s")


def link_modules(
    toolchain: Toolchain,
    target: Target,
    plan: Plan,
    threads: int,
    work: Path,
    sources: Sequence[Path],
    objects: Sequence[list[Path]],
    library: Path,
) -> dict[str, Path]:
    """A module for each of the plan's levels that has code of its own, by the level's name, best first.

    sources: all but the plan's; objects: each level's kernels; library: the lowest level's module.
    """
    name, modules = library.stem, dict[str, Path]()
    common = compile_sources(toolchain, target, work, list(sources), name)
    for level, kernels in zip(plan.code_variants, objects, strict=True):
        (work / "plan.c").write_text(plan_source(replace(plan, levels=[level]), threads))
        known_as = level.cpu.name.removeprefix("wasm-")
        module = library if not modules else library.with_name(f"{name}-{known_as}.wasm")
        link_library(toolchain, target, work, [work / "plan.c"], [*kernels, *common], name, module)
        modules[known_as] = module
    return dict(reversed(modules.items()))


def write_script(toolchain: Toolchain, work: Path, modules: dict[str, Path], folder: Path) -> None:
    """index.js, index.d.ts and package.json beside the modules."""
    (work / "probe.c").write_bytes((WEB / "probe.c").read_bytes())
    run_compiler(toolchain.with_triple("wasm32-freestanding"), [*PROBE_OPTIONS, "probe.c", "-o", "probe.wasm"], work)
    name = [*modules.values()][-1].stem
    facts = {
        "MODULES": json.dumps({level: module.name for level, module in modules.items()}),
        "NAME": json.dumps(name),
        "LEVELS": " | ".join(map(json.dumps, modules)),
        "PROBE": json.dumps(base64.b64encode((work / "probe.wasm").read_bytes()).decode()),
    }
    for file in ("index.js", "index.d.ts"):
        text = (WEB / file).read_text()
        for key, value in facts.items():
            text = text.replace(f'"@{key}@"', value)
        (folder / file).write_text(text)
    files = ["index.js", "index.d.ts", *(module.name for module in modules.values()), f"{name}.weights"]
    about = description(name, package_version(), files) | {"private": True}
    (folder / "package.json").write_text(json.dumps(about, indent=2) + "\n")
