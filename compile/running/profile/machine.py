"""What a time is compared with: the rates at which this machine's cores multiply and add."""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from compile.linking.link import run_compiler, zig
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

# The fastest exact products of int8 numbers: four or two of a lane, as the kernels have them (`cpus.Isa.dot`).
INTEGER_PEAK_SOURCE = """
#include <stdint.h>
#if defined(__aarch64__)
#include <arm_neon.h>
typedef int32x4_t sums;
typedef int8x16_t bytes;
#define KEEP "+w"
#if defined(__ARM_FEATURE_MATMUL_INT8)
enum { PRODUCTS = 32 };
#define ADD(sum, x, y) vmmlaq_s32(sum, x, y)
#elif defined(__ARM_FEATURE_DOTPROD)
enum { PRODUCTS = 16 };
#define ADD(sum, x, y) vdotq_s32(sum, x, y)
#else
enum { PRODUCTS = 8 };
#define ADD(sum, x, y) vpadalq_s16(sum, vmull_s8(vget_low_s8(x), vget_low_s8(y)))
#endif
#else
#include <immintrin.h>
#define KEEP "+v"
#if defined(__AVX512BW__)
typedef __m512i sums;
#else
typedef __m256i sums;
#endif
typedef sums bytes;
#if defined(__AVX512VNNI__)
enum { PRODUCTS = 64 };
#define ADD(sum, x, y) _mm512_dpbusd_epi32(sum, x, y)
#elif defined(__AVXVNNI__) && !defined(__AVX512BW__)
enum { PRODUCTS = 32 };
#define ADD(sum, x, y) _mm256_dpbusd_avx_epi32(sum, x, y)
#elif defined(__AVX512BW__)
enum { PRODUCTS = 32 };
#define ADD(sum, x, y) _mm512_add_epi32(sum, _mm512_madd_epi16(x, y))
#else
enum { PRODUCTS = 16 };
#define ADD(sum, x, y) _mm256_add_epi32(sum, _mm256_madd_epi16(x, y))
#endif
#endif
int products(void) { return PRODUCTS; }
float peak(int64_t steps)
{
    sums a[12] = {0};
    bytes x = {1}, y = {2};
    for (int64_t k = 0; k < steps; k++) {
        #pragma clang loop unroll(full)
        for (int i = 0; i < 12; i++) {
            __asm__("" : KEEP(x)); /* another number, for all that the compiler knows */
            a[i] = ADD(a[i], x, y);
        }
    }
    for (int i = 1; i < 12; i++)
        a[0] += a[i];
    return (float)a[0][0];
}
"""


def measure_peak(
    folder: Path, threads: int = 1, steps: int = 2_000_000, precision: str = "float32"
) -> Callable[[], float]:
    """A function that gives a core's multiply-add rate now, in GFLOP/s, while `threads` of them are busy.

    precision: "float32", or "int8" for exact sums of products of int8 numbers, in 10^9 operations a second.
    Raises CompileError where there is no compiler to build the loop with in `folder`.
    """
    width = 64 if "avx512f" in host_cpu_flags() else 32 if platform.machine() == "x86_64" else 16
    name = f"peak_{precision}"
    (folder / f"{name}.c").write_text(INTEGER_PEAK_SOURCE if precision == "int8" else PEAK_SOURCE % width)
    options = ["-O3", "-mcpu=native", "-ffp-contract=fast", "-shared", "-fPIC", "-nostdlib", "-ffreestanding"]
    run_compiler(zig(), [*options, "-o", f"{name}.so", f"{name}.c"], folder)
    library = ctypes.CDLL(str(folder / f"{name}.so"))
    products, peak = library.products() if precision == "int8" else width // 4, library.peak
    peak.argtypes, peak.restype = [ctypes.c_int64], ctypes.c_float
    pool = ThreadPoolExecutor(threads)

    def rate() -> float:
        def one(_: int) -> float:
            start = time.perf_counter()
            peak(steps)
            return steps * CHAINS * 2 * products / (time.perf_counter() - start) / 1e9

        return sum(pool.map(one, range(threads))) / threads

    return rate


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
