"""The benchmarks run at a small size, and their figures hang together. What they measure is not judged here."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def figures(name: str, *options: object) -> dict[str, Any]:
    command = [sys.executable, f"benchmarks/{name}.py", "--json", *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
