"""ONNX -> Relax -> a plain dataflow graph.

TVM's importer decides what each operator means; `Node` is Relax's binding seen without its wrapping, so that the
matching in `lower` reads as what it looks for.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from compile.errors import CompileError
from compile.importer.interface import no_tensor
from compile.importer.spelling import Known, respelt, why_refused
from pocketbert.silence import silent

RESHAPES = ("reshape", "squeeze", "expand_dims", "flatten")
TYPES = ("float32", "int64", "int32", "bool")  # of in- and outputs
MOST_DIMENSIONS = 4


@dataclass(eq=False)
class Node:
    """One tensor of the graph: an input, a constant, or the result of a Relax operator.

    inputs: its tensor operands; static: its other operands (shapes, slice bounds) as Python values; relax: the
    binding's expression, from which a generic kernel can be made; uses: how often other nodes or outputs read it.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    inputs: list[Node] = field(default_factory=list)
    static: list[Any] = field(default_factory=list)
    attrs: Any = None
    data: NDArray[Any] | None = None
    relax: Any = None
    uses: int = 0
    index: int = 0

    @property
    def is_const(self) -> bool:
        return self.op == "const"


@dataclass
class Graph:
    """A model with every shape known. `module` holds functions that call_tir nodes refer to."""

    inputs: list[Node]
    outputs: list[tuple[str, Node]]
    nodes: list[Node]
    module: Any


NAMESAKES = {"Attention"}  # operators of ONNX Runtime's in TVM, which ONNX calls something else


def importable_operators() -> frozenset[str]:
    from tvm.relax.frontend.onnx import onnx_frontend

    from compile.importer.operators import DEFINITIONS

    return (frozenset(onnx_frontend._get_convert_map()) | frozenset(DEFINITIONS)) - NAMESAKES


def check_operators(model: onnx.ModelProto, left: Mapping[str, str] = MappingProxyType({})) -> None:
    """Raise CompileError naming the first operator (and its node) that cannot be lowered.

    left: why a pass has left operators of a type as they are.
    """
    importable = importable_operators()
    known = Known(model)
    for node in model.graph.node:
        where = f"node {node.name or node.output[0]!r}"
        if node.domain not in ("", "ai.onnx"):
            why = f", and {left[node.op_type]}" if node.op_type in left else ""
            raise CompileError(
                f"operator {node.domain}::{node.op_type} ({where}) is not a standard ai.onnx operator{why}: "
                "export the model with standard operators"
            )
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            raise CompileError(f"operator {node.op_type} ({where}) holds a subgraph: control flow cannot be compiled")
        if reason := why_refused(node, known):
            raise CompileError(f"operator {node.op_type} ({where}) cannot be lowered: {reason}")
        if node.op_type not in importable:
            remedy = left.get(node.op_type, "rewrite it with other operators")
            raise CompileError(f"operator {node.op_type} ({where}) cannot be lowered: {remedy}")


def input_shapes(model: onnx.ModelProto, seq_len: int) -> dict[str, list[int]]:
    """Every input's shape, with batch 1 and `seq_len` tokens where the model leaves them open. Raises CompileError."""
    shapes = _shapes(model, seq_len)
    _check_tokens(model, shapes, seq_len)
    return shapes


def _shapes(model: onnx.ModelProto, seq_len: int) -> dict[str, list[int]]:
    constants = {i.name for i in model.graph.initializer}
    named = {dims[1].dim_param for v in model.graph.input if len(dims := v.type.tensor_type.shape.dim) == 2}
    shapes = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        if not value.type.HasField("tensor_type"):
            raise no_tensor("input", value)
        dims = value.type.tensor_type.shape.dim
        for i, dim in enumerate(dims):
            if i > 1 and dim.dim_param and named - {""} and dim.dim_param not in named:
                wanted = ",".join(
                    str(d.dim_value or ("N" if j > 1 else seq_len if j else 1)) for j, d in enumerate(dims)
                )
                raise CompileError(
                    f"dimension {dim.dim_param!r} of input {value.name!r} is open, and not that of the tokens: give "
                    f"its size with --fix-shape {value.name}={wanted}"
                )
        shapes[value.name] = [d.dim_value or (seq_len if i else 1) for i, d in enumerate(dims)]
    return shapes


def file_tokens(model: onnx.ModelProto, otherwise: int) -> int:
    """How many tokens the file was exported for, or `otherwise` where it leaves that open or has no sequence."""
    sizes = _token_sizes(model, _shapes(model, 0))
    return next((size for size in sizes.values() if size), otherwise)


def _token_sizes(model: onnx.ModelProto, shapes: dict[str, list[int]]) -> dict[str, int]:
    """How long the inputs are that may be the tokens: ids, or what else comes a token at a time."""
    long = {name: shape[1] for name, shape in shapes.items() if len(shape) in (2, 3)}  # of masks any may be the tokens
    whole = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    ids = {
        v.name for v in model.graph.input if v.type.tensor_type.elem_type in whole and len(shapes.get(v.name, ())) == 2
    }
    return {name: size for name, size in long.items() if name in ids} or long


def _check_tokens(model: onnx.ModelProto, shapes: dict[str, list[int]], seq_len: int) -> None:
    """Raises CompileError where no input is as long as the sequence.

    Beside one that is, others may be of any size: features of the whole text, a label.
    """
    sequences = _token_sizes(model, shapes)
    if sequences and seq_len not in sequences.values():
        name, size = next(iter(sequences.items()))
        raise CompileError(
            f"input {name!r} was exported for {size} tokens, not {seq_len}: pass --seq-len {size} "
            "or export it with --seq-len dynamic"
        )


def import_model(model: onnx.ModelProto, seq_len: int) -> Graph:
    """Import `model` through Relax. Raises CompileError where TVM cannot."""
    check_operators(model)
    graph = import_shaped(model, input_shapes(model, seq_len))
    check_interface(graph)
    return graph


def import_shaped(model: onnx.ModelProto, shapes: dict[str, list[int]]) -> Graph:
    """`import_model` with every input's shape given. Raises CompileError where TVM cannot."""
    from compile.importer.operators import Importer, on_one_thread

    failure = None
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    with silent(), on_one_thread():  # TVM prints what it then raises
        try:
            module = Importer(shapes, "float32").from_onnx(respelt(model).graph, version)
        except Exception as error:  # the importer raises whatever its converters happen to raise
            failure = _import_failure(error)
            _forget_locals(error)
        if failure:
            gc.collect()
    if failure:
        raise failure
    return _flatten(module, list(shapes), [o.name for o in model.graph.output])


# What Python says of these tells a programmer of TVM something, and nobody else.
MISTAKES = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, RecursionError, TypeError)


def _import_failure(error: Exception) -> CompileError:
    """Names the node that TVM's importer was at."""
    line = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "")
    said = f" ({line})" if line and not isinstance(error, MISTAKES) else ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("node")
        if isinstance(node, onnx.NodeProto):
            where = f"node {node.name or node.output[0]!r}"
            return CompileError(
                f"operator {node.op_type} ({where}) cannot be lowered: rewrite it with other operators{said}"
            )
    return CompileError(f"TVM cannot import this model: simplify it, or export it with other operators{said}")


def _forget_locals(error: Exception) -> None:
    """Free what the frames of `error` hold: TVM keeps the error, and a half-made module complains when it is freed."""
    traceback.clear_frames(error.__traceback__)
    for frame, _ in traceback.walk_tb(error.__traceback__):
        _ = frame.f_locals  # a look at them refreshes the copy that an earlier look has left


def _flatten(module: Any, input_names: list[str], output_names: list[str]) -> Graph:
    """Relax's main function as nodes; in- and outputs have the ONNX file's names, which Relax makes identifiers of.

    Raises CompileError on what has no static shape.
    """
    main = module["main"]
    nodes: list[Node] = []
    by_var: dict[Any, Node] = {}
    tuples: dict[Any, list[Node]] = {}
    constants: dict[Any, Node] = {}

    def tensor(expr: Any) -> Node:
        kind = type(expr).__name__
        if kind in ("Var", "DataflowVar"):
            return by_var[expr]
        data = expr.value.numpy()
        if expr not in constants:
            constants[expr] = Node(f"const{len(constants)}", "const", data.shape, str(data.dtype), data=data)
        return constants[expr]

    def add(var: Any, op: str, ty: Any, **fields: Any) -> Node:
        if not hasattr(ty, "shape") or ty.shape is None or any(not _is_int(d) for d in ty.shape):
            raise CompileError(
                f"the result of operator {op} ({var.name!r}) has no static shape: export the model with --seq-len N "
                "--batch 1, and without operators whose shapes depend on values"
            )
        node = Node(var.name, op, tuple(int(d) for d in ty.shape), str(ty.dtype), index=len(nodes), **fields)
        _count_from_start(node)
        by_var[var] = node
        nodes.append(node)
        return node

    inputs = [add(var, "input", var.ty) for var in main.params]
    for node, name in zip(inputs, input_names, strict=True):
        node.name = name
    for block in main.body.blocks:
        for binding in block.bindings:
            var, value = binding.var, binding.value
            kind = type(value).__name__
            if kind == "Tuple":
                tuples[var] = [tensor(f) for f in value.fields]
            elif kind in ("Var", "DataflowVar"):
                if value in tuples:
                    tuples[var] = tuples[value]
                else:
                    by_var[var] = by_var[value]
            elif kind == "TupleGetItem":
                source = by_var[value.tuple_value]
                if source.op == "split":
                    add(var, "strided_slice", var.ty, **_part_of_split(source, int(value.index), var.ty.shape))
                    continue
                add(var, "get_item", var.ty, inputs=[source], static=[int(value.index)])
            elif kind == "Call":
                operands, static = _operands(value, tensor, tuples)
                op = value.op.name.removeprefix("relax.")
                if op == "take" and value.attrs.axis is not None:
                    operands[1] = _unwrapped(operands[1], operands[0].shape[int(value.attrs.axis)])
                if type(var.ty).__name__ == "TupleType":  # split: its parts are read by get_item
                    node = Node(var.name, op, operands[0].shape, operands[0].dtype, operands, static, value.attrs)
                    node.relax, node.index = value, len(nodes)
                    by_var[var] = node
                    nodes.append(node)
                elif (extent := _extent(op, operands, static)) is not None:
                    by_var[var] = Node(var.name, "const", extent.shape, str(extent.dtype), data=extent)
                elif hasattr(var.ty, "dtype"):
                    add(var, op, var.ty, inputs=operands, static=static, attrs=value.attrs, relax=value)
            elif kind == "GenericConst":
                by_var[var] = tensor(value)
            elif kind != "ShapeExpr":
                raise CompileError(f"Relax expression {kind} of {var.name!r} cannot be lowered")
    result = main.body.body
    outputs = tuples[result] if result in tuples else [tensor(result)]
    graph = Graph(inputs, list(zip(output_names, outputs, strict=True)), nodes, module)
    _count_uses(graph)
    return graph


def _part_of_split(split: Node, index: int, shape: Any) -> dict[str, Any]:
    """A part of a split as the slice that it is."""
    from tvm.relax.op import strided_slice

    (source,), axis = split.inputs, int(split.attrs.axis) % len(shape)
    sections = split.attrs.indices_or_sections
    if hasattr(sections, "__len__"):  # the inner boundaries
        begin = [0, *(int(section) for section in sections)][index]
    else:  # the number of parts, of which the last may be smaller
        begin = index * -(-source.shape[axis] // int(sections))
    bounds = [[axis], [begin], [begin + int(shape[axis])]]
    return {"inputs": [source], "static": bounds, "relax": strided_slice(split.relax.args[0], *bounds)}


def check_interface(graph: Graph) -> None:
    """Raises CompileError for an in- or output that no library can have."""
    named = [("input", node.name, node) for node in graph.inputs]
    for kind, name, node in [*named, *(("output", name, node) for name, node in graph.outputs)]:
        if node.dtype not in TYPES:
            raise CompileError(f"{kind} {name!r} has type {node.dtype}: cast it to one of {', '.join(TYPES)}")
        if len(node.shape) > MOST_DIMENSIONS:
            raise CompileError(
                f"{kind} {name!r} has shape {list(node.shape)}: reshape it to at most {MOST_DIMENSIONS} dimensions"
            )
        if 0 in node.shape:
            raise CompileError(f"{kind} {name!r} has shape {list(node.shape)}: it is empty, leave it out")


def _operands(call: Any, tensor: Any, tuples: dict[Any, list[Node]]) -> tuple[list[Node], list[Any]]:
    """A call's arguments: tensors (those of a tuple in a row), and everything else as Python values."""
    operands: list[Node] = []
    static: list[Any] = []
    for arg in call.args:
        kind = type(arg).__name__
        if kind == "Tuple" and all(type(f).__name__ in ("Var", "DataflowVar", "GenericConst") for f in arg.fields):
            operands.extend(tensor(f) for f in arg.fields)
        elif kind == "Tuple":
            static.append([int(f.value) for f in arg.fields])
        elif kind == "ShapeExpr":
            static.append([int(d) for d in arg.values])
        elif kind in ("Var", "DataflowVar") and arg in tuples:
            operands.extend(tuples[arg])
        elif kind in ("Var", "DataflowVar", "GenericConst"):
            try:
                operands.append(tensor(arg))
            except KeyError:  # a shape value: only the importer's bookkeeping for negative indices reads those
                static.append(arg)
        else:
            static.append(arg)
    return operands, static


def _extent(op: str, operands: list[Node], static: list[Any]) -> NDArray[Any] | None:
    """The value of a tensor's shape, or of one entry of it, which the importer asks for in operators."""
    if op == "shape_to_tensor" and not operands:
        sizes = static[0] if isinstance(static[0], list) else static[0].ty.values
        return np.array([int(size) for size in sizes], np.int64) if sizes and all(map(_is_int, sizes)) else None
    data = [operand.data for operand in operands]
    if op == "take" and data[0] is not None and data[1] is not None and data[0].ndim == 1 and data[0].dtype == np.int64:
        return np.asarray(data[0].take(data[1], mode="wrap"))
    return None


def _unwrapped(indices: Node, count: int) -> Node:
    """The ids i behind `where(i < 0, i + count, i)`, which the importer writes before every lookup, if those are known.

    The runtime refuses ids of an input that are outside the table, and constant ones are made non-negative by
    `_count_from_start`: only what a graph computes may be negative.
    """
    if indices.op != "where" or len(indices.inputs) != 3:
        return indices
    below, wrapped, ids = indices.inputs
    fits = below.op == "less" and below.inputs[0] is ids and wrapped.op == "add" and wrapped.inputs[0] is ids
    if not fits or scalar(below.inputs[1]) != 0 or scalar(wrapped.inputs[1]) != count:
        return indices
    source = ids
    while source.op in RESHAPES or (source.op == "astype" and source.inputs[0].dtype in ("int32", "int64")):
        source = source.inputs[0]
    return ids if source.is_const or source.op == "input" else indices


def _count_from_start(node: Node) -> None:
    """Make a lookup's constant negative indices, which count from the end, count from the start."""
    if node.op != "take" or len(node.inputs) != 2 or node.attrs.axis is None:
        return
    table, indices = node.inputs
    if indices.data is not None and (indices.data < 0).any():
        data = indices.data % table.shape[int(node.attrs.axis)]
        node.inputs[1] = Node(f"{indices.name}_positive", "const", indices.shape, indices.dtype, data=data)


def _count_uses(graph: Graph) -> None:
    """Count readers among the nodes that some output depends on: the importer leaves bookkeeping behind."""
    seen: set[Node] = set()
    stack = [node for _, node in graph.outputs]
    for node in stack:
        node.uses += 1
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        for operand in node.inputs:
            operand.uses += 1
            stack.append(operand)


def _is_int(dimension: Any) -> bool:
    try:
        int(dimension)
    except (TypeError, ValueError):
        return False
    return True


def scalar(node: Node) -> float | None:
    """The value of a one-element constant."""
    if node.data is None or node.data.size != 1:
        return None
    return float(np.asarray(node.data).reshape(-1)[0])
