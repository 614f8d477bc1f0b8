"""Show what a search found: one HTML page that needs nothing else, and its pictures as PNG."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--study", required=True, metavar="NAME")
    add("--storage", required=True, metavar="ADDRESS", help="sqlite:///FILE, another database, or journal:FILE")
    add("--out", type=Path, metavar="DIR", help="default: build/search-NAME")
    add("--trial", type=int, metavar="N", help="print the commands that build this trial's library, and no report")


def write_report(args: argparse.Namespace) -> int:
    from tune.search.figures import draw, importances
    from tune.search.findings import find
    from tune.search.report import verdict, write
    from tune.search.storage import load_study

    study = load_study(args.study, args.storage)
    findings = find(study)
    if args.trial is not None:
        print(findings.commands(findings.point(args.trial)))
        return 0
    page = write(findings, draw(findings, importances(study)), args.out or Path("build") / f"search-{args.study}")
    print(f"{len(findings.points)} architectures, {len(findings.front)} on the front: {verdict(findings)}")
    print(f"predictor: {findings.accuracy or 'too few architectures to tell'}")
    print(page)
    return 0
