"""Operators that TVM's importer lacks or gets wrong, defined here: by Relax's own, or loop by loop.

A definition takes the block builder, the node's operands (None where one is left out) and its attributes, and gives
the result or a tuple of them. It raises ValueError, in words for the user, for a form that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from tvm import relax, te, tirx, topi
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter, onnx_input
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

Attributes = dict[str, Any]
Definition = Callable[[Any, Sequence[Any], Attributes], Any]


class Importer(ONNXGraphImporter):  # type: ignore[misc]
    """TVM's importer with `DEFINITIONS` in place of its own."""

    def _check_for_unsupported_ops(self, graph: Any) -> None:
        """`check_operators` has, with names."""

    def _convert_operator(self, op_name: str, inputs: Any, attrs: Attributes, opset: int) -> Any:
        define = DEFINITIONS.get(op_name)
        if op_name in INDEXED:
            inputs = [inputs[0], self._bounded(op_name, inputs[0], inputs[1], attrs), *inputs[2:]]
        if define is None:
            return super()._convert_operator(op_name, onnx_input(inputs), attrs, opset)
        return self.bb.normalize(define(self.bb, inputs, attrs))

    def _bounded(self, op_name: str, x: Any, indices: Any, attrs: Attributes) -> Any:
        """Indices that are only known at run time must not lead outside of x, not even in a wrong run."""
        if hasattr(indices, "value"):
            return indices
        sizes = _shape(x)
        if op_name.endswith("ND"):
            first = int(attrs.get("batch_dims", 0))
            extents = np.array(sizes[first : first + _shape(indices)[-1]])
        else:
            extents = np.array(sizes[int(attrs.get("axis", 0)) % len(sizes)])
        least, most = (relax.const(bound, indices.ty.dtype.dtype) for bound in (-extents, extents - 1))
        return self.bb.emit(relax.op.minimum(self.bb.emit(relax.op.maximum(indices, least)), most))


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Loops that TVM would run on threads of its own, which no library has, are plain loops."""
    parallel, scope = T.parallel, T.seq_scope
    T.parallel, T.seq_scope = T.serial, partial(T.serial, 0, 1)
    try:
        yield
    finally:
        T.parallel, T.seq_scope = parallel, scope


INDEXED = ("GatherElements", "GatherND", "ScatterElements", "ScatterND")


def _shape(x: Any) -> list[int]:
    return [int(size) for size in x.ty.shape]


def _number(x: Any, name: str) -> int:
    """A constant's value."""
    if not hasattr(x, "value"):
        raise ValueError(f"{name} is not a constant")
    return int(x.value.numpy().item())


# --- choices among elements


def _top_k(builder: Any, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """Values and places of the k first along an axis; of equal ones the first in place."""
    x, shape = inputs[0], _shape(inputs[0])
    axis = int(attributes.get("axis", -1)) % len(shape)
    shape[axis] = _number(inputs[1], "k")
    largest = bool(attributes.get("largest", 1))

    def places(x: Any) -> Any:
        return te.extern([shape], [x], lambda i, o: _choose(i[0], o[0], axis, largest), "top_k", dtype="int64")

    chosen = builder.emit_te(places, x, primfunc_name_hint="top_k")
    return relax.Tuple([builder.emit(relax.op.gather_elements(x, chosen, axis)), chosen])


def _choose(x: Any, y: Any, axis: int, largest: bool) -> Any:
    """y: places in x of what is largest (or smallest) along the axis, in order: O(n k), without further memory.

    Each is the first, in the order by value and then by place, that comes after the one before it. What is not a number
    is larger than all numbers.
    """
    n, k = int(x.shape[axis]), int(y.shape[axis])
    outer, inner = (int(np.prod([int(size) for size in part])) for part in (x.shape[:axis], x.shape[axis + 1 :]))
    floats = "float" in str(x.dtype)

    def exceeds(a: Any, b: Any) -> Any:
        a, b = (a, b) if largest else (b, a)
        return tirx.any(a > b, tirx.all(tirx.isnan(a), tirx.Not(tirx.isnan(b)))) if floats else a > b

    def equals(a: Any, b: Any) -> Any:
        return tirx.any(tirx.EQ(a, b), tirx.all(tirx.isnan(a), tirx.isnan(b))) if floats else tirx.EQ(a, b)

    with IRBuilder() as ib:
        elements, chosen = T.buffer_proxy(x), T.buffer_proxy(y)
        with T.serial(0, outer) as i, T.serial(0, inner) as j, T.serial(0, k) as place:

            def at(index: Any) -> Any:
                return elements[(i * n + tirx.max(index, 0)) * inner + j]

            def comes_first(a: Any, b: Any) -> Any:
                return tirx.any(exceeds(at(a), at(b)), tirx.all(equals(at(a), at(b)), a < b))

            here = (i * k + place) * inner + j
            last = T.Bind(tirx.Select(place > 0, tirx.Cast("int32", chosen[tirx.max(here - inner, 0)]), -1))
            chosen[here] = tirx.const(-1, "int64")
            with T.serial(0, n) as index:
                best = T.Bind(tirx.Cast("int32", chosen[here]))
                follows = tirx.any(last < 0, comes_first(last, index))
                with T.If(tirx.all(follows, tirx.any(best < 0, comes_first(index, best)))), T.Then():
                    chosen[here] = tirx.Cast("int64", index)
        return ib.get()


def _hardmax(builder: Any, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """1 at the first of the greatest along an axis, else 0."""
    (x,), shape = inputs, _shape(inputs[0])
    axis = int(attributes.get("axis", -1)) % len(shape)
    along = [size if i == axis else 1 for i, size in enumerate(shape)]
    places = relax.const(np.arange(shape[axis]).reshape(along), "int64")
    first = builder.emit(relax.op.argmax(x, axis, keepdims=True))
    return relax.op.astype(relax.op.equal(places, first), x.ty.dtype.dtype)


# --- recurrences


def _sigmoid(x: Any) -> Any:
    return 1.0 / (1.0 + tirx.exp(-x))


def _relu(x: Any) -> Any:
    return tirx.Select(x < 0.0, tirx.const(0.0, "float32"), x)


ACTIVATIONS = {"Sigmoid": _sigmoid, "Tanh": tirx.tanh, "Relu": _relu}


class _Step:
    """A step of a recurrence for one sequence: it makes a row of `parts` parts, as long as the state, which is last."""

    def __init__(
        self,
        tensors: Sequence[Any],
        sizes: tuple[int, int, int],
        sequence: Any,
        place: Any,
        before: Any,
        is_first: Any,
    ) -> None:
        self.x, self.weight, self.bias, self.initial_state, self.initial_cell, self.peephole, self.y = tensors
        self.size, self.gates, self.parts = sizes
        self.sequence, self.place, self.before, self.is_first = sequence, place, before, is_first

    def get(self, part: int, j: Any) -> Any:
        return self.y[(self.place * self.parts + part) * self.size + j]

    def put(self, part: int, j: Any, value: Any) -> None:
        self.y[(self.place * self.parts + part) * self.size + j] = value

    def given(self, part: int, j: Any) -> Any:
        """Of the products with x."""
        return self.x[(self.place * self.gates + part) * self.size + j]

    def earlier(self, part: int, j: Any, initial: Any) -> Any:
        """Of the row before."""
        index = (self.before * self.parts + part) * self.size + j
        return tirx.if_then_else(self.is_first, initial[self.sequence * self.size + j], self.y[index])

    def state(self, j: Any) -> Any:
        return self.earlier(self.parts - 1, j, self.initial_state)

    def begin(self, first: int, last: int) -> None:
        """Parts from first to last: the products with x, and the bias."""
        for part in range(first, last):
            with T.serial(0, self.size) as j:
                self.put(part, j, self.given(part, j) + self.bias[part * self.size + j])

    def multiply(self, first: int, last: int, state: Callable[[Any], Any]) -> None:
        """Add the products with a state to parts from first to last."""
        with T.serial(0, self.size) as k:
            value = T.Bind(state(k))
            with T.serial(0, (last - first) * self.size) as n:
                weight = self.weight[(k * self.gates + first) * self.size + n]
                self.put(first, n, self.get(first, n) + value * weight)


def _lstm(builder: Any, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """Parts: the gates i, o, f, c; the cell; the state."""

    def step(s: _Step, f: Any, g: Any, h: Any) -> None:
        s.begin(0, 4)
        s.multiply(0, 4, s.state)
        with T.serial(0, s.size) as j:
            old = T.Bind(s.earlier(4, j, s.initial_cell))
            i, o, forget = (s.peephole[part * s.size + j] for part in range(3))
            kept = T.Bind(f(s.get(2, j) + forget * old) * old)
            new = T.Bind(kept + f(s.get(0, j) + i * old) * g(s.get(3, j)))
            s.put(4, j, new)
            s.put(5, j, f(s.get(1, j) + o * new) * h(new))

    return _recurrent(builder, inputs, attributes, step, gates=4, parts=6, default=("Sigmoid", "Tanh", "Tanh"))


def _gru(builder: Any, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """Parts: the gates z, r, h; the state. The reset is applied to the state, or to its product."""
    to_product = bool(attributes.get("linear_before_reset", 0))

    def step(s: _Step, f: Any, g: Any) -> None:
        s.begin(0, 2 if to_product else 3)
        if to_product:
            with T.serial(0, s.size) as j:
                s.put(2, j, s.bias[2 * s.size + j])
        s.multiply(0, 3 if to_product else 2, s.state)
        if not to_product:
            with T.serial(0, s.size) as j:
                s.put(1, j, f(s.get(1, j)) * s.state(j))
            s.multiply(2, 3, lambda k: s.get(1, k))
        with T.serial(0, s.size) as j:
            inner = s.given(2, j) + f(s.get(1, j)) * s.get(2, j) if to_product else s.get(2, j)
            z = T.Bind(f(s.get(0, j)))
            s.put(3, j, (1.0 - z) * g(inner) + z * s.state(j))

    return _recurrent(builder, inputs, attributes, step, gates=3, parts=4, default=("Sigmoid", "Tanh"))


def _rnn(builder: Any, inputs: Sequence[Any], attributes: Attributes) -> Any:
    def step(s: _Step, f: Any) -> None:
        s.begin(0, 1)
        s.multiply(0, 1, s.state)
        with T.serial(0, s.size) as j:
            s.put(1, j, f(s.get(0, j)))

    return _recurrent(builder, inputs, attributes, step, gates=1, parts=2, default=("Tanh",))


def _recurrent(
    builder: Any,
    inputs: Sequence[Any],
    attributes: Attributes,
    step: Callable[..., None],
    gates: int,
    parts: int,
    default: tuple[str, ...],
) -> Any:
    """Y (T, D, B, H), and the last state and, of an LSTM, cell (D, B, H); batch first with layout 1.

    The products with x are matrix products in front; `step` makes the rest, a row a step.
    """
    x, w, r, b, lengths, *given = (inputs[i] for i in range(8))
    directions, size = _shape(r)[0], _shape(r)[2]
    batch_first = bool(attributes.get("layout", 0))
    _check_recurrent(attributes, lengths)
    functions = _activations(attributes, default, directions)
    backward = [attributes.get("direction", b"forward") == b"reverse", True][:directions]
    if directions == 2:
        backward[0] = False
    emit = builder.emit
    if batch_first:
        x = emit(relax.op.permute_dims(x, [1, 0, 2]))
        given[:2] = [g and emit(relax.op.permute_dims(g, [1, 0, 2])) for g in given[:2]]
    steps, batch, _ = _shape(x)

    def of(tensor: Any, direction: int, begin: int, *shape: int) -> Any:
        """What a direction has in a tensor (directions, …), from `begin`; zeros where it is left out."""
        if tensor is None:
            return relax.const(np.zeros(shape, np.float32))
        end = begin + shape[0]
        part = relax.op.strided_slice(tensor, [0, 1], [direction, begin], [direction + 1, end])
        return emit(relax.op.reshape(part, shape))

    def run(tensors: Sequence[Any], outputs: Sequence[Any], names: Sequence[Any], reverse: bool) -> Any:
        proxies = [T.buffer_proxy(t) for t in (*tensors, outputs[0])]
        with IRBuilder() as ib:
            with T.serial(0, steps) as s, T.serial(0, batch) as sequence:
                t = steps - 1 - s if reverse else s
                place, before = ((at * batch + sequence) for at in (t, t + 1 if reverse else t - 1))
                step(_Step(proxies, (size, gates, parts), sequence, place, before, s == 0), *names)
            return ib.get()

    rows, width = [], gates * size
    for direction, reverse in enumerate(backward):
        weight = of(w, direction, 0, width, _shape(w)[2])
        products = emit(relax.op.matmul(x, emit(relax.op.permute_dims(weight))))
        products = emit(relax.op.add(products, of(b, direction, 0, width)))
        operands = [
            products, emit(relax.op.permute_dims(of(r, direction, 0, width, size))), of(b, direction, width, width),
            of(given[0], direction, 0, batch, size), of(given[1] if gates == 4 else None, direction, 0, batch, size),
            of(given[2] if gates == 4 else None, direction, 0, 3 * size),
        ]  # fmt: skip
        names = functions[direction]

        def rows_of(*tensors: Any, names: Sequence[Any] = names, reverse: bool = reverse) -> Any:
            return te.extern(
                [(steps, batch, parts * size)], tensors, lambda i, o: run(i, o, names, reverse), "rnn", dtype="float32"
            )

        rows.append(builder.emit_te(rows_of, *operands, primfunc_name_hint="recurrence"))

    def part(row: Any, index: int) -> Any:
        return emit(relax.op.strided_slice(row, [2], [index * size], [(index + 1) * size]))

    def last(index: int) -> Any:
        ends = []
        for row, reverse in zip(rows, backward, strict=True):
            step_ = 0 if reverse else steps - 1
            ends.append(emit(relax.op.strided_slice(part(row, index), [0], [step_], [step_ + 1])))
        result = emit(relax.op.concat(ends, 0)) if len(ends) > 1 else ends[0]
        return emit(relax.op.permute_dims(result, [1, 0, 2])) if batch_first else result

    states = [emit(relax.op.expand_dims(part(row, parts - 1), 1)) for row in rows]
    every = emit(relax.op.concat(states, 1)) if len(states) > 1 else states[0]
    if batch_first:
        every = emit(relax.op.permute_dims(every, [2, 0, 1, 3]))
    return relax.Tuple([every, last(parts - 1), *([last(parts - 2)] if gates == 4 else [])])


def _check_recurrent(attributes: Attributes, lengths: Any) -> None:
    for name in ("clip", "input_forget"):
        if attributes.get(name):
            raise ValueError(f"its {name}")
    if lengths is not None:
        raise ValueError("sequences of different lengths")


def _activations(attributes: Attributes, default: tuple[str, ...], directions: int) -> list[list[Any]]:
    """Each direction's functions."""
    names = [name.decode() for name in attributes.get("activations", ())] or [*default] * directions
    if unknown := [name for name in names if name not in ACTIVATIONS]:
        raise ValueError(f"the activation {unknown[0]}")
    functions = [ACTIVATIONS[name] for name in names]
    return [functions[i * len(default) : (i + 1) * len(default)] for i in range(directions)]


# --- norms


def _batch_normalization(builder: Any, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """γ (x − μ) / √(σ² + ε) + β, a number a channel each."""
    x, *numbers = inputs[:5]
    shape = [1, -1, *[1] * (len(_shape(x)) - 2)]
    gamma, beta, mean, variance = (builder.emit(relax.op.reshape(number, shape)) for number in numbers)
    epsilon = relax.const(attributes.get("epsilon", 1e-5), "float32")
    deviation = builder.emit(relax.op.sqrt(relax.op.add(variance, epsilon)))
    normal = builder.emit(relax.op.divide(relax.op.subtract(x, mean), deviation))
    return relax.op.add(relax.op.multiply(normal, gamma), beta)


def _lp_normalization(builder: Any, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """x / Σ|x|, or x / √Σx²; where that is 0, 0."""
    x, axis, power = inputs[0], [int(attributes.get("axis", -1))], int(attributes.get("p", 2))
    total = relax.op.sum(relax.op.abs(x) if power == 1 else relax.op.multiply(x, x), axis, keepdims=True)
    norm = builder.emit(total if power == 1 else relax.op.sqrt(total))
    zero = relax.const(0.0, "float32")
    return relax.op.where(relax.op.equal(norm, zero), zero, relax.op.divide(x, norm))


# --- pools


def _average_pool(builder: Any, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """Means of windows over axes from the second on; TVM counts what lies behind the end, where ceil_mode looks."""
    x, kernel = inputs[0], [int(size) for size in attributes["kernel_shape"]]
    one = [1] * len(kernel)
    strides, dilations = ([int(n) for n in attributes.get(name, one)] for name in ("strides", "dilations"))
    pads = [int(pad) for pad in attributes.get("pads", [0, 0] * len(kernel))]
    automatic, up = attributes.get("auto_pad", b"NOTSET"), bool(attributes.get("ceil_mode", 0))
    padding, counts = [[0, 0], [0, 0]], np.ones((1, 1), np.float32)
    for axis, size in enumerate(_shape(x)[2:]):
        stride, reach = strides[axis], (kernel[axis] - 1) * dilations[axis] + 1
        before, after = pads[axis], pads[axis + len(kernel)]
        if automatic.startswith(b"SAME"):
            needed = max((-(-size // stride) - 1) * stride + reach - size, 0)
            less, more = needed // 2, needed - needed // 2
            before, after = (less, more) if automatic == b"SAME_UPPER" else (more, less)
        end = before + size + after
        windows = (-((reach - end) // stride) if up else (end - reach) // stride) + 1
        if up and (windows - 1) * stride >= before + size:  # it would begin in the padding behind
            windows -= 1
        padding.append([before, max((windows - 1) * stride + reach, end) - before - size])
        places = np.arange(windows)[:, None] * stride + np.arange(kernel[axis]) * dilations[axis]
        low, high = (0, end) if attributes.get("count_include_pad", 0) else (before, before + size)
        counts = counts[..., None] * ((places >= low) & (places < high)).sum(1).astype(np.float32)
    padded = builder.emit_te(topi.nn.pad, x, *map(list, zip(*padding, strict=True)), 0.0)
    pool = getattr(relax.op.nn, f"avg_pool{len(kernel)}d")
    means = builder.emit(pool(padded, kernel, strides, 0, dilations, False, True))
    return relax.op.multiply(means, relax.const(np.prod(kernel) / np.maximum(counts, 1), "float32"))


# --- integers


def _bit_shift(builder: Any, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """By more than there are bits: nothing is left of a number but, to the right, its sign. So by less than none."""
    left = attributes["direction"] == b"LEFT"

    def shift(x: Any, count: Any) -> Any:
        bits = int(str(x.dtype).lstrip("uint"))
        none, most = (topi.full_like(count, value) for value in (0, bits - 1))
        fits = topi.logical_and(topi.greater_equal(count, none), topi.less_equal(count, most))
        signed = str(x.dtype).startswith("int")
        shifted = (topi.left_shift if left else topi.right_shift)(x, topi.where(fits, count, most))
        if signed and not left:
            return shifted
        return topi.where(fits, shifted, topi.full_like(shifted, 0))

    return builder.emit_te(shift, *inputs[:2])


DEFINITIONS: dict[str, Definition] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "BitShift": _bit_shift,
    "GRU": _gru,
    "Hardmax": _hardmax,
    "LSTM": _lstm,
    "LpNormalization": _lp_normalization,
    "RNN": _rnn,
    "TopK": _top_k,
}
