"""Which cores a model's threads use, of CPUs with big and little ones: the kernel's files are stood in for."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import compile
from compile.linking import link
from compile.linking.link import WARNINGS, find_toolchain, run_compiler
from compile.runtime import INCLUDE, SRC
from compile.targets import Target

HERE = Path(__file__).parent
CORES = sorted(os.sched_getaffinity(0))

pytestmark = pytest.mark.skipif(len(CORES) < 2 or CORES[1] > 63, reason="needs two cores")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cores")


@pytest.fixture(scope="module")
def cores(host: Target, folder: Path) -> Callable[..., tuple[int, int, bool]]:
    """cores(first, second, allowed=0) is what the runtime finds where two cores have these capacities."""
    sources = [HERE / "cores.c", SRC / "cpu.c", SRC / "platform_linux.c"]
    options = ["-O1", *WARNINGS, f'-DPB_CPU_FOLDER="{folder}"', f"-I{SRC}", f"-I{INCLUDE}"]
    run_compiler(find_toolchain(host), [*options, *map(str, sources), "-o", "cores"], folder)

    def find(*capacities: int | None, file: str = "cpu_capacity", allowed: int = 0) -> tuple[int, int, bool]:
        for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
            for core in CORES:
                (folder / f"cpu{core}" / name).unlink(missing_ok=True)
        for core, capacity in zip(CORES[:2], capacities, strict=True):
            if capacity is not None:
                path = folder / f"cpu{core}" / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{capacity}\n")
        command = ["taskset", "-c", f"{CORES[0]},{CORES[1]}", str(folder / "cores"), hex(allowed)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        count, big, unequal, _ = done.stdout.split()
        return int(count), int(big, 16), unequal == "1"

    return find


FIRST, SECOND = 1 << CORES[0], 1 << CORES[min(1, len(CORES) - 1)]


def test_little_cores_are_left_alone(cores: Callable) -> None:
    assert cores(400, 1024) == (1, SECOND, True)
    assert cores(1024, 511) == (1, FIRST, True)


def test_middle_cores_take_part_in_smaller_blocks(cores: Callable) -> None:
    assert cores(1024, 870) == (2, 0, True)
    assert cores(512, 1024) == (2, 0, True)
    assert cores(1, 2) == (2, 0, True)


def test_equal_cores(cores: Callable) -> None:
    assert cores(1024, 1024) == (2, 0, False)


def test_a_kernel_without_capacities_tells_frequencies(cores: Callable) -> None:
    assert cores(1_785_600, 2_841_600, file="cpufreq/cpuinfo_max_freq") == (2, 0, True)
    assert cores(576_000, 2_841_600, file="cpufreq/cpuinfo_max_freq") == (1, SECOND, True)


def test_cores_of_unknown_size_are_all_taken(cores: Callable) -> None:
    assert cores(None, None) == (2, 0, False)
    assert cores(None, 1024) == (2, 0, False)


def test_cores_that_the_caller_names_are_weighed_among_themselves(cores: Callable) -> None:
    assert cores(400, 1024, allowed=FIRST) == (1, 0, False)
    assert cores(400, 1024, allowed=FIRST | SECOND) == (1, SECOND, True)
    assert cores(400, 1024, allowed=SECOND | 1 << 63) == (2, 0, False)


def test_cores_of_any_number_are_found(cores: Callable, folder: Path) -> None:
    """Cores and capacities are files: cpu9, cpu10, cpu63/cpu_capacity. The largest takes ten digits of frequency."""
    for core, text in {9: "1024\n", 10: "1023", 37: "1024 and more\n", 63: "2100000000\n"}.items():
        (folder / f"cpu{core}").mkdir()
        (folder / f"cpu{core}" / "cpu_capacity").write_text(text)
    (folder / "cpu64").mkdir()
    (folder / "cpu1x").mkdir()

    def seen(*allowed: int) -> list[int]:
        command = [str(folder / "cores"), hex(sum(1 << core for core in allowed))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [int(word, 0) for word in done.stdout.split()]

    shown = sum(1 << int(path.name[3:]) for path in folder.glob("cpu*[0-9]") if path.name != "cpu64")
    assert seen(9, 37) == [2, 0, 0, shown]
    assert seen(9, 10) == seen(10, 37) == [2, 0, 1, shown]
    assert seen(9, 10, 37, 63) == [1, 1 << 63, 1, shown]


def test_blocks_of_unequal_cores_change_no_bit(
    exported: Callable,
    compiled: Callable,
    samples_and_answers: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    path = exported("mobilebert-tiny", seq_len=40)
    equal = compiled(path, "host", seq_len=40)
    for number, core in enumerate(CORES):
        (tmp_path / f"cpu{core}").mkdir()
        (tmp_path / f"cpu{core}/cpu_capacity").write_text(str(1024 - 100 * (number % 2)))
    monkeypatch.setattr(link, "WARNINGS", [*WARNINGS, f'-DPB_CPU_FOLDER="{tmp_path}"'])
    unequal = compile.build(path, target="host", seq_len=40, out=tmp_path / "out").folder
    (given,), _ = samples_and_answers(path, equal, count=1)
    with compile.load(equal, 1) as library:
        wanted = library.run(given)
    for threads, blocks in ((1, 1), (2, 5), (3, 5)):
        with compile.load(unequal, threads, profile=True) as library:
            got, profile = library.run(given), library.profile()
        assert all(np.array_equal(got[name], wanted[name]) for name in wanted)
        calls = [record.call for record in profile]
        assert max(calls.count(call) for call in set(calls)) == blocks
