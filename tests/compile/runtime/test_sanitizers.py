"""The C interface misused in every way, under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.

The library's runtime and plan are instrumented; its kernels are not, but all that they are given is checked before.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import compile

HERE = Path(__file__).parent
HARNESS = HERE.parents[1] / "fuzz" / "api.c"
ADDRESS = "address,undefined"
FUZZER = "fuzzer,address,undefined"
HEAD = "token-classification"  # so that a task is called, too


@pytest.fixture(scope="session")
def threads(small_library: Callable, program: Callable) -> Callable[[str], Path]:
    """threads(sanitize): the program threads.c, linked with a library that has the same sanitizers."""

    def make(sanitize: str) -> Path:
        artifact = small_library("thread" if sanitize == "thread" else FUZZER, head=HEAD)
        return program(HERE / "threads.c", artifact, sanitize=sanitize, options=("-DMODEL=small",))

    return make


@pytest.fixture(scope="session")
def fuzzer(small_library: Callable, program: Callable) -> Path:
    return program(HARNESS, small_library(FUZZER, head=HEAD), sanitize=FUZZER, options=("-DMODEL=small",))


@pytest.mark.parametrize("sanitize", [ADDRESS, "thread"])
def test_eight_threads_with_a_thousand_runs_each(sanitize: str, threads: Callable, execute: Callable) -> None:
    path = threads(sanitize)
    done = execute(path, 8, 1000)
    assert (done.returncode, done.stdout) == (0, "8000 done, 0 busy\n"), done.stderr
    done = execute(path, 1, 1000)
    assert done.returncode == 0, done.stderr
    finished, busy = (int(word) for word in done.stdout.split() if word.isdigit())
    assert finished + busy == 8000
    assert finished > 0


@pytest.mark.parametrize(("sanitize", "report"), [(ADDRESS, "heap-buffer-overflow"), ("thread", "data race")])
def test_sanitizers_see_what_they_are_there_for(
    sanitize: str, report: str, threads: Callable, execute: Callable
) -> None:
    """The same program breaking the rules: without a report here, none above would mean anything."""
    done = execute(threads(sanitize), 1, 0)
    assert done.returncode != 0
    assert report in done.stderr
    assert re.search(r"\b(check|run)\.c\b", done.stderr), done.stderr


def test_thousands_of_sequences_of_calls(fuzzer: Path, execute: Callable) -> None:
    """A few seconds of what CONTRIBUTING says how to do for longer."""
    # What it would limit is the peak that getrusage tells, and that begins with the peak of this process.
    limits = ("-rss_limit_mb=0", "-malloc_limit_mb=1024")
    done = execute(fuzzer, "-runs=5000", "-max_len=512", "-len_control=0", "-seed=1", *limits)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 5000 runs" in done.stderr


# The harness reads ten kinds of calls from an input's bytes: what is called, on which model, and how its handle is
# chosen. So these begin calls of `tokenize` and `run_text`, and the rest is text.
TEXT_CALLS = [bytes([4, 0, 0, 0, 0, 9, 0, 0]), bytes([5, 0, 0, 0, 0, 0, 0, 0])]


@pytest.mark.parametrize(
    "text",
    [
        b"a" * (1 << 20),
        b"\xff\xfe\x80" * 350_000,
        "中é".encode() * 200_000,
        b" " * (1 << 20),
        b"\xf0\x9f" * 500_000,
        b"e" + b"\xcc\x81" * 500_000,
        bytes(1 << 20),
        np.random.default_rng(0).bytes(1 << 20),
    ],
    ids=["word", "not UTF-8", "script", "space", "cut short", "accents", "NUL", "random"],
)
def test_lines_of_a_megabyte(text: bytes, fuzzer: Path, execute: Callable, tmp_path: Path) -> None:
    for number, call in enumerate(TEXT_CALLS):
        (tmp_path / f"{number}").write_bytes(call + text)
    done = execute(fuzzer, *(tmp_path / f"{number}" for number in range(len(TEXT_CALLS))))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("Executed ") == len(TEXT_CALLS)


def test_python_says_that_it_cannot_load_a_sanitized_library(small_library: Callable) -> None:
    with pytest.raises(compile.CompileError, match="sanitize"):
        compile.load(small_library("thread", head=HEAD))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sanitize": "memory"}, "choose of"),
        ({"sanitize": "address,thread"}, "not address with thread"),
        ({"sanitize": "thread", "target": "arm64-android"}, "--target host"),
        ({"sanitize": "thread", "verify": True}, "--verify"),
    ],
)
def test_sanitizers_that_cannot_be(changes: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(compile.CompileError, match=words):
        compile.build("mobilebert", **{"target": "host", "out": tmp_path / "out", **changes})
    assert not (tmp_path / "out").exists()


def test_sanitizers_without_clang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(compile.CompileError, match=r"^--sanitize needs clang \(Debian package clang\): install it$"):
        compile.build("mobilebert", target="host", sanitize="address", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
