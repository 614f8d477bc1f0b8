"""What the benchmarks share: programs timed in turns, and the machine for their headings."""

import os
import platform
import time
from collections.abc import Callable
from statistics import median

from rich.console import Console
from rich.progress import Progress

from compile.running.profile.machine import cpu_name

WARM_UP = 2  # turns
# Seconds before each timed call: threads of the one before may still wait by spinning, XNNPACK's for 10 ms.
PAUSE = 0.02

progress_console = Console(stderr=True)


def in_turns(
    calls: dict[str, Callable[[], float | None]], runs: int, title: str, settle: int = 0
) -> dict[str, list[float]]:
    """Every call's ms in each of `runs` turns, the order reversed from turn to turn; a bar on stderr.

    A call that returns a number has timed itself, and that is taken. settle: untimed calls before each timed one: a
    system may wake all of a pool's threads on one core, and spread them only while they work.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    with Progress(console=progress_console, transient=True) as progress:
        for turn in progress.track(range(WARM_UP + runs), description=title):
            for name in calls if turn % 2 else reversed(calls):
                time.sleep(PAUSE)
                for _ in range(settle):
                    calls[name]()
                start = time.perf_counter()
                own = calls[name]()
                ms = (time.perf_counter() - start) * 1e3
                if turn >= WARM_UP:
                    times[name].append(ms if own is None else own)
    return times


def paired_ratio(values: list[float], base: list[float]) -> float:
    """Median of value over base in the same turn: what a slow second of the machine does to both cancels out."""
    return median(value / other for value, other in zip(values, base, strict=True))


def machine() -> dict[str, str | int | float]:
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
    }


def heading(facts: dict[str, str | int | float]) -> str:
    return f"{facts['cpu']}, {facts['cores']} cores, {facts['system']}, load {facts['load']}, {facts['date']}"
