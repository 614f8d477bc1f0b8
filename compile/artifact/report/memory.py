"""The memory plan drawn over time: a rectangle is a tensor, as tall as it is large and as wide as it is alive."""

from __future__ import annotations

from dataclasses import dataclass

from compile.artifact.manifest import Manifest
from compile.artifact.report.markup import Markup, join, size, tag
from compile.artifact.report.picture import rows_columns

COLOURS = 6


@dataclass(frozen=True)
class Area:
    """A tensor's place: from `first` to the end of `last` in time, `offset` to offset + size in bytes."""

    name: str
    columns: int
    first: int
    last: int
    offset: int
    size: int


def arena_areas(manifest: Manifest) -> list[Area]:
    """What crosses a barrier, over the stages of a run."""
    stages = [call.stage for call in manifest.calls]
    return _areas(manifest, "arena", dict(enumerate(stages)))


def scratch_areas(manifest: Manifest) -> tuple[int, list[Area]]:
    """The stage whose rows need most scratch, and its tensors over its calls, in bytes a row."""
    best: tuple[int, list[Area]] = (0, [])
    for stage in range(manifest.stages):
        inside = [i for i, c in enumerate(manifest.calls) if c.stage == stage and c.shared]
        areas = _areas(manifest, "scratch", {index: n for n, index in enumerate(inside)})
        if _height(areas) > _height(best[1]):
            best = (stage, areas)
    return best


def _height(areas: list[Area]) -> int:
    return max((a.offset + a.size for a in areas), default=0)


def _areas(manifest: Manifest, region: str, times: dict[int, int]) -> list[Area]:
    """Tensors of `region` that are used at `times`: the number of a call -> when it runs."""
    alive: dict[int, list[int]] = {}
    for index, call in enumerate(manifest.calls):
        if index in times:
            for tensor, _, _ in call.reads + call.writes:
                alive.setdefault(tensor, []).append(times[index])
    areas = []
    for tensor, moments in alive.items():
        entry = manifest.tensors[tensor]
        if entry.region == region:
            _, columns = rows_columns(manifest, tensor)
            areas.append(Area(entry.name, columns, min(moments), max(moments), entry.offset, entry.bytes))
    return areas


def chart(areas: list[Area], times: int, total: int, unit: str, label: str) -> Markup:
    """`times` moments to the right, `total` bytes upwards; the picture stretches to its place, so it holds no text."""
    widths = sorted({a.columns for a in areas}, reverse=True)
    shades = {columns: min(n, COLOURS - 1) for n, columns in enumerate(widths)}
    drawn = []
    for area in areas:
        when = f"{unit} {area.first}" + (f" to {area.last}" if area.last > area.first else "")
        words = f"{area.name}: {area.columns} columns, {size(area.size)} at {size(area.offset)}, {when}"
        drawn.append(
            tag(
                "rect",
                tag("title", words),
                x=area.first + 0.04,
                y=total - area.offset - area.size,
                width=round(area.last - area.first + 0.92, 2),
                height=area.size,
                class_=f"area shade-{shades[area.columns]}",
                data_words=words,
            )
        )
    picture = tag(
        "svg", *drawn, viewBox=f"0 0 {times} {total}", preserveAspectRatio="none", class_="memory", role="img",
        aria_label=label,
    )  # fmt: skip
    names = [f"{c} columns" if n < COLOURS - 1 else "fewer" for n, c in enumerate(widths[:COLOURS])]
    legend = [tag("li", tag("span", class_=f"key shade-{n}"), name) for n, name in enumerate(names)]
    axis = tag("div", tag("span", f"{unit} 0"), tag("span", f"{unit} {times - 1}"), class_="axis")
    scale = tag("div", tag("span", size(total)), tag("span", "0"), class_="scale", aria_hidden="true")
    plot = tag("div", scale, tag("div", picture, axis, class_="plot"), class_="chart")
    return join(plot, tag("ul", *legend, class_="legend"))


def table(areas: list[Area], unit: str) -> Markup:
    """The same in words, for who cannot see the picture."""
    head = tag("tr", *(tag("th", word, scope="col") for word in ("tensor", "columns", "bytes", "offset", unit)))
    rows = [
        tag("tr", *(tag("td", str(v)) for v in (a.name, a.columns, a.size, a.offset, f"{a.first}–{a.last}")))
        for a in sorted(areas, key=lambda a: (a.first, a.offset))
    ]
    body = tag("table", tag("thead", head), tag("tbody", *rows), class_="plain")
    summary = tag("summary", f"The same as a table, {len(areas)} tensors")
    return tag("details", summary, tag("div", body, class_="scroll"))
