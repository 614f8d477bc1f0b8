"""report.html: one page, no network, no fonts or scripts of others; deterministic, so no times are in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compile.artifact.manifest import Manifest
from compile.artifact.report import memory, picture
from compile.artifact.report.markup import Markup, count, datum, join, size, tag, work
from passes.report import LayerPrecision

LABELS = 20  # that are shown
NOISIEST = 10  # layers that are shown at once
TEMPLATE = Path(__file__).with_name("page.html")


def write_report(folder: Path, manifest: Manifest) -> None:
    """Write report.html into an artifact folder, from what its manifest says."""
    (folder / "report.html").write_text(render(manifest), encoding="utf-8")


def render(manifest: Manifest) -> str:
    """The whole page."""
    parts = (hero, interface, model, kernels, precision, passes, plan, measured, verification, toolchain)
    sections = [part(manifest) for part in parts]
    title = join(f"{manifest.name} for {manifest.target}")
    text = TEMPLATE.read_text(encoding="utf-8")
    return text.replace("@TITLE@", title).replace("@BODY@", "\n".join(sections))


def section(anchor: str, title: str, lead: str, *content: str) -> Markup:
    head = tag("h2", title, id=f"{anchor}-title")
    body = tag("p", lead, class_="lead")
    return tag("section", head, body, *content, id=anchor, aria_labelledby=f"{anchor}-title")


def hero(manifest: Manifest) -> Markup:
    sizes, calls = manifest.sizes, len(manifest.calls)
    where = f"{manifest.target} · {manifest.cpu} ({manifest.isa}) · {manifest.precision}"
    length = "up to " if manifest.shorter_sequences else ""
    figures = [
        ("library", datum(sizes.library_bytes, "sizes.library_bytes", size(sizes.library_bytes)),
         join(datum(sizes.weights_bytes, "sizes.weights_bytes", size(sizes.weights_bytes)), " of it weights")),
        ("computation", datum(manifest.flops, "flops", work(manifest.flops)),
         join("for ", datum(manifest.tokens, "tokens"), " tokens")),
        ("kernel calls", datum(calls, "calls.length"), join("in ", datum(manifest.stages, "stages"), " stages")),
        ("working memory", datum(sizes.arena_bytes, "sizes.arena_bytes", size(sizes.arena_bytes)),
         join("instead of ", datum(sizes.tensors_bytes_without_sharing, "sizes.tensors_bytes_without_sharing",
                                   size(sizes.tensors_bytes_without_sharing)))),
    ]  # fmt: skip
    cards = [tag("div", tag("dt", name), tag("dd", value, tag("small", more))) for name, value, more in figures]
    return tag(
        "header",
        tag("p", "PocketBERT build report", class_="eyebrow"),
        tag("h1", manifest.name),
        tag("p", f"{where} · {length}", datum(manifest.tokens, "tokens"), " tokens", class_="where"),
        _verdict(manifest),
        tag("dl", *cards, class_="cards"),
    )


def _verdict(manifest: Manifest) -> Markup:
    results = manifest.verification
    if not results:
        return tag("p", "Not verified: built without --verify", class_="badge unknown")
    worst = max(r.error for r in results)
    passed = all(r.passed for r in results)
    words = f"{'Verified' if passed else 'Verification failed'}: error {worst:.1e} of the output range"
    return tag("p", words, class_="badge passed" if passed else "badge failed")


def interface(manifest: Manifest) -> Markup:
    rows = []
    for kind, entries in (("input", manifest.inputs), ("output", manifest.outputs)):
        for entry in entries:
            shape = " × ".join("tokens" if n == entry.token_axis else str(d) for n, d in enumerate(entry.shape))
            limits = f" · {entry.range[0]} ≤ id < {entry.range[1]}" if entry.range else ""
            words = f"{kind} · {entry.dtype} · {shape or 'one number'}{limits}"
            rows.append(tag("div", tag("dt", entry.name), tag("dd", words)))
    most = f"up to {manifest.tokens}" if manifest.shorter_sequences else f"exactly {manifest.tokens}"
    lead = f"What a run takes and gives: {most} tokens."
    rows += [tag("div", tag("dt", name), tag("dd", *words)) for name, words in (*_text(manifest), *_task(manifest))]
    return section("interface", "Inputs and outputs", lead, tag("dl", *rows, class_="facts"))


def _text(manifest: Manifest) -> list[tuple[str, tuple[str, ...]]]:
    """How a text is read, and who says so."""
    vocabulary = manifest.vocabulary
    if not vocabulary:
        return []
    longest = f" · texts of up to {vocabulary.max_tokens} tokens" if vocabulary.max_tokens else ""
    case = "cased" if vocabulary.cased else "uncased"
    words = f"{vocabulary.kind} · {case} · {count(vocabulary.pieces, 'piece')}{longest}"
    said = [tag("li", f"{s.name} {s.value}", tag("small", s.source)) for s in vocabulary.settings]
    settings = tag("details", tag("summary", count(len(said), "setting")), tag("ul", *said, class_="notes"))
    return [("tokenizer", (words, settings) if said else (words,))]


def _task(manifest: Manifest) -> list[tuple[str, tuple[str, ...]]]:
    """What the model is for, its labels, how a text becomes a vector."""
    if not manifest.task:
        return []
    facts = [manifest.task, manifest.activation and f"by {manifest.activation}"]
    facts += [manifest.pooling and f"{manifest.pooling} pooling", "length 1" if manifest.normalized else None]
    rows: list[tuple[str, tuple[str, ...]]] = [("task", (" · ".join(fact for fact in facts if fact),))]
    if labels := manifest.labels:
        shown = ", ".join(labels[:LABELS]) + (f" and {len(labels) - LABELS} more" if len(labels) > LABELS else "")
        rows.append(("labels", (shown,)))
    return rows


def model(manifest: Manifest) -> Markup:
    blocks = picture.find_blocks(manifest)
    kinds = picture.find_kinds(manifest, blocks)
    used = set(picture.families(manifest).values())
    names = {"linear": "linear", "residual": "linear with residual sum", "attention": "attention", "lookup": "lookup",
             "norm": "layer norm", "other": "element-wise, copy", "generic": "generic"}  # fmt: skip
    legend = [
        tag("li", tag("span", class_=f"key fill {family}"), name) for family, name in names.items() if family in used
    ]
    details = [_kind(manifest, kind) for kind in kinds]
    same = max(kinds, key=lambda k: len(k.blocks))
    lead = "Every strip is a block, every segment one fused kernel, as wide as its share of the block's work."
    if len(same.blocks) > 1:
        lead += f" {same.title} run the same kernels and differ in their weights alone."
    left = tag("div", picture.overview(manifest, blocks, kinds), tag("ul", *legend, class_="legend"), class_="strips")
    return section("model", "The model", lead, tag("div", left, tag("div", *details, class_="kinds"), class_="split"))


def _kind(manifest: Manifest, kind: picture.Kind) -> Markup:
    calls = [manifest.calls[i] for i in kind.blocks[0].calls]
    stages = sorted({c.stage for c in calls})
    each = " each" if len(kind.blocks) > 1 else ""
    share = sum(c.flops for c in calls) * len(kind.blocks) / (manifest.flops or 1)
    facts = [
        f"{count(len(calls), 'call')}{each}",
        f"{work(sum(c.flops for c in calls))}{each}",
        f"{share:.1%} of all work",
    ]
    if not each:
        facts.append(f"stage {stages[0]}" if len(stages) == 1 else f"stages {stages[0]} to {stages[-1]}")
    return tag(
        "figure",
        tag("figcaption", tag("h3", kind.title), tag("p", " · ".join(facts))),
        picture.block_graph(manifest, kind),
        id=kind.anchor,
        class_="kind",
        data_blocks=" ".join(b.name.replace(" ", "-") for b in kind.blocks),
    )


def kernels(manifest: Manifest) -> Markup:
    entries, family = manifest.kernels, picture.families(manifest)
    total = manifest.flops or 1
    rows = []
    for index in sorted(range(len(entries)), key=lambda i: -entries[i].flops):
        entry = entries[index]
        share = entry.flops / total
        bar = tag("span", style=f"width:{share:.2%}", class_=f"fill {family[entry.name]}")
        words = entry.description
        under = join(
            tag("code", entry.name), f" · {entry.precision}" if manifest.precision != "float32" else "",
            f" · tile {entry.tile}" if entry.tile else "",
            "" if entry.rows_shared_by_threads else " · one thread",
        )  # fmt: skip
        rows.append(
            tag(
                "tr",
                tag("th", words[0].upper() + words[1:], tag("small", under), scope="row"),
                tag("td", datum(entry.calls, f"kernels.{index}.calls"), class_="number"),
                tag("td", datum(entry.flops, f"kernels.{index}.flops", work(entry.flops)), class_="number wide"),
                tag("td", f"{share:.1%}", tag("span", bar, class_="bar"), class_="number share"),
                id=f"kernel-{index}",
            )
        )
    columns = (("kernel", None), ("calls", "number"), ("work", "number wide"), ("share of work", "number share"))
    head = tag("tr", *(tag("th", name, scope="col", class_=kind) for name, kind in columns))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="kernels")
    generic = manifest.generic_kernels
    note = (
        tag("ul", *(tag("li", tag("b", g.operator), f": {g.reason}") for g in generic), class_="notes")
        if generic
        else tag("p", "No operator fell back to a generic kernel.", class_="good")
    )
    lead = f"{len(entries)} kinds of kernel. A tile is rows of activations by columns of weights, kept in registers."
    return section("kernels", "Kernels and tiles", lead, note, _tuning(manifest), table)


def _tuning(manifest: Manifest) -> Markup:
    """Where the tiles come from."""
    tuning = manifest.tuning
    if not tuning:
        return tag("p", "Where the tiles come from was not recorded.", class_="counts")
    source = f"the tuning database {tuning.database}" if tuning.database else "the built-in table: no database"
    words = join(
        f"Tiles come from {source}; ", datum(tuning.hits, "tuning.hits"), " of ",
        datum(tuning.tasks, "tuning.tasks"), " shapes were tuned, ", datum(tuning.measured, "tuning.measured"),
        " by measured times and ", datum(tuning.estimated, "tuning.estimated"), " by estimates.",
    )  # fmt: skip
    missed = [tag("li", what) for what in tuning.missed]
    if not missed:
        return tag("p", words, class_="counts")
    details = tag("details", tag("summary", f"{len(missed)} not tuned"), tag("ul", *missed, class_="notes"))
    return tag("div", tag("p", words), details, class_="counts")


def precision(manifest: Manifest) -> Markup:
    """Of a library whose kernels are not all float32: which layers stayed so, and why."""
    if manifest.precision == "float32":
        return Markup("")
    kept = [
        tag("li", tag("b", k.layer), f": {k.reason}", "" if k.snr_db is None else f" ({k.snr_db:.1f} dB in int8)")
        for k in manifest.kept_in_float
    ]
    content = tag("ul", *kept, class_="notes") if kept else tag("p", "No layer was kept in float32.", class_="good")
    lead = "Weights are int8 and rows are rounded to int8 as they come; sums are exact, and all else is float32."
    return section("precision", "Precision", lead, content, _int8_layers(manifest))


def _int8_layers(manifest: Manifest) -> Markup:
    """Every int8 layer, those with the least signal-to-noise ratio first: they are the first to keep in float32."""
    report = manifest.passes
    if report is None or not (layers := report.noisiest()):
        return Markup("")
    sampled = f"Signal to noise, sampled on {count(report.texts, 'text')}." if report.texts else (
        "Signal to noise, sampled on random inputs; --calibrate takes texts."
    )  # fmt: skip
    parts = [tag("p", sampled, class_="counts"), _ratios("noisiest in int8", layers[:NOISIEST])]
    if others := layers[NOISIEST:]:
        parts.append(tag("details", tag("summary", f"{len(others)} more in int8"), _ratios("in int8", others)))
    return join(*parts)


def _ratios(title: str, layers: Sequence[LayerPrecision]) -> Markup:
    rows = [
        tag(
            "tr",
            tag("th", layer.weight, tag("small", f"{layer.kind} {layer.shape[0]} × {layer.shape[1]}"), scope="row"),
            *(
                tag("td", "" if ratio is None else f"{ratio:.1f} dB", class_="number")
                for ratio in (layer.weight_snr, layer.output_snr)
            ),
        )
        for layer in layers
    ]
    columns = ((title, None), ("weights", "number"), ("outputs", "number"))
    head = tag("tr", *(tag("th", name, scope="col", class_=kind) for name, kind in columns))
    return tag("table", tag("thead", head), tag("tbody", *rows), class_="kernels")


def measured(manifest: Manifest) -> Markup:
    """Times, only where they were measured; an estimate is called one."""
    rows = []
    for i, m in enumerate(manifest.measured):
        time = datum(m.median_ms, f"measured.{i}.median_ms", f"{m.median_ms:.2f} ± {m.spread_ms:.2f} ms")
        how = "estimated" if m.estimate else f"median of {count(m.runs, 'run')}"
        words = f": {how}, {m.tokens} tokens, {count(m.threads, 'thread')}, {m.device}, {m.date}"
        rows.append(tag("li", tag("b", time), words))
    if not rows:
        return Markup("")
    return section("times", "Latency", "Of this library, on the devices named.", tag("ul", *rows, class_="notes"))


def passes(manifest: Manifest) -> Markup:
    report = manifest.passes
    if not report:
        return section("passes", "Graph passes", "The manifest holds no record of passes.")
    before, after = report.before, report.after
    most = max(before.nodes, after.nodes, 1)
    rows, idle = [], []
    for index, entry in enumerate(report.passes):
        if not (entry.applied or entry.refusals):
            idle.append(tag("li", entry.name, tag("small", entry.phase)))
            continue
        counts = [f"{key.replace('_', ' ')}: {value}" for key, value in entry.counts.items() if value]
        refusals = [
            tag("li", str(refusal), tag("small", f"{refusal.times} × · first at {refusal.where}"))
            for refusal in entry.refusals
        ]
        notes = [tag("p", ", ".join(counts), class_="counts")] if counts else []
        if refusals:
            words = f"refused {sum(r.times for r in entry.refusals)}"
            notes.append(tag("details", tag("summary", words), tag("ul", *refusals, class_="notes")))
        error = "not compared" if entry.error is None else f"error {entry.error:.1e}" if entry.error else "exact"
        left = f"width:{entry.nodes_after / most:.1%}"
        rows.append(
            tag(
                "li",
                tag("div", tag("h3", entry.name), tag("span", f"{entry.phase} · {error}"), class_="pass-name"),
                tag(
                    "div",
                    datum(entry.applied, f"passes.passes.{index}.applied"),
                    " rewrite" if entry.applied == 1 else " rewrites",
                    class_="applied",
                ),
                tag("div", tag("span", style=left), class_="bar nodes", aria_hidden="true"),
                tag("div", datum(entry.nodes_after, f"passes.passes.{index}.nodes_after"), " nodes", class_="left"),
                *notes,
                class_="pass" if entry.applied else "pass idle",
            )
        )
    lead = join(
        "The graph went from ", datum(before.nodes, "passes.before.nodes"), " nodes to ",
        datum(after.nodes, "passes.after.nodes"), ". ",
        "Each pass was run in ONNX Runtime and compared with the model as it came."
        if report.verified else "The passes were not compared with the model as it came.",
    )  # fmt: skip
    done = tag("ol", *rows, class_="passes") if rows else Markup("")
    if not idle:
        return section("passes", "Graph passes", lead, done)
    words = f"{count(len(idle), 'pass', 'passes')} found nothing to do"
    fold = tag("details", tag("summary", words), tag("ul", *idle, class_="notes"), class_="idle-passes")
    return section("passes", "Graph passes", lead, done, fold)


def plan(manifest: Manifest) -> Markup:
    sizes, stages = manifest.sizes, manifest.stages
    areas = memory.arena_areas(manifest)
    lead = join(
        "Threads meet at a barrier between stages. What crosses one shares an arena of ",
        datum(sizes.arena_bytes, "sizes.arena_bytes", size(sizes.arena_bytes)),
        "; what lives inside a stage needs ",
        datum(sizes.scratch_bytes_per_row, "sizes.scratch_bytes_per_row", size(sizes.scratch_bytes_per_row)),
        " for each row that a thread works on.",
    )
    figures = []
    if areas:
        label = f"The arena: {len(areas)} tensors over {stages} stages"
        chart = memory.chart(areas, stages, sizes.arena_bytes, "stage", label)
        note = f"{len(areas)} tensors, {stages} stages"
        figures.append(_memory_figure("Arena", note, chart, memory.table(areas, "stages")))
    stage, scratch = memory.scratch_areas(manifest)
    if scratch:
        times = max(a.last for a in scratch) + 1
        label = f"Scratch of stage {stage}: {len(scratch)} tensors over {times} calls"
        chart = memory.chart(scratch, times, sizes.scratch_bytes_per_row, "call", label)
        note = f"stage {stage}, the hungriest"
        figures.append(_memory_figure("Scratch of one row", note, chart, memory.table(scratch, "calls")))
    return section("memory", "Memory over time", lead, tag("div", *figures, class_="two"), _sizes(manifest))


def _memory_figure(title: str, note: str, chart: Markup, table: Markup) -> Markup:
    return tag(
        "figure",
        tag("figcaption", tag("h3", title), tag("p", note)),
        chart,
        tag("p", "Point at a rectangle, or tap it.", class_="readout", aria_live="polite"),
        table,
        class_="memory-figure",
    )


def _sizes(manifest: Manifest) -> Markup:
    sizes = manifest.sizes
    whole, weights = sizes.library_bytes, sizes.weights_bytes
    parts = [("weights", weights, "linear"), ("kernels, plan, runtime", whole - weights, "attention")]
    bars = [tag("span", style=f"width:{nbytes / whole:.2%}", class_=f"fill {kind}") for _, nbytes, kind in parts]
    items = [
        tag("li", tag("span", class_=f"key fill {kind}"), f"{name}: {size(nbytes)} ({nbytes / whole:.2%})")
        for name, nbytes, kind in parts
    ]
    head = tag("figcaption", tag("h3", "The file"), tag("p", f"{manifest.library}, {size(whole)}"))
    return tag("figure", head, tag("div", *bars, class_="stack"), tag("ul", *items, class_="legend"), class_="file")


def verification(manifest: Manifest) -> Markup:
    results, checked = manifest.verification, manifest.checked
    if results:
        rows = [
            tag(
                "li",
                tag("b", "passed" if r.passed else "FAILED"),
                f" on {r.where}: ",
                datum(r.error, f"verification.{i}.error", f"{r.error:.1e}"),
                f" of the output range, allowed {r.tolerance:.0e}, on {r.samples - r.texts} random inputs"
                + (f" and {count(r.texts, 'text')}" if r.texts else ""),
            )
            for i, r in enumerate(results)
        ]
        content = tag("ul", *rows, class_="notes")
        lead = "The finished library was run and compared with the exported model in ONNX Runtime."
    else:
        content = tag("p", "python -m compile … --verify", class_="command")
        lead = "The finished library was not run. Building with --verify runs it and compares it with ONNX Runtime."
    rules = [tag("li", rule) for rule in checked]
    title = f"{len(rules)} rules of the target, read from the linked file" if rules else "No rules were checked"
    return section("verification", "Verification", lead, content, tag("h3", title), tag("ul", *rules, class_="checks"))


def toolchain(manifest: Manifest) -> Markup:
    origin = ", ".join(f"{key} {value}" for key, value in manifest.model.items())
    facts = [("model", origin or "not recorded"), ("linker", manifest.linker), ("triple", manifest.triple)]
    if manifest.sanitize:
        facts.append(("sanitizers", manifest.sanitize))
    facts += [("needs of the CPU", ", ".join(manifest.cpu_features_required) or "nothing beyond its architecture")]
    facts += list(manifest.versions.items())
    facts.append(("sha256", manifest.sha256))
    rows = [tag("div", tag("dt", key), tag("dd", value)) for key, value in facts]
    lead = "What went in, and what made it."
    return section("toolchain", "Toolchain", lead, tag("dl", *rows, class_="facts"))
