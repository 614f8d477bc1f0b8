"""A model so small that a run takes microseconds, with and without sanitizers, and programs in C that call it."""

import shutil
import string
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import compile

TOKENS = 8
PIECES = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##ing", ".", ",", "!", "é", "中", "日"),
    *string.ascii_lowercase,
    *(f"##{letter}" for letter in string.ascii_lowercase),
]
SIZES = {
    "num_hidden_layers": 1,
    "vocab_size": len(PIECES),
    "max_position_embeddings": TOKENS,
    "hidden_size": 32,
    "embedding_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
}


@pytest.fixture(scope="session")
def small_library(tmp_path_factory: pytest.TempPathFactory, randomized: Callable) -> Callable[..., Path]:
    """small_library(sanitize, name, head) is the artifact folder of a one-layer BERT with a vocabulary, built once.

    head: of the task that the library is for; "": none.
    """
    import model

    built: dict[Any, Path] = {}

    def make(sanitize: str = "", name: str = "small", head: str = "") -> Path:
        if sanitize and shutil.which("clang") is None:
            pytest.skip("needs clang: Debian package clang")
        if (sanitize, name, head) not in built:
            folder = tmp_path_factory.mktemp("small")
            config = replace(model.PRESETS["bert-base"], **SIZES, **({"num_labels": 3} if head else {}))
            module = randomized(config, head or "none", seed=len(name))
            if head:
                source = folder / name
                model.save_checkpoint(module, source)
            else:
                source = model.export(module, folder / f"{name}.onnx", seq_len=TOKENS, batch=1)
            (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
            built[sanitize, name, head] = compile.build(
                source,
                target="host",
                seq_len=TOKENS,
                sanitize=sanitize,
                vocab=folder / "vocab.txt",
                out=folder / "artifact",
            ).folder
        return built[sanitize, name, head]

    return make


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """program(source, artifacts, sanitize, options): a program in C that is linked with the artifacts' libraries."""

    def make(source: Path, *artifacts: Path, sanitize: str = "", options: tuple[str, ...] = ()) -> Path:
        output = tmp_path_factory.mktemp("program") / source.stem
        command = [sys.executable, "-m", "ziglang", "cc"]
        if sanitize:
            command = ["clang", f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"]
        command += ["-g", "-O1", "-std=c11", "-Wall", "-Wextra", "-Werror", *options, str(source), "-o", str(output)]
        command += ["-pthread", "-ldl"]
        for artifact in artifacts:
            (library,) = artifact.glob("lib*.so")
            command += ["-I", str(artifact / "include"), str(library), f"-Wl,-rpath,{artifact}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=output.parent)
        assert done.returncode == 0, done.stderr
        return output

    return make


@pytest.fixture(scope="session")
def execute() -> Callable[..., Any]:
    """execute(program, *arguments): the finished process. A sanitizer's report ends it with another status than 0."""

    def run(path: Path, *arguments: Any) -> Any:
        command = [path, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=path.parent, timeout=300)

    return run
