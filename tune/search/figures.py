"""The report's pictures, drawn once: as PNG files for documents, as SVG inside the page."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from tune.search.findings import Findings, Point
from tune.search.hypervolume import history

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optuna import Study
    from optuna.trial import FrozenTrial

INK, MUTED, ACCENT, PAPERS, GRID = "#1f2933", "#7b8794", "#0b7285", "#c2410c", "#e4e7eb"
SUSPECT = "#b91c1c"
STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.edgecolor": MUTED, "axes.labelcolor": INK,
    "text.color": INK, "xtick.color": MUTED, "ytick.color": MUTED, "axes.grid": True, "grid.color": GRID,
    "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path",
    "svg.hashsalt": "pocketbert", "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "text.parse_math": False,
}  # fmt: skip


def draw(findings: Findings, importances: Mapping[str, Mapping[str, float]]) -> dict[str, Figure]:
    """Every figure, by its file's name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(STYLE):
        made = {"front": pyplot.subplots(figsize=(8.6, 5.2)), "hypervolume": pyplot.subplots(figsize=(4.6, 4.2))}
        made |= {"importances": pyplot.subplots(figsize=(5.0, 4.2)), "predictor": pyplot.subplots(figsize=(4.6, 4.2))}
        _front(made["front"][1], findings)
        _hypervolume(made["hypervolume"][1], findings)
        _importances(made["importances"][1], importances)
        _predictor(made["predictor"][1], findings)
        for figure, _ in made.values():
            figure.tight_layout()
    return {name: figure for name, (figure, _) in made.items()}


def point_id(point: Point) -> str:
    """Of the point's element in the SVG."""
    return f"trial-{point.number}"


def _front(axes: Axes, findings: Findings) -> None:
    """Quality over latency; colour is size; ringed: on the front; diamonds: the papers'."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    sizes = [p.mib for p in findings.points]
    norm, colours = Normalize(min(sizes), max(sizes)), colormaps["viridis_r"]
    line = _staircase(findings)
    axes.plot([p.ms for p in line], [p.quality for p in line], drawstyle="steps-post", color=ACCENT, lw=1, alpha=0.5)
    for point in findings.points:
        front = point in findings.front
        (drawn,) = axes.plot(
            point.ms, point.quality, "D" if point.row else "o", ms=9 if point.row else 7.5,
            mfc=colours(norm(point.mib)), mec=PAPERS if point.row else ACCENT if front else "white",
            mew=2 if point.row or front else 0.6,
            alpha=1 if front or point.row else 0.55, zorder=4 if point.row else 3 if front else 2,
        )  # fmt: skip
        drawn.set_gid(point_id(point))
        if point.seeds > 1:  # the bar is its 95 % interval
            axes.errorbar(point.ms, point.quality, point.error, color=MUTED, lw=1, capsize=2.5, zorder=1)
        if point.suspect:
            axes.plot(point.ms, point.quality, "x", ms=11, mec=SUSPECT, mew=2, zorder=5)
    _label_rows(axes, findings)
    bar = axes.figure.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.015, aspect=35)
    bar.set_label("size of the library, MiB")
    bar.outline.set_visible(False)
    threads = f"{findings.settings.threads} thread" + "s" * (findings.settings.threads > 1)
    axes.set_xlabel(f"latency, ms — {findings.device}, {threads}, {findings.settings.lengths} tokens")
    axes.set_ylabel("quality")
    crossed = "; crossed out: suspect" if any(p.suspect for p in findings.points) else ""
    axes.set_title(f"{len(findings.points)} architectures; ringed: on the front; diamonds: the papers'{crossed}")


def _staircase(findings: Findings) -> list[Point]:
    """The front in quality and latency alone, the fastest first."""
    best: list[Point] = []
    for point in sorted((p for p in findings.points if not p.suspect), key=lambda p: (p.ms, -p.quality)):
        if not best or point.quality > best[-1].quality:
            best.append(point)
    return best


def _label_rows(axes: Axes, findings: Findings) -> None:
    """The papers' names beside their diamonds, moved up where they would lie on each other."""
    rows = sorted((p for p in findings.points if p.row), key=lambda p: p.quality)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.set_xlim(left, right + 0.16 * (right - left))
    height, rightmost = bottom, max((p.ms for p in rows), default=left)
    for point in rows:
        height = max(point.quality, height + 0.035 * (top - bottom))
        near = rightmost if rightmost - point.ms < 0.1 * (right - left) else point.ms  # one column for a cluster
        axes.annotate(str(point.row), (near + 0.016 * (right - left), height), color=PAPERS, fontsize=8, va="center")


def _hypervolume(axes: Axes, findings: Findings) -> None:
    values = history([p.costs for p in findings.points])
    axes.step(range(1, len(values) + 1), values, where="post", color=ACCENT, lw=1.8)
    axes.fill_between(range(1, len(values) + 1), values, step="post", color=ACCENT, alpha=0.12)
    axes.set_xlabel("architectures measured")
    axes.set_ylabel("share of the box from best to worst")
    axes.set_ylim(0, 1)
    axes.set_title("Hypervolume of the front")


def _importances(axes: Axes, importances: Mapping[str, Mapping[str, float]]) -> None:
    names = sorted({n for part in importances.values() for n in part}, key=lambda n: sum(_of(importances, n)))
    colours = (PAPERS, ACCENT, "#868e96")
    for i, (objective, part) in enumerate(importances.items()):
        places = [y + 0.27 * (1 - i) for y in range(len(names))]
        axes.barh(places, [part.get(n, 0.0) for n in names], 0.25, color=colours[i % 3], label=objective)
    axes.set_yticks(range(len(names)), [n.replace("num_", "").replace("_", " ") for n in names])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(axis="y", visible=False)
    axes.set_title("What each parameter matters for")
    if names:
        axes.legend(frameon=False, loc="lower right")


def _of(importances: Mapping[str, Mapping[str, float]], name: str) -> list[float]:
    return [part.get(name, 0.0) for part in importances.values()]


def _predictor(axes: Axes, findings: Findings) -> None:
    measured, predicted = [p.ms for p in findings.points], [p.predicted_ms for p in findings.points]
    ends = (0.93 * min(measured + predicted), 1.05 * max(measured + predicted))
    axes.fill_between(ends, [0.9 * e for e in ends], [1.1 * e for e in ends], color=ACCENT, alpha=0.1, label="±10 %")
    axes.plot(ends, ends, color=MUTED, lw=0.8)
    axes.plot(measured, predicted, "o", ms=5, mfc=ACCENT, mec="white", mew=0.5)
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    axes.set_xlabel("measured, ms")
    axes.set_ylabel("predicted, ms")
    a = findings.accuracy
    axes.set_title(f"Predictor: MAPE {a.mape:.1f} %, τ {a.tau:.2f}" if a else "Predictor")
    axes.legend(frameon=False, loc="upper left")


def save_png(figure: Figure, file: BinaryIO) -> None:
    figure.savefig(file, dpi=130, format="png")


def svg(figure: Figure) -> str:
    """The <svg> element alone."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def importances(study: Study) -> dict[str, dict[str, float]]:
    """By objective, the share that each parameter has in reaching its good values; {} where it is too early to tell."""
    from optuna.importance import get_param_importances

    from tune.search.study import DIRECTIONS, OBJECTIVES

    by_objective = {}
    for i, (name, direction) in enumerate(zip(OBJECTIVES, DIRECTIONS, strict=True)):
        sign = -1.0 if direction == "maximize" else 1.0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that low values count as good: they do here
                by_objective[name] = get_param_importances(study, target=_cost(i, sign))
        except (ValueError, RuntimeError):
            return {}
    return by_objective


def _cost(objective: int, sign: float) -> Callable[[FrozenTrial], float]:
    return lambda trial: sign * trial.values[objective]
