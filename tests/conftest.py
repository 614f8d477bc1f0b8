"""Shared by all tests: small models, artifacts that are built once a session, and the reasons for skipping."""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial, wraps
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.kept import keep, keep_kernels

SMALL = {"num_hidden_layers": 2, "vocab_size": 1000, "max_position_embeddings": 160}
NARROW = {"hidden_size": 192, "embedding_size": 192, "intermediate_size": 768, "num_attention_heads": 6}
# Two layers of each architecture, narrower where it is wide.
REDUCED = {
    "mobilebert": SMALL,
    "mobilebert-tiny": SMALL,
    "mobilebert-without-opt": SMALL,
    "bert-base": SMALL | NARROW,
    "distilbert-6l": SMALL | NARROW,
    "tinybert": SMALL,
}


@pytest.fixture(scope="session")
def randomized() -> Callable[..., Any]:
    """randomized(config or preset, head, seed): a model in which nothing is 1, 0 or uniform that could hide a mistake.

    Norms and biases are random, and queries and keys large enough for attention to prefer some tokens to others.
    """
    import torch

    import model

    @torch.no_grad()
    def make(config: Any, head: str = "none", seed: int = 0) -> Any:
        module = model.create(config, head, seed)
        model.randomize_norms(module, seed)
        for name, parameter in module.named_parameters():
            if name.endswith(("query.weight", "key.weight")):
                parameter.mul_(4.0)
        return module

    return make


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, randomized: Callable) -> Callable[..., Path]:
    """exported(preset, head, seed, seq_len, full): the preset as an ONNX file, two layers unless `full`."""
    import model

    files: dict[Any, Path] = {}

    def make(preset: str, head: str = "none", seed: int = 0, seq_len: int = 128, full: bool = False) -> Path:
        key = (preset, head, seed, seq_len, full)
        if key not in files:
            config = model.PRESETS[preset] if full else replace(model.PRESETS[preset], **REDUCED[preset])
            path = tmp_path_factory.mktemp("onnx") / f"{preset}.onnx"
            files[key] = model.export(randomized(config, head, seed), path, seq_len=seq_len, batch=1)
        return files[key]

    return make


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """compiled(onnx file, target, cpu): its artifact folder, built once a session."""
    import compile

    folders: dict[Any, Path] = {}

    def make(path: Path, target: str = "host", cpu: str | None = None, seq_len: int = 128) -> Path:
        key = (path, target, cpu)
        if key not in folders:
            out = tmp_path_factory.mktemp("artifact") / path.stem
            folders[key] = compile.build(path, target=target, cpu=cpu, seq_len=seq_len, out=out).folder
        return folders[key]

    return make


@pytest.fixture(scope="session")
def samples_and_answers() -> Callable[..., tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]]:
    """Random padded inputs for an artifact, and what ONNX Runtime makes of them with the exported model."""
    import onnx

    from compile.running.load import read_manifest
    from compile.running.samples import random_samples
    from compile.running.verify import reference

    def make(path: Path, artifact: Path, count: int = 5, seed: int = 0) -> Any:
        samples = random_samples(read_manifest(artifact), count, seed)
        return samples, reference(onnx.load(path), samples)

    return make


@pytest.fixture(scope="session")
def mobilebert(exported: Callable) -> Path:
    """Two layers of MobileBERT as an ONNX file."""
    return exported("mobilebert")


@pytest.fixture(scope="session")
def mobilebert_library(mobilebert: Path, compiled: Callable) -> Path:
    """Two layers of MobileBERT, compiled for this machine."""
    return compiled(mobilebert)


@pytest.fixture(scope="session")
def mobilebert_android(mobilebert: Path, compiled: Callable) -> Path:
    """Two layers of MobileBERT, compiled for every arm64 phone."""
    return compiled(mobilebert, "arm64-android")


@pytest.fixture(autouse=True)
def _no_ndk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests link with zig wherever they run; what an NDK changes has a test of its own."""
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)


@pytest.fixture(autouse=True, scope="session")
def _zig_keeps_what_it_built(pytestconfig: pytest.Config) -> None:
    """Its libc and C++ library for each target, seconds to a minute of work, are built once and kept between runs."""
    os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(pytestconfig.cache.mkdir("zig")))


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Where object files are kept for all processes of this run."""
    base = tmp_path_factory.getbasetemp()
    return (base if worker_id == "master" else base.parent) / "objects"


@pytest.fixture(autouse=True, scope="session")
def _runtime_is_compiled_once(objects: Path) -> Iterator[None]:
    """A source of the runtime is not compiled again from the same bytes by the same command."""
    from compile.linking import link

    compile_source = link._compile_source

    def once(toolchain: Any, target: Any, work: Path, source: Path, name: str) -> Path:
        make = partial(compile_source, toolchain, target, work, source, name)
        if source.parent != link.SRC:  # a generated one
            return make()
        headers = sorted((path.name, path.read_bytes()) for path in work.glob("*.h"))
        output = work / f"{source.stem}.o"
        keep(objects, (toolchain, target, source, name, headers, link.WARNINGS), output, make)
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(link, "_compile_source", once)
        yield


@pytest.fixture(autouse=True)
def _kernels_are_compiled_once(objects: Path) -> None:
    """From when a test has imported what compiles them, which takes seconds."""
    pipeline = sys.modules.get("compile.pipeline")
    if pipeline is not None and not hasattr(pipeline.compile_kernels, "__wrapped__"):
        pipeline.compile_kernels = keep_kernels(pipeline.compile_kernels, objects)


@dataclass
class SubprocessLimit:
    """Seconds that any process of a test may take where the test states no limit: less than pytest's own for a test."""

    seconds: float = 600.0


@pytest.fixture(autouse=True, scope="session")
def subprocess_limit() -> Iterator[SubprocessLimit]:
    """No test waits for ever: `subprocess.run` kills what takes too long, `wait` and `communicate` raise."""
    limit = SubprocessLimit()

    def limited(method: Callable) -> Callable:
        parameters = signature(method)

        @wraps(method)
        def call(*args: Any, **named: Any) -> Any:
            given = parameters.bind(*args, **named).arguments
            return method(**given | {"timeout": limit.seconds if given.get("timeout") is None else given["timeout"]})

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("wait", "communicate"):
            patch.setattr(subprocess.Popen, name, limited(getattr(subprocess.Popen, name)))
        yield limit


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--level", metavar="CPU", help="what --target host means, as x86-64-v3 (default: the best here)")


def pytest_configure(config: pytest.Config) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # each core has a process of tests already; training chooses no number then
    if level := config.getoption("--level"):
        from compile import targets
        from compile.cpus import CPUS

        flags = targets.host_cpu_flags() & set(CPUS[level].required)
        targets.host_cpu_flags = lambda: flags  # type: ignore[assignment]


def running_marker(item: pytest.Item) -> Path:
    """A file that is there while `item` runs, in whichever process."""
    run = getattr(item.config, "workerinput", {}).get("testrunuid", os.getpid())
    name = hashlib.sha256(item.nodeid.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"pocketbert-test-{run}-{name}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """xdist gives a test that crashed its process, or hung and was ended with it, to the next process: not again."""
    try:
        running_marker(item).touch(exist_ok=False)
    except FileExistsError:
        pytest.fail("it crashed the process that ran it before, or hung", pytrace=False)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    running_marker(item).unlink(missing_ok=True)


@pytest.fixture(autouse=True, scope="session")
def _hangups_end_programs() -> None:
    """Also where nohup started the tests: what they start takes over what is ignored here."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
