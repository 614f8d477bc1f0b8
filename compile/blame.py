"""Which node of an ONNX file a failure comes from.

The compiler's own graph has names of its own, so a failure there is traced by compiling the nodes one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from compile.codegen.objects import compile_kernels
from compile.errors import CompileError
from compile.importer.graph import import_shaped
from compile.linking.symbols import check_symbols
from compile.lowering.lower import lower
from compile.targets import Target
from pocketbert.errors import first_line
from pocketbert.temporary import TemporaryFolder


def blame(model: onnx.ModelProto, tokens: int, target: Target, error: Exception) -> CompileError:
    """`error` with the first node that cannot be compiled on its own; as it is where each can, or it names one."""
    if isinstance(error, CompileError) and "(node " in str(error):
        return error
    for node, alone in _one_by_one(model):
        shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in alone.graph.input}
        try:
            program = lower(import_shaped(alone, shapes), tokens, target.isa)
            with TemporaryFolder() as folder:
                check_symbols(compile_kernels(program.kernels, target, folder), target)
        except Exception as failure:
            said = f" ({first_line(failure)})" if isinstance(failure, CompileError) else ""
            name = node.name or node.output[0]
            return CompileError(
                f"operator {node.op_type} (node {name!r}) cannot be lowered: rewrite it with other operators{said}"
            )
    return error if isinstance(error, CompileError) else CompileError(f"no code for this model: {first_line(error)}")


def _one_by_one(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, onnx.ModelProto]]:
    """Each node with a model of its own that has float results; nodes of the same kind and types once."""
    inferred = onnx.shape_inference.infer_shapes(model)
    graph = inferred.graph
    infos = {v.name: v for v in (*graph.input, *graph.value_info, *graph.output)}
    weights = {w.name: w for w in graph.initializer}
    for node in graph.node:
        given = [n for n in dict.fromkeys(node.input) if n and n not in weights]
        results = [n for n in node.output if n and n in infos]
        if not results or any(n not in infos for n in given):
            continue
        nodes, outputs = [node], []
        for index, name in enumerate(results):
            if infos[name].type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
                outputs.append(infos[name])
                continue
            cast = onnx.helper.make_node("Cast", [name], [f"float_result_{index}"], to=onnx.TensorProto.FLOAT)
            nodes.append(cast)
            outputs.append(onnx.ValueInfoProto(name=cast.output[0]))
        held = [weights[n] for n in dict.fromkeys(node.input) if n in weights]
        alone = onnx.helper.make_graph(nodes, "one node", [infos[n] for n in given], outputs, held)
        yield node, onnx.helper.make_model(alone, opset_imports=inferred.opset_import, ir_version=inferred.ir_version)
