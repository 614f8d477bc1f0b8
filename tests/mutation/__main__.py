"""How many small faults in the code a room's tests notice.

    pip install -e '.[test,mutation]'
    python -m tests.mutation passes [--sample 60] [--seed 0] [--jobs 2] [--only passes/fold_nonorm.py]
    python -m tests.mutation runtime

cosmic-ray plants the faults (an operator, a number, a condition, a loop), one at a time, in a copy of the project, and
tests/mutation/c.py those in the C runtime. A sample is drawn; for each of its faults the room's tests that run the
faulty line are run, quickest first, until one fails. What none notices is printed as a difference: mend the tests, or
name it in tests/mutation/equivalent.txt where no test could tell (a line each: file, the original line, the mutated
line, separated by tabs).
"""

import argparse
import contextlib
import difflib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db

from pocketbert.command import exit_status
from tests.mutation import c
from tests.mutation.covering import Covering

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
ROOMS = ("pocketbert", "model", "passes", "compile", "tune", "runtime")
TESTS_OF = {"compile": ["tests/compile", "tests/attack", "tests/e2e"]}
# Builds take from before what the fault does not change, and a test has hung after three minutes.
QUICKER = ["-p", "tests.mutation.build_cache", "-o", "timeout=180"]
# A fault's tests have hung after so many times the seconds that they take without one, and as many to start.
HUNG, START = 5, 60
LONGEST = 1200  # seconds that they may take where that is not known
NAMING = 8  # files of tests that are asked with --quick
# Faults of a kind that people make. The others mostly replace an operator by one that its operands do not have.
KINDS = re.compile(
    r"core/(AddNot|ExceptionReplacer|NumberReplacer|ReplaceAndWithOr|ReplaceOrWithAnd|ReplaceBreakWithContinue"
    r"|ReplaceContinueWithBreak|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ZeroIterationForLoop"
    r"|ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_Mul)|ReplaceUnaryOperator_Delete_\w+"
    r"|ReplaceComparisonOperator_(Is_IsNot|IsNot_Is|(Eq|NotEq|Lt|LtE|Gt|GtE)_(Eq|NotEq|Lt|LtE|Gt|GtE)))"
)


@dataclass(frozen=True)
class Fault:
    path: str
    line: int
    before: str
    after: str  # the whole file with the fault

    @property
    def difference(self) -> list[str]:
        lines = difflib.unified_diff(self.before.splitlines(), self.after.splitlines(), lineterm="", n=0)
        return [text for text in lines if text[:1] in "+-" and text[:3] not in ("+++", "---")]

    @property
    def key(self) -> str:
        """What names it in the list of equivalent faults."""
        return "\t".join([self.path, *(text[1:].strip() for text in self.difference)])


def draw(paths: list[str], count: int, seed: int) -> list[Fault]:
    """`count` of all faults in those files, in random order."""
    equivalent = set(EQUIVALENT.read_text().splitlines())
    drawn: list[Fault] = []
    for fault in planted_in_c(paths, seed) if paths[0].startswith(c.RUNTIME) else planted(paths, seed):
        if fault.after != fault.before and fault.key not in equivalent:
            drawn.append(fault)
        if len(drawn) == count:
            break
    return drawn


def planted_in_c(paths: list[str], seed: int) -> Iterator[Fault]:
    """Every fault in C that compiles, in random order."""
    texts = {path: (ROOT / path).read_text() for path in paths}
    faults = [Fault(path, line, text, after) for path, text in texts.items() for line, after in c.faults(text)]
    random.Random(seed).shuffle(faults)
    yield from (fault for fault in faults if c.compiles(ROOT, fault.path, fault.after))


def planted(paths: list[str], seed: int) -> Iterator[Fault]:
    """Every fault in Python, in random order."""
    with tempfile.TemporaryDirectory() as folder, use_db(str(Path(folder) / "work.sqlite"), WorkDB.Mode.create) as work:
        init([ROOT / path for path in paths], work, {})
        mutations = [m for item in work.work_items if KINDS.fullmatch((m := item.mutations[0]).operator_name)]
    random.Random(seed).shuffle(mutations)
    for mutation in mutations:
        before = Path(mutation.module_path).read_text()
        after = mutate_code(before, get_operator(mutation.operator_name)(), mutation.occurrence)
        path = Path(mutation.module_path).relative_to(ROOT)
        if before.splitlines()[mutation.start_pos[0] - 1].startswith("@dataclass"):
            continue  # what it forbids to its users changes no result
        yield Fault(str(path), mutation.start_pos[0], before, after or before)


def naming(path: str, wanted: list[str]) -> list[str]:
    """The files of tests that have a module's name, those that name it, and those of its folder; the shortest first."""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    places = [ROOT / place for place in wanted]
    files = [file for place in places for file in (place.rglob("test_*.py") if place.is_dir() else [place])]
    files.sort(key=lambda file: file.stat().st_size)
    own, folder = Path(path).stem, Path(path).parent.name
    called = [file for file in files if file.stem == f"test_{own}"]
    imports = re.compile(rf"{re.escape(module)}\b|from {re.escape(module.rpartition('.')[0])} import .*\b{own}\b")
    named = [file for file in files if imports.search(file.read_text())]
    beside = [file for file in files if file.parent.name == folder or file.stem == f"test_{folder}"]
    ordered = dict.fromkeys(called + named + beside)
    return ["-m", "not slow", *(str(file.relative_to(ROOT)) for file in list(ordered)[:NAMING])]


class Copy:
    """A copy of the project, and a process in it that runs its tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "tests.mutation.warm"]
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def noticed(self, fault: Fault, tests: list[str], limit: float) -> str:
        """The first of `tests` that fails with the fault in the copy, "" if none does within `limit` seconds."""
        if not tests:
            return ""
        place = self.folder / fault.path
        place.write_text(fault.after)
        try:
            return self.run(["-x", *(c.OPTIONS if fault.path.startswith(c.RUNTIME) else []), *tests], limit)
        finally:
            place.write_text(fault.before)

    def run(self, arguments: list[str], limit: float = LONGEST) -> str:
        """The first test that fails, or what went wrong instead; "" if nothing does."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([limit, ["--no-header", "-n", "0", "-q", *QUICKER, *arguments]]) + "\n")
        self.process.stdin.flush()
        return str(json.loads(self.process.stdout.readline()))


@contextlib.contextmanager
def copies(count: int) -> Iterator[list[Copy]]:
    """Copies of what git tracks, with the data beside them that tests look for."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="pocketbert-mutation-") as parent:
        if (ROOT.parent / "shared").exists():
            (Path(parent) / "shared").symlink_to(ROOT.parent / "shared")
        folders = [Path(parent) / f"copy-{number}" for number in range(count)]
        for folder in folders:
            for name in filter(None, listed.split("\0")):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        made = [Copy(folder) for folder in folders]
        try:
            yield made
        finally:
            for copy in made:
                copy.process.terminate()
                copy.process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", choices=ROOMS)
    parser.add_argument("--sample", type=int, default=60, help="faults to draw (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="faults tried at the same time (default: 2)")
    parser.add_argument("--only", nargs="+", metavar="FILE", help="in these files of the room alone")
    parser.add_argument("--quick", action="store_true", help="ask the tests that name the module, and measure none")
    parser.add_argument("--list", action="store_true", help="print the faults drawn, and try none")
    parser.add_argument("--tests", nargs="+", metavar="PATH", help="the tests that should notice (default: the room's)")
    return exit_status(count, parser.parse_args(), "the faults above were tried")


def count(args: argparse.Namespace) -> None:
    """Print what notices each of the faults drawn, and how many were noticed."""
    in_python = sorted(str(path.relative_to(ROOT)) for path in (ROOT / args.room).rglob("*.py"))
    paths = args.only or in_python or c.sources(ROOT)
    os.environ["PYTHONPATH"] = ""
    wanted = args.tests or TESTS_OF.get(args.room, [f"tests/{args.room}"])
    faults = draw(paths, args.sample, args.seed)
    if args.list:
        print(*("\n".join([f"\n{fault.path}:{fault.line}", *fault.difference]) for fault in faults), sep="\n")
        return
    with ThreadPoolExecutor(args.jobs) as pool, copies(args.jobs) as folders:
        print(f"{len(faults)} faults", flush=True)
        seconds: dict[str, float] = {}  # that tests take without a fault, where it is known
        if args.room == "runtime":
            tests = {(fault.path, fault.line): c.tests(fault.path) for fault in faults}
        elif args.quick:
            tests = {(fault.path, fault.line): naming(fault.path, wanted) for fault in faults}
        else:
            print("running the tests without one", flush=True)
            covering = Covering(args.room, wanted, folders[0].folder, args.jobs)
            seconds = covering.seconds
            tests = {place: covering.tests(*place) for place in {(fault.path, fault.line) for fault in faults}}
        free: SimpleQueue[Copy] = SimpleQueue()
        for folder in folders:
            free.put(folder)

        def attempt(fault: Fault) -> str:
            folder, trying = free.get(), tests.get((fault.path, fault.line), [])
            try:
                limit = HUNG * sum(seconds.get(test, 0) for test in trying) + START if seconds else LONGEST
                return folder.noticed(fault, trying, limit)
            finally:
                free.put(folder)

        by: dict[str, list[Fault]] = defaultdict(list)
        for fault, test in zip(faults, pool.map(attempt, faults), strict=True):
            by[test].append(fault)
            print(f"\n{fault.path}:{fault.line}", *fault.difference, f"{test or 'UNNOTICED'}", sep="\n", flush=True)
        # What fails without a fault as well notices nothing: the others are asked.
        noticing = [test for test in by if "::" in test and not test.startswith("hung in ")]
        for test in noticing if folders[0].run(noticing) else ():
            if not folders[0].run([test]):
                continue
            print(f"\nfails without a fault, too: {test}")
            tests = {place: [other for other in of if other != test] for place, of in tests.items()}
            for fault in by.pop(test):
                by[attempt(fault)].append(fault)
        unnoticed = by[""]
    share = 1 - len(unnoticed) / max(1, len(faults))
    print(f"\n{args.room}: {len(faults) - len(unnoticed)} of {len(faults)} faults noticed ({share:.0%})")


if __name__ == "__main__":
    sys.exit(main())
