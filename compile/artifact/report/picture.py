"""The model drawn: every layer as a strip of kernels, and each kind of block as the graph of its calls."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from compile.artifact.manifest import Call, Kernel, Manifest
from compile.artifact.report.markup import Markup, count, join, tag, work

WIDTH = 340
# Strips of the overview.
LABEL, STRIP, PITCH = 34, 12, 17
# Nodes of a block: the boxes on the left, lanes for what skips a node on the right.
BOX, NODE, CHIP, GAP, LANE = 248, 42, 22, 25, 13


@dataclass
class Block:
    """One part of the model ("embeddings", "layer 3", "head"): calls are numbers into the manifest's `calls`."""

    name: str
    calls: list[int] = field(default_factory=list)

    @property
    def label(self) -> str:
        return self.name.removeprefix("layer ") if self.name.startswith("layer ") else self.name.capitalize()


@dataclass
class Kind:
    """Blocks that run the same kernels on the same data, side by side in the model; the first stands for all."""

    blocks: list[Block]

    @property
    def title(self) -> str:
        first, last = self.blocks[0], self.blocks[-1]
        return first.name.capitalize() if first is last else f"Layers {first.label} to {last.label}"

    @property
    def anchor(self) -> str:
        return "block-" + self.blocks[0].name.replace(" ", "-")


def find_blocks(manifest: Manifest) -> list[Block]:
    blocks: dict[str, Block] = {}
    for index, call in enumerate(manifest.calls):
        blocks.setdefault(call.layer, Block(call.layer)).calls.append(index)
    return list(blocks.values())


def find_kinds(manifest: Manifest, blocks: list[Block]) -> list[Kind]:
    kinds: list[Kind] = []
    before: object = None
    for block in blocks:
        shape = _signature(manifest, block)
        if shape == before:
            kinds[-1].blocks.append(block)
        else:
            kinds.append(Kind([block]))
        before = shape
    return kinds


def _signature(manifest: Manifest, block: Block) -> object:
    """What makes two blocks the same: kernels, and which of each other's results they read."""
    maker = _makers(manifest, block)
    return [
        (manifest.calls[i].kernel, [(maker.get(t), *part) for t, *part in manifest.calls[i].reads]) for i in block.calls
    ]


def _makers(manifest: Manifest, block: Block) -> dict[int, int]:
    """For each tensor that the block writes, the position in the block of the last call that does."""
    return {t: n for n, i in enumerate(block.calls) for t, _, _ in manifest.calls[i].writes}


def families(manifest: Manifest) -> dict[str, str]:
    """A kernel's name -> the colour class of its family."""
    drawn_as = {"attention": "attention", "gather": "lookup", "layernorm": "norm", "generic": "generic"}
    family_of = {k.name: drawn_as.get(k.family, "other") for k in manifest.kernels}
    for kernel in manifest.kernels:
        if kernel.family == "linear":
            family_of[kernel.name] = "residual" if "+ tensor" in kernel.description else "linear"
    return family_of


def overview(manifest: Manifest, blocks: list[Block], kinds: list[Kind]) -> Markup:
    """One strip a block, one segment a call, as wide as its share of the block's FLOPs. Each leads to its block."""
    family = families(manifest)
    anchors = {block.name: kind.anchor for kind in kinds for block in kind.blocks}
    left = LABEL if any(b.name.startswith("layer ") for b in blocks) else 0
    parts: list[str] = []
    y = 0
    for number, block in enumerate(blocks):
        calls = [manifest.calls[i] for i in block.calls]
        layer = block.name.startswith("layer ")
        flops = sum(c.flops for c in calls)
        words = f"{block.name.capitalize()}: {count(len(calls), 'call')}, {work(flops)}"
        start = left if layer else 0
        y += 10 if number and not layer else 0
        content = [tag("title", words)]
        if layer:
            content.append(tag("text", block.label, x=left - 8, y=y + 10, class_="strip-label"))
        else:
            content.append(tag("text", f"{block.label} · {work(flops)}", x=0, y=y + 10, class_="strip-name"))
            y += 17
        content.append(tag("rect", x=start, y=y - 2, width=WIDTH - start, height=STRIP + 4, class_="strip-back", rx=4))
        content += _segments(calls, family, start, y)
        parts.append(
            tag("a", *content, href=f"#{anchors[block.name]}", class_="strip", data_block=block.name, aria_label=words)
        )
        y += PITCH + (0 if layer else 8)
    box = f"0 -4 {WIDTH} {y + 4}"
    return tag("svg", *parts, viewBox=box, class_="overview", role="group", aria_label="The model, block by block")


def _segments(calls: list[Call], family: dict[str, str], start: int, y: int) -> Iterator[Markup]:
    total, least = sum(c.flops for c in calls), 3.0
    room = WIDTH - start - least * len(calls)
    x = float(start)
    for call in calls:
        width = least + (room * call.flops / total if total else room / len(calls))
        kind = f"fill {family[call.kernel]}"
        yield tag("rect", x=round(x, 1), y=y, width=round(width - 1, 1), height=STRIP, class_=kind, rx=1.5)
        x += width


@dataclass
class _Edge:
    """From one height to another; `columns` of a tensor as wide as `width` pass, with `rows` rows."""

    source: int
    target: int
    rows: int
    columns: int
    width: int
    adjacent: bool
    lane: int = 0

    @property
    def label(self) -> str:
        return f"{self.rows} × {self.columns}" + (f" of {self.width}" if self.columns < self.width else "")


def block_graph(manifest: Manifest, kind: Kind) -> Markup:
    """The calls of a block from top to bottom, with the tensors that go from one to the next or skip some."""
    block, calls = kind.blocks[0], manifest.calls
    maker, words = _makers(manifest, block), {k.name: k for k in manifest.kernels}
    outside = dict.fromkeys(t for i in block.calls for t, _, _ in calls[i].reads if t not in maker)
    tops, height = _heights(len(outside), len(block.calls))
    position = {t: n for n, t in enumerate(outside)} | {t: len(outside) + n for t, n in maker.items()}
    edges = _edges(manifest, block, position, len(outside))
    drawn = [_draw_edge(e, tops, len(outside)) for e in edges]
    for tensor, n in position.items():
        if n < len(outside):
            drawn.append(_chip(_origin(manifest, block, tensor), tops[n]))
    numbers = {k.name: n for n, k in enumerate(manifest.kernels)}
    family = families(manifest)
    for n, index in enumerate(block.calls):
        call = calls[index]
        drawn.append(_node(call, words[call.kernel], numbers[call.kernel], family, tops[len(outside) + n]))
    used = {t for i in block.calls for t, _, _ in calls[i].reads}
    leaving = [t for t in maker if t not in used]
    drawn.append(_leaving(manifest, leaving, tops[-1] + NODE, height))
    title = f"{kind.title}: {count(len(block.calls), 'kernel call')}"
    return tag("svg", *drawn, viewBox=f"0 0 {WIDTH} {height}", class_="graph", role="group", aria_label=title)


def rows_columns(manifest: Manifest, tensor: int) -> tuple[int, int]:
    """A tensor as rows × columns: one row a token where it has that many."""
    shape, tokens = manifest.tensors[tensor].shape, manifest.tokens
    size = math.prod(shape)
    leading = next((d for d in shape if d > 1), 1)
    if tokens in (leading, *shape[:-1]):
        return tokens, size // tokens
    return (size // shape[-1], shape[-1]) if shape else (1, 1)


def _heights(chips: int, nodes: int) -> tuple[list[int], int]:
    tops = [n * (CHIP + 6) for n in range(chips)]
    start = chips * (CHIP + 6) + (GAP - 6 if chips else 0)
    tops += [start + n * (NODE + GAP) for n in range(nodes)]
    return tops, tops[-1] + NODE + 34


def _edges(manifest: Manifest, block: Block, position: dict[int, int], chips: int) -> list[_Edge]:
    edges, written = [], dict[int, int]()
    for n, index in enumerate(block.calls):
        call = manifest.calls[index]
        reads: dict[int, int] = {}
        for tensor, _, columns in call.reads:
            reads[tensor] = reads.get(tensor, 0) + columns
        target = chips + n
        # Two calls may fill one tensor: the second goes on where the first began.
        again = {tensor: columns for tensor, _, columns in call.writes if tensor in written}
        for tensor, columns in (*reads.items(), *again.items()):
            source = written.get(tensor, position[tensor])
            rows, width = rows_columns(manifest, tensor)
            neighbours = columns > width  # a convolution over tokens reads three rows as one
            part = width if neighbours else columns
            edges.append(_Edge(source, target, rows, part, width, target == source + 1))
        written.update((tensor, target) for tensor, _, _ in call.writes)
    lanes: list[list[_Edge]] = []
    for edge in sorted((e for e in edges if not e.adjacent), key=lambda e: (e.target - e.source, e.source)):
        free = [n for n, lane in enumerate(lanes) if all(not _overlap(edge, other) for other in lane)]
        edge.lane = free[0] if free else len(lanes)
        if not free:
            lanes.append([])
        lanes[edge.lane].append(edge)
    return edges


def _overlap(one: _Edge, two: _Edge) -> bool:
    return one.source < two.target and two.source < one.target


def _draw_edge(edge: _Edge, tops: list[int], chips: int) -> Markup:
    if edge.adjacent:
        x = 24
        top = tops[edge.source] + (CHIP if edge.source < chips else NODE)
        line = tag("path", d=f"M{x} {top}V{tops[edge.target] - 2}", class_="edge", marker_end="url(#arrow)")
        return join(line, tag("text", edge.label, x=x + 9, y=(top + tops[edge.target]) // 2 + 3, class_="edge-label"))
    x = BOX + 14 + edge.lane * LANE
    start = tops[edge.source] + (CHIP // 2 if edge.source < chips else NODE // 2 + 6)
    end = tops[edge.target] + NODE // 2 - 6
    path = f"M{BOX} {start}H{x - 6}Q{x} {start} {x} {start + 6}V{end - 6}Q{x} {end} {x - 6} {end}H{BOX + 3}"
    return tag("path", tag("title", edge.label), d=path, class_="edge skip", marker_end="url(#arrow)")


def _chip(text: str, top: int) -> Markup:
    back = tag("rect", x=0, y=top, width=BOX, height=CHIP, rx=11, class_="chip")
    return join(back, tag("text", text, x=14, y=top + 15, class_="chip-text"))


def _origin(manifest: Manifest, block: Block, tensor: int) -> str:
    """Where a tensor that the block reads comes from. Of equal layers only the first is drawn, so none is named."""
    entry, (rows, columns) = manifest.tensors[tensor], rows_columns(manifest, tensor)
    if entry.region == "input":
        return f"{entry.name[:24]} · {rows} × {columns}"
    writer = [c.layer for c in manifest.calls if any(t == tensor for t, _, _ in c.writes)][-1]
    stream = block.name.startswith("layer ") and columns > 1 and writer != "head"
    return f"from {'the block before' if stream else writer} · {rows} × {columns}"


def _node(call: Call, kernel: Kernel, number: int, family: dict[str, str], top: int) -> Markup:
    what, _, rest = kernel.description.partition(", ")
    facts = [work(call.flops) if call.flops else "", rest]
    words = f"{kernel.name}: {count(call.rows, 'row')}, stage {call.stage}"
    return tag(
        "a",
        tag("title", words),
        tag("rect", x=0, y=top, width=BOX, height=NODE, rx=8, class_="node"),
        tag("rect", x=0, y=top + 8, width=4, height=NODE - 16, rx=2, class_=f"fill {family[kernel.name]}"),
        tag("text", what[0].upper() + what[1:], x=14, y=top + 18, class_="node-title"),
        tag("text", " · ".join(filter(None, facts)) or count(call.rows, "row"), x=14, y=top + 33, class_="node-text"),
        href=f"#kernel-{number}",
        class_="call",
    )


def _leaving(manifest: Manifest, tensors: list[int], top: int, height: int) -> Markup:
    names = []
    for tensor in tensors:
        entry, shape = manifest.tensors[tensor], " × ".join(map(str, rows_columns(manifest, tensor)))
        names.append(f"{entry.name[:24]} · {shape}" if entry.region == "output" else shape)
    line = tag("path", d=f"M24 {top}V{height - 12}", class_="edge", marker_end="url(#arrow)")
    return join(line, tag("text", ", ".join(names[:2]), x=33, y=height - 14, class_="edge-label"))
