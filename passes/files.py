"""Read and write ONNX files; whatever is wrong with one becomes a PassError with the remedy."""

import os
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data

from passes.errors import PassError
from pocketbert.errors import first_line
from pocketbert.files import write_whole

PROTOBUF_LIMIT = 2**31 - 1  # bytes: an ONNX file with its weights inside cannot be larger


def read(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read a model with all its weights; external data must lie inside the model's folder and fit in 2 GiB."""
    path = Path(path)
    if not path.is_file():
        raise PassError(f"{path}: no such file; give the path of an .onnx file")
    if path.stat().st_size > PROTOBUF_LIMIT:
        raise PassError(f"{path}: larger than 2 GiB, which no ONNX file can be; export it again")
    try:
        model = onnx.load_model(path, load_external_data=False)
    except (DecodeError, ValueError, RuntimeError) as error:
        raise PassError(f"{path}: not an ONNX file, or cut short ({first_line(error)}); export it again") from error
    except OSError as error:
        raise PassError(f"{path}: cannot be read ({error.strerror})") from error
    if not model.HasField("graph") or not model.opset_import:
        raise PassError(f"{path}: holds no ONNX graph; give a model exported to ONNX")
    _check_names(model, path)
    if external_tensors(model):
        _check_external(model, path)
        try:
            load_external_data_for_model(model, str(path.parent))
        except Exception as error:
            raise PassError(f"{path}: external data cannot be read ({first_line(error)})") from error
    return model


def write(model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    """Write the model beside its final place, then rename: a reader sees the whole file or none."""
    path = Path(path)
    try:
        data = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise PassError(f"{path}: the model is larger than 2 GiB and cannot be one ONNX file") from error
    write_whole(path, data, PassError)


def external_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Initializers whose values lie in another file."""
    return [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]


def _check_names(model: onnx.ModelProto, path: Path) -> None:
    """protobuf lets names through that are not UTF-8, as bytes."""
    graph = model.graph
    named = [v.name for v in (*graph.input, *graph.output, *graph.value_info, *graph.initializer, *graph.node)]
    for name in (*named, *(name for node in graph.node for name in (*node.input, *node.output, node.op_type))):
        if not isinstance(name, str):
            raise PassError(f"{path}: the name {name!r} is not UTF-8; export the model again with names that are")


def _check_external(model: onnx.ModelProto, path: Path) -> None:
    folder = path.parent.resolve()
    total = 0
    for tensor in external_tensors(model):
        try:
            info = ExternalDataInfo(tensor)
            file = (folder / info.location).resolve()
            file.exists()
        except (OSError, ValueError) as error:  # a negative length, a name that no file can have
            raise PassError(f"{path}: tensor {tensor.name!r} points at no file ({first_line(error)})") from error
        if not file.is_relative_to(folder):
            raise PassError(
                f"{path}: tensor {tensor.name!r} points at {info.location!r}, outside the model's folder; "
                "move the data beside the model and correct the location"
            )
        if not file.is_file():
            raise PassError(f"{path}: tensor {tensor.name!r} needs the file {info.location!r}, which is not there")
        total += info.length or file.stat().st_size
    if total > PROTOBUF_LIMIT:
        raise PassError(f"{path}: {total / 2**30:.1f} GiB of external data; these passes handle models up to 2 GiB")
