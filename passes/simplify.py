"""Constant folding, shape inference and clean-up by onnxsim, kept from duplicating weights.

Two guards. A large initializer with more than one reader (an embedding table tied to a decoder) is shown to onnxsim as
a graph input, so that folding cannot make a transposed or concatenated copy of it. And if the constants still grow, by
folding an Expand or a ConstantOfShape into a large tensor, the result without constant folding is taken instead.
"""

from collections import Counter

import onnx
import onnx_ir as ir
import onnxsim
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass, TopologicalSortPass

from passes.graph import infer_shapes
from passes.options import Options
from passes.report import Outcome, Refusals
from pocketbert.errors import first_line
from pocketbert.silence import silent

OPSET = 20  # the first with Gelu; LayerNormalization came with 17
SHARED_BYTES = 1 << 20  # initializers from this size on are never copied
GROWTH_BYTES = 1 << 20  # what folding may add to the constants in all
# The first three wrap every linear in two Reshapes, five more nodes each where a dimension is dynamic; flatten_tokens
# needs none. The others make one operator of attention, which may not be an ONNX operator.
SKIPPED = [f"fuse_matmul_add_bias_into_gemm{kind}" for kind in ("", "_nd", "_batched")] + [
    "fuse_qkv",
    "fuse_attention",
    "fuse_gqa",
    "fuse_rms_norm",
    "fuse_rope",
]


def simplify(model: ir.Model, options: Options) -> Outcome:
    refusals = Refusals()
    if model.functions:
        InlinePass()(model)
    TopologicalSortPass()(model)
    proto = ir.to_proto(model)
    before = len(proto.graph.node)
    hidden = hide_shared_weights(proto)
    try:
        simplified = _simplify(proto, _target_opset(proto))
        if constant_bytes(simplified) > constant_bytes(proto) + GROWTH_BYTES:
            refusals.add("folding constants would have made the model larger; left unfolded", proto.graph.name)
            simplified = _simplify(proto, _target_opset(proto), skip_constant_folding=True)
        if _domains(simplified) - _domains(proto):
            refusals.add("onnxsim made operators that are not ONNX's; its fusions left out", proto.graph.name)
            simplified = _simplify(proto, _target_opset(proto), perform_optimization=False)
    except Exception as error:
        refusals.add(f"onnxsim cannot handle this model: {first_line(error)}", proto.graph.name)
        return Outcome(refusals=refusals.all())
    restore_weights(simplified, hidden)
    model.graph = ir.from_proto(simplified).graph
    infer_shapes(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return Outcome(max(0, before - len(simplified.graph.node)), refusals=refusals.all())


def hide_shared_weights(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Turn large initializers with several readers into graph inputs; return them."""
    uses = Counter(name for node in proto.graph.node for name in node.input)
    hidden = [t for t in proto.graph.initializer if uses[t.name] > 1 and t.ByteSize() >= SHARED_BYTES]
    names = {tensor.name for tensor in hidden}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in names]
    hidden = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in hidden]
    if hidden:
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)
        declared = {value.name for value in proto.graph.input}
        for tensor in hidden:
            if tensor.name not in declared:
                value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
                proto.graph.input.append(value)
    return hidden


def restore_weights(proto: onnx.ModelProto, hidden: list[onnx.TensorProto]) -> None:
    """Undo hide_shared_weights."""
    names = {tensor.name for tensor in hidden}
    inputs = [value for value in proto.graph.input if value.name not in names]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.graph.initializer.extend(hidden)


def constant_bytes(proto: onnx.ModelProto) -> int:
    """Bytes in initializers and Constant nodes."""
    held = sum(tensor.ByteSize() for tensor in proto.graph.initializer)
    return held + sum(node.ByteSize() for node in proto.graph.node if node.op_type == "Constant")


def _domains(proto: onnx.ModelProto) -> set[str]:
    return {node.domain for node in proto.graph.node}


def _target_opset(proto: onnx.ModelProto) -> int | None:
    version = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), OPSET)
    return OPSET if version < OPSET else None


def _simplify(proto: onnx.ModelProto, opset: int | None, **options: bool) -> onnx.ModelProto:
    with silent():  # every failure also raises or shows in the report
        try:
            simplified, _ = onnxsim.simplify(proto, skipped_optimizers=SKIPPED, target_opset_version=opset, **options)
        except Exception:
            if opset is None:
                raise
            simplified, _ = onnxsim.simplify(proto, skipped_optimizers=SKIPPED, **options)
    return simplified
