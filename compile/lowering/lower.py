"""Graph -> Program: which kernel computes what.

A kernel swallows as much of what leads to its result as its family can: a matrix product with everything element-wise
after it, an attention with its head splits and its softmax. What no family takes is listed in the program's `generic`.
"""

from __future__ import annotations

import sys

from compile.cpus import Isa
from compile.importer.graph import Graph
from compile.kernels.tiles import TileTable
from compile.lowering.call_attention import attention
from compile.lowering.call_chain import fused
from compile.lowering.call_rows import (
    layer_norm,
    over_tokens,
    pointwise,
    rms_norm,
    running_sum,
    side_by_side,
    widened,
)
from compile.lowering.lowering import Lowering
from compile.program import Program

FAMILIES = (attention, layer_norm, rms_norm, fused, pointwise, running_sum, over_tokens, widened, side_by_side)


def lower(graph: Graph, tokens: int, isa: Isa, tiles: TileTable | None = None) -> Program:
    """tiles says which tile a kernel gets. Raises CompileError where a tensor cannot be computed by any kernel."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 20 * len(graph.nodes) + 1000))
    try:
        return Lowering(graph, tokens, isa, tiles or TileTable(), FAMILIES).lower()
    finally:
        sys.setrecursionlimit(limit)
