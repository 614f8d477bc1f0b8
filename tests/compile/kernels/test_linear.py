"""Matrix products against float64: every row count, odd widths, every epilogue, nothing written past a row."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from compile.cpus import Isa
from compile.kernels.builder import Pointer, const
from compile.kernels.contract import pack_vector
from compile.kernels.linear import Linear, pack_weight
from compile.kernels.tiles import default_tile

# Elements between rows.
X_GAP, Y_GAP, OPERAND_GAP = 5, 3, 7
ROW_COUNTS = [*range(1, 31), 64, 128]


@dataclass(frozen=True)
class Case:
    k: int
    n: int
    bias: bool = False
    steps: tuple[str, ...] = ()

    known: bool = False

    def kernel(self, isa: Isa) -> Linear:
        tensors = sum(step in ("add", "mul") for step in self.steps)
        strides = (self.k + X_GAP, self.n + Y_GAP, *[self.n + OPERAND_GAP] * tensors) if self.known else ()
        return Linear(self.k, self.n, self.bias, self.steps, default_tile(isa), isa, strides)


CASES = {
    "square": Case(128, 128),
    "wide, bias, relu": Case(128, 512, True, ("relu",), known=True),
    "one column": Case(33, 1, True),
    "two columns, of a question answering head": Case(128, 2, True),
    "width 30": Case(30, 30, True, ("add",)),
    "width 26 of 4 heads, odd depth": Case(17, 104, True, ("gelu",)),
    "TinyBERT's 312": Case(312, 312, True, ("gelu", "add")),
    "residual": Case(128, 128, True, ("add",), known=True),
    "NoNorm after a residual": Case(64, 96, True, ("add", "mul_vector", "add_vector")),
    "two residuals": Case(48, 40, False, ("add", "relu", "add"), known=True),
    "product of tensors": Case(40, 24, True, ("mul",), known=True),
    "tanh, of a pooler": Case(96, 65, True, ("tanh",)),
    "gelu by tanh": Case(31, 63, False, ("mul_vector", "gelu_tanh")),
    "depth 1": Case(1, 9, True),
}


def workspace_of(kernel: Linear, rows: int) -> tuple[np.ndarray, list[ctypes.c_void_p]]:
    """NaN wherever the kernel does not write; and the argument, for a kernel that has one."""
    size = kernel.workspace_bytes(rows, rows) // 4
    whole = np.full(size + 64, np.nan, np.float32)
    memory = whole[-whole.ctypes.data % 64 // 4 :]
    return memory, [ctypes.c_void_p(memory.ctypes.data)] if size else []


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def referee(case: Case, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, operands: list[Any], gelu: Callable):
    y = x.astype(np.float64) @ w.astype(np.float64)
    y = y if bias is None else y + bias
    for step, operand in zip(case.steps, operands, strict=True):
        match step:
            case "add" | "add_vector":
                y = y + operand
            case "mul" | "mul_vector":
                y = y * operand
            case "relu":
                y = np.maximum(y, 0)
            case "gelu":
                y = gelu(y)
            case "gelu_tanh":
                y = gelu_tanh(y)
            case "tanh":
                y = np.tanh(y)
    return y


@pytest.fixture(scope="module")
def call(isa: Isa, link_kernels: Callable) -> Callable[..., None]:
    return link_kernels({c.kernel(isa).name: c.kernel(isa) for c in CASES.values()}.values())


@pytest.mark.parametrize("name", CASES)
def test_matrix_product_of_any_number_of_rows(
    name: str, isa: Isa, call: Callable, strided: type, at_64_bytes: Callable, float64_gelu: Callable
) -> None:
    case, rng = CASES[name], np.random.default_rng(len(name))
    kernel = case.kernel(isa)
    w = (rng.standard_normal((case.k, case.n)) / np.sqrt(case.k)).astype(np.float32)
    bias = rng.standard_normal(case.n).astype(np.float32) if case.bias else None
    packed = at_64_bytes(pack_weight(w, kernel.tile))
    for rows in ROW_COUNTS:
        x = strided(rows, case.k, gap=X_GAP, values=rng.standard_normal((rows, case.k)))
        y = strided(rows, case.n, gap=Y_GAP)
        operands, arguments, keep = [], [], []
        for step in case.steps:
            if step in ("add_vector", "mul_vector"):
                operands.append(rng.standard_normal(case.n).astype(np.float32))
                keep.append(at_64_bytes(pack_vector(operands[-1], 64)))
                arguments.append(keep[-1])
            elif step in ("add", "mul"):
                keep.append(strided(rows, case.n, gap=OPERAND_GAP, values=rng.standard_normal((rows, case.n))))
                operands.append(keep[-1].view)
                arguments += [keep[-1].address, keep[-1].stride]
            else:
                operands.append(None)
        start = [] if bias is None else [at_64_bytes(pack_vector(bias, 64))]
        memory, workspace = workspace_of(kernel, rows)
        call(kernel, x.address, x.stride, packed, y.address, y.stride, *start, *arguments, rows, *workspace)
        want = referee(case, x.view, w, bias, operands, float64_gelu)
        # Rounding grows with the terms that are summed, not with their sum.
        size = 1 + np.abs(x.view).astype(np.float64) @ np.abs(w) + np.abs(want)
        assert np.all(np.abs(y.view - want) <= 2e-6 * size), f"{rows} rows"
        assert y.untouched(), f"{rows} rows: written outside the tensor"
        assert np.isnan(memory[kernel.workspace_bytes(rows, rows) // 4 :]).all(), (
            f"{rows} rows: written past the workspace"
        )


def test_rows_do_not_depend_on_how_they_are_cut_into_blocks(
    isa: Isa, call: Callable, strided: type, at_64_bytes: Callable
) -> None:
    """Bit for bit: or else the number of threads would show in the results."""
    case, rng = CASES["TinyBERT's 312"], np.random.default_rng(1)
    kernel = case.kernel(isa)
    packed = at_64_bytes(pack_weight(rng.standard_normal((case.k, case.n)).astype(np.float32), kernel.tile))
    bias = at_64_bytes(pack_vector(rng.standard_normal(case.n).astype(np.float32), 64))
    x, other = (strided(30, case.n, values=rng.standard_normal((30, case.n))) for _ in range(2))

    def blocks(size: int) -> np.ndarray:
        y = strided(30, case.n)
        for first in range(0, 30, size):
            at = [type(x.address)(t.address.value + 4 * first * t.stride) for t in (x, y, other)]
            rows = min(size, 30 - first)
            _, workspace = workspace_of(kernel, rows)
            call(kernel, at[0], x.stride, packed, at[1], y.stride, bias, at[2], other.stride, rows, *workspace)
        return y.view

    whole = blocks(30)
    for size in (1, 2, 3, 4, 7, 8, 15, 23):
        assert np.array_equal(blocks(size), whole), f"blocks of {size} rows"


@pytest.mark.parametrize(("rows", "share"), [(16, 0.75), (32, 0.9), (64, 1), (128, 1)])
def test_a_block_asks_for_the_lines_of_the_next_panel(
    rows: int,
    share: float,
    isa: Isa,
    link_kernels: Callable,
    strided: type,
    at_64_bytes: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shown by a kernel that writes where it would ask."""
    if isa.by_element:
        pytest.skip("Arm's kernels leave it to the hardware")
    monkeypatch.setattr(Pointer, "prefetch", lambda self, index: self.store(index, const(7.0)))
    kernel = Case(128, 96).kernel(isa)
    call = link_kernels([kernel])
    panels = pack_weight(np.zeros((128, 96), np.float32), kernel.tile)
    weights = at_64_bytes(np.zeros((4, *panels.shape), np.float32))  # behind the last one lie others
    x, y = strided(rows, 128, values=np.zeros((rows, 128))), strided(rows, 96)
    call(kernel, x.address, x.stride, weights, y.address, y.stride, rows)
    asked = (weights.reshape(4 * len(panels), -1, 16) == 7).any(axis=2).mean(axis=1)
    assert asked[0] == 0
    assert min(asked[1 : 1 + len(panels)]) >= share
