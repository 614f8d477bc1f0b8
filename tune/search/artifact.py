"""From an architecture to its ONNX file, its kernel calls (nothing compiled) and its library."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from compile.artifact.manifest import Precision, toolchain_versions
from compile.databases import shipped
from compile.program import Program
from compile.targets import find_target
from model import ModelConfig

SEED = 0  # of the random weights: latency does not depend on them, the library's hash does


@dataclass(frozen=True)
class Build:
    """What a library is built for, and by which packages: latencies of different builds are not the same figure."""

    target: str = "host"
    cpu: str | None = None
    seq_len: int = 128
    precision: Precision = "float32"

    @cached_property
    def toolchain(self) -> str:
        return json.dumps(toolchain_versions(), sort_keys=True)

    def key(self, config: ModelConfig) -> str:
        """Sixteen hex digits of the architecture and of everything that makes a library of it."""
        target = find_target(self.target, self.cpu)
        database = shipped(target.cpu)
        tiles = database.read_text() if database else ""
        made_of = [asdict(config), target.name, target.cpu.name, self.seq_len, self.toolchain, tiles]
        made_of += [self.precision] if self.precision != "float32" else []
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def export(config: ModelConfig, path: Path, seq_len: int) -> Path:
    """Write `config` with seeded random weights, norms and biases too: at 1 and 0 a pass could drop them."""
    import model

    module = model.create(config, seed=SEED)
    model.randomize_norms(module, SEED)
    return model.export(module, path, seq_len=seq_len, batch=1)


def program(onnx_file: Path, build: Build) -> Program:
    """The kernel calls that the library will make; nothing is compiled. Passes run without their referee."""
    from tune.kernels.model import program_of  # tvm

    return program_of(onnx_file, find_target(build.target, build.cpu), build.seq_len, precision=build.precision)


def library(made: Program, build: Build, name: str, out: Path) -> Path:
    """The artifact folder of a program: the library that `python -m compile` would make, to the byte."""
    from compile.pipeline import BuildOptions, Clock, build_program

    target = find_target(build.target, build.cpu)
    options = BuildOptions(build.seq_len, precision=build.precision)
    return build_program(made, name, target, out, options, Clock(None), {}).folder
