"""A thin layer over TVM's IRBuilder for kernels written loop by loop.

Kernels are plain C functions: pointers and int32 in, nothing out, no allocation, no threads, no state. Vectors are
explicit (`load`/`store` with `lanes`), so what the micro-kernel holds in registers is decided here and not by a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from compile.cpus import RELAXED, SIMD128, Isa
from compile.kernels.contract import ALIGNMENT, Signature

# Of a float64 half-way between two float32 numbers these bits are 0, also where those are subnormal.
HALF_WAY = 0x0FFFFFFF
Expr = Any  # tirx.Expr | int: TVM's expressions overload the arithmetic operators


class Pointer:
    """A pointer argument seen as a flat array of `dtype`; or, made by `registers`, a variable."""

    def __init__(self, buffer: Any, dtype: str) -> None:
        self.buffer = buffer
        self.dtype = dtype

    def load(self, index: Expr, lanes: int = 1) -> Expr:
        return tirx.BufferLoad(self.buffer, [_ramp(index, lanes)])

    def store(self, index: Expr, value: Expr, lanes: int = 1) -> None:
        T.buffer_store(self.buffer, value, [_ramp(index, lanes)])

    def seen_as(self, dtype: str, align: int = ALIGNMENT) -> Pointer:
        """The same memory as elements of another type. LLVM takes accesses of two types for ones that never meet."""
        buffer = T.decl_buffer((1 << 30,), dtype, data=self.buffer.data, align=align, layout=None)
        return Pointer(buffer, dtype)

    def prefetch(self, index: Expr) -> None:
        """Ask for the cache line of element `index`, down to the second level; outside the array it does nothing."""
        read, second_level, data = (tirx.const(n, "int32") for n in (0, 2, 1))
        address = tirx.address_of(self.load(index))
        T.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch", address, read, second_level, data))


def _ramp(index: Expr, lanes: int) -> Expr:
    return index if lanes == 1 else tirx.Ramp(index, 1, lanes)


def bind(value: Expr) -> Expr:
    """Give `value` a name, so that it is computed once."""
    return T.Bind(value)


def opaque(value: Expr, lanes: int, dtype: str = "float32") -> Expr:
    """Bind `value` so that TVM's simplifier does not look into it: what it does to a nested max grows with 3^depth, and
    it takes (a + b) − b for a.
    """
    (variable,) = Kernel.registers(1, lanes, dtype)
    variable.store(0, value, lanes)
    return bind(variable.load(0, lanes))


def broadcast(value: Expr, lanes: int) -> Expr:
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def const(value: float, lanes: int = 1) -> Expr:
    return broadcast(tirx.const(value, "float32"), lanes)


def integer(value: int, lanes: int = 1) -> Expr:
    return broadcast(tirx.const(value, "int32"), lanes)


def lane(vector: Expr, index: int) -> Expr:
    """One element of a vector."""
    return tirx.Shuffle([vector], [index])


def fma(a: Expr, b: Expr, c: Expr, lanes: int, isa: Isa) -> Expr:
    """a · b + c, rounded once on every CPU."""
    if isa == SIMD128:
        return _fma_in_float64(a, b, c, lanes)
    if isa != RELAXED:
        return tirx.call_llvm_pure_intrin("float32" if lanes == 1 else f"float32x{lanes}", "llvm.fma", a, b, c)
    # LLVM would call a function for each lane. An engine that rounds twice is not given this level (web/index.js).
    operands = [broadcast(operand, isa.lanes) if lanes == 1 else operand for operand in (a, b, c)]
    result = tirx.call_llvm_pure_intrin(f"float32x{isa.lanes}", "llvm.wasm.relaxed.madd", *operands)
    return lane(result, 0) if lanes == 1 else result


def _fma_in_float64(a: Expr, b: Expr, c: Expr, lanes: int) -> Expr:
    """The product is exact there. Rounding the sum a second time, to float32, goes wrong only where it lies half-way
    between two of those: its 28 lowest bits are 0 then, which is rare. It is rounded to odd there first (Boldo and
    Melquiond).
    """

    def exactly(value: Expr) -> Expr:
        return opaque(value, lanes, "float64")

    def of(dtype: str, count: int = lanes) -> str:
        return dtype if count == 1 else f"{dtype}x{count}"

    numbers, bits = of("float64"), of("int64")
    product, addend = exactly(tirx.Cast(numbers, a) * tirx.Cast(numbers, b)), exactly(tirx.Cast(numbers, c))
    (result,) = Kernel.registers(1, lanes, "float64")
    result.store(0, product + addend, lanes)
    total = bind(result.load(0, lanes))
    with when(_may_be_half_way(total, lanes)):
        part = exactly(total - product)
        error = exactly((product - exactly(total - part)) + (addend - part))
        # 1 where what was rounded away lies farther from 0 than the sum does, −1 where nearer; 0 without it or for NaN.
        away, zero = exactly(error * total), broadcast(tirx.const(0.0, "float64"), lanes)
        step = tirx.Cast(bits, away > zero) - tirx.Cast(bits, away < zero)
        one = broadcast(tirx.const(1, "int64"), lanes)
        whole = bind(tirx.reinterpret(bits, total))
        odd = whole + (step & ((whole & one) - one))  # what is odd stays
        result.store(0, tirx.reinterpret(numbers, odd), lanes)
    return bind(_as_float32(result.load(0, lanes), lanes))


def _as_float32(value: Expr, lanes: int) -> Expr:
    """Two lanes at a time with zeros behind them, and a shuffle that LLVM does not look into: so it knows the
    instruction.
    """
    if lanes == 1:
        return tirx.Cast("float32", value)
    halves = []
    for first in (0, 2):
        half = tirx.Cast("float32x2", tirx.Shuffle([value], [first, first + 1]))
        halves.append(tirx.reinterpret("int8x16", tirx.Shuffle([half, const(0.0, 2)], [0, 1, 2, 3])))
    order = [integer(n) for n in (*range(8), *range(16, 24))]
    return tirx.reinterpret("float32x4", tirx.call_llvm_pure_intrin("int8x16", "llvm.wasm.shuffle", *halves, *order))


def _may_be_half_way(total: Expr, lanes: int) -> Expr:
    """Whether in some lane the 28 lowest bits of a float64 are 0."""
    if lanes == 1:
        return (tirx.reinterpret("int64", total) & tirx.const(HALF_WAY, "int64")) == 0
    low = tirx.Shuffle([tirx.reinterpret(f"int32x{2 * lanes}", total)], list(range(0, 2 * lanes, 2)))
    return tirx.call_llvm_pure_intrin("int32", "llvm.wasm.alltrue", low & integer(HALF_WAY, lanes)) == 0


def fold_lanes(vector: Expr, lanes: int, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """Reduce a vector to a scalar by halving: log2(lanes) shuffles."""
    while lanes > 1:
        lanes //= 2
        low = tirx.Shuffle([vector], list(range(lanes)))
        high = tirx.Shuffle([vector], list(range(lanes, 2 * lanes)))
        vector = bind(combine(low, high))
    return vector


class Kernel:
    """Collects one PrimFunc. Used as `with Kernel(name) as k:`; afterwards `k.func` holds it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.func: Any = None
        self._ib = IRBuilder()
        self._declared: list[tuple[Pointer, int]] = []

    def __enter__(self) -> Kernel:
        self._ib.__enter__()
        self._frame = T.prim_func(s_tir=True)
        self._frame.__enter__()
        T.func_name(self.name)
        T.func_attr({"global_symbol": self.name, "tirx.noalias": True})
        return self

    def __exit__(self, *exc: Any) -> None:
        self._frame.__exit__(*exc)
        self._ib.__exit__(*exc)
        if exc[0] is None:
            self.func = self._ib.get()

    def int32(self, name: str) -> Expr:
        return T.arg(name, T.int32())

    def pointer(self, name: str, dtype: str = "float32", align: int = 4) -> Pointer:
        """A pointer argument; `align` in bytes is what every caller promises."""
        data = T.arg(name, T.handle(dtype))
        pointer = Pointer(data, dtype)
        self._declared.append((pointer, align))
        return pointer

    def arguments(self, signature: Signature) -> dict[str, Any]:
        """Declare what `signature` lists and begin the body: pointers and numbers by name."""
        arguments = {
            p.name: self.pointer(p.name, p.dtype, p.align) if p.is_pointer else self.int32(p.name) for p in signature
        }
        self.begin()
        return arguments

    def begin(self) -> None:
        """End the signature and begin the body: TVM wants every argument before the first statement."""
        for pointer, align in self._declared:
            # The extent is never read: the plan owns the bounds.
            pointer.buffer = T.decl_buffer((1 << 30,), pointer.dtype, data=pointer.buffer, align=align, layout=None)

    @staticmethod
    def registers(count: int, lanes: int, dtype: str = "float32") -> list[Pointer]:
        """`count` vectors that LLVM keeps in registers.

        Each is an array of its own: of one large array LLVM may make one large vector and shuffle its parts about.
        """
        return [Pointer(T.alloc_buffer((lanes,), dtype, scope="local", layout=None), dtype) for _ in range(count)]


@contextmanager
def loop(extent: Expr) -> Iterator[Expr]:
    with T.serial(0, extent) as i:
        yield i


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    with T.If(condition), T.Then():
        yield
