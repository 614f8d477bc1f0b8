"""Estimated cycles: of loops whose bound is known by hand, and of a library that runs on an emulated processor."""

import shutil
import struct
from collections.abc import Callable

import pytest

from compile.running.load import read_manifest
from compile.running.runners.base import RunFailed, RunnerError
from compile.running.samples import full_sample
from tune.runners import bochs
from tune.runners.cycles import CyclesRunner, estimated_cycles

pytestmark = pytest.mark.skipif(shutil.which("llvm-mca") is None, reason="needs llvm-mca (Debian package llvm)")
in_bochs = pytest.mark.skipif(bochs.missing() is not None, reason=f"needs {bochs.missing()}")

# One step of a tile of 4 × 64: four vectors of weights, four broadcast activations, 16 products.
STEP = [f"vmovups {64 * v}(%rsi), %zmm{v}" for v in range(4)]
for row in range(4):
    STEP.append(f"vbroadcastss {4 * row}(%rdi), %zmm4")
    STEP += [f"vfmadd231ps %zmm{v}, %zmm4, %zmm{16 + 4 * row + v}" for v in range(4)]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for program, displays, said in (
        (None, ["x"], "bochs (Debian package bochs)"),
        ("/bin/bochs", [], "Bochs's text display (Debian package bochs-term)"),
        ("/bin/bochs", ["x"], None),
    ):
        monkeypatch.setattr(bochs.shutil, "which", lambda _, found=program: found)
        monkeypatch.setattr(bochs.Path, "glob", lambda *_, found=displays: iter(found))
        assert bochs.missing() == said


def test_a_disk_has_whole_cylinders_and_the_files_where_its_entries_say() -> None:
    files = {"library": b"\1" * 5000, "inputs": b"\2" * 10}
    disk = bochs.disk_image(["device", "1"], files, bochs.ZMM)
    assert len(disk) == 512 * 16 * 63  # the first that holds them
    size, registers, arguments, entries = struct.unpack_from("<4Q", disk)
    assert (registers, arguments, entries) == (0xE7, 2, 4)
    words = [struct.unpack_from("<48s2Q", disk, 32 + 64 * number) for number in range(2)]
    assert [(word.rstrip(b"\0"), *place) for word, *place in words] == [(b"device", 0, 0), (b"1", 0, 0)]
    for number, (name, data) in enumerate(files.items(), 2):
        found, place, length = struct.unpack_from("<48s2Q", disk, 32 + 64 * number)
        assert (found.rstrip(b"\0").decode(), length) == (name, len(data))
        assert (place - bochs.DISK) % 4096 == 0
        assert disk[place - bochs.DISK :][:length] == data
        assert place - bochs.DISK + length <= size


def test_what_was_printed_is_read() -> None:
    def block(kind: int, data: bytes) -> bytes:
        return struct.pack("<BQ", kind, len(data)) + data

    counts = block(bochs.COUNT, struct.pack("<2Q", 16, 3)) + block(bochs.COUNT, struct.pack("<2Q", 32, 5))
    whole = block(3, b"out") + counts + block(1, b"time") + block(3, b"put") + block(bochs.STATUS, struct.pack("<Q", 0))
    result = bochs.read_printed(whole)
    assert (result.outputs, dict(result.counts)) == (b"output", {16: 3, 32: 5})
    for status, said in ((4, "failed: what was wrong"), (128 + 11, "crashed with signal 11")):
        ended = block(2, b"what was wrong\n") + block(bochs.STATUS, struct.pack("<Q", status))
        with pytest.raises(RunFailed, match=said):
            bochs.read_printed(ended)
    with pytest.raises(RunFailed, match="stopped before the program's end"):
        bochs.read_printed(whole[:-17])


def test_inner_loop_is_bound_by_its_multiply_adds() -> None:
    (cycles,) = estimated_cycles([[*STEP, "addq $256, %rsi", "jne 0x10"]], "x86_64", "skylake-avx512")
    assert 16 / 2 <= cycles <= 1.1 * 16 / 2


def test_tile_too_small_to_hide_the_latency_waits_for_it() -> None:
    one, sixteen = estimated_cycles([STEP[:6], STEP], "x86_64", "skylake-avx512")
    assert one >= 4  # a multiply-add's latency, of which two could have begun in each cycle
    assert sixteen < 16 * one / 4


def test_each_block_gets_its_own_cycles_and_a_lone_jump_one() -> None:
    blocks = [["jmp 0x10"], ["fmla v0.4s, v1.4s, v2.s[0]", "b.ne .LBB0_1"], ["ret"]]
    first, fused, last = estimated_cycles(blocks, "aarch64", "cortex-a76")
    assert (first, last) == (1.0, 1.0)
    assert fused > 1


def test_cycles_are_those_of_a_hundred_turns_so_that_the_first_one_weighs_little() -> None:
    (cycles,) = estimated_cycles([["addq $1, %rax"]], "x86_64", "skylake-avx512")  # one a cycle, and some to begin
    assert 1.0 < cycles < 1.1
    assert 100 * cycles == pytest.approx(round(100 * cycles), abs=1e-6)


def test_what_llvm_does_not_know_is_refused() -> None:
    with pytest.raises(RunnerError, match="llvm-mca failed"):
        estimated_cycles([["vfmadd231ps %zmm0, %zmm1"]], "x86_64", "skylake-avx512")


@in_bochs
@pytest.mark.parametrize(("cpu", "lanes"), [("x86-64-v3", 8), ("x86-64-v4", 16)])
def test_library_is_run_and_its_cycles_lie_above_the_bound(
    cpu: str, lanes: int, linear_library: Callable, agrees: Callable
) -> None:
    folder = linear_library("x86_64-linux", cpu)
    sample = full_sample(read_manifest(folder))
    with CyclesRunner() as runner:
        estimate, outputs = runner.run(folder, sample)
        assert runner.run(folder, sample)[0].samples_ms == estimate.samples_ms
    assert agrees(sample, outputs)
    assert (estimate.estimate, estimate.cores) == (True, (0,))
    assert "ESTIMATED" in str(estimate)
    # The multiply-adds of 24 × 64 × 48, two vectors a cycle; the matrices are small, so the rest costs as much again.
    bound = 24 * 64 * 48 / lanes / 2 / 1e6
    assert bound <= estimate.median_ms <= 3 * bound


@in_bochs
def test_other_targets_are_refused(linear_library: Callable) -> None:
    with CyclesRunner() as runner, pytest.raises(RunnerError, match="only x86-64 is estimated"):
        runner.measure(linear_library("arm64-linux"))
