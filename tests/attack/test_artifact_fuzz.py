"""A short run of tests/fuzz/artifact.py."""

import re
import subprocess
import sys
from pathlib import Path

import compile

PROGRAM = Path(__file__).parents[1] / "fuzz" / "artifact.py"


def test_changed_artifact_folders_open_or_are_refused_in_one_line(tiny_file: Path, tmp_path: Path) -> None:
    folder = compile.build(tiny_file, target="host", seq_len=4, out=tmp_path / "out").folder
    command = [sys.executable, str(PROGRAM), str(folder), "--examples", "400"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    counted = re.match(r"(\d+) folders in \d+ s: (\d+) ran, (\d+) opened, (\d+) refused", done.stdout)
    assert counted
    assert int(counted[1]) >= 300
    assert int(counted[2]) >= 5  # else the changes are too many to get past the first check
