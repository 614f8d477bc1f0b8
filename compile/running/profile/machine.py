"""What a time is compared with: the rate at which this machine's cores multiply and add."""

from __future__ import annotations

import ctypes
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from compile.linking.link import Toolchain, run_compiler
from compile.targets import host_cpu_flags

CHAINS = 12
PEAK_SOURCE = """
#include <stdint.h>
typedef float vector __attribute__((vector_size(%d)));
/* Twelve independent chains of multiply-adds: enough to hide the latency. */
float peak(int64_t steps)
{
    vector a[12], x, y;
    for (unsigned i = 0; i < sizeof x / 4; i++) { x[i] = 0.999f; y[i] = 1e-4f; }
    for (int i = 0; i < 12; i++) a[i] = x;
    for (int64_t k = 0; k < steps; k++) {
        #pragma clang loop unroll(full)
        for (int i = 0; i < 12; i++) a[i] = a[i] * x + y;
    }
    vector sum = a[0];
    for (int i = 1; i < 12; i++) sum += a[i];
    return sum[0];
}
"""


def measure_peak(folder: Path, threads: int = 1, steps: int = 2_000_000) -> Callable[[], float]:
    """A function that gives a core's float32 multiply-add rate now, in GFLOP/s, while `threads` of them are busy.

    Raises CompileError where there is no compiler to build the loop with in `folder`.
    """
    width = 64 if "avx512f" in host_cpu_flags() else 32 if platform.machine() == "x86_64" else 16
    (folder / "peak.c").write_text(PEAK_SOURCE % width)
    zig = Toolchain((sys.executable, "-m", "ziglang", "cc"), "zig")
    options = ["-O3", "-mcpu=native", "-ffp-contract=fast", "-shared", "-fPIC", "-nostdlib"]
    run_compiler(zig, [*options, "-o", "peak.so", "peak.c"], folder)
    peak = ctypes.CDLL(str(folder / "peak.so")).peak
    peak.argtypes, peak.restype = [ctypes.c_int64], ctypes.c_float
    pool = ThreadPoolExecutor(threads)

    def rate() -> float:
        def one(_: int) -> float:
            start = time.perf_counter()
            peak(steps)
            return steps * CHAINS * 2 * (width // 4) / (time.perf_counter() - start) / 1e9

        return sum(pool.map(one, range(threads))) / threads

    return rate


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
