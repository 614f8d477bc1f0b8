"""What the library is given, it checks: an error code and a message, never a crash and never a read out of bounds."""

import ctypes
import json
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compile.running.arrays import TYPE_CODES
from compile.running.load import read_manifest

OK, ARGUMENT, SHAPE, RANGE, MEMORY, CPU, THREAD, BUSY = range(8)
NAME = "mobilebert"


class Options(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("threads", ctypes.c_int32), ("profile", ctypes.c_int32),
                ("cores", ctypes.c_uint64)]  # fmt: skip


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("type", ctypes.c_int32), ("rank", ctypes.c_int32),
                ("shape", ctypes.c_int64 * 4)]  # fmt: skip


class Model:
    """The C interface, with nothing between it and the tests."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self.manifest = read_manifest(folder)
        library = ctypes.CDLL(str(folder / self.manifest.library))
        self.open, self.run_model, self.close_model, self.error = (
            getattr(library, f"{self.manifest.name}_{f}") for f in ("open", "run", "close", "last_error")
        )
        self.error.restype = ctypes.c_char_p
        self.error.argtypes = self.close_model.argtypes = [ctypes.c_void_p]
        self.handle = ctypes.c_void_p()
        assert self.open(ctypes.byref(Options(ctypes.sizeof(Options), threads)), ctypes.byref(self.handle)) == OK
        rng = np.random.default_rng(0)
        self.arrays = [rng.integers(*(e.range or (0, 2)), e.shape) for e in self.manifest.inputs]
        self.results = [np.full(e.shape, np.nan, np.float32) for e in self.manifest.outputs]
        self.inputs, self.outputs = tensors(self.arrays), tensors(self.results)

    def run(self, **changes: Any) -> int:
        given = {"inputs": self.inputs, "input_count": len(self.inputs), "outputs": self.outputs,
                 "output_count": len(self.outputs)} | changes  # fmt: skip
        return self.run_model(self.handle, *given.values())

    def message(self) -> str:
        return self.error(self.handle).decode()


def tensors(arrays: list[np.ndarray]) -> Any:
    made = (Tensor * len(arrays))()
    for tensor, array in zip(made, arrays, strict=True):
        tensor.data, tensor.type, tensor.rank = array.ctypes.data, TYPE_CODES[str(array.dtype)], array.ndim
        tensor.shape[: array.ndim] = array.shape
    return made


@pytest.fixture
def model(mobilebert_library: Path) -> Iterator[Model]:
    opened = Model(mobilebert_library)
    yield opened
    opened.close_model(opened.handle)


def refused(model: Model, status: int, *words: str, **changes: Any) -> None:
    """The run fails with `status` and a message, has written nothing, and the next one is fine."""
    assert model.run(**changes) == status
    assert all(word in model.message() for word in words), model.message()
    assert all(np.isnan(result).all() for result in model.results)


@pytest.mark.parametrize("wrong", [-1, 1000, 2**31, 2**32, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("position", [0, 127])
@pytest.mark.parametrize("index", [0, 2], ids=["input_ids", "token_type_ids"])
def test_id_outside_its_table(index: int, position: int, wrong: int, model: Model) -> None:
    right = model.arrays[index][0, position]
    model.arrays[index][0, position] = wrong
    refused(model, RANGE, "id", "outside")
    model.arrays[index][0, position] = right
    assert model.run() == OK


def test_random_bytes_as_ids(model: Model) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        model.arrays[0][...] = np.frombuffer(rng.bytes(8 * 128), np.int64)
        refused(model, RANGE, "outside")


def test_random_bytes_as_mask_do_no_harm(model: Model) -> None:
    model.arrays[1][...] = np.frombuffer(np.random.default_rng(2).bytes(8 * 128), np.int64)
    assert model.run() == OK


@pytest.mark.parametrize(
    ("field", "value", "status", "word"),
    [
        ("data", None, ARGUMENT, "NULL"),
        ("type", 1, SHAPE, "type"),
        ("type", 3, SHAPE, "type"),
        ("type", 99, SHAPE, "type"),
        ("rank", 1, SHAPE, "rank"),
        ("rank", -1, SHAPE, "rank"),
        ("rank", 2**31 - 1, SHAPE, "rank"),
        ("shape", (1, 127), SHAPE, "shape"),
        ("shape", (1, 2**62), SHAPE, "shape"),
        ("shape", (2, 128), SHAPE, "shape"),
        ("shape", (0, 0), SHAPE, "shape"),
        ("shape", (-1, -128), SHAPE, "shape"),
    ],
)
@pytest.mark.parametrize("index", [0, 2])
def test_wrong_input_tensor(index: int, field: str, value: Any, status: int, word: str, model: Model) -> None:
    if field == "shape":
        model.inputs[index].shape[:2] = value
    else:
        setattr(model.inputs[index], field, value)
    refused(model, status, word)


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [("data", None, ARGUMENT), ("type", 2, SHAPE), ("rank", 2, SHAPE), ("shape", 129, SHAPE)],
)
def test_wrong_output_tensor(field: str, value: Any, status: int, model: Model) -> None:
    if field == "shape":
        model.outputs[0].shape[1] = value
    else:
        setattr(model.outputs[0], field, value)
    refused(model, status)


@pytest.mark.parametrize("offset", [1, 2, 4])
def test_misaligned_input(offset: int, model: Model) -> None:
    model.inputs[0].data += offset
    refused(model, ARGUMENT, "aligned")


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_misaligned_output(offset: int, model: Model) -> None:
    model.outputs[0].data += offset
    refused(model, ARGUMENT, "aligned")


def test_output_that_shares_memory(model: Model) -> None:
    right = model.outputs[1].data
    inside = model.outputs[0].data + 512 * 4
    before_the_end = model.outputs[0].data + model.results[0].nbytes - 4
    for address in (model.inputs[0].data, model.outputs[0].data, inside, before_the_end, inside - 512 * 4 - 4):
        model.outputs[1].data = address
        refused(model, ARGUMENT, "shares memory")
    model.outputs[1].data = right
    model.inputs[1].data = model.inputs[2].data
    assert model.run() == OK


@pytest.mark.parametrize("outputs_first", [False, True])
def test_tensors_that_lie_next_to_each_other_share_nothing(outputs_first: bool, model: Model) -> None:
    """One byte after another in one buffer, before and after."""
    assert model.run() == OK
    wanted = [result.copy() for result in model.results]
    places = [*zip(model.arrays, model.inputs, strict=True), *zip(model.results, model.outputs, strict=True)]
    memory = np.zeros(sum(array.nbytes for array, _ in places), np.uint8)
    begin, copies = 0, []
    for array, tensor in reversed(places) if outputs_first else places:
        copy = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        tensor.data = copy.ctypes.data
        begin += array.nbytes
        copies.append(copy)
    assert model.run() == OK
    got = copies[:2][::-1] if outputs_first else copies[3:]
    assert all(np.array_equal(one, other) for one, other in zip(got, wanted, strict=True))


def test_dimensions_beyond_the_rank_do_not_count(model: Model) -> None:
    for tensor in (*model.inputs, *model.outputs):
        tensor.shape[tensor.rank :] = [-7] * (4 - tensor.rank)
    assert model.run() == OK


def test_sequence_without_tokens(model: Model) -> None:
    for tensor in (*model.inputs, model.outputs[0]):
        tensor.shape[1] = 0
    refused(model, SHAPE, "shape")


@pytest.mark.parametrize("changes", [{"inputs": None}, {"outputs": None}])
def test_null_instead_of_tensors(changes: dict, model: Model) -> None:
    refused(model, ARGUMENT, "NULL", **changes)


@pytest.mark.parametrize("count", [-1, 0, 1, 4, 2**31 - 1])
@pytest.mark.parametrize("which", ["input_count", "output_count"])
def test_wrong_count(which: str, count: int, model: Model) -> None:
    refused(model, ARGUMENT, "number", **{which: count})


def test_null_model(model: Model) -> None:
    assert model.run_model(None, model.inputs, 3, model.outputs, 2) == ARGUMENT
    assert b"NULL" in model.error(None)
    model.close_model(None)


@pytest.mark.parametrize("size", [0, 8, 15, 17, 23, 264, 2**40])
def test_options_of_another_size(size: int, model: Model) -> None:
    handle = ctypes.c_void_p(1)
    assert model.open(ctypes.byref(Options(size, 1)), ctypes.byref(handle)) == ARGUMENT
    assert not handle
    assert b"size" in model.error(None)


def options(size: int, *words: int) -> Any:
    """The first `size` bytes of 64-bit words that begin with the size."""
    memory = (ctypes.c_uint64 * (size // 8))(size, *words)
    return ctypes.byref(memory)


@pytest.mark.parametrize("size", [16, 24, 32, 256])
def test_options_of_an_older_or_newer_header(size: int, model: Model) -> None:
    """What is missing counts as 0, and what this library does not know must be 0."""
    before = len(list(Path("/proc/self/task").iterdir()))
    handle = ctypes.c_void_p()
    assert model.open(options(size, 3), ctypes.byref(handle)) == OK, model.error(None)
    assert len(list(Path("/proc/self/task").iterdir())) == before + 2
    model.close_model(handle)


@pytest.mark.parametrize(("size", "place"), [(56, 6), (256, 6), (256, 31)])
def test_options_that_this_library_lacks(size: int, place: int, model: Model) -> None:
    words = [3] + [0] * (size // 8 - 2)
    words[place - 1] = 1
    handle = ctypes.c_void_p(1)
    assert model.open(options(size, *words), ctypes.byref(handle)) == ARGUMENT
    assert not handle
    assert b"option" in model.error(None)


def test_threads_run_on_the_cores_that_are_named(model: Model) -> None:
    def cores() -> dict[str, str]:
        return {t.name: (t / "status").read_text().split("Cpus_allowed_list:")[1].split()[0]
                for t in Path("/proc/self/task").iterdir()}  # fmt: skip

    core = max(os.sched_getaffinity(0))
    if core > 63:
        pytest.skip("needs one of the first 64 cores")
    before, handle = cores(), ctypes.c_void_p()
    given = Options(size=ctypes.sizeof(Options), threads=3, cores=1 << core)
    assert model.open(ctypes.byref(given), ctypes.byref(handle)) == OK
    after = cores()
    assert [after[t] for t in after.keys() - before.keys()] == [str(core)] * 2
    assert before == {t: after[t] for t in before}
    model.close_model(handle)


@pytest.mark.parametrize("everywhere", [False, True])
def test_as_many_threads_as_cores_are_named(everywhere: bool, model: Model) -> None:
    cores = [core for core in range(64) if Path(f"/sys/devices/system/cpu/cpu{core}").exists()][
        : None if everywhere else 2
    ]
    before, handle = len(list(Path("/proc/self/task").iterdir())), ctypes.c_void_p()
    mask = 2**64 - 1 if everywhere else sum(1 << core for core in cores)
    given = Options(size=ctypes.sizeof(Options), cores=mask)
    if not {*cores} & os.sched_getaffinity(0):
        pytest.skip("needs one of the first two cores")
    assert model.open(ctypes.byref(given), ctypes.byref(handle)) == OK
    assert len(list(Path("/proc/self/task").iterdir())) == before + min(len(cores), 4) - 1
    model.close_model(handle)


@pytest.mark.parametrize("threads", [0, 1, 2])
@pytest.mark.parametrize("others", [0, 1])
def test_cores_that_are_not_there(threads: int, others: int, model: Model) -> None:
    """One that the machine lacks is enough, also beside one that it has, and where no thread would use it."""
    if (os.cpu_count() or 64) > 63:
        pytest.skip("needs fewer than 64 cores")
    before, handle = len(list(Path("/proc/self/task").iterdir())), ctypes.c_void_p(1)
    given = Options(size=ctypes.sizeof(Options), threads=threads, cores=1 << 63 | others)
    assert model.open(ctypes.byref(given), ctypes.byref(handle)) == ARGUMENT
    assert not handle
    assert b"names a core that this machine does not have" in model.error(None)
    assert len(list(Path("/proc/self/task").iterdir())) == before


@pytest.mark.parametrize("threads", [-1, 65, 2**31 - 1])
def test_options_with_too_many_threads_or_fewer_than_none(threads: int, model: Model) -> None:
    handle = ctypes.c_void_p(1)
    assert model.open(ctypes.byref(Options(ctypes.sizeof(Options), threads)), ctypes.byref(handle)) == ARGUMENT
    assert not handle
    assert b"threads" in model.error(None)


def test_open_without_options_or_without_a_place_for_the_model(model: Model) -> None:
    handle = ctypes.c_void_p()
    assert model.open(None, None) == ARGUMENT
    assert model.open(None, ctypes.byref(handle)) == OK
    model.close_model(handle)


def test_closed_model_is_refused_whatever_was_opened_since(model: Model) -> None:
    closed = ctypes.c_void_p()
    assert model.open(None, ctypes.byref(closed)) == OK
    model.close_model(closed)
    for _ in range(300):
        another = ctypes.c_void_p()
        assert model.open(None, ctypes.byref(another)) == OK
        assert model.run_model(closed, model.inputs, 3, model.outputs, 2) == ARGUMENT
        assert b"closed" in model.error(closed)
        model.close_model(closed)
        assert model.run_model(another, model.inputs, 3, model.outputs, 2) in (OK, BUSY)
        model.close_model(another)


@pytest.mark.parametrize("value", [1, 4096, 2**48, 2**63, 2**64 - 1, "any"])
def test_handle_that_nobody_gave_out(value: Any, model: Model) -> None:
    for number in np.random.default_rng(0).integers(0, 2**63, 1000) if value == "any" else [value]:
        handle = ctypes.c_void_p(int(number))
        assert model.run_model(handle, model.inputs, 3, model.outputs, 2) == ARGUMENT
        assert b"open it first" in model.error(handle)
        model.close_model(handle)
    assert model.run() == OK


def test_too_many_open_models(model: Model) -> None:
    handles = [ctypes.c_void_p() for _ in range(256)]
    given = Options(size=ctypes.sizeof(Options), threads=1)
    statuses = [model.open(ctypes.byref(given), ctypes.byref(handle)) for handle in handles]
    assert set(statuses) == {OK, MEMORY}
    assert b"close one" in model.error(None)
    for handle in handles:
        model.close_model(handle)
    assert model.open(None, ctypes.byref(handles[0])) == OK
    model.close_model(handles[0])


def test_second_thread_on_one_model_is_told_that_it_is_busy(mobilebert_library: Path) -> None:
    model = Model(mobilebert_library)
    statuses: list[int] = []
    messages: set[str] = set()
    start = threading.Barrier(2)

    def call() -> None:
        start.wait()
        for _ in range(100):
            status = model.run()
            statuses.append(status)
            if status == BUSY:
                messages.add(model.message())

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {OK, BUSY}
    assert all("another thread" in message for message in messages)
    assert model.run() == OK
    model.close_model(model.handle)


def test_four_models_at_once_give_one_result(mobilebert_library: Path) -> None:
    models = [Model(mobilebert_library, threads=n) for n in (1, 2, 3, 4)]
    threads = [threading.Thread(target=lambda m=m: [m.run() for _ in range(5)]) for m in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for model in models:
        assert np.isfinite(model.results[0]).all()
        assert np.array_equal(model.results[0], models[0].results[0])
        model.close_model(model.handle)


def test_opening_and_closing_leaves_no_memory_or_threads(mobilebert_library: Path) -> None:
    def footprint() -> tuple[int, int]:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmSize"].split()[0]), int(status["Threads"])

    for _ in range(3):
        model = Model(mobilebert_library, threads=4)
        model.close_model(model.handle)
    size, threads = footprint()
    for _ in range(50):
        model = Model(mobilebert_library, threads=4)
        model.run()
        model.close_model(model.handle)
    after, still = footprint()
    assert still == threads
    assert after - size < 20_000  # KiB; a model's tensors alone are several hundred


def guarded(array: np.ndarray) -> tuple[Any, np.ndarray]:
    """A copy that ends where the process may not read any further."""
    page = mmap.PAGESIZE
    size = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, size + page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    mprotect = ctypes.CDLL(None).mprotect
    mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert mprotect(base + size, page, 0) == 0
    start = size - array.nbytes
    copy = np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
    copy[...] = array
    return memory, copy


@pytest.mark.parametrize("tokens", [128, 1, 37])
def test_nothing_beyond_the_callers_buffers_is_touched(tokens: int, model: Model) -> None:
    arrays = [a[:, :tokens].copy() for a in model.arrays]
    results = [model.results[0][:, :tokens].copy(), model.results[1]]
    assert model.run(inputs=tensors(arrays), outputs=tensors(results)) == OK
    kept = [guarded(a) for a in (*arrays, *results)]
    for _, copy in kept[3:]:
        copy[...] = np.nan
    copies = [copy for _, copy in kept]
    assert model.run(inputs=tensors(copies[:3]), outputs=tensors(copies[3:])) == OK
    for result, copy in zip(results, copies[3:], strict=True):
        assert np.array_equal(result, copy)


def test_description_is_the_manifests(mobilebert_library: Path) -> None:
    class Info(ctypes.Structure):
        _fields_ = [("name", ctypes.c_char_p), ("type", ctypes.c_int32), ("rank", ctypes.c_int32),
                    ("shape", ctypes.c_int64 * 4), ("token_axis", ctypes.c_int32), ("low", ctypes.c_int64),
                    ("high", ctypes.c_int64), ("bytes", ctypes.c_size_t)]  # fmt: skip

    class Description(ctypes.Structure):
        _fields_ = [("size", ctypes.c_size_t), ("tokens", ctypes.c_int32), ("input_count", ctypes.c_int32),
                    ("inputs", ctypes.POINTER(Info)), ("output_count", ctypes.c_int32),
                    ("outputs", ctypes.POINTER(Info)), ("arena_bytes", ctypes.c_size_t),
                    ("weight_bytes", ctypes.c_size_t),
                    ("cpu", ctypes.c_char_p)]  # fmt: skip

    manifest = json.loads((mobilebert_library / "manifest.json").read_text())
    library = ctypes.CDLL(str(mobilebert_library / manifest["library"]))
    found = Description(ctypes.sizeof(Description))
    library.mobilebert_describe(ctypes.byref(found))
    library.mobilebert_describe(None)
    older = Description(16, 0, 0, None, 99)
    library.mobilebert_describe(ctypes.byref(older))
    assert (older.tokens, older.output_count) == (found.tokens, 99)
    assert found.tokens == manifest["tokens"]
    assert found.cpu.decode() in [level["cpu"] for level in manifest["levels"]]
    assert found.weight_bytes == manifest["sizes"]["weights_bytes"]
    assert found.arena_bytes == manifest["sizes"]["arena_bytes"]
    for kind in ("input", "output"):
        infos = getattr(found, f"{kind}s")[: getattr(found, f"{kind}_count")]
        for info, entry in zip(infos, manifest[f"{kind}s"], strict=True):
            assert info.name.decode() == entry["name"]
            assert list(info.shape[: info.rank]) == entry["shape"]
            assert info.type == TYPE_CODES[entry["dtype"]]
            assert [info.low, info.high] == entry.get("range", [0, 0])
            assert info.bytes == np.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize
