"""int8 kernels of every level against the numpy reference, bit for bit; Arm's under emulation.

Each level's kernels are called by one small program over one block of memory, which it hands back whole: what they
computed, and whatever else they may have written.
"""

from __future__ import annotations

import base64
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compile.codegen.objects import compile_kernels
from compile.cpus import CPUS, RELAXED, Cpu
from compile.kernels import int8_reference
from compile.kernels.contract import pack_vector
from compile.kernels.gather_int8 import GatherInt8
from compile.kernels.linear_int8 import LinearInt8, overflows_in_pairs, weight_operands
from compile.kernels.tiles import default_tile
from compile.linking.link import find_toolchain, run_compiler
from compile.running.runners import node, qemu
from compile.targets import TARGETS, host_cpu_flags
from tests.support.chromium import CHROMIUM, Browser

LEVELS = ["x86-64-v3", "x86-64-v3-vnni", "x86-64-v4", "x86-64-v4-vnni", "armv8.0", "cortex-a76", "cortex-x2"]
LEVELS += ["wasm-simd128", "wasm-relaxed-simd", "wasm-relaxed-dot"]
ROW_COUNTS = [*range(1, 10), 12, 13, 17, 31]
GUARD = 64

MAIN = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
{prototypes}
static char *memory;
int main(int argc, char **argv)
{{
    (void)argc;
    memory = aligned_alloc(64, {size});
    FILE *file = fopen(argv[1], "rb");
    if (!memory || !file || fread(memory, 1, {size}, file) != {size})
        return 1;
    fclose(file);
    {calls}
    file = fopen(argv[1], "wb");
    return !file || fwrite(memory, 1, {size}, file) != {size} || fclose(file);
}}
"""

MODULE = """
#include <stdint.h>
{prototypes}
static _Alignas(64) char memory[{size}];
__attribute__((export_name("place"))) char *place(void) {{ return memory; }}
__attribute__((export_name("run"))) void run(void)
{{
    {calls}
}}
"""

# What the module makes of the memory, both as they come in base64.
IN_JAVASCRIPT = """(async (module, memory) => {
    const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const { exports } = (await WebAssembly.instantiate(bytes(module))).instance;
    const there = new Uint8Array(exports.memory.buffer, exports.place(), bytes(memory).length);
    there.set(bytes(memory));
    exports.run();
    let text = "";
    for (let at = 0; at < there.length; at += 8192) text += String.fromCharCode(...there.subarray(at, at + 8192));
    return btoa(text);
})"""


@dataclass
class Calls:
    """Calls of kernels over arrays in one block of memory."""

    memory: bytearray = field(default_factory=bytearray)
    kernels: dict[str, Any] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def put(self, array: np.ndarray) -> int:
        """Where a copy of `array` lies: at a multiple of 64 bytes, with room for a vector read past its end."""
        at = len(self.memory)
        self.memory += np.ascontiguousarray(array).tobytes() + bytes(GUARD)
        self.memory += bytes(-len(self.memory) % 64)
        return at

    def call(self, kernel: Any, rows: int, **operands: np.ndarray) -> dict[str, int]:
        """`kernel` on `operands` by name (row strides as the arrays have them); where each lies is returned."""
        places, arguments, stride = {name: self.put(array) for name, array in operands.items()}, [], 0
        for parameter in kernel.signature():
            match parameter.role:
                case "row_count":
                    arguments.append(str(rows))
                case "stride":
                    arguments.append(str(stride))
                case "workspace":
                    size = kernel.workspace_bytes(rows, rows)
                    places["workspace end"] = self.put(np.full(size + GUARD, 0xA5, np.uint8)) + size
                    arguments.append(f"memory + {places['workspace end'] - size}")
                case _:
                    stride = operands[parameter.name].shape[-1]
                    arguments.append(f"memory + {places[parameter.name]}")
        self.kernels[kernel.name] = kernel
        self.calls.append(f"{kernel.name}({', '.join(arguments)});")
        return places

    def run(self, cpu: Cpu, folder: Path) -> None:
        """Execute the calls on this machine or an emulated one; `memory` is then as they left it."""
        target = TARGETS[{"aarch64": "arm64-linux", "wasm32": "wasm32"}.get(cpu.arch, "x86_64-linux")]
        objects = compile_kernels(self.kernels, target, folder, cpu)
        prototypes = [
            f"void {name}({', '.join('void *' if p.is_pointer else 'int32_t' for p in kernel.signature())});"
            for name, kernel in self.kernels.items()
        ]
        main = MODULE if target.is_web else MAIN
        text = main.format(prototypes="\n".join(prototypes), size=len(self.memory), calls="\n    ".join(self.calls))
        (folder / "main.c").write_text(text)
        (folder / "memory").write_bytes(self.memory)
        options = ["-mexec-model=reactor", "-nostartfiles", "-Wl,--no-entry", "-lm"] if target.is_web else []
        options += target.c_options if target.is_web else ()
        run_compiler(find_toolchain(target), ["-O1", "main.c", *map(str, objects), *options, "-o", "main"], folder)
        if target.is_web:
            module, memory = (base64.b64encode((folder / name).read_bytes()).decode() for name in ("main", "memory"))
            self.memory = bytearray(base64.b64decode(in_javascript(cpu, f"{IN_JAVASCRIPT}('{module}', '{memory}')")))
            return
        emulator = qemu.command(cpu.qemu_cpu, "-L", str(qemu.ARM64_ROOT)) if cpu.arch == "aarch64" else []
        subprocess.run([*emulator, "./main", "memory"], cwd=folder, check=True, timeout=300)
        self.memory = bytearray((folder / "memory").read_bytes())

    def at(self, place: int, like: np.ndarray) -> np.ndarray:
        return np.frombuffer(self.memory, like.dtype, like.size, place).reshape(like.shape)


def in_javascript(cpu: Cpu, expression: str) -> str:
    """In Node.js; products of bytes, which are exact there only lately, in Chromium."""
    if cpu.isa.dot != "relaxed":
        program = f"{expression}.then(console.log)"
        done = subprocess.run([*(node.command() or []), "-"], input=program, capture_output=True, text=True, check=True)
        return done.stdout
    assert CHROMIUM
    browser = Browser(CHROMIUM)
    try:
        return str(browser.evaluate(expression))
    finally:
        browser.close()


@pytest.fixture(params=LEVELS)
def cpu(request: pytest.FixtureRequest) -> Cpu:
    level = CPUS[request.param]
    if level.arch == "aarch64" and (missing := qemu.missing()):
        pytest.skip(f"needs {missing}")
    if level.isa.dot == "relaxed" and not (CHROMIUM and "avxvnni" in host_cpu_flags()):
        pytest.skip("needs Chromium, and a CPU with AVX-VNNI")
    if level.arch == "wasm32" and (missing := node.missing()):
        pytest.skip(f"needs {missing}")
    if level.arch != "aarch64" and not set(level.required) <= host_cpu_flags():
        pytest.skip(f"this CPU is no {level.name}")
    return level


CASES = {
    "wide, relu, strides known": (128, 512, True, ("relu",), (131, 515)),
    "deep, residual": (512, 128, True, ("add",), ()),
    "after a ReLU": (80, 48, True, (), ()),
    "after a ReLU, odd depth": (43, 20, False, ("add",), (46, 23, 24)),
    "one column": (33, 1, True, (), ()),
    "two columns, of a question answering head": (128, 2, True, (), ()),
    "width 30, no bias": (30, 30, False, ("add",), ()),
    "depth 17, NoNorm": (17, 104, True, ("mul_vector",), ()),
    "depth 1": (1, 9, True, (), ()),
    "depth 65, strides known": (65, 70, True, ("add",), (68, 73, 74)),
    "TinyBERT's 312": (312, 312, False, (), ()),
    "weights of others, −128 at random": (72, 40, True, (), ()),
    "weights of others, −128 everywhere": (65, 33, False, (), ()),
    "static, residual": (100, 40, False, ("add",), ()),
    "static, odd depth, strides known": (39, 17, True, (), (42, 20)),
}


def rows_of(rng: np.random.Generator, rows: int, k: int) -> np.ndarray:
    """Rows of all sizes and signs; among them zeros, no negatives, a NaN, both infinities, tiny and huge numbers."""
    x = rng.standard_normal((rows, k)) * np.exp(rng.uniform(-5, 5, (rows, 1))) + rng.integers(-1, 2, (rows, 1))
    x = x.astype(np.float32)
    special = [0.0, np.nan, np.inf, -np.inf, 1e-37, 3e38]
    for row, value in zip(range(1, rows, 2), special, strict=False):
        x[row, rng.integers(k) if value else slice(None)] = value
    for row, values in zip(range(2, rows, 2), ([np.inf, -np.inf], [np.inf, np.inf], [-np.inf, np.nan]), strict=False):
        x[row, rng.permutation(k)[:2]] = values[: min(k, 2)]
    x[rows // 2] = np.abs(x[rows // 2])
    if rows > 16:
        x[-1] *= np.float32(int8_reference.SMALLEST_RANGE / 16)
    return x


def framed(values: np.ndarray, gap: int, fill: float = np.nan) -> np.ndarray:
    """Rows that lie `gap` elements apart, with one more of them before the first and after the last."""
    whole = np.full((values.shape[0], values.shape[1] + gap), fill, np.float32)
    whole[:, : values.shape[1]] = values
    return whole


def test_linears_give_the_bits_of_the_reference(cpu: Cpu, tmp_path: Path) -> None:
    calls, expected = Calls(), []
    for case, (k, n, has_bias, steps, strides) in CASES.items():
        rng = np.random.default_rng(k)
        tile, nonnegative = default_tile(cpu.isa, f"i8_{cpu.isa.dot}"), "after a ReLU" in case
        weight = rng.integers(-127, 128, (k, n)).astype(np.int8)
        weight[:, n // 2] = 127 * rng.choice([-1, 1])  # sums as large as they can be
        if "−128" in case:
            weight[rng.random((k, n)) < (1 if "everywhere" in case else 0.2)] = -128
        apart = overflows_in_pairs(weight)
        assert apart == ("−128" in case)
        static = int8_reference.static_extremes(0.037, int(rng.integers(256))) if "static" in case else None
        kernel = LinearInt8(k, n, has_bias, steps, tile, cpu.isa, strides, nonnegative, apart, static is not None)
        scales = rng.uniform(0.001, 1, n).astype(np.float32)
        bias = rng.standard_normal(n).astype(np.float32) if has_bias else None
        operands: dict[str, Any] = dict(weight_operands(weight, scales))
        if bias is not None:
            operands["bias"] = pack_vector(bias)
        if static is not None:
            operands["extremes"] = pack_vector(static)
        for rows in ROW_COUNTS:
            x = rows_of(rng, rows, k)
            x = np.where(x < 0, np.float32(0), x) if nonnegative else x
            if static is not None:
                x = static[0] + rng.integers(256, size=(rows, k)).astype(np.float32) * np.float32(0.037)
            y = framed(np.full((rows, n), 7.0, np.float32), 3, fill=7.0)
            with np.errstate(invalid="ignore", over="ignore"):
                others = [rng.standard_normal((1 if s == "mul_vector" else rows, n)).astype(np.float32) for s in steps]
                fused = bias is None and steps == ("add",)
                want = int8_reference.linear(x, weight, scales, others[0] if fused else bias, static)
                for step, other in zip(steps, others, strict=True):
                    if step == "relu":
                        want = np.where(want < 0, np.float32(0), want)  # what is not a number stays
                    elif step == "mul_vector":
                        want, operands["mul_vector0"] = want * other, pack_vector(other[0])
                    else:
                        want, operands["add0"] = want if fused else want + other, framed(other, 4)
            places = calls.call(kernel, rows, x=framed(x, 3), y=y, **operands)
            expected.append((f"{case}, {rows} rows", places, y, want))
    calls.run(cpu, tmp_path)
    for name, places, y, want in expected:
        got, width = calls.at(places["y"], y), want.shape[1]
        assert np.array_equal(got[:, :width], want, equal_nan=True), name
        assert (got[:, width:] == 7.0).all(), f"{name}: written outside the tensor"
        end = calls.at(places["workspace end"], np.zeros(GUARD, np.uint8))
        assert (end == 0xA5).all(), f"{name}: written past the workspace"


@pytest.mark.skipif(node.missing() is not None, reason="needs Node.js")
def test_sum_that_rounds_twice_in_float64_is_rounded_once(tmp_path: Path) -> None:
    """Where nothing multiplies and adds at once. Products are half a bias's last bit, or nearly."""
    cpu, n = CPUS["wasm-simd128"], 256
    rng = np.random.default_rng(0)
    weight, x = rng.integers(1, 128, (1, n)).astype(np.int8), np.array([[1.1]], np.float32)
    scaled = int8_reference.linear(x, weight, np.ones(n, np.float32))
    scales = np.float32(2.0**-24) / scaled[0]
    exact = scaled[0].astype(np.float64) * scales
    bias = np.where(exact < 2.0**-24, np.float32(1 + 2.0**-23), np.float32(1))
    want = int8_reference.linear(x, weight, scales, bias)
    assert np.count_nonzero((exact + bias).astype(np.float32) != want) > 5
    calls, y = Calls(), np.zeros((1, n), np.float32)
    kernel = LinearInt8(1, n, True, (), default_tile(cpu.isa, "i8_maddwd"), cpu.isa)
    places = calls.call(kernel, 1, x=x, y=y, bias=pack_vector(bias), **weight_operands(weight, scales))
    calls.run(cpu, tmp_path)
    assert np.array_equal(calls.at(places["y"], y), want)


def test_lookups_scale_a_row(cpu: Cpu, tmp_path: Path) -> None:
    if cpu.isa == RELAXED:
        pytest.skip("the kernel is that of wasm-simd128")
    calls, expected, rng = Calls(), [], np.random.default_rng(0)
    for columns, steps in ((128, ()), (30, ("add_vector",)), (5, ("add",))):
        table = rng.integers(-127, 128, (50, columns)).astype(np.int8)
        scales = rng.uniform(0.001, 1, 50).astype(np.float32)
        ids = np.array([[0], [49], [7], [-3], [99]], np.int64)
        inside = np.clip(ids[:, 0], 0, 49)
        want = table[inside] * scales[inside, None]
        other = rng.standard_normal((5, columns)).astype(np.float32)
        operands = (
            {"add_vector0": pack_vector(other[0])} if steps == ("add_vector",) else {"add0": other} if steps else {}
        )
        want = want + other[: 1 if steps == ("add_vector",) else 5] if steps else want
        y = framed(np.zeros((5, columns), np.float32), 2, fill=7.0)
        kernel = GatherInt8(50, columns, steps, cpu.isa)
        places = calls.call(kernel, 5, ids=ids, table=table, scales=scales, y=y, **operands)
        expected.append((places["y"], y, want))
    calls.run(cpu, tmp_path)
    for place, y, want in expected:
        got = calls.at(place, y)
        assert np.abs(got[:, :-2] - want).max() <= 1e-6 * np.abs(want).max()
        assert (got[:, -2:] == 7.0).all()
