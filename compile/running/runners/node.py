"""Runs WebAssembly modules in Node.js, whose engine is Chrome's."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path

from compile.artifact.manifest import LibraryFacts
from compile.running.runners.base import WARM_UP, Device, Execution, Runner, RunnerError, parse_times
from compile.running.runners.local import measuring, run_on_files
from compile.web import WEB

OLDEST = 20
NEEDED = f"Node.js {OLDEST} or later (Debian package nodejs)"
# A module whose one function multiplies and adds by relaxed SIMD: an engine without that finds it invalid.
PROBE = (
    "process.exit(WebAssembly.validate(new Uint8Array([0,97,115,109,1,0,0,0,1,5,1,96,0,1,123,3,2,1,0,10,19,1,17,0,"
    "65,1,253,17,65,1,253,17,65,1,253,17,253,133,2,11])) ? 0 : 1)"
)


@functools.cache
def command() -> list[str] | None:
    """How Node.js is started so that it has relaxed SIMD, if it can have that; None without Node.js."""
    node = shutil.which("node")
    for options in ([], ["--experimental-wasm-relaxed-simd"]):
        if node and subprocess.run([node, *options, "-e", PROBE], check=False, capture_output=True).returncode == 0:
            return [node, *options]
    return [node] if node else None


def levels(folder: Path) -> list[str]:
    """The levels of an artifact's modules that run here, best first."""
    place = json.dumps((folder / "index.js").absolute().as_uri())
    script = f"import({place}).then((model) => console.log(JSON.stringify(model.levels())))"
    done = subprocess.run([*(command() or []), "-e", script], check=True, capture_output=True, text=True)
    return list(json.loads(done.stdout))


def missing() -> str | None:
    """What to install for modules to run here, None if all is there."""
    node = command()
    if node is None:
        return NEEDED
    version = subprocess.run([node[0], "--version"], check=False, capture_output=True, text=True).stdout.strip()
    major = re.match(r"v(\d+)\.", version)
    return None if major and int(major[1]) >= OLDEST else f"{NEEDED}, and not with {version or node[0]}"


class NodeRunner(Runner):
    """One thread, as a page has it. level: of the modules' levels; by default the best that runs here."""

    def __init__(self, level: str = "") -> None:
        self.level = level

    def execute(
        self, library: Path, facts: LibraryFacts, inputs: bytes, threads: int, runs: int, timeout: float
    ) -> Execution:
        if lacking := missing():
            raise RunnerError(f"modules run here only with {lacking}: install it")
        times = runs + WARM_UP if runs else 0
        with measuring():
            program = [*(command() or []), str(WEB / "runner.mjs"), self.level]
            done, outputs = run_on_files(program, library, facts, inputs, (1, times), timeout)
        wall, cpu = parse_times(done.stdout)
        return Execution(wall, outputs, Device(f"Node.js, {self.level}" if self.level else "Node.js", (0,)), cpu)
