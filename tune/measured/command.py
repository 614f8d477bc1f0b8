"""Take over what a device measured by itself.

FILE is what the program of `python -m compile MODEL --package benchmark` printed there. Its latencies go into the
artifact's manifest and report; the times of its kernels into a tuning database, where they replace estimates; and,
with --study, into an architecture search on the same device, as what its kernels cost.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tune.errors import TuneError

if TYPE_CHECKING:
    from compile.artifact.manifest import Manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="what the benchmark program printed")
    add("--artifact", type=Path, metavar="DIR", required=True, help="the folder that the program was built with")
    add("--db", type=Path, metavar="FILE", help="database to go on with or begin (default: build/<cpu>.jsonl)")
    add("--study", metavar="NAME", help="an architecture search that takes the kernels' times")
    add("--storage", metavar="URL", help="where the study is: sqlite:///FILE, another database, journal:FILE")


def import_measurements(args: argparse.Namespace) -> None:
    if (args.study is None) != (args.storage is None):
        raise TuneError("--study and --storage say together where a search is: give both or none")
    from rich.console import Console

    from compile.running.load import read_manifest
    from tune.measured.benchmark import read_benchmark
    from tune.measured.take_over import into_database, into_manifest, into_study

    benchmark, manifest = read_benchmark(args.file), read_manifest(args.artifact)
    if benchmark.sha256 != manifest.sha256:
        raise TuneError(
            f"{args.file} is of another build of {benchmark.model} than {args.artifact}: give --artifact that one"
        )
    lines = []
    if args.study:  # first: it may refuse
        lines.append(into_study(benchmark, manifest, args.study, args.storage))
    lines.append(into_database(benchmark, manifest, args.db or _default_database(manifest)))
    lines.append(into_manifest(benchmark, manifest, args.artifact))
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(line)


def _default_database(manifest: Manifest) -> Path:
    return Path("build") / f"{manifest.cpu}.jsonl"
