"""Fuzz artifact folders: whatever is changed in one, `compile.load` opens and runs it, or says in one line why not.

    python tests/fuzz/artifact.py FOLDER [--examples N] [--seed N]

FOLDER is an artifact built for this machine; it is copied. A manifest is changed in up to four places and sealed again
or not; of the library bytes are flipped, cut off or added, always without a new digest: one with a digest that fits is
code that the reader chose to run. Ends with the first failure, made small by hypothesis, and status 1.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import compile
from compile.artifact.manifest import FILE, seal
from compile.errors import CompileError
from pocketbert.temporary import TemporaryFolder

LARGE = 1 << 26  # bytes: nobody is promised that arrays of any size fit
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.sampled_from([0, 1, -1, 2**31, 2**31 - 1, 2**53, 2**63]), st.floats()
)
TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["", "x", "..", "/", "../../etc/passwd", "a\0b", "\ud800"]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 2**32), st.sampled_from([*["nudge"] * 3, "replace", "remove", "add", "repeat"]), VALUES
    ), min_size=1, max_size=4,
)  # fmt: skip
HARM = st.tuples(st.sampled_from(["flip", "cut", "add", "remove"]), st.integers(0, 2**32))
RAW = st.tuples(st.integers(0, 2**32), st.binary(min_size=1, max_size=4))
SELDOM = [st.none()] * 5


def places(value: Any, where: tuple = ()) -> list[tuple]:
    """The way to every value in a JSON document, the most important first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [where, *(place for key, v in inner for place in places(v, (*where, key)))]


def change(data: Any, number: int, how: str, value: Any) -> Any:
    """`data` with one thing changed in place."""
    ways = places(data)
    # Half of all changes are in the first tenth: of calls and tensors there are many.
    way = ways[number % (len(ways) if number % 2 else len(ways) // 10 + 1)]
    if not way:
        return value if how == "replace" and number % 7 == 0 else data
    *before, last = way
    parent = data
    for key in before:
        parent = parent[key]
    if how == "nudge":
        parent[last] = nudged(parent[last], number)
    elif how == "replace":
        parent[last] = value
    elif how == "remove":
        del parent[last]
    elif how == "add" and isinstance(parent, dict):
        parent[str(value)[:20]] = value
    elif isinstance(parent, list):
        parent.append(copy.deepcopy(parent[last]) if how == "repeat" else value)
    return data


def nudged(value: Any, number: int) -> Any:
    """Another value of the same type, often one that fits as well."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + number % 5 - 2
    if isinstance(value, str):
        return value + "x"
    return value[::-1] if isinstance(value, list) else dict(reversed(value.items())) if value else value


def broken(data: bytes, how: str, where: int) -> bytes:
    where %= len(data)
    return {"flip": data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :], "cut": data[:where]}.get(
        how, data + b"\0"
    )


def open_and_run(folder: Path) -> str:
    """What came of it: "ran", "opened" (its arrays would be large), or "refused". Raises what no reader should see."""
    try:
        with compile.load(folder, threads=1) as library:
            tensors = library.manifest.inputs + library.manifest.outputs
            if sum(tensor.nbytes for tensor in tensors) > LARGE or library.manifest.tokens > LARGE:
                return "opened"
            library.run({tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in library.manifest.inputs})
            return "ran"
    except CompileError as error:
        lines = str(error).splitlines()
    assert len(lines) == 1, lines
    return "refused"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    counts = {"ran": 0, "opened": 0, "refused": 0}
    begun = time.monotonic()
    with TemporaryFolder() as work:
        folder = work / "artifact"
        shutil.copytree(args.folder, folder)
        intact = json.loads((folder / FILE).read_text())
        library = folder / intact["library"]
        code = library.read_bytes()
        del intact["manifest_sha256"]

        @seed(args.seed)
        @settings(
            max_examples=args.examples, deadline=None, database=None, suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )  # fmt: skip
        @given(CHANGES, st.one_of(*SELDOM, HARM), st.one_of(*SELDOM, RAW), st.sampled_from([True] * 5 + [False]))
        def one(changes: list, harm: tuple | None, raw: tuple | None, sealed: bool) -> None:
            data = copy.deepcopy(intact)
            for number, how, value in changes:
                data = change(data, number, how, value)
            try:
                text = seal(data) if sealed and isinstance(data, dict) else json.dumps(data)
            except ValueError:  # NaN is no JSON
                text = json.dumps(data)
            content = text.encode(errors="surrogatepass")
            if raw:
                where = raw[0] % len(content)
                content = content[:where] + raw[1] + content[where + len(raw[1]) :]
            (folder / FILE).write_bytes(content)
            try:
                if harm and harm[0] == "remove":
                    library.unlink()
                elif harm:
                    library.unlink()  # never into a file that is loaded
                    library.write_bytes(broken(code, *harm))
                result = open_and_run(folder)
                assert result == "refused" or not harm, "a damaged library was opened"
                counts[result] += 1
            finally:
                if harm:
                    library.unlink(missing_ok=True)
                    library.write_bytes(code)

        one()
    total = sum(counts.values())
    print(f"{total} folders in {time.monotonic() - begun:.0f} s: {', '.join(f'{n} {w}' for w, n in counts.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
