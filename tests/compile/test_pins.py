"""Versions that were pinned for a reason, and the reason."""

import subprocess
import sys

SAVE_A_PRIM_FUNC = """
import tvm
from tvm import te
x = te.placeholder((8,), name="x")
func = te.create_prim_func([x, te.compute((8,), lambda i: x[i] + 1.0, name="y")])
text = tvm.ir.save_json(func)
tvm.ir.assert_structural_equal(tvm.ir.load_json(text), func)
print("saved")
"""


def test_a_prim_func_can_be_saved() -> None:
    """Some versions of apache-tvm-ffi crash here, and with it every kernel's name and every tuning database."""
    done = subprocess.run([sys.executable, "-c", SAVE_A_PRIM_FUNC], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "saved"), done.stderr[-2000:]
