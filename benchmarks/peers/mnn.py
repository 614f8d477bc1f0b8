"""MNN on what its converter makes of the ONNX file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("MNN",)


def convert(source: Path) -> Path:
    # What its command line calls, which then reports to the maker's server.
    import _tools

    target = source.with_suffix(".mnn")
    options = ["-f", "ONNX", "--bizCode", "MNN", "--modelFile", str(source), "--MNNModel", str(target)]
    _tools.mnnconvert(["mnnconvert", *options])
    if not target.exists():
        raise RuntimeError("MNN's converter left no file")
    return target


def prepare(file: Path, sample: dict[str, Any], threads: int) -> Callable[[], list[Any]]:
    import MNN
    import numpy as np

    manager = MNN.nn.create_runtime_manager(({"backend": "CPU", "numThread": threads, "precision": "high"},))
    outputs = ["last_hidden_state", "pooler_output"]
    net = MNN.nn.load_module_from_file(str(file), list(sample), outputs, runtime_manager=manager)
    inputs = [MNN.expr.placeholder(list(a.shape), MNN.expr.NCHW, MNN.expr.int) for a in sample.values()]
    for place, array in zip(inputs, sample.values(), strict=True):
        place.write(array.astype(np.int32))

    def infer() -> list[Any]:
        return [variable.read() for variable in net.forward(inputs)]

    return infer
