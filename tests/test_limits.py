"""Nothing that hangs takes the suite with it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HANGS = """
import ctypes

def test_hangs_in_c():
    ctypes.CDLL(None).pause()

def test_is_well():
    pass
"""


def test_a_test_that_hangs_in_c_fails_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "test_hangs.py").write_text(HANGS)
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    command += ["--timeout", "2", "-n", "1", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed, 1 error" in done.stdout  # the error: xdist tries again, which is refused


def test_a_process_that_hangs_is_killed(subprocess_limit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess_limit, "seconds", 0.2)
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], check=True)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait()
        process.kill()


def test_a_limit_of_its_own_goes_before(subprocess_limit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess_limit, "seconds", 0.01)
    command = [sys.executable, "-c", "import time; time.sleep(0.2)"]
    subprocess.run(command, timeout=60, check=True)
    with subprocess.Popen(command) as process:
        process.wait(60)
