"""Small faults in the C runtime: what to plant, whether it compiles, and which tests should notice.

A fault changes one place of one line of code, never a comment, a text or what is generated: a comparison or its
boundary, arithmetic, && and ||, a condition, a number, or a statement that is gone. clang tells which compile.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

RUNTIME = "compile/runtime"
SOURCES = ("src/*.[ch]", "include/*.h", "include/*.hpp")
ELSEWHERE = ("platform_apple.c", "platform_windows.c")  # nothing here runs them
# What is left out takes minutes, and notices little more.
OPTIONS = ["-m", "not slow"]
OPTIONS += ["-k", "not (real_text or of_the_page or test_arm64 or megabyte or thread- or -thread or [thread)"]
# Which tests should notice, those that take long last.
PLACE, RUNNING = "tests/compile/runtime", "tests/compile/running"
CHECKS = [f"{PLACE}/test_resources.py", f"{PLACE}/test_runtime_checks.py", f"{PLACE}/test_two_models.py"]
PYTHON = [f"{RUNNING}/test_token_axis.py", f"{RUNNING}/test_python_interface.py", f"{PLACE}/test_cores.py"]
PROFILE = [
    f"{RUNNING}/test_profile.py::test_{name}"
    for name in (
        "every_call_of_every_block_is_there_once_and_in_order",
        "profiled_run_computes_the_same",
        "c_interface_refuses_what_is_no_profile",
    )
]
LONG = [f"{PLACE}/test_lifetimes.py", f"{PLACE}/test_sanitizers.py"]
EVERY = [*CHECKS, *PROFILE, *PYTHON, f"{PLACE}/test_sources.py", f"{PLACE}/test_tokenizer.py", *LONG]
TEXTS = [f"{PLACE}/test_tokenizer.py", "tests/compile/text/test_equality.py", f"{PLACE}/test_sanitizers.py"]
TASKS = ["tests/compile/text/test_tasks.py", f"{PLACE}/test_sanitizers.py"]
WINDOWS = [*TASKS, "tests/compile/text/test_answers.py"]
WEB = ["tests/compile/web/test_modules.py"]
TESTS = {
    "tokenizer.c": TEXTS,
    "normalize.c": TEXTS,
    "words.c": TEXTS,
    "pieces.c": TEXTS,
    "text.h": TEXTS,
    **dict.fromkeys(("tasks.c", "entities.c", "lists.c", "vectors.c"), TASKS),
    **dict.fromkeys(("windows.c", "tasks.h"), WINDOWS),
    "answer.c": ["tests/compile/text/test_answers.py", f"{PLACE}/test_sanitizers.py"],
    "texts.c": [*PYTHON, "tests/compile/text/test_tasks.py", *TEXTS],
    "cpu.c": [f"{PLACE}/test_cores.py", f"{PLACE}/test_sources.py", *CHECKS],
    "cpu_features.h": [f"{PLACE}/test_sources.py", *CHECKS],
    "platform.h": [f"{PLACE}/test_sources.py", *CHECKS],
    "platform_linux.c": [f"{PLACE}/test_cores.py", f"{PLACE}/test_sources.py", *CHECKS],
    "platform_posix.c": [f"{PLACE}/test_resources.py", *CHECKS],
    "profile.c": PROFILE,
    "platform_wasm.c": WEB,
    "web.c": WEB,
    "jni.c": ["tests/e2e/test_java.py"],
    "java.h": ["tests/e2e/test_java.py"],
    "pocketbert_loader.h": [f"{PLACE}/test_loader.py", "tests/e2e/test_cpp.py"],
    "pocketbert.hpp": ["tests/e2e/test_cpp.py"],
}
# Each stands between blanks, as clang-format leaves it; so no pointer, template or #include is one.
SWAPS = {
    "<": "<= >", "<=": "< >", ">": ">= <", ">=": "> <", "==": "!=", "!=": "==", "&&": "||", "||": "&&", "&": "|",
    "|": "&", "+": "-", "-": "+", "*": "/", "/": "*", "%": "*", "<<": ">>", ">>": "<<", "+=": "-=", "-=": "+=",
}  # fmt: skip
WORDS = {"true": "false", "false": "true"}
OPERATOR = re.compile(rf"(?<= )({'|'.join(map(re.escape, sorted(SWAPS, key=len, reverse=True)))})(?= )")
WORD = re.compile(rf"\b({'|'.join(WORDS)})\b")
NUMBER = re.compile(r"(?<![\w.])(0x[0-9a-fA-F]+|\d+)(?=u?l?l?\b)(?!\.)")
CONDITION = re.compile(r"\b(?:if|while) \(")
# Calls, assignments and jumps; a declaration that is gone is no fault, or does not compile.
CALL = r"(?:\(\*\w+\)->)?\w[\w>.-]*\(.*\)"
STATEMENT = re.compile(rf"^ *(?:else )?((?:{CALL}|[\w>.*\[\]() +-]+(?: [-+*|&]?= .*|\+\+|--)|continue|break);)$")
NO_CODE = re.compile(
    r"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|^ *\# *(?:include|if|error)[^\n]*""",
    re.DOTALL | re.MULTILINE,
)


def sources(root: Path) -> list[str]:
    paths = [path for glob in SOURCES for path in (root / RUNTIME).glob(glob) if path.name not in ELSEWHERE]
    return sorted(str(path.relative_to(root)) for path in paths)


def faults(text: str) -> Iterator[tuple[int, str]]:
    """(line, the whole text with the fault) for every fault."""
    lines = text.splitlines(keepends=True)
    code = NO_CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text).splitlines()
    for number, line in enumerate(code):
        for begin, end, other in _changes(line):
            changed = lines[number][:begin] + other + lines[number][end:]
            yield number + 1, "".join([*lines[:number], changed, *lines[number + 1 :]])


def _changes(code: str) -> Iterator[tuple[int, int, str]]:
    """(begin, end, what stands there instead) in a line."""
    for match in OPERATOR.finditer(code):
        for other in SWAPS[match[0]].split():
            yield *match.span(), other
    for match in WORD.finditer(code):
        yield *match.span(), WORDS[match[0]]
    for match in NUMBER.finditer(code):
        digits = match[0]
        value = int(digits, 16 if digits.startswith("0x") else 8 if digits.startswith("0") else 10)
        for other in (value + 1, value - 1):
            if other >= 0:
                yield *match.span(), str(other)
    for match in CONDITION.finditer(code):
        if (end := _closing(code, match.end())) is not None:
            yield match.end(), end, f"!({code[match.end() : end]})"
    if match := STATEMENT.match(code):
        yield *match.span(1), ";"


def _closing(code: str, begin: int) -> int | None:
    """Where the parenthesis that is open at `begin` closes, if on this line."""
    depth = 1
    for place in range(begin, len(code)):
        depth += (code[place] == "(") - (code[place] == ")")
        if not depth:
            return place
    return None


def tests(path: str) -> list[str]:
    """Those that should notice a fault in the file."""
    return TESTS.get(Path(path).name, EVERY)


def compiles(root: Path, path: str, text: str) -> bool:
    """Whether what reads the file `path` of the project compiles with that text in it."""
    with tempfile.TemporaryDirectory() as copy:
        folder = Path(shutil.copytree(root / RUNTIME, Path(copy) / RUNTIME))
        (Path(copy) / path).write_text(text)
        command = ["clang", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-Isrc", "-Iinclude"]
        units = [Path(copy) / path] if path.endswith(".c") else [*folder.glob("src/*.c")]
        if units[0].name in ("platform_wasm.c", "web.c"):
            command.append("--target=wasm32")
        if "/include/" in path:
            command = ["clang", "-std=c++17", "-x", "c++", "-fsyntax-only"]
            units = [folder / "include" / "pocketbert.hpp"]
        return subprocess.run([*command, *units], cwd=folder, capture_output=True, check=False).returncode == 0
