"""`compile.load` and `Library.run`: what is wrong with an input or an artifact is said in one line."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compile
from compile import targets
from compile.artifact.manifest import seal
from compile.cpus import CPUS


@pytest.fixture
def library(mobilebert_library: Path) -> Iterator[Any]:
    with compile.load(mobilebert_library, threads=1) as opened:
        yield opened


def valid(changes: dict[str, Any]) -> dict[str, Any]:
    base = {name: np.zeros((1, 128), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    return {name: array for name, array in (base | changes).items() if array is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_ids": np.full((1, 128), 1000)}, "outside its table"),
        ({"input_ids": np.zeros((1, 127), np.int64)}, "shape"),
        ({"input_ids": np.zeros((128,), np.int64)}, "shape"),
        ({"input_ids": np.zeros((1, 128), np.float32)}, "type"),
        ({"input_ids": np.array([["a"] * 128])}, "type"),
        ({"input_ids": None}, "input_ids.* missing"),
        ({"positions": np.zeros(3)}, "no input 'positions'"),
    ],
)
def test_wrong_input_in_python(changes: dict, words: str, library: Any) -> None:
    with pytest.raises(compile.CompileError, match=words):
        library.run(valid(changes))


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint16, bool])
def test_other_integers_are_converted_in_python(dtype: type, library: Any) -> None:
    ones = np.ones((1, 128))
    wanted, got = (library.run(valid({"attention_mask": ones.astype(t)})) for t in (np.int64, dtype))
    assert all(np.array_equal(wanted[name], got[name]) for name in wanted)


def test_closed_model_in_python(library: Any) -> None:
    library.close()
    library.close()
    with pytest.raises(compile.CompileError, match="closed"):
        library.run(valid({}))
    with pytest.raises(compile.CompileError, match="closed"):
        library.run_into(list(valid({}).values()), [np.empty((1, 128, 512), "f4"), np.empty((1, 512), "f4")])
    with pytest.raises(compile.CompileError, match="closed"):
        library.run_text("a")


class Index:
    """A whole number that is no int."""

    def __index__(self) -> int:
        return 1


WRONG_NUMBERS = [-1, 2**31, 2**32, 2**32 + 1, 2**33 + 1, 2**64 + 1, -(2**32) + 1, 1.5, "1", None, np.float32(1)]


@pytest.mark.parametrize("number", WRONG_NUMBERS)
def test_number_that_c_would_cut_off(number: Any, library: Any, mobilebert_library: Path) -> None:
    """Every entry point that takes one, and the array of a model whose ids are int32."""
    from compile.artifact.manifest import Tensor
    from compile.running.arrays import converted

    calls = {
        "threads": lambda: compile.load(mobilebert_library, threads=number),
        "max_tokens": lambda: library.tokenize("a", max_tokens=number),
        "piece": lambda: library.token(number),
        "input 'ids'": lambda: converted(np.array([0, number]), Tensor("ids", (2,), "int32")),
    }
    if number is None:
        del calls["max_tokens"]  # the model's own
    if number == -1:
        del calls["max_tokens"], calls["input 'ids'"]  # C says that there is no room; -1 is an int32
    for name, call in calls.items():
        with pytest.raises(compile.CompileError, match=name):
            call()


@pytest.mark.parametrize("one", [1, np.int8(1), np.uint64(1), True, Index()])
def test_every_kind_of_whole_number_will_do(one: Any, mobilebert_library: Path) -> None:
    with compile.load(mobilebert_library, threads=one) as library:
        library.run(valid({}))


def test_numbers_that_do_not_fit_an_input_are_refused_and_not_wrapped(library: Any) -> None:
    for wrong in (2**63, 2**64 - 1):
        with pytest.raises(compile.CompileError, match=f"'attention_mask' is {wrong}"):
            library.run(valid({"attention_mask": np.full((1, 128), wrong, np.uint64)}))
    library.run(valid({"attention_mask": np.full((1, 128), 1, np.uint64)}))


@pytest.mark.parametrize("tokens", [0, 129])
def test_no_tokens_or_too_many(tokens: int, library: Any) -> None:
    with pytest.raises(compile.CompileError, match="shape"):
        library.run({name: np.zeros((1, tokens), np.int64) for name in valid({})})
    inputs = [np.zeros((1, tokens), np.int64) for _ in valid({})]
    outputs = [np.zeros((1, tokens, 512), np.float32), np.zeros((1, 512), np.float32)]
    with pytest.raises(compile.CompileError, match="shape"):
        library.run_into(inputs, outputs)


@pytest.mark.parametrize("text", [None, 7, bytearray(b"a"), ["a"]])
def test_text_that_is_none(text: Any, library: Any) -> None:
    for call in (library.run_text, library.tokenize):
        with pytest.raises(compile.CompileError, match=f"text is of type {type(text).__name__}: give str"):
            call(text)
        if text is not None:
            with pytest.raises(compile.CompileError, match=f"pair is of type {type(text).__name__}: give str"):
                call("a", text)


class Arrays:
    """Inputs and outputs for `run_into`, and what belongs into the outputs."""

    def __init__(self, library: Any) -> None:
        rng = np.random.default_rng(0)
        self.inputs = [rng.integers(0, 2, (1, 128)) for _ in range(3)]
        names = ("input_ids", "attention_mask", "token_type_ids")
        self.wanted = list(library.run(dict(zip(names, self.inputs, strict=True))).values())
        self.outputs = [np.full_like(array, np.nan) for array in self.wanted]

    def are_right(self) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(self.outputs, self.wanted, strict=True))


@pytest.fixture
def arrays(library: Any) -> Arrays:
    return Arrays(library)


def misaligned(array: np.ndarray) -> np.ndarray:
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
    copy = memory.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


LAYOUTS = {
    "reversed": lambda a: a[..., ::-1].copy()[..., ::-1],
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "broadcast": lambda a: np.broadcast_to(a[..., :1], a.shape),
    "misaligned": misaligned,
}


@pytest.mark.parametrize("layout", [*LAYOUTS, "other byte order", "read-only"])
def test_input_of_any_layout_gives_the_same(layout: str, library: Any, arrays: Arrays) -> None:
    if layout == "broadcast":
        arrays.inputs[1][...] = 1
        library.run_into(arrays.inputs, arrays.wanted)
    given = arrays.inputs[1]
    if layout == "other byte order":
        arrays.inputs[1] = given.astype(given.dtype.newbyteorder())
    elif layout == "read-only":
        given.flags.writeable = False
    else:
        arrays.inputs[1] = LAYOUTS[layout](given)
        assert not (arrays.inputs[1].flags.c_contiguous and arrays.inputs[1].flags.aligned)
    library.run_into(arrays.inputs, arrays.outputs)
    assert arrays.are_right()


@pytest.mark.parametrize("layout", [*LAYOUTS, "other byte order", "read-only", "list", "float64", "flat"])
@pytest.mark.parametrize("index", [0, 1])
def test_output_that_cannot_be_written_in_place(layout: str, index: int, library: Any, arrays: Arrays) -> None:
    """They would be written beyond their ends, or where nothing may be written."""
    output = arrays.outputs[index]
    changed: Any = {
        "other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
        "read-only": lambda a: a.view(),
        "list": lambda a: a.tolist(),
        "float64": lambda a: a.astype(np.float64),
        "flat": lambda a: a.reshape(-1),
        **LAYOUTS,
    }[layout](output)
    if layout == "read-only":
        changed.flags.writeable = False
    arrays.outputs[index] = changed
    name = library.manifest.outputs[index].name
    with pytest.raises(compile.CompileError, match=f"output '{name}'"):
        library.run_into(arrays.inputs, arrays.outputs)
    assert np.isnan(output).all()


class Wider(np.ndarray):
    """Says that it is as large as the model's output, and is not."""

    shape = (1, 128, 512)  # type: ignore[assignment]


def test_output_of_a_class_that_says_another_shape_than_it_has(library: Any, arrays: Arrays) -> None:
    place = next(i for i, output in enumerate(arrays.outputs) if output.shape == Wider.shape)
    arrays.outputs[place] = np.zeros((1, 1, 1), np.float32).view(Wider)
    with pytest.raises(compile.CompileError, match="another shape than the model's"):
        library.run_into(arrays.inputs, arrays.outputs)
    held = np.ma.masked_all_like(arrays.outputs[1 - place])
    arrays.outputs[place] = np.zeros(Wider.shape, np.float32)
    arrays.outputs[1 - place] = held  # a mask hides what is written, and does not keep it out
    library.run_into(arrays.inputs, arrays.outputs)
    assert np.array_equal(held.data, arrays.wanted[1 - place])


def test_wrong_number_of_arrays(library: Any, arrays: Arrays) -> None:
    for inputs, outputs in ((arrays.inputs[:2], arrays.outputs), (arrays.inputs, [*arrays.outputs, *arrays.outputs])):
        with pytest.raises(compile.CompileError, match="the model has"):
            library.run_into(inputs, outputs)


def test_output_over_an_input_or_another_output(library: Any, arrays: Arrays) -> None:
    memory = np.zeros(128 * 512 * 4 + 128 * 8, np.uint8)
    ids = memory[-128 * 8 :].view(np.int64).reshape(1, 128)
    hidden = memory[: 128 * 512 * 4].view(np.float32).reshape(1, 128, 512)
    ids[...] = arrays.inputs[0]
    inputs = [ids, *arrays.inputs[1:]]
    library.run_into(inputs, [hidden, arrays.outputs[1]])  # side by side
    overlapping = memory[4 : 4 + 128 * 512 * 4].view(np.float32).reshape(1, 128, 512)
    for outputs in ([overlapping, arrays.outputs[1]], [hidden, hidden[:, 5]]):
        with pytest.raises(compile.CompileError, match="shares memory"):
            library.run_into(inputs, outputs)
    library.run_into([ids, ids, ids], [hidden, arrays.outputs[1]])  # inputs may


def test_threads_wait_for_each_other(mobilebert_library: Path) -> None:
    results: list[Any] = []
    with compile.load(mobilebert_library, threads=1) as library:
        wanted = library.run(valid({}))

        def call() -> None:
            for _ in range(25):
                results.append(library.run(valid({})))

        workers = [threading.Thread(target=call) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert len(results) == 200
    assert all(np.array_equal(got[name], wanted[name]) for got in results for name in wanted)


def run_until_refused(library: Any, errors: list[str], started: threading.Event) -> None:
    try:
        while True:
            library.run(valid({}))
            started.set()
    except compile.CompileError as error:
        errors.append(str(error))


def test_close_while_other_threads_run(mobilebert_library: Path) -> None:
    for _ in range(10):
        library, errors, started = compile.load(mobilebert_library, threads=2), list[str](), threading.Event()
        workers = [threading.Thread(target=run_until_refused, args=(library, errors, started)) for _ in range(4)]
        closers = [threading.Thread(target=library.close) for _ in range(2)]
        for worker in workers:
            worker.start()
        started.wait()
        for closer in closers:
            closer.start()
        for thread in (*closers, *workers):
            thread.join()
        assert ["closed" in error for error in errors] == [True] * 4


def test_child_of_a_fork_is_told_so_and_loads_its_own(mobilebert_library: Path) -> None:
    """While another thread is in a run, and so has the lock."""
    program = f"""
import os, threading, numpy, compile
folder, stop = {str(mobilebert_library)!r}, threading.Event()
given = {{name: numpy.zeros((1, 128), numpy.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}}
library = compile.load(folder, threads=2)
runner = threading.Thread(target=lambda: [library.run(given) for _ in iter(stop.is_set, True)])
runner.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        try:
            for call in (lambda: library.run(given), lambda: library.run_text("a"), library.profile):
                try:
                    call()
                except compile.CompileError as error:
                    assert "fork" in str(error)
                else:
                    os._exit(3)
            with compile.load(folder, threads=2) as own:
                own.run(given)
            library.close()
            library.close()
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(4)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
runner.join()
library.run(given)
print("done")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


def test_models_are_freed_with_their_object(mobilebert_library: Path) -> None:
    library = compile.load(mobilebert_library, threads=4)
    threads = len(list(Path("/proc/self/task").iterdir()))
    del library
    assert len(list(Path("/proc/self/task").iterdir())) == threads - 3


@pytest.fixture
def artifact(mobilebert_library: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(mobilebert_library, tmp_path / "artifact")


def rejected(artifact: Path, *words: str) -> None:
    with pytest.raises(compile.CompileError) as caught:
        compile.load(artifact)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def edit(artifact: Path, **changes: Any) -> None:
    """A manifest that says something else, and is whole."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    (artifact / "manifest.json").write_text(seal(manifest | changes))


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_truncated_library(kept: float, artifact: Path) -> None:
    library = artifact / "libmobilebert.so"
    data = library.read_bytes()
    library.write_bytes(data[: int(len(data) * kept)])
    rejected(artifact, "libmobilebert.so", "is damaged", f"{len(data)} bytes", "build it again")


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.99])
def test_library_with_one_bit_flipped(place: float, artifact: Path) -> None:
    library = artifact / "libmobilebert.so"
    data = bytearray(library.read_bytes())
    data[int(len(data) * place)] ^= 1
    library.write_bytes(data)
    rejected(artifact, "sha256")


def test_opening_reads_no_more_than_it_is_asked_to(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[object] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: (hashed.append(file), digest(file, kind))[1])
    compile.load(artifact, verify=False).close()
    assert not hashed
    compile.load(artifact).close()
    assert len(hashed) == 1


def test_library_that_is_not_there(artifact: Path) -> None:
    (artifact / "libmobilebert.so").unlink()
    rejected(artifact, "libmobilebert.so", "missing")


def test_folder_without_manifest(tmp_path: Path) -> None:
    rejected(tmp_path / "nowhere", "manifest.json", "cannot read")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 999}', "\x00\xff"])
def test_damaged_manifest(text: str, artifact: Path) -> None:
    (artifact / "manifest.json").write_text(text)
    rejected(artifact, "manifest.json", "again")


def test_manifest_that_is_not_text(artifact: Path) -> None:
    (artifact / "manifest.json").write_bytes(b"\xff\xfe\x00\x80")
    rejected(artifact, "manifest.json", "again")


@pytest.mark.parametrize("key", ["name", "library", "target", "cpu", "sha256", "inputs", "outputs", "tokens"])
def test_manifest_without_a_key(key: str, artifact: Path) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    del manifest[key]
    (artifact / "manifest.json").write_text(seal(manifest))
    rejected(artifact, "manifest.json", key)


@pytest.mark.parametrize("seed", range(4))
def test_manifest_with_one_bit_flipped(seed: int, artifact: Path) -> None:
    """Anywhere: in a name, a number, white space or the digest itself."""
    manifest = artifact / "manifest.json"
    data = manifest.read_bytes()
    for bit in np.random.default_rng(seed).integers(0, 8 * len(data), 50):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        manifest.write_bytes(flipped)
        rejected(artifact, "manifest.json", "again")


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9999])
def test_truncated_manifest(kept: float, artifact: Path) -> None:
    manifest = artifact / "manifest.json"
    data = manifest.read_bytes()
    manifest.write_bytes(data[: int(len(data) * kept)])
    rejected(artifact, "manifest.json", "again")


def test_whole_manifest_that_was_edited(artifact: Path) -> None:
    manifest = artifact / "manifest.json"
    text = manifest.read_text()
    assert '"tokens": 128' in text
    manifest.write_text(text.replace('"tokens": 128', '"tokens": 129', 1))
    rejected(artifact, "manifest.json", "sha256")


@pytest.mark.parametrize(
    "changes",
    [
        {"target": "arm64-ios"},
        {"cpu": "pentium"},
        {"library": 7},
        {"library": "../x.so"},
        {"name": "x y"},
        {"name": "other"},
        {"tokens": True},
        {"sha256": "0" * 63},
        {"sanitize": "thread"},
        {"inputs": {}},
        {"inputs": [{"name": "x", "dtype": "int64", "shape": [1] * 5}]},
        {"inputs": [{"name": "x", "dtype": "int64", "shape": [2**31]}]},
        {"inputs": [{"name": "x", "dtype": "int64", "shape": [1, 8], "token_axis": 2}]},
        {"inputs": [{"name": "x", "dtype": "int64", "shape": [1, 8], "range": [5]}]},
        {"outputs": [{"name": "x", "dtype": "object", "shape": [1]}]},
    ],
)
def test_manifest_with_a_value_that_cannot_be(changes: dict[str, Any], artifact: Path) -> None:
    edit(artifact, **changes)
    rejected(artifact)


def test_library_for_another_machine(mobilebert_android: Path) -> None:
    rejected(mobilebert_android, "arm64-android", "cannot load")


def test_library_for_a_better_cpu_names_what_is_missing(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    required = CPUS[compile.load(artifact).manifest.cpu].required
    if not required:
        pytest.skip("this machine's libraries run on every CPU of its kind")
    monkeypatch.setattr(targets, "host_cpu_flags", lambda: frozenset(required[:-1]))
    rejected(artifact, f"this CPU lacks {required[-1]}")


def test_two_artifacts_of_one_name_do_not_mix(artifact: Path, mobilebert_library: Path) -> None:
    with compile.load(mobilebert_library) as one, compile.load(artifact) as two:
        a, b = one.run(valid({})), two.run(valid({}))
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_build_and_load_stay_functions() -> None:
    """Their modules have the same names, and an import must not put the module in the function's place."""
    import importlib

    for name, module in (("build", "compile.build"), ("load", "compile.running.load")):
        importlib.import_module(module)
        assert callable(getattr(compile, name))
    assert compile.BuildResult.__name__ == "BuildResult"
    with pytest.raises(AttributeError):
        compile.nothing  # noqa: B018
