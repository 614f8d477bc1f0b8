"""Fuzz the way of a tokenizer into a library: hostile tokenizer.json files, and hostile texts under sanitizers.

    python tests/fuzz/tokenizer.py [--files 2000] [--seconds 20] [--seed 0] [--kinds KIND ...]

A file is that of a small tokenizer with values replaced, left out, repeated or exchanged. It must be compiled, or be
refused with a CompileError of one line, within LIMIT seconds, in a process that lives on. Texts are by libFuzzer, which
takes clang, so many seconds for each kind of tokenizer (text.c).
"""

import argparse
import copy
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.tokenizers import KINDS  # noqa: E402

LIMIT = 20.0
HOSTILE = (
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    1e308,
    -0.5,
    "",
    "\0",
    "\ud800",
    "a" * 10_000,
    [],
    {},
    [[]],
    "(a+)+$",
    "[",
    "🙂",
)
HOSTILE += ("WordPiece", "BPE", "Unigram", "Sequence", "Precompiled", "ByteLevel", "Metaspace", "Replace")


def spoil(value: Any, rng: random.Random) -> Any:
    """`value` with one to three places in it changed."""
    value = copy.deepcopy(value)
    for _ in range(rng.randrange(1, 4)):
        at = value
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(at[key], dict | list) and at[key] and rng.random() < 0.85:
                at = at[key]
                continue
            change = rng.randrange(4)
            if change == 0:
                del at[key]
            elif change == 1:
                at[key] = at[rng.choice(keys)]
            elif change == 2 and isinstance(at, list):
                at.insert(key, copy.deepcopy(at[key]))
            else:
                at[key] = rng.choice(HOSTILE)
            break
    return value


def work(pipe: Connection) -> None:
    """Answers each text of a tokenizer.json with what became of it."""
    from tokenizers import Tokenizer

    from compile.errors import CompileError
    from compile.text.compiled import compile_text
    from compile.text.side import asked, make_side

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # `tokenizers` writes of its panics
    while True:
        text = pipe.recv()
        try:
            compile_text(make_side(asked("x", Tokenizer.from_str, text), (), "x"))
            pipe.send("compiled")
        except CompileError as error:
            pipe.send("refused" if "\n" not in str(error) and len(str(error)) < 2000 else f"LINES: {error}")
        except BaseException as error:
            pipe.send(f"ERROR {type(error).__name__}: {error}")


def fuzz_files(kinds: list[str], count: int, seed: int) -> int:
    context = multiprocessing.get_context("spawn")
    good = [json.loads(KINDS[kind]().to_str()) for kind in kinds]
    rng, results, found = random.Random(seed), Counter[str](), 0
    worker = pipe = None
    for number in range(count):
        if worker is None or pipe is None:
            pipe, other = context.Pipe()
            worker = context.Process(target=work, args=(other,), daemon=True)
            worker.start()
            limit = 60.0  # it imports first
        text = json.dumps(spoil(rng.choice(good), rng))
        pipe.send(text)
        try:
            answer = pipe.recv() if pipe.poll(limit) else "TIME"
        except EOFError:
            answer = "CRASH"
        limit = LIMIT
        results[answer.split(" ")[0]] += 1
        if answer not in ("compiled", "refused"):
            found += 1
            path = Path(tempfile.gettempdir()) / f"tokenizer-{seed}-{number}.json"
            path.write_text(text)
            print(f"{path}: {answer[:300]}", flush=True)
        if answer in ("TIME", "CRASH"):
            worker.kill()
            worker = pipe = None
    if worker:
        worker.kill()
    print(f"{count} files: {dict(results)}")
    return found


def fuzz_texts(kinds: list[str], seconds: int, seed: int) -> int:
    from compile.codegen.vocabulary import write_vocabulary
    from compile.runtime import INCLUDE, SRC
    from compile.text.side import make_side
    from tests.support.text import SOURCES

    found = 0
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="pocketbert-") as name:
            folder = Path(name)
            sources = write_vocabulary(make_side(KINDS[kind](), (), kind), ["PB_TEXT_IDS"], folder)
            command = [
                "clang",
                "-fsanitize=fuzzer,address,undefined",
                "-fno-sanitize-recover=all",
                "-O1",
                "-g",
                "-std=c11",
            ]
            command += ["-DPB(x)=pb_##x", f"-I{INCLUDE}", f"-I{SRC}", f"-I{folder}", str(ROOT / "tests/fuzz/text.c")]
            command += [*(str(SRC / source) for source in SOURCES), *map(str, sources), "-o", "fuzz"]
            subprocess.run(command, cwd=folder, check=True)
            options = [f"-max_total_time={seconds}", f"-seed={seed + 1}", "-max_len=2000", "-print_final_stats=1"]
            done = subprocess.run(["./fuzz", *options], cwd=folder, capture_output=True, text=True, check=False)
            runs = next((line.split()[-1] for line in done.stderr.splitlines() if "executed_units" in line), "?")
            print(
                f"{kind}: {runs} texts, {'nothing found' if done.returncode == 0 else done.stderr[-3000:]}", flush=True
            )
            found += done.returncode != 0
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS], default=[*KINDS])
    args = parser.parse_args()
    found = fuzz_files(args.kinds, args.files, args.seed) if args.files else 0
    if args.seconds and shutil.which("clang"):
        found += fuzz_texts(args.kinds, args.seconds, args.seed)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
