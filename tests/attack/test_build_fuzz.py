"""A short run of tests/fuzz/build.py."""

import re
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "fuzz" / "build.py"


def test_graphs_and_files_are_built_right_or_refused_in_one_line() -> None:
    command = [sys.executable, str(PROGRAM), "--graphs", "20", "--files", "25", "--seed", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "45 builds" in done.stdout
    right = re.search(r"graph right: (\d+)", done.stdout)
    assert right
    assert int(right[1]) >= 5  # else the graphs are none that anything is compiled of
