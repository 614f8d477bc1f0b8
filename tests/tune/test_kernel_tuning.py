"""A tuning session on this machine: what it tries, survives and keeps."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

import compile
from compile.databases import read
from compile.kernels.attention import Attention
from compile.kernels.linear import Linear
from compile.kernels.linear_int8 import LinearInt8
from compile.kernels.tiles import DEFAULT_TILES, TileConfig, candidate_tiles, default_tile
from compile.running.load import read_manifest
from compile.running.runners.local import LocalRunner
from compile.targets import Target, find_target, host_target
from tune.__main__ import main
from tune.kernels.journal import Journal
from tune.kernels.library import build_candidate, compile_harness, describe, error_of
from tune.kernels.session import Session
from tune.kernels.tasks import Task, inputs_and_answer
from tune.kernels.trials import Workbench

CALLS = {"trap": "__builtin_trap();", "spin": "for (volatile int i = 0;; i++) {}", "idle": ""}
BAD = {TileConfig(4, 24): "trap", TileConfig(2, 32): "spin", TileConfig(5, 16): "idle", TileConfig(8, 8): "none"}


def small(kind: str = "relu") -> Task:
    target = host_target()
    tile = candidate_tiles(target.isa)[0]
    if kind == "attention":
        return Task(Attention(2, 32, 0.2, True, tile, target.isa), 33, 1)
    if kind.startswith("int8"):
        tile, nonnegative = default_tile(target.isa, f"i8_{target.isa.dot}"), kind.endswith("nonnegative")
        return Task(LinearInt8(40, 80, True, ("add",), tile, target.isa, (), nonnegative), 19, 1)
    steps = tuple(kind.split("-")) if kind else ()
    return Task(Linear(40, 72, bool(steps), steps, tile, target.isa), 19, 1)


@pytest.mark.parametrize(
    "kind", ["", "relu", "add-mul_vector-add_vector-gelu", "gelu_tanh-mul", "attention", "int8", "int8 nonnegative"]
)
def test_every_kind_of_task_agrees_with_float64(kind: str, local_runner: LocalRunner, tmp_path: Path) -> None:
    task, target = small(kind), host_target()
    tile = task.kernel.candidate_tiles()[-1]
    harness = compile_harness(task, target, tmp_path, repeats=2)
    library = build_candidate(task, tile, target, harness, tmp_path / "candidate")
    given, answer = inputs_and_answer(task, tile)
    _, outputs = local_runner.run_library(library, describe(task, target), given, 1, 1, 20.0)
    assert error_of(task, tile, outputs) < 1e-5
    assert error_of(task, tile, {"y": np.roll(outputs["y"], 1)}) > 1e-2
    assert np.isfinite(answer).all()


def sabotaged(task: Task, tile: TileConfig, target: Target, harness: Path, folder: Path) -> Path:
    """Builds some candidates so that they crash, hang, compute nothing, or cannot be built."""
    from compile.linking.link import find_toolchain, run_compiler

    kind = BAD.get(tile)
    if kind is None:
        return build_candidate(task, tile, target, harness, folder)
    if kind == "none":
        raise ValueError("no such kernel")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel.c").write_text(f"void kernel(void) {{ {CALLS[kind]} }}\n")
    options = ["-shared", "-nostdlib", "-Wl,-z,undefs", "-fPIC", "-fno-sanitize=undefined"]
    run_compiler(find_toolchain(target), [*options, str(harness), "kernel.c", "-o", "libkernel.so"], folder)
    return folder / "libkernel.so"


def test_a_session_outlives_candidates_that_crash_hang_or_lie(local_runner: LocalRunner, tmp_path: Path) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    target = find_target("host", "x86-64-v3")
    task = Task(Linear(40, 72, True, ("relu",), DEFAULT_TILES["avx2", "f32"], target.isa), 19, 3)
    journal = Journal(tmp_path / "a.jsonl", target.cpu)
    bench = Workbench(target, local_runner, run_seconds=3.0, build=sabotaged)
    session = Session([task], bench, journal, trials=7)
    session.try_all([(0, tile) for tile in BAD])
    chosen = session.choose_tiles()
    statuses = {tile: journal.trials[task.key, tile].status for tile in BAD}
    assert list(statuses.values()) == ["crash", "hang", "wrong", "build"]
    assert session.progress[0].failed == 4
    assert [r.key for r in chosen] == [task.key]
    assert chosen[0].tile not in BAD
    assert session.measured == 7

    again = Session([task], bench, Journal(tmp_path / "a.jsonl", target.cpu), trials=7)
    assert [r.tile for r in again.choose_tiles()] == [chosen[0].tile]
    assert again.measured == 0
    bench.close()


def test_killed_and_started_again_it_measures_nothing_twice(linear_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "db.jsonl"
    command = [sys.executable, "-m", "tune", "kernels", str(linear_model), "--seq-len", "24", "--db", str(path)]
    started = subprocess.Popen(
        [*command, "--trials", "40"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 300
    try:
        while not (path.exists() and path.read_text().count("\n") >= 3) and started.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
    before = path.read_bytes()
    assert main([*command[3:], "--trials", "8"]) == 0
    assert path.read_bytes().startswith(before)
    database = read(path, host_target().cpu)
    tried = [(r.key, r.tile) for r in database.records if r.status != "chosen"]
    assert len(tried) == len(set(tried))
    assert len(database.chosen) == 1

    out = tmp_path / "artifact"
    compile.build(linear_model, target="host", seq_len=24, out=out, db=path)
    manifest = read_manifest(out)
    tuning: dict[str, Any] = manifest.tuning
    assert (tuning.database, tuning.tasks, tuning.hits, tuning.measured) == ("db.jsonl", 1, 1, 1)
    (record,) = database.chosen.values()
    assert [k.tile for k in manifest.kernels if k.family == "linear"] == [str(record.tile)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "0"], "--trials and --time-limit must be positive"),
        (["--time-limit", "0"], "--trials and --time-limit must be positive"),
        (["--target", "nowhere"], "unknown target 'nowhere'"),
        (["--cores", "a"], "--cores a: write core numbers"),
        (["--runner", "rpc", "--tracker", "nonsense"], "--tracker nonsense: write HOST:PORT"),
        (["--runner", "rpc", "--tracker", "127.0.0.1:1"], "no tracker answers at 127.0.0.1:1: start one with"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str], message: str, linear_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert main(["kernels", str(linear_model), "--db", str(tmp_path / "a.jsonl"), *arguments]) == 2
    error = capfd.readouterr().err.strip()
    assert error.startswith(f"error: {message}")
    assert "\n" not in error


def test_a_database_of_another_cpu_is_refused_before_anything_runs(
    linear_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    path = tmp_path / "a.jsonl"
    line = {"cpu": "cortex-a76", "family": "linear", "isa": "neon", "precision": "f32", "k": 64, "n": 48}
    path.write_text(json.dumps(line | {"tile": [8, 12, 4], "status": "chosen", "how": "estimated", "ms": None}) + "\n")
    assert main(["kernels", str(linear_model), "--db", str(path)]) == 2
    assert "a.jsonl:1: this record is for cortex-a76 (neon), not for " in capfd.readouterr().err
    build: Callable = compile.build
    with pytest.raises(compile.CompileError, match=r"a\.jsonl:1: this record is for cortex-a76"):
        build(linear_model, target="host", seq_len=24, db=path, out=tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()
