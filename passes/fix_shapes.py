"""Give a model's inputs shapes: what is computed of their open dimensions folds into constants then."""

import re
from collections.abc import Iterable, Mapping, Sequence

import onnx

from passes.errors import PassError


def read_shapes(texts: Iterable[str]) -> dict[str, list[int]]:
    """NAME=DIM,DIM,… as the command lines take them. Raises PassError for anything else."""
    shapes = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        if not name or not all(re.fullmatch(r"0*[1-9][0-9]{0,8}", part) for part in sizes.split(",")):
            raise PassError(
                f"--fix-shape {text}: give NAME=DIM,DIM,… with whole numbers from 1 to 999999999, as input_ids=1,128"
            )
        shapes[name] = [int(part) for part in sizes.split(",")]
    return shapes


def fix_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """`model` for inputs of just these shapes; the one given is left as it is, and returned where nothing is open.

    Raises PassError for a name that no input has, and for a shape that the input cannot have.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value for value in model.graph.input if value.name not in weights}
    for name, shape in shapes.items():
        if name not in inputs:
            raise PassError(f"--fix-shape {name}: the model has no such input; it has {', '.join(inputs)}")
        _check(inputs[name], shape)
    if not any(_is_open(inputs[name]) for name in shapes):
        return model
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        if value.name in shapes:
            kind = value.type.tensor_type.elem_type
            value.type.CopyFrom(onnx.helper.make_tensor_type_proto(kind, list(shapes[value.name])))
    del fixed.graph.value_info[:]
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    return fixed


def _is_open(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    return not kind.HasField("shape") or any(not dim.dim_value for dim in kind.shape.dim)


def _check(value: onnx.ValueInfoProto, shape: Sequence[int]) -> None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return
    own = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim]
    fits = len(own) == len(shape) and all(
        size in (0, wanted) for size, wanted in zip(own, shape, strict=True) if isinstance(size, int)
    )
    if not fits:
        wanted = ", ".join(map(str, shape))
        raise PassError(
            f"--fix-shape {value.name}: [{wanted}] is no shape of an input that is [{', '.join(map(str, own))}]; "
            "give every dimension, and those that are fixed as they are"
        )
