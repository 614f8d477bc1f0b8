"""ExecuTorch with its XNNPACK partitioner, on the exported program."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("executorch",)


def convert(source: Path) -> Path:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(torch.export.load(source), partitioner=[XnnpackPartitioner()])
    target = source.with_suffix(".pte")
    target.write_bytes(lowered.to_executorch().buffer)
    return target


def prepare(file: Path, sample: dict[str, Any], threads: int) -> Callable[[], list[Any]]:
    import torch
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    _unsafe_reset_threadpool(threads)
    method = Runtime.get().load_program(file).load_method("forward")
    inputs = [torch.from_numpy(array) for array in sample.values()]
    return lambda: method.execute(inputs)
