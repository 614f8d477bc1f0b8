"""A profile as tables for people, as JSON for programs, as a trace for Perfetto and as a chart."""

from __future__ import annotations

import time
from typing import Any, BinaryIO

from compile.running.profile.machine import cpu_name
from compile.running.profile.measure import Profile, Share, call_flops, waits

RATES = {"float32": "GFLOP/s", "int8": "GOP/s of int8"}
FAMILIES = {"linear": "linears", "attention": "attentions"}


def heading(profile: Profile) -> str:
    facts = profile.manifest
    threads = f"{profile.threads} thread" + ("s" if profile.threads > 1 else "")
    return f"{facts.name} ({facts.isa}, {facts.precision}), {profile.tokens} tokens, {threads}, on {cpu_name()}"


def peaks(profile: Profile) -> str:
    return ", ".join(f"{peak:.1f} {RATES[precision]}" for precision, peak in profile.peaks.items())


def where_it_goes(profile: Profile) -> list[tuple[str, float]]:
    """Seconds of all threads, in parts that add up: what multiply-adds need at the peak rate, and what is above it."""
    family = {k.name: k.family for k in profile.manifest.kernels}
    above: dict[str, float] = {}
    ideal = without = 0.0
    for share in profile.kernels:
        if not share.flops:
            without += share.seconds
            continue
        ideal += share.ideal
        kind = FAMILIES.get(family[share.name], "other products")
        above[kind] = above.get(kind, 0.0) + share.seconds - share.ideal
    words = {
        "linears": "linears above it: epilogues, loads and stores, remainders",
        "attentions": "attentions above it: softmax, mask, transposed keys",
        "other products": "generic products above it",
    }
    return [
        ("multiply-adds at the peak rate", ideal),
        *((words[kind], seconds) for kind, seconds in above.items()),
        ("kernels without multiply-adds: lookups, norms, copies", without),
        ("waiting at barriers", profile.waiting),
        ("between calls, and waking up", profile.between),
    ]


def print_tables(profile: Profile) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.width = max(console.width, 100)
    descriptions = {k.name: k.description for k in profile.manifest.kernels}
    console.print(heading(profile))
    console.print(
        f"{profile.median * 1e3:.2f} ms a run, the median of {profile.runs}; "
        f"{profile.seconds * 1e3:.2f} ms for the fastest quarter, whose means follow; "
        f"a core's multiply-add peak, measured between the runs in the same way, is {peaks(profile)}"
    )
    by_time = sorted(profile.kernels, key=lambda share: -share.seconds)
    for title, shares, names in (
        ("layer", profile.layers, {}),
        ("kernel", by_time, descriptions),
    ):
        table = Table(title=f"by {title}", title_justify="left")
        table.add_column(title)
        for column in ("calls", "ms", "share", "GFLOP/s", "of peak", "GB/s"):
            table.add_column(column, justify="right")
        for share in shares:
            table.add_row(names.get(share.name, share.name), *_columns(profile, share))
        console.print(table)
    table = Table(title="where it goes, all threads together", title_justify="left")
    for column, side in (("part", "left"), ("ms", "right"), ("share", "right")):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    for name, seconds in where_it_goes(profile):
        table.add_row(name, f"{seconds * 1e3:.2f}", f"{seconds / profile.thread_seconds:.1%}")
    console.print(table)


def _columns(profile: Profile, share: Share) -> list[str]:
    rate = [f"{share.gflops:.1f}", f"{share.of_peak:.0%}"] if share.flops else ["", ""]
    return [
        str(share.calls),
        f"{share.seconds * 1e3:.2f}",
        f"{share.seconds / profile.thread_seconds:.1%}",
        *rate,
        f"{share.bytes / share.seconds / 1e9:.1f}" if share.seconds else "",
    ]


def to_dict(profile: Profile) -> dict[str, Any]:
    """All figures; times in seconds, rates in GFLOP/s of one core."""

    def entry(share: Share) -> dict[str, Any]:
        return {
            "name": share.name,
            "calls": share.calls,
            "seconds": share.seconds,
            "share": share.seconds / profile.thread_seconds,
            "flops": share.flops,
            "bytes": share.bytes,
            "gflops": share.gflops,
            "share_of_peak": share.of_peak if share.flops else None,
        }

    facts = profile.manifest
    return {
        "model": facts.name,
        "target": facts.target,
        "cpu": facts.cpu,
        "sha256": facts.sha256,
        "machine": cpu_name(),
        "date": time.strftime("%Y-%m-%d"),
        "threads": profile.threads,
        "tokens": profile.tokens,
        "runs": profile.runs,
        "seconds": profile.seconds,
        "median_seconds": profile.median,
        "peak_gflops_per_core": profile.peaks["float32"],
        "peak_int8_gops_per_core": profile.peaks.get("int8"),
        "kernels": [entry(share) for share in profile.kernels],
        "layers": [entry(share) for share in profile.layers],
        "where_it_goes": dict(where_it_goes(profile)),
    }


def to_trace(profile: Profile) -> dict[str, Any]:
    """One run in the Trace Event Format, which Perfetto and chrome://tracing open: microseconds from its start."""
    facts, run = profile.manifest, profile.trace
    words = {k.name: k.description for k in facts.kernels}
    begin, flops = run[0].start_ns, call_flops(facts, profile.tokens)

    def event(name: str, category: str, thread: int, start: int, end: int, **facts: Any) -> dict[str, Any]:
        times = {"ts": (start - begin) / 1e3, "dur": (end - start) / 1e3}
        return {"name": name, "cat": category, "ph": "X", "pid": 1, "tid": thread, **times, "args": facts}

    def named(what: str, name: str, thread: int) -> dict[str, Any]:
        return {"name": what, "ph": "M", "pid": 1, "tid": thread, "args": {"name": name}}

    events = [named("process_name", heading(profile), 0)]
    for thread in range(profile.threads):
        events.append(named("thread_name", "caller" if thread == 0 else f"worker {thread}", thread))
        records = sorted((r for r in run[1:] if r.thread == thread), key=lambda record: record.start_ns)
        layer, first, last = "", 0, 0
        for record in [*records, None]:
            name = facts.calls[record.call].layer if record else ""
            if name != layer and layer:
                events.append(event(layer, "layer", thread, first, last))
            if record is None:
                break
            first, last, layer = record.start_ns if name != layer else first, record.end_ns, name
            call = facts.calls[record.call]
            about = {"call": record.call, "kernel": call.kernel, "stage": call.stage, "flops": flops[record.call]}
            events.append(event(words[call.kernel], "kernel", thread, record.start_ns, record.end_ns, **about))
    for thread, start, end in waits(facts, run, profile.threads):
        events.append(event("waits at the barrier", "barrier", thread, start, end))
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"tokens": profile.tokens}}


def draw(profile: Profile, file: BinaryIO) -> None:
    """A bar chart: each kernel's time, with the part that its multiply-adds need at the peak rate; and each layer's."""
    from matplotlib.figure import Figure

    words = {k.name: k.description for k in profile.manifest.kernels}
    kernels = sorted(profile.kernels, key=lambda share: share.seconds)
    figure = Figure(figsize=(10, 1.9 + 0.3 * len(kernels) + 2.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=(0.3 * len(kernels) + 0.6, 2.2))
    ideal = [min(share.ideal, share.seconds) * 1e3 for share in kernels]
    rest = [share.seconds * 1e3 - need for share, need in zip(kernels, ideal, strict=True)]
    names = [f"{words[share.name]} · {share.calls}" for share in kernels]
    top.barh(names, ideal, color="#1e4f9c", label="multiply-adds at the peak rate")
    top.barh(names, rest, left=ideal, color="#e2703a", label="above it")
    top.set_xlabel("ms, all threads together")
    top.legend(frameon=False, loc="lower right")
    layers = [share.name.removeprefix("layer ") for share in profile.layers]
    bottom.bar(layers, [share.seconds * 1e3 for share in profile.layers], color="#1e4f9c")
    bottom.set_ylabel("ms")
    bottom.set_xlabel("layer")
    for label in bottom.get_xticklabels():
        label.set_rotation(0 if label.get_text().isdigit() else 90)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{heading(profile)}\n{profile.seconds * 1e3:.1f} ms a run, mean of the fastest quarter", fontsize=11
    )
    figure.savefig(file, dpi=150, format="png")
