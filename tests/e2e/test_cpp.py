"""C and C++ on the page for app developers, as it is written, and against Python: bit for bit and error by error."""

import os
import re
import shutil
import string
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compile
from compile import __main__ as command_line
from compile.artifact.jar import write_jar
from compile.running.load import read_manifest
from compile.running.runners.qemu import ARM64_ROOT
from compile.running.samples import random_samples

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
SENTENCE = "the capital of [MASK] is paris"
PIECES = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SENTENCE.replace("[MASK] ", "").split()),
    *("é", "中", "語", "naive", ",", "."),
    *string.ascii_lowercase,
    *(f"##{letter}" for letter in string.ascii_lowercase),
]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}:."
compilers = [name for name in ("clang++", "g++") if shutil.which(name)]
pytestmark = pytest.mark.skipif(not compilers, reason="needs a C++ compiler: Debian package clang")
needs_cmake = pytest.mark.skipif(
    shutil.which("cmake", path=PATH) is None,
    reason="needs cmake and ninja: pip install -e '.[test]'",
)
needs_jdk = pytest.mark.skipif(shutil.which("javac") is None, reason="needs a JDK: Debian package default-jdk-headless")


def run(*command: Any, cwd: Path | None = None) -> str:
    """What a command prints. `python`, `cmake` and `ninja` are those of the environment that runs the tests."""
    environment = os.environ | {"PATH": PATH, "CMAKE_GENERATOR": "Ninja", "CXX": compilers[0]}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "cpp.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the page supposes it, but with a checkpoint `mobilebert` of one layer instead of the preset."""
    import model

    folder = tmp_path_factory.mktemp("workplace")
    config = replace(model.PRESETS["mobilebert-tiny"], num_hidden_layers=1, vocab_size=len(PIECES))
    model.save_checkpoint(model.create(config, "mlm"), folder / "mobilebert")
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "app.c").write_text(blocks("c")[0])
    if not shutil.which("cc"):
        (folder / "cc").symlink_to(str(shutil.which("clang")))
    return folder


@pytest.fixture(scope="module")
def execute(workplace: Path) -> Callable[[str], str]:
    """execute(block): run a block of the page in the workplace; builds run in this process, which has tvm loaded."""

    def make(block: str) -> str:
        rest = []
        for line in block.splitlines():
            if line.startswith("python -m compile mobilebert "):
                before = Path.cwd()
                os.chdir(workplace)
                try:
                    assert command_line.main(["./mobilebert", *line.split()[4:]]) == 0
                finally:
                    os.chdir(before)
            else:
                rest.append(line)
        return run("bash", "-euc", "\n".join(rest), cwd=workplace)

    return make


@pytest.fixture(scope="module")
def artifact(workplace: Path, execute: Callable) -> Path:
    execute(blocks("sh")[0])
    return workplace / "build" / "mobilebert-mlm-host"


def top_tokens(artifact: Path) -> list[str]:
    """The pieces that the example must print, best first."""
    with compile.load(artifact) as model:
        ids, _ = model.tokenize(SENTENCE)
        logits = next(iter(model.run_text(SENTENCE).values()))[0, ids.tolist().index(PIECES.index("[MASK]"))]
        return [model.token(int(i)) for i in np.argsort(-logits)[:5]]


@needs_cmake
def test_example_of_the_page(artifact: Path, execute: Callable) -> None:
    title, *lines = execute(blocks("sh")[1]).splitlines()[-6:]
    assert title == "mask 1:"
    assert [line.split()[-1] for line in lines] == top_tokens(artifact)


@needs_cmake
@pytest.mark.slow  # zig compiles its C++ library for arm64 first
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-aarch64: Debian package qemu-user")
@pytest.mark.skipif(not ARM64_ROOT.is_dir(), reason="needs glibc for arm64: Debian package libc6-arm64-cross")
def test_example_of_the_page_for_arm64_under_emulation(artifact: Path, execute: Callable) -> None:
    title, *lines = execute(blocks("sh")[-1]).splitlines()[-6:]
    assert title == "mask 1:"
    assert [line.split()[-1] for line in lines] == top_tokens(artifact)


@needs_cmake
def test_package_for_another_system_is_refused(artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(artifact, tmp_path / "artifact")
    version = tmp_path / "artifact" / "cmake" / "mobilebert_mlm-config-version.cmake"
    version.write_text(version.read_text().replace("x86_64", "mips").replace("aarch64", "mips"))
    with pytest.raises(AssertionError, match=r"version: 2 \(for"):
        run("cmake", "-S", ROOT / "examples" / "cpp", "-B", tmp_path / "b", f"-DARTIFACT={tmp_path}/artifact")


def test_c_program_of_the_page(artifact: Path, execute: Callable) -> None:
    ids = np.array([[2, 7, 8, 9, 3]])
    with compile.load(artifact) as model:
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        wanted = list(model.run(inputs).values())[1].flat[0]
    assert np.float32(execute(blocks("sh")[2])) == wanted


def cpp(source: Path, output: Path, artifact: Path, *options: str) -> Path:
    command = [compilers[0], "-std=c++17", *WARNINGS, *options, "-I", artifact / "include", source]
    run(*command, artifact / read_manifest(artifact).library, f"-Wl,-rpath,{artifact}", "-ldl", "-o", output)
    return output


def test_cpp_program_of_the_page(artifact: Path, tmp_path: Path) -> None:
    program, fragment = blocks("cpp")
    (tmp_path / "app.cpp").write_text(program)
    with compile.load(artifact) as model:
        wanted = list(model.run_text(SENTENCE).values())[1].flat[0]
    assert run(cpp(tmp_path / "app.cpp", tmp_path / "app", artifact)) == f"8 tokens, {wanted:g}\n"
    include, *lines = fragment.splitlines()
    parameters = "int file, std::int64_t offset, std::int64_t bytes"
    (tmp_path / "load.cpp").write_text(
        "\n".join([include, f"void load({parameters}) {{", *lines, "}", "int main() {}"])
    )
    cpp(tmp_path / "load.cpp", tmp_path / "load", artifact)


@pytest.mark.parametrize("compiler", compilers)
def test_headers_have_no_warnings(compiler: str, artifact: Path) -> None:
    for source in (HERE / "cpp" / "checks.cpp", ROOT / "examples" / "cpp" / "ask.cpp"):
        run(compiler, "-std=c++20", "-fsyntax-only", "-Wconversion", *WARNINGS, "-I", artifact / "include", source)


# --- The same library from C, C++ and Python


@pytest.fixture(scope="module")
def checks(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It stops where it reads or writes beyond a buffer."""
    place = tmp_path_factory.mktemp("checks") / "checks"
    return cpp(HERE / "cpp" / "checks.cpp", place, artifact, "-g", "-fsanitize=address")


@pytest.fixture(scope="module")
def programs(artifact: Path, checks: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """By language: the command that takes library, name, threads, samples and results."""
    c = tmp_path_factory.mktemp("c") / "samples"
    zig = [sys.executable, "-m", "ziglang", "cc", "-std=c11", "-D_GNU_SOURCE", *WARNINGS]
    run(*zig, "-I", artifact / "include", HERE / "cpp" / "samples.c", "-o", c)
    found = {"c": [c], "cpp": [checks, "samples"]}
    if shutil.which("javac"):
        java = tmp_path_factory.mktemp("java")
        write_jar(java / "pocketbert.jar")
        run("javac", "-cp", java / "pocketbert.jar", "-d", java, HERE / "java" / "Checks.java")
        found["java"] = ["java", "-Xcheck:jni", "-cp", f"{java}/pocketbert.jar:{java}", "Checks", "run"]
    return found


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("language", ["c", "cpp", pytest.param("java", marks=needs_jdk)])
def test_every_language_computes_what_python_computes_bit_for_bit(
    language: str, threads: int, programs: dict[str, list[Any]], artifact: Path, tmp_path: Path
) -> None:
    lengths = [128, 1, 7, 128, 65]
    samples, wanted = b"", b""
    with compile.load(artifact, threads=threads) as model:
        for tokens, sample in zip(lengths, random_samples(read_manifest(artifact), len(lengths), 3), strict=True):
            short = {name: np.ascontiguousarray(array[:, :tokens]) for name, array in sample.items()}
            samples += np.int64(tokens).tobytes() + b"".join(array.tobytes() for array in short.values())
            wanted += b"".join(array.tobytes() for array in model.run(short).values())
    (tmp_path / "samples").write_bytes(samples)
    library = artifact / "libmobilebert_mlm.so"
    run(*programs[language], library, "mobilebert_mlm", threads, tmp_path / "samples", tmp_path / "results")
    assert (tmp_path / "results").read_bytes() == wanted


TEXTS = [SENTENCE, "", "a question?\tan answer", "\tafter nothing", "naïve Straße, 中語 and 😀", "a NUL \0 between"]


def test_text_gives_the_ids_and_results_that_it_gives_in_python(checks: Path, artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("\n".join(TEXTS), encoding="utf-8")
    library = artifact / "libmobilebert_mlm.so"
    lines = run(checks, "text", library, "mobilebert_mlm", tmp_path / "texts", tmp_path / "results").splitlines()
    wanted = b""
    with compile.load(artifact) as model:
        for line, text in zip(lines, TEXTS, strict=True):
            ids, _ = model.tokenize(*text.split("\t"))
            assert line == "".join(f"{number} {model.token(number)} " for number in ids.tolist())
            wanted += b"".join(array.tobytes() for array in model.run_text(*text.split("\t")).values())
    assert (tmp_path / "results").read_bytes() == wanted


def test_every_mistake_is_thrown_with_its_code(checks: Path, artifact: Path) -> None:
    lines = run(checks, "mistakes", artifact / "libmobilebert_mlm.so", "mobilebert_mlm").splitlines()
    assert [":".join(line.split(":")[:2]) for line in lines] == [
        "right: nothing",
        "few inputs: 1",
        "shape of other elements: 2",
        "output of another size: 2",
        "output of its size: nothing",
        "wrong shape: 2",
        "wrong id: 3",
        "wrong threads: 1",
        "no profile: 1",
        "no room: 2",
        "no outputs: 1",
        "no tokens: 1",
        "no piece: 0",
        "no library: 8",
        "another name: 8",
        "another ABI: 8",
        "moved from: 1",
        "assigned: nothing",
        "inherited: 10",
        "its own: nothing",
        "the parent's: nothing",
    ]
    assert all(len(line.split(": ", 2)[2]) > 20 for line in lines if line.count(": ") == 2 and "no piece" not in line)
