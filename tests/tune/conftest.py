"""A model of one linear layer, and a stand-in for adb."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

FAKE_ADB = Path(__file__).with_name("fake_adb.py")


@pytest.fixture(scope="session")
def linear_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """relu(x W + b), x (1, 24, 64), W (64, 48)."""
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((64, 48)) / 8, "b": rng.standard_normal(48)}
    weights = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"], name="product"),
        helper.make_node("Add", ["xw", "b"], ["sum"], name="bias"),
        helper.make_node("Relu", ["sum"], ["y"], name="activation"),
    ]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 24, c]) for n, c in (("x", 64), ("y", 48))]
    graph = helper.make_graph(nodes, "linear", infos[:1], infos[1:], weights)
    path = tmp_path_factory.mktemp("onnx") / "linear.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture(scope="session")
def linear_library(linear_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """linear_library(target, cpu): the model's artifact folder."""
    import compile

    folders: dict[Any, Path] = {}

    def make(target: str, cpu: str | None = None) -> Path:
        if (target, cpu) not in folders:
            out = tmp_path_factory.mktemp("artifact") / target
            built = compile.build(linear_model, target=target, cpu=cpu, seq_len=24, out=out, db="none")
            folders[target, cpu] = built.folder
        return folders[target, cpu]

    return make


@pytest.fixture(scope="session")
def local_runner(linear_library: Callable[[str], Path]) -> Any:
    """A runner on this machine whose program is built."""
    from compile.errors import CompileError
    from compile.running.runners.local import LocalRunner
    from compile.targets import host_target

    try:
        host_target()
    except CompileError as error:
        pytest.skip(str(error))
    runner = LocalRunner()
    runner.measure(linear_library("host"), runs=1)
    return runner


@pytest.fixture
def agrees(linear_model: Path) -> Callable[..., bool]:
    """agrees(sample, outputs): whether ONNX Runtime makes the same of the sample."""
    from compile.running.verify import reference
    from pocketbert.numerics import relative_error

    def check(sample: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> bool:
        (wanted,) = reference(onnx.load(linear_model), [sample])
        return relative_error(outputs, wanted) < 1e-5

    return check


@pytest.fixture
def fake_adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `adb` on the path; its devices are the folders in the path that is returned (see fake_adb.py)."""
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("needs qemu-aarch64 (Debian package qemu-user)")
    programs, devices = tmp_path / "bin", tmp_path / "devices"
    programs.mkdir()
    devices.mkdir()
    shutil.copy(FAKE_ADB, programs / "adb")
    (programs / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_ADB_DEVICES", str(devices))
    return devices
