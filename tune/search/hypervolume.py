"""The volume that a set of points dominates: how far a front has come, as one number."""

from __future__ import annotations

from collections.abc import Sequence

Point = Sequence[float]  # all coordinates are minimised


def dominates(a: Point, b: Point) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def hypervolume(points: Sequence[Point], worst: Point) -> float:
    """Of the points inside the box that ends at `worst`, slice by slice along the last coordinate."""
    inside = sorted((p for p in points if all(x < w for x, w in zip(p, worst, strict=True))), key=lambda p: p[-1])
    if not inside:
        return 0.0
    if len(worst) == 1:
        return worst[0] - inside[0][0]
    ends = [*(p[-1] for p in inside[1:]), worst[-1]]
    return sum(
        (end - p[-1]) * hypervolume([q[:-1] for q in inside[: i + 1]], worst[:-1])
        for i, (p, end) in enumerate(zip(inside, ends, strict=True))
        if end > p[-1]
    )


def history(points: Sequence[Point]) -> list[float]:
    """The hypervolume after each point, as a share of the box from the best to the worst of every coordinate."""
    best, worst = ([f(c) for c in zip(*points, strict=True)] for f in (min, max))
    spans = [w - b or 1.0 for b, w in zip(best, worst, strict=True)]
    unit = [[(x - b) / s for x, b, s in zip(p, best, spans, strict=True)] for p in points]
    return [hypervolume(unit[: i + 1], [1.0] * len(best)) for i in range(len(unit))]
