"""Store equal constants once, and compute equal expressions once. Both rewrites are onnx-ir's."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, DeduplicateHashedInitializersPass

from passes.options import Options
from passes.report import Outcome

LIMIT = 1 << 30  # elements of the largest constant compared


def deduplicate_constants(model: ir.Model, options: Options) -> Outcome:
    for value in model.graph.initializers.values():  # the hash is of what lies in C's order
        if value.const_value is not None and not (held := value.const_value.numpy()).flags.c_contiguous:
            value.const_value = ir.tensor(np.ascontiguousarray(held), name=value.name)
    constants, nodes = len(model.graph.initializers), len(model.graph)
    if not any(value.is_graph_input() for value in model.graph.initializers.values()):
        DeduplicateHashedInitializersPass(size_limit=LIMIT)(model)
    CommonSubexpressionEliminationPass()(model)
    counts = {"constants": constants - len(model.graph.initializers), "expressions": nodes - len(model.graph)}
    return Outcome(sum(counts.values()), counts)
