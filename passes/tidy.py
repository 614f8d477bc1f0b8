"""Leave a clean file: sorted, no unused or exporter-specific entries, shapes inferred anew, names that say where from.

A value is named after its node, and a node after the exported one that it replaces; numbers tell equal names apart.
The result depends on the graph alone, so a second run of the pipeline writes the same bytes.
"""

import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
    TopologicalSortPass,
)

from passes.graph import infer_shapes
from passes.options import Options
from passes.rename import rename_nodes_and_values
from passes.report import Outcome

PRODUCER = "pocketbert.passes"


def tidy(model: ir.Model, options: Options) -> Outcome:
    before = len(model.graph)
    for step in (TopologicalSortPass(), RemoveUnusedNodesPass(), RemoveUnusedOpsetsPass()):
        step(model)
    ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.producer_name, model.producer_version, model.doc_string = PRODUCER, "", ""
    _sort_initializers(model.graph)
    rename_nodes_and_values(model.graph)
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    infer_shapes(model)
    return Outcome(before - len(model.graph))


def _sort_initializers(graph: ir.Graph) -> None:
    """Constants in the order in which nodes read them."""
    read = [value for node in graph for value in node.inputs if value is not None and value.is_initializer()]
    read += [value for value in graph.outputs if value.is_initializer()]
    ordered = list(dict.fromkeys([*read, *graph.initializers.values()]))
    graph.initializers.clear()
    for value in ordered:
        graph.register_initializer(value)
