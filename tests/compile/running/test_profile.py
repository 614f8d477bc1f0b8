"""Profiles: every call once and in its place, parts that add up, and a run without one that never reads the clock."""

import ctypes
import importlib.util
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import compile
from compile.artifact.manifest import Call, Kernel, Manifest
from compile.running.load import Record, read_manifest
from compile.running.profile import __main__ as command_line
from compile.running.profile import measure, show
from compile.running.profile.machine import measure_peak
from compile.targets import host_target


def inputs(facts: Manifest, tokens: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(tokens)
    return {e.name: rng.integers(*(e.range or (0, 2)), (1, tokens)) for e in facts.inputs}


@pytest.mark.parametrize(("threads", "tokens"), [(1, 128), (2, 128), (3, 128), (3, 2), (2, 1)])
def test_every_call_of_every_block_is_there_once_and_in_order(
    threads: int, tokens: int, mobilebert_library: Path
) -> None:
    facts = read_manifest(mobilebert_library)
    calls = facts.calls
    with compile.load(mobilebert_library, threads, profile=True) as library:
        assert library.profile() == []
        library.run(inputs(facts, 128))  # a longer run before must leave nothing
        library.run(inputs(facts, tokens))
        run, *records = library.profile()
        assert library.profile() == [run, *records]
    rows = -(-tokens // threads)
    blocks = -(-tokens // (rows if threads == 1 else -(-rows // 4) * 4))
    assert Counter(r.call for r in records) == {i: blocks if c.shared else 1 for i, c in enumerate(calls)}
    assert run.call == -1
    assert all(run.start_ns <= r.start_ns <= r.end_ns <= run.end_ns for r in records)
    assert {r.thread for r in records if not calls[r.call].shared} <= {0}
    for thread in range(threads):
        own = sorted((r for r in records if r.thread == thread), key=lambda r: r.start_ns)
        assert all(a.end_ns <= b.start_ns for a, b in pairwise(own))
    for stage in range(1, facts.stages):
        before = max(r.end_ns for r in records if calls[r.call].stage == stage - 1)
        assert before <= min(r.start_ns for r in records if calls[r.call].stage == stage)


def test_profiled_run_computes_the_same(mobilebert_library: Path) -> None:
    given = inputs(read_manifest(mobilebert_library), 77)
    with compile.load(mobilebert_library, 2) as plain, compile.load(mobilebert_library, 2, profile=True) as profiled:
        wanted, got = plain.run(given), profiled.run(given)
    assert all(np.array_equal(wanted[name], got[name]) for name in wanted)


def test_code_of_a_run_without_a_profile_reads_no_clock(graph: type, lowered: Callable, host: Any) -> None:
    from compile.codegen.plan_source import plan_source
    from compile.planning.plan import make_plan

    b = graph()
    program = lowered(b.model(b.attention(b.input("x", [1, 8, 16]), 8, 2, 8)))
    plain, _, profiled = plan_source(make_plan(program, host), 0).partition("static const pb_stage stages[]")
    assert "pb_log_call(" not in plain
    assert profiled.count("pb_log_call(") == len(program.calls)
    for call in program.calls:
        assert (
            plain.count(f"    kernels->{call.kernel.name}(") == profiled.count(f"    kernels->{call.kernel.name}(") > 0
        )


def test_c_interface_refuses_what_is_no_profile(mobilebert_library: Path) -> None:
    from compile.running.load import _Options as Options

    with compile.load(mobilebert_library, 1) as plain, pytest.raises(compile.CompileError, match="without options"):
        plain.profile()
    with compile.load(mobilebert_library, 1, profile=True) as library:
        assert library._profile(library._model, None, ctypes.byref(ctypes.c_int32())) == 1
        assert library._profile(None, None, None) == 1
        handle = ctypes.c_void_p()
        for wrong in (-1, 2):
            options = Options(size=ctypes.sizeof(Options), profile=wrong)
            assert library._library.mobilebert_open(ctypes.byref(options), ctypes.byref(handle)) == 1
            assert b"profile must be 0 or 1" in library._last_error(None)
            assert not handle
    with pytest.raises(compile.CompileError, match="closed"):
        library.profile()


# --- sums

FACTS = cast(Manifest, SimpleNamespace(
    tokens=4,
    kernels=[Kernel("a", "linear", "linear", "float32", 2, True, 500),
             Kernel("b", "copy", "map", "float32", 1, True, 0)],
    calls=[Call("a", "layer 1", 0, True, rows=4, flops=400, bytes=40, reads=(), writes=()),
           Call("b", "layer 1", 0, True, rows=4, flops=0, bytes=40, reads=(), writes=()),
           Call("a", "head", 1, False, rows=1, flops=100, bytes=10, reads=(), writes=())],
))  # fmt: skip
# Thread 0 ends stage 0 at 50, thread 1 at 80; then thread 0 works alone until 100, and the run ends at 110.
RUN = [Record(-1, 0, 0, 110), Record(0, 0, 10, 40), Record(1, 0, 40, 50), Record(0, 1, 20, 70), Record(1, 1, 70, 80),
       Record(2, 0, 85, 100)]  # fmt: skip


def test_parts_add_up_and_waits_are_the_gaps_before_a_barrier() -> None:
    assert measure.waits(FACTS, RUN, 2) == [(0, 50, 80), (1, 80, 100)]
    found = measure.summarise(FACTS, 2, 4, [RUN], peaks={"float32": 10.0})
    assert found.seconds == pytest.approx(110e-9)
    assert [(s.name, s.calls, s.seconds * 1e9, s.flops) for s in found.kernels] == [
        ("a", 2, pytest.approx(30 + 50 + 15), 500),
        ("b", 1, pytest.approx(20), 0),
    ]
    assert [(s.name, s.seconds * 1e9) for s in found.layers] == [
        ("layer 1", pytest.approx(100)),
        ("head", pytest.approx(15)),
    ]
    assert found.waiting == pytest.approx(50e-9)
    assert found.between == pytest.approx((2 * 110 - 115 - 50) * 1e-9)
    assert sum(seconds for _, seconds in show.where_it_goes(found)) == pytest.approx(found.thread_seconds)
    assert dict(show.where_it_goes(found))["multiply-adds at the peak rate"] == pytest.approx(500 / 10e9)


def test_a_trace_has_what_each_thread_did_since_the_run_began() -> None:
    later = [record._replace(start_ns=record.start_ns + 500, end_ns=record.end_ns + 500) for record in RUN]
    found = measure.summarise(FACTS, 2, 4, [later], peaks={"float32": 10.0})
    manifest: Any = SimpleNamespace(**vars(FACTS), name="m", isa="avx2", precision="float32")
    events = show.to_trace(replace(found, manifest=manifest))["traceEvents"]
    of = {
        kind: [(e["tid"], e["name"], e["ts"] * 1e3, e["dur"] * 1e3) for e in events if e.get("cat") == kind]
        for kind in ("layer", "kernel", "barrier")
    }
    assert of["layer"] == [(0, "layer 1", 10, 40), (0, "head", 85, 15), (1, "layer 1", 20, 60)]
    assert [(tid, ts, dur) for tid, _, ts, dur in of["kernel"]] == [
        (0, 10, 30), (0, 40, 10), (0, 85, 15), (1, 20, 50), (1, 70, 10),
    ]  # fmt: skip
    assert [(tid, ts, dur) for tid, _, ts, dur in of["barrier"]] == [(0, 50, 30), (1, 80, 20)]


def test_each_kernel_is_compared_with_the_peak_of_its_precision() -> None:
    kernels = [replace(FACTS.kernels[0], precision="int8"), FACTS.kernels[1]]
    facts = cast(Manifest, SimpleNamespace(tokens=4, kernels=kernels, calls=FACTS.calls))
    found = measure.summarise(facts, 2, 4, [RUN], peaks={"float32": 10.0, "int8": 40.0})
    assert found.kernels[0].of_peak == pytest.approx(500 / 40 / (30 + 50 + 15))
    assert found.layers[0].of_peak == pytest.approx(400 / 40 / 100)
    assert dict(show.where_it_goes(found))["multiply-adds at the peak rate"] == pytest.approx(500 / 40e9)
    assert show.peaks(found) == "10.0 GFLOP/s, 40.0 GOP/s of int8"


def test_the_int8_peak_of_this_machine_is_measured(tmp_path: Path) -> None:
    rates = [measure_peak(tmp_path, steps=200_000, precision=precision) for precision in ("float32", "int8")]
    floating, integer = (max(rate() for _ in range(5)) for rate in rates)
    assert floating / 4 < integer < 8 * floating


def test_fastest_quarter_is_averaged_and_the_median_is_of_all() -> None:
    runs = [[r._replace(end_ns=r.start_ns + n * (r.end_ns - r.start_ns)) for r in RUN] for n in (3, 5, 1, 9, 7)]
    found = measure.summarise(FACTS, 2, 4, runs, peaks={"float32": 10.0})
    assert found.runs == 5
    assert found.median == pytest.approx(5 * 110e-9)
    assert found.seconds == pytest.approx((1 + 3) / 2 * 110e-9)
    assert found.kernels[1].seconds == pytest.approx((1 + 3) / 2 * 20e-9)


def test_flops_of_a_shorter_sequence_are_those_of_a_shorter_model(graph: type, lowered: Callable) -> None:
    from compile.artifact.outline import call_entries, kernel_entries
    from compile.planning.plan import make_plan

    def facts(tokens: int) -> Any:
        b = graph()
        y = b.linear(b.attention(b.input("x", [1, tokens, 16]), tokens, 2, 8), 16, 40)
        first = b("Gather", y, b.const(np.array(0)), axis=1)
        plan = make_plan(lowered(b.model(b.linear(first, 40, 12)), tokens), host_target())
        return SimpleNamespace(tokens=tokens, calls=call_entries(plan), kernels=kernel_entries(plan))

    long, short = facts(64), facts(24)
    assert {k.family for k in long.kernels} >= {"linear", "attention"}
    assert measure.call_flops(long, 24) == pytest.approx([c.flops for c in short.calls])


# --- the command


@pytest.fixture(scope="module")
def written(mobilebert_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profile")
    files = [f"--{kind}={folder / name}" for kind, name in (("png", "p.png"), ("trace", "t.json"), ("json", "j.json"))]
    assert command_line.main([str(mobilebert_library), "--threads", "2", "--runs", "4", *files]) == 0
    assert sorted(p.name for p in folder.iterdir()) == ["j.json", "p.png", "t.json"]
    return folder


def test_trace_is_one_that_perfetto_reads(written: Path, mobilebert_library: Path) -> None:
    """The Trace Event Format: complete events with microseconds, which nest on each thread."""
    facts, trace = read_manifest(mobilebert_library), json.loads((written / "t.json").read_text())
    assert trace["displayTimeUnit"] in ("ms", "ns")
    complete = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert {e["ph"] for e in trace["traceEvents"]} == {"X", "M"}
    for event in trace["traceEvents"]:
        assert {"name", "ph", "pid", "tid", "args"} <= set(event)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
    for event in complete:
        assert isinstance(event["name"], str)
        assert isinstance(event["cat"], str)
        assert event["ts"] >= 0
        assert event["dur"] >= 0
    named = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert named == {0: "caller", 1: "worker 1"}
    for thread in named:
        open_until: list[float] = []
        own = [e for e in complete if e["tid"] == thread]
        for event in sorted(own, key=lambda e: (e["ts"], -e["dur"])):
            while open_until and open_until[-1] <= event["ts"] + 1e-6:
                open_until.pop()
            assert not open_until or event["ts"] + event["dur"] <= open_until[-1] + 1e-6
            open_until.append(event["ts"] + event["dur"])
    calls = Counter(e["args"]["call"] for e in complete if e["cat"] == "kernel")
    assert calls == {i: 2 if c.shared else 1 for i, c in enumerate(facts.calls)}
    assert {e["name"] for e in complete if e["cat"] == "layer"} == {"embeddings", "layer 1", "layer 2", "head"}


def test_figures_add_up_in_json(written: Path, mobilebert_library: Path) -> None:
    found, facts = json.loads((written / "j.json").read_text()), read_manifest(mobilebert_library)
    assert (found["threads"], found["tokens"], found["runs"]) == (2, 128, 4)
    assert sum(k["flops"] for k in found["kernels"]) == facts.flops
    for key in ("kernels", "layers"):
        assert sum(e["seconds"] for e in found[key]) == pytest.approx(sum(e["seconds"] for e in found["kernels"]))
        assert sum(e["calls"] for e in found[key]) == len(facts.calls)
    assert sum(found["where_it_goes"].values()) == pytest.approx(2 * found["seconds"])
    assert 0 < found["peak_gflops_per_core"] < 1000


def test_chart_is_a_picture(written: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install -e '.[test]'")
    from matplotlib.image import imread

    pixels = imread(written / "p.png")
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 1000
    assert len(np.unique((pixels[..., :3] * 255).astype(int) @ [1 << 16, 1 << 8, 1])) > 20


def test_tables_name_layers_kernels_and_the_rest(mobilebert_library: Path, capsys: pytest.CaptureFixture) -> None:
    assert command_line.main([str(mobilebert_library), "--runs", "1", "--tokens", "9"]) == 0
    text = capsys.readouterr().out
    for words in ("9 tokens", "layer 2", "linear 512 → 384", "GFLOP/s", "waiting at barriers", "softmax"):
        assert words in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--runs", "0"], "--runs 0: choose 1 to 100000"),
        (["--runs", "100001"], "--runs 100001"),
        (["--threads", "65"], "--threads 65: choose 1 to 64"),
        (["--tokens", "129"], "1 to 128"),
        (["--tokens", "0"], "1 to 128"),
        (["--trace", "nowhere/t.json"], "nowhere"),
        (["--png", "."], "cannot write"),
    ],
)
def test_wrong_option_is_refused_in_a_line(
    arguments: list[str], words: str, mobilebert_library: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command_line.main([str(mobilebert_library), *arguments]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert len(message.splitlines()) == 1


def test_the_greatest_numbers_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert command_line.main([str(tmp_path / "nowhere"), "--runs", "100000", "--threads", "64"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_chart_without_matplotlib_is_refused_before_anything_runs(
    mobilebert_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert command_line.main([str(mobilebert_library), "--png", str(tmp_path / "p.png")]) == 2
    assert capsys.readouterr().err == "error: --png needs matplotlib: pip install 'pocketbert[profile]'\n"


def test_library_for_a_phone_is_refused_with_the_remedy(
    mobilebert_android: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command_line.main([str(mobilebert_android)]) == 2
    message = capsys.readouterr().err
    assert "arm64-android" in message
    assert "--target host" in message
    assert len(message.splitlines()) == 1
