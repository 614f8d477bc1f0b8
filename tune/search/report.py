"""Findings as one HTML page that needs nothing else, and as PNG files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from compile.codegen.escape import xml as escape
from pocketbert.files import write_whole, written_whole
from tune.errors import TuneError
from tune.search.figures import save_png, svg
from tune.search.findings import Findings, Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = Path(__file__).with_name("page.html")


def write(findings: Findings, figures: Mapping[str, Figure], out: Path) -> Path:
    """index.html and a PNG of each figure in `out`, each replaced whole; returns the page."""
    for name, figure in figures.items():
        with written_whole(out / f"{name}.png", TuneError) as file:
            save_png(figure, file)
    drawings = {name: svg(figure) for name, figure in figures.items()}
    write_whole(out / "index.html", page(findings, drawings), TuneError)
    return out / "index.html"


def page(findings: Findings, drawings: Mapping[str, str]) -> str:
    points = {p.number: _detail(findings, p) for p in findings.points}
    text = {
        "title": f"Architecture search: {findings.name}",
        "settings": _settings(findings),
        "quality": findings.settings.quality,
        "accuracy": str(findings.accuracy or "too few architectures to tell")
        + ", each predicted by a calibration that has not seen it",
    }
    return Template(PAGE.read_text()).substitute(
        {name: escape(value) for name, value in text.items()},
        **{name: _with_own_ids(name, drawing) for name, drawing in drawings.items()},
        facts=_facts(findings),
        table=_table(findings),
        pruned=_pruned(findings),
        points=json.dumps(points).replace("<", "\\u003c"),
        first=(findings.better or findings.front or findings.points)[0].number,
    )


def verdict(findings: Findings) -> str:
    """Whether anything is at least as good as the reference in quality and latency."""
    if findings.reference is None:
        return f"{findings.space.reference} was not measured yet"
    if not findings.better:
        return f"none is at least as good as {findings.reference.row} in quality and in latency"
    best, r = findings.better[0], findings.reference
    return (
        f"{len(findings.better)} are at least as good as {r.row} in quality and in latency; the fastest, trial "
        f"{best.number}: {best.ms:.2f} ms against {r.ms:.2f}, quality {best.quality_text} against {r.quality_text}"
    )


def _settings(findings: Findings) -> str:
    s = findings.settings
    precisions = " or ".join(s.precisions or (s.precision,))
    threads = f"{s.threads} thread{'s' * (s.threads > 1)}"
    return (
        f"space {s.space}, at most {s.max_params / 1e6:.2f}M parameters, MHA:FFN {s.mha_ffn[0]:g} to {s.mha_ffn[1]:g}; "
        f"latency of libraries for {s.target} ({s.cpu}), {precisions}, {threads}, {s.lengths} tokens, "
        f"by the runner {s.runner} on {findings.device}"
    )


def _facts(findings: Findings) -> str:
    a = findings.accuracy
    facts = [
        (str(len(findings.points)), "architectures measured"),
        (str(len(findings.front)), f"on the front, {sum(p.again for p in findings.front)} of them measured twice"),
        (str(len(findings.better)), f"at least as good as {findings.space.reference} in quality and latency"),
        (f"{a.mape:.1f} %" if a else "–", "mean error of the predicted latency"),
        (str(sum(findings.pruned.values())), f"pruned unmeasured, {findings.failed} failed or were interrupted"),
    ]
    if findings.noise.freedom:
        text = "deviation of a quality between seeds; the front is what no other surely beats, at 95 % confidence"
        facts.append((f"{findings.noise.deviation:.2g}", text))
    return "".join(f'<div class="fact"><b>{escape(b)}</b><span>{escape(t)}</span></div>' for b, t in facts)


def _table(findings: Findings) -> str:
    shown = sorted({*findings.front, *(p for p in findings.points if p.row or p.suspect)}, key=lambda p: p.ms)
    rows = "".join(
        f'<tr data-trial="{p.number}"><td class="n">{p.number}</td><td>{escape(str(p))} {_tags(findings, p)}</td>'
        f'<td class="n">{p.quality_text}</td><td class="n">{p.ms:.2f}</td><td class="n">{p.predicted_ms:.2f}</td>'
        f'<td class="n">{p.mib:.2f}</td></tr>'
        for p in shown
    )
    heads = ("trial", "architecture", "quality", "ms", "predicted", "MiB")
    head = "".join(f"<th{'' if name == 'architecture' else ' class=n'}>{name}</th>" for name in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _tags(findings: Findings, point: Point) -> str:
    tags = [f'<span class="tag papers">{escape(point.row)}</span>'] if point.row else []
    if point in findings.front:
        tags.append(f'<span class="tag">front{", measured twice" if point.again else ""}</span>')
    if point.suspect:
        tags.append('<span class="tag suspect">suspect</span>')
    return " ".join(tags)


def _pruned(findings: Findings) -> str:
    if not findings.pruned and not findings.unmeasured:
        return "<p>Every candidate was measured.</p>"
    lines = [(str(count), kind) for kind, count in findings.pruned.most_common()]
    lines += [(f"trial {number}", f"the machine was too busy: {reason}") for number, reason in findings.unmeasured]
    rows = "".join(f'<tr><td class="n">{escape(a)}</td><td>{escape(b)}</td></tr>' for a, b in lines)
    return f"<table><tbody>{rows}</tbody></table>"


def _seeds(point: Point) -> str:
    return f" (the mean of {point.seeds} seeds)" if point.seeds > 1 else ""


def _detail(findings: Findings, point: Point) -> dict[str, str]:
    title = f"Trial {point.number}" + (f": {point.row}" if point.row else "")
    text = f"{point}. Quality {point.quality_text}{_seeds(point)}, {point.ms:.2f} ms, {point.mib:.2f} MiB."
    outside = f" Outside the bounds, kept for comparison: {point.outside}." if point.outside else ""
    suspect = f" Suspect, and so on no front: {point.suspect}." if point.suspect else ""
    return {"title": title, "text": text + outside + suspect, "commands": findings.commands(point)}


def _with_own_ids(name: str, drawing: str) -> str:
    """Drawings share a page: what matplotlib calls figure_1 in each of them gets the drawing's name before it."""
    for mark in ('id="', 'xlink:href="#', "url(#"):
        drawing = drawing.replace(mark, f"{mark}{name}-").replace(f"{mark}{name}-trial-", f"{mark}trial-")
    return drawing
