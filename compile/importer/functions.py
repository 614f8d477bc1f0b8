"""ONNX defines many operators by others: where TVM lacks one, or gets it wrong, its definition takes its place."""

from __future__ import annotations

from collections.abc import Container

import onnx
from onnx.inliner import inline_selected_functions

from compile.importer.spelling import Known, why_refused


def spelt_out(model: onnx.ModelProto, importable: Container[str]) -> onnx.ModelProto:
    """`model` without the operators that only their definition can be compiled of; as it is where it has none."""
    for _ in range(8):  # a definition may have others in it
        known = Known(model)
        lacking = {
            (node.domain, node.op_type)
            for node in model.graph.node
            if (node.domain or node.op_type not in importable or why_refused(node, known)) and _is_function(node, model)
        }
        if not lacking:
            break
        try:
            model = inline_selected_functions(_with_types(model), sorted(lacking), inline_schema_functions=True)
        except RuntimeError:  # a form that ONNX cannot spell: the operator is refused by its name
            break
    return model


def _with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with the type of every value, which some definitions depend on."""
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {value.name for value in (*inferred.graph.input, *inferred.graph.value_info)}
    for weight in inferred.graph.initializer:
        if weight.name not in known:
            value = onnx.helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims))
            inferred.graph.value_info.append(value)
    return inferred


def _is_function(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    version = next((entry.version for entry in model.opset_import if entry.domain == node.domain), 1)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]
