"""A library's verification: right on this machine, and whatever a runner hands back that is not, in one line."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compile.artifact.manifest import Manifest
from compile.errors import CompileError
from compile.pipeline import BuildOptions, build_library
from compile.running import verify as verifying
from compile.running.runners.base import Device, Execution, RunFailed, Runner
from compile.running.runners.local import LocalRunner
from compile.running.samples import random_samples, read_outputs
from compile.running.verify import reference, verify
from compile.targets import Target, find_target
from passes.fix_shapes import fix_shapes


class Spoiler(Runner):
    """Runs on this machine, and hands back what `spoil` makes of the outputs' bytes."""

    def __init__(self, spoil: Callable[[bytes], bytes]) -> None:
        self.spoil, self.local = spoil, LocalRunner()

    def execute(self, *arguments: Any) -> Execution:
        result = self.local.execute(*arguments)
        return Execution(result.samples_ms, self.spoil(result.outputs), Device("a spoiler", (0,)))

    def close(self) -> None:
        self.local.close()


def changed(index: int, value: float) -> Callable[[bytes], bytes]:
    def spoil(data: bytes) -> bytes:
        array = np.frombuffer(data, np.float32).copy()
        array[index] = value
        return array.tobytes()

    return spoil


def test_what_a_machine_lacks_to_run_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "runs_here", lambda target: target.name == "x86_64-linux")
    for runner in ("qemu", "wine", "node"):
        monkeypatch.setattr(getattr(verifying, runner), "missing", lambda *arch, runner=runner: f"{runner} {arch}")
    for name, lacking in (
        ("x86_64-linux", None), ("arm64-android", "qemu ('aarch64',)"), ("wasm32", "node ()"),
        ("x86_64-windows", "wine ()"), ("arm64-windows", "a machine with"),
        ("arm64-ios", "a machine with"), ("arm64-macos", "a machine with"),
    ):  # fmt: skip
        said = verifying.can_run(find_target(name))
        assert said == lacking or (lacking and said and said.startswith(lacking)), name


def test_library_of_this_machine(mobilebert_library: Path, mobilebert: Path) -> None:
    (result,) = verify(mobilebert_library, onnx.load(mobilebert))
    assert result.passed
    assert result.samples == 3
    assert 0 < result.error <= 1e-5
    assert result.where


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e3])
@pytest.mark.parametrize("index", [0, -1])
def test_one_wrong_number_is_enough(value: float, index: int, mobilebert_library: Path, mobilebert: Path) -> None:
    with Spoiler(changed(index, value)) as runner, pytest.raises(CompileError) as caught:
        verify(mobilebert_library, onnx.load(mobilebert), runner, samples=1)
    assert "verification failed on a spoiler: error" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("size", "refused"), [(1, False), (3, False), (400, True)])
def test_noise_of_few_numbers_is_chance_and_of_many_a_defect(
    size: int, refused: bool, mobilebert_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's is twice its referee's."""
    rng = np.random.default_rng(size)
    exact = [{"scores": rng.standard_normal((1, size)).astype(np.float32)} for _ in range(3)]
    near, far = ([{"scores": e["scores"] + np.float32(d)} for e in exact] for d in (1e-3, 2e-3))
    runner, manifest = LocalRunner(), Manifest.read(mobilebert_library)
    monkeypatch.setattr(runner, "outputs", lambda *_: (far, "a device"))
    referee = verifying._Referee("the referee", near, 1e-2, exact, texts=3)
    with pytest.raises(CompileError, match="a device: outputs are") if refused else nullcontext():
        result = verifying._compare(runner, mobilebert_library, manifest, [{}] * 3, referee)
        assert result.snr_db < 60
    runner.close()


def test_crash_and_missing_bytes_are_failures_of_the_library(mobilebert_library: Path, mobilebert: Path) -> None:
    def crash(_: bytes) -> bytes:
        raise RunFailed("crashed with signal 11")

    for spoil, words in ((crash, "crashed with signal 11"), (lambda data: data[:-4], "bytes of outputs came back")):
        with Spoiler(spoil) as runner, pytest.raises(CompileError, match=f"verification failed: .*{words}"):
            verify(mobilebert_library, onnx.load(mobilebert), runner, samples=1)


def test_library_that_kills_its_process_kills_no_more(mobilebert_library: Path, mobilebert: Path) -> None:
    with LocalRunner(program=Path("/bin/false")) as runner, pytest.raises(CompileError, match="verification failed"):
        verify(mobilebert_library, onnx.load(mobilebert), runner, samples=1)


def test_reference_is_onnx_runtimes_by_name_and_outputs_are_read_in_order(
    mobilebert_library: Path, mobilebert: Path
) -> None:
    from compile.running.load import read_manifest

    facts = read_manifest(mobilebert_library)
    (sample,) = random_samples(facts, 1)
    (wanted,) = reference(onnx.load(mobilebert), [sample])
    assert list(wanted) == [entry.name for entry in facts.outputs]
    data = b"".join(array.tobytes() for array in wanted.values())
    assert all(np.array_equal(got, wanted[name]) for name, got in read_outputs(facts, data).items())


def open_length(graph: type) -> onnx.ModelProto:
    b = graph()
    ids = b.input("input_ids", ["batch", "tokens"], onnx.TensorProto.INT64)
    return b.model(b("Tanh", b.linear(b("Gather", b.normal(9, 6), ids), 6, 5)))


def test_shorter_lengths_are_compared_where_the_file_has_them(graph: type, host: Target, tmp_path: Path) -> None:
    model = open_length(graph)
    fixed = fix_shapes(model, {"input_ids": [1, 8]})
    for name, file, lengths in (("open", model, (1, 4)), ("fixed", fixed, ())):
        built = build_library(file, "case", host, tmp_path / name, BuildOptions(seq_len=8, verify=True))
        (check,) = built.manifest.verification
        assert (check.lengths, check.samples) == (lengths, 3 + len(lengths))


def test_a_library_that_is_wrong_at_a_shorter_length_alone_is_not_handed_out(
    graph: type, host: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = LocalRunner.execute

    def spoilt(runner: LocalRunner, library: Path, facts: Any, *rest: Any) -> Execution:
        result = execute(runner, library, facts, *rest)
        short = facts.inputs[0].shape[1] == 4
        return replace(result, outputs=changed(-1, 9.0)(result.outputs)) if short else result

    monkeypatch.setattr(LocalRunner, "execute", spoilt)
    with pytest.raises(CompileError, match="verification failed"):
        build_library(open_length(graph), "case", host, tmp_path / "a", BuildOptions(seq_len=8, verify=True))
    assert not (tmp_path / "a").exists()
