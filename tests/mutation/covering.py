"""Which tests run a line of a room, and in how many seconds.

What was seen is kept in a temporary folder while neither the file of tests changes nor what it ran of the room:
another sample of faults, one more test or one changed module costs no run of all others.
"""

import ast
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from itertools import accumulate
from pathlib import Path

import coverage

KEPT = Path(tempfile.gettempdir()) / "pocketbert-covering"
PYTEST = [sys.executable, "-m", "pytest", "--no-header"]
SECONDS = 30  # of those that run the line, and of those that start processes
FAILED = ("FAILED tests/", "ERROR tests/")
Seen = dict[str, dict[str, list[str]]]  # source file -> line -> contexts: "test|setup", "test|run", "test|teardown"


class Covering:
    """The tests in `tests` (files or folders) by the lines of `room` that they run, in the copy in `folder`."""

    def __init__(self, room: str, tests: list[str], folder: Path, jobs: int) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.lines: dict[tuple[str, int], set[str]] = defaultdict(set)
        # A session's or a file's fixture runs in the first test that wants it; the others see its results, too.
        self.shared: set[tuple[str, int]] = set()
        self.of_file: dict[str, set[str]] = defaultdict(set)
        wanted = [folder / test for test in tests]
        files = sorted(file for path in wanted for file in (path.rglob("test_*.py") if path.is_dir() else [path]))
        common = [*(folder / "tests").rglob("conftest.py")]
        kept = {str(file.relative_to(folder)): KEPT / f"{room}-{digest([file, *common])}.json" for file in files}
        if unseen := [test for test, place in kept.items() if not holds(place, folder)]:
            run(room, unseen, kept, folder, jobs)
        self.text: dict[str, str] = {}
        self.starting: set[str] = set()  # tests that start processes
        for test_file, place in kept.items():
            seen = json.loads(place.read_text())
            self.seconds |= seen["seconds"]
            self.text[test_file] = (folder / test_file).read_text()
            if "subprocess" in self.text[test_file]:
                self.starting |= set(seen["seconds"])
            for path, lines in seen["lines"].items():
                for line, contexts in lines.items():
                    for context in contexts:
                        test, _, phase = context.rpartition("|")
                        self.lines[path, int(line)].add(test)
                        self.of_file[path].add(test)
                        if phase == "setup":
                            self.shared.add((path, int(line)))

    def tests(self, path: str, line: int) -> list[str]:
        """Those that run the line, the quickest first; then those that start processes, which may run it unseen."""
        tree = ast.parse((self.folder / path).read_text())
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        inside = any(isinstance(n, ast.FunctionDef) and n.body[0].lineno <= line <= (n.end_lineno or 0) for n in nodes)
        own = [range(node.lineno, last(node) + 1) for node in nodes if node.lineno <= line <= last(node)]
        lines = [(path, number) for number in own[-1]] if own else []
        tests = self.lines[path, line] or set().union(*(self.lines[place] for place in lines))
        if not inside or not tests:  # a constant, a default or a test's parameter: read when files are imported
            files = {test.split("::")[0] for test in self.of_file[path]}
            tests = {test for test in self.seconds if test.split("::")[0] in files}
        beside: set[str] = set()
        if inside and self.shared.intersection(lines):
            files = {test.split("::")[0] for test in tests}
            beside = {test for test in self.seconds if test.split("::")[0] in files} - tests
        named = {test for test in tests if test.split("::")[0].endswith(f"/test_{Path(path).stem}.py")}
        seen = self.within(self.by_time(named) + self.by_time(tests - named) + self.by_time(beside))
        module = path.removesuffix(".py").replace("/", ".")
        starting = [test for test in self.by_time(self.starting)[::-1] if module in self.text[test.split("::")[0]]]
        return seen + self.within([test for test in starting if test not in seen])

    def within(self, tests: list[str]) -> list[str]:
        """The first of them, as far as SECONDS go."""
        totals = accumulate(self.seconds.get(test, 0) for test in tests)
        return [test for test, total in zip(tests, totals, strict=True) if total < SECONDS] or tests[:1]

    def by_time(self, tests: set[str]) -> list[str]:
        return sorted(tests, key=lambda test: (self.seconds.get(test, 0), test))


def last(node: ast.stmt) -> int:
    """The last line of what it says itself: of a loop, a condition or a function, its head."""
    body = getattr(node, "body", None)
    return max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno


def holds(place: Path, folder: Path) -> bool:
    """Whether what was kept there is of the sources as they are."""
    sources = json.loads(place.read_text())["sources"] if place.exists() else {"": ""}
    return all((folder / path).is_file() and digest([folder / path]) == was for path, was in sources.items())


def digest(files: list[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:24]


def run(room: str, tests: list[str], kept: dict[str, Path], folder: Path, jobs: int) -> None:
    """Runs the files `tests`, and keeps for each what it covers."""
    data = folder / "coverage"
    processes = ["-n", str(jobs)] if jobs > 1 else ["-n", "0", "--dist", "no"]
    command = [
        *PYTEST,
        *processes,
        f"--cov={room}",
        "--cov-context=test",
        "--cov-report=",
        "--durations=0",
        "-vv",
        *tests,
    ]
    environment = os.environ | {"COVERAGE_FILE": str(data)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    failed = {text.split(" - ")[0].partition(" ")[2] for text in done.stdout.splitlines() if text.startswith(FAILED)}
    if done.returncode and not failed:
        sys.exit(f"pytest fails without a fault:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    for test in sorted(failed):
        print(f"fails without a fault, so left out: {test}")
    seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for text in done.stdout.splitlines():
        parts = text.split()
        if len(parts) >= 3 and parts[1] in ("setup", "call", "teardown"):
            test = " ".join(parts[2:])
            seconds[test.split("::")[0]][test] += float(parts[0].rstrip("s"))
    measured = coverage.CoverageData(str(data))
    measured.read()
    lines: dict[str, Seen] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for file in measured.measured_files():
        path = str(Path(file).relative_to(folder.resolve()))
        for line, contexts in measured.contexts_by_lineno(file).items():
            for context in contexts:
                if not context or context.rpartition("|")[0] in failed:
                    continue
                lines[context.split("::")[0]][path][str(line)].append(context)
    KEPT.mkdir(exist_ok=True)
    for test in tests:
        sources = {path: digest([folder / path]) for path in lines[test]}
        kept[test].write_text(json.dumps({"seconds": seconds[test], "lines": lines[test], "sources": sources}))
