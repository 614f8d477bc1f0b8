"""A plugin for pytest: builds take from before what a fault elsewhere does not change: passes, kernels, sources."""

import hashlib
import pickle
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import compile
import passes
from compile import pipeline
from compile.linking import link
from compile.runtime import INCLUDE, SRC
from tests.support.kept import keep, keep_kernels

FOLDER = Path(__file__).parents[3] / "built"


def digests(*paths: Path) -> list[tuple[str, str]]:
    return [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in sorted(paths)]


def pytest_configure() -> None:
    run_compiler, run_passes = link.run_compiler, passes.run

    def compiler(toolchain: Any, arguments: list[str], folder: Path) -> None:
        options = [word for word in arguments if not word.startswith("-I")]
        sources = [folder / word for word in options if word.endswith((".c", ".o"))]
        make = partial(run_compiler, toolchain, arguments, folder)
        made = folder / options[-1]
        if len(sources) != 1 or made in sources or options[-2] != "-o" or not {"-c", "-shared"} & {*options}:
            return make()  # a program, the library itself, or what is assembled
        read = [*sources, *(p for f in (folder, SRC, INCLUDE) for p in f.glob("*.h"))]
        read += folder.glob("*.bin") if sources[0].name == "weights.c" else []
        key = (toolchain, [Path(word).name for word in options], digests(*read))
        return keep(FOLDER, key, made, make)

    in_passes, code = Path(passes.__file__).parent, Path(compile.__file__).parent
    rules = digests(*in_passes.rglob("*.py"))

    def rewrite(model: Any, **options: Any) -> Any:
        key = (hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(), options, rules)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder, "rewritten")
            keep(FOLDER, key, place, lambda: place.write_bytes(pickle.dumps(run_passes(model, **options))))
            return pickle.loads(place.read_bytes())

    makers = [*(code / "kernels").rglob("*.py"), *(code / "codegen").glob("*.py"), *code.glob("*.py")]
    of_makers = FOLDER / hashlib.sha256(repr(digests(*makers)).encode()).hexdigest()
    pipeline.compile_kernels = keep_kernels(pipeline.compile_kernels, of_makers)
    link.run_compiler, passes.run = compiler, rewrite
