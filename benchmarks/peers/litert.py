"""LiteRT with XNNPACK, the papers' own runtime, on what litert-torch makes of the exported program."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("ai-edge-litert", "litert-torch")


def convert(source: Path) -> Path:
    import litert_torch
    import torch

    program = torch.export.load(source)
    arguments, _ = program.example_inputs
    target = source.with_suffix(".tflite")
    litert_torch.convert(program.module(), arguments).export(str(target))
    return target


def prepare(file: Path, sample: dict[str, Any], threads: int) -> Callable[[], list[Any]]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file), num_threads=threads)
    interpreter.allocate_tensors()
    # The converter keeps the order of the program's arguments and calls them args_0, args_1, ...
    places = sorted(interpreter.get_input_details(), key=lambda entry: entry["name"])
    # It also narrows int64 to int32. What has that type is taken as it is: its owner may change it between runs.
    arrays = [array.astype(place["dtype"], copy=False) for place, array in zip(places, sample.values(), strict=True)]
    outputs = [entry["index"] for entry in interpreter.get_output_details()]

    def infer() -> list[Any]:
        for place, array in zip(places, arrays, strict=True):
            interpreter.set_tensor(place["index"], array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return infer
