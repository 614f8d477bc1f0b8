"""To ONNX: standard `ai.onnx` operators, static shapes where they are asked for, names that are the module's own.

The tracing exporter writes a graph whose node names are module paths, in seconds. What it leaves untidy is put right
here: names for the weights it transposed, reshapes without shape arithmetic, every constant an initializer.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pocketbert.files import files_written_whole

from .errors import ModelError

if TYPE_CHECKING:
    import onnx_ir as ir

    from .heads import Model

OPSET = 20  # the first with Gelu as one operator
EXTERNAL_DATA_ABOVE = 1_900_000_000  # bytes of weights; a protobuf file ends at 2 GiB


def export(
    model: Model, path: str | Path, *, seq_len: int | Literal["dynamic"] = 128, batch: int | Literal["dynamic"] = 1
) -> Path:
    """Write `model` to an ONNX file and return its path; the same weights give the same bytes.

    Inputs are `model.config.input_names`, int64 (batch, seq_len), with axes named "batch" and "sequence" where they are
    dynamic; outputs are `model.output_names`, float32. Weights over 1.9 GB go to `<path>.data` beside the file.
    Raises `ModelError` for a length over the position table or a file that cannot be written.
    """
    path = Path(path)
    for name, value in (("seq_len", seq_len), ("batch", batch)):
        if value != "dynamic" and (not isinstance(value, int) or value < 1):
            raise ModelError(f"{name} is {value!r}: give a positive number or 'dynamic'")
    if seq_len != "dynamic":
        model.config.check_length("sequence length", seq_len)
    shapes = _shapes(model, "sequence" if seq_len == "dynamic" else seq_len, "batch" if batch == "dynamic" else batch)
    with files_written_whole(path.parent, ModelError) as folder, tempfile.TemporaryDirectory(dir=folder) as traced:
        _trace(model, Path(traced) / "m.onnx", shapes)
        _finish(Path(traced) / "m.onnx", folder / path.name, shapes)
    return path


def _shapes(model: Model, seq_len: int | str, batch: int | str) -> dict[str, list[int | str]]:
    """The shapes of inputs and outputs by name; a dynamic axis is its name."""
    import torch

    shapes: dict[str, list[int | str]] = {name: [batch, seq_len] for name in model.config.input_names}
    with torch.no_grad():
        smallest = model(torch.zeros(1, 1, dtype=torch.int64, device=next(model.parameters()).device))
    for name, value in smallest.items():
        whole = name == "logits" and model.head_name == "sequence-classification"
        lead = (
            [batch]
            if whole or name in ("pooler_output", "seq_relationship_logits", "sentence_embedding")
            else [batch, seq_len]
        )
        shapes[name] = [*lead, *value.shape[len(lead) :]]
    return shapes


def _trace(model: Model, path: Path, shapes: dict[str, list[int | str]]) -> None:
    import torch

    class Traced(torch.nn.Module):  # encoder and head at the top, so that names begin with them; a tuple of outputs
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head, self.sentence = model.encoder, model.head, model.sentence

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None = None) -> Any:
            return model.outputs(self.encoder(ids, mask, types), mask)

    example = [size if isinstance(size, int) else 2 for size in shapes["input_ids"]]
    ids = torch.zeros(example, dtype=torch.int64, device=next(model.parameters()).device)  # in every table
    training = model.training
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is deprecated in favour of one that takes eight times as long
        torch.onnx.export(
            Traced().eval(),
            tuple(torch.ones_like(ids) if "mask" in name else ids for name in model.config.input_names),
            str(path),
            input_names=model.config.input_names,
            output_names=model.output_names,
            dynamic_axes={
                name: {i: size for i, size in enumerate(shape) if isinstance(size, str)}
                for name, shape in shapes.items()
            },
            opset_version=OPSET,
            dynamo=False,
        )
    model.train(training)


def _finish(traced: Path, path: Path, shapes: dict[str, list[int | str]]) -> None:
    import onnx
    import onnx_ir as ir
    from onnx_ir.passes import common

    exported = ir.load(traced)
    exported.producer_name, exported.producer_version = "pocketbert", ""
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(exported)
    for node in exported.graph:
        if node.op_type == "Reshape":
            _reshape_by_constant(exported.graph, node)
        _name_weights(exported.graph, node)
    common.RemoveUnusedNodesPass()(exported)
    for output in exported.graph.outputs:
        output.shape = ir.Shape(shapes[output.name or ""])
    size = sum(value.const_value.nbytes for value in exported.graph.initializers.values() if value.const_value)
    ir.save(exported, path, external_data=f"{path.name}.data" if size > EXTERNAL_DATA_ABOVE else None)
    onnx.checker.check_model(str(path), full_check=True)


def _name_weights(graph: ir.Graph, node: ir.Node) -> None:
    """Name the weights that were transposed (or, for positions, cut to length) after the module they came from."""
    module = (node.name or "").strip("/").rpartition("/")[0].replace("/", ".")
    for index, value in enumerate(node.inputs):
        if value is None or not (value.name or "").startswith("onnx::"):
            continue
        graph.initializers.pop(value.name or "")
        if node.op_type == "MatMul":
            value.name = f"{module}.weight.T"
        elif node.op_type == "Add" and module.endswith("embeddings"):
            value.name = f"{module}.position.weight"
        else:
            value.name = f"{node.name}/input_{index}"
        graph.register_initializer(value)


def _reshape_by_constant(graph: ir.Graph, node: ir.Node) -> None:
    """Replace a computed shape by a constant: x.view(x.shape[0], x.shape[1], …) is Reshape to [0, 0, …] in ONNX."""
    import numpy as np
    import onnx_ir as ir

    data, shape = node.inputs
    concat = shape.producer() if shape is not None else None
    if data is None or concat is None or concat.op_type != "Concat":
        return
    dims = []
    for position, part in enumerate(concat.inputs):
        if part is None:
            return
        if part.const_value is not None:
            dims += [int(d) for d in part.const_value.numpy()]
        elif _is_dim_of(part, data, position):
            dims.append(0)
        else:
            return
    constant = ir.Value(name=f"{node.name}/shape", const_value=ir.tensor(np.array(dims, dtype=np.int64)))
    graph.register_initializer(constant)
    node.replace_input_with(1, constant)


def _is_dim_of(part: ir.Value, data: ir.Value, position: int) -> bool:
    """Whether `part` is Unsqueeze(Gather(Shape(data), position))."""
    chain = []
    for op in ("Unsqueeze", "Gather", "Shape"):
        node = part.producer()
        if node is None or node.op_type != op or node.inputs[0] is None:
            return False
        chain.append(node)
        part = node.inputs[0]
    index = chain[1].inputs[1]
    constant = index.const_value if index is not None else None
    return part is data and constant is not None and constant.numpy() == position
