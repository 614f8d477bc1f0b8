"""Any operator that no kernel family takes: TVM's own definition of it, with a plain vectorised schedule.

It runs over whole tensors on one thread. Masks, a pooler's gather and the like are small; a model whose time goes into
such kernels says so in its manifest.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from compile.errors import CompileError
from compile.importer.graph import MISTAKES, Node
from compile.kernels.contract import KernelSpec, Parameter, Signature


@dataclass(frozen=True)
class Generic(KernelSpec):
    """Arguments in C: the operator's tensor inputs p0 …, its output y, then its intermediate tensors t0 …."""

    operator: str
    key: str
    intermediates: tuple[tuple[tuple[int, ...], str], ...]  # shape and type of each that the caller provides
    func: Any = field(compare=False)

    family = "generic"

    @property
    def name(self) -> str:
        return f"generic_{self.operator.replace('.', '_')}_{self.key}"

    def signature(self) -> Signature:
        inputs = len(self.func.params) - 1 - len(self.intermediates)
        names = [*(f"p{i}" for i in range(inputs)), "y", *(f"t{i}" for i in range(len(self.intermediates)))]
        return tuple(Parameter(name, "whole", written=i >= inputs) for i, name in enumerate(names))

    def describe(self) -> str:
        return f"generic {self.operator}"

    def build(self) -> Any:
        return self.func

    @classmethod
    def of(cls, node: Node, module: Any) -> tuple[Generic, list[Node]]:
        """The kernel that computes `node`, and the nodes that it reads in order. Raises CompileError if none does."""
        import tvm

        func, inputs = _prim_func(node, module)
        func = _schedule(_at_their_start(func))
        intermediates = tuple((tuple(int(d) for d in b.shape), str(b.dtype)) for b in func.body.block.alloc_buffers)
        func = _hoist_intermediates(func)
        key = hashlib.sha256(tvm.ir.save_json(func.without_attr("global_symbol")).encode()).hexdigest()[:8]
        kernel = cls(node.op, key, intermediates, func)
        return replace(kernel, func=func.with_attr("global_symbol", kernel.name)), inputs


def _prim_func(node: Node, module: Any) -> tuple[Any, list[Node]]:
    """Legalise one Relax call on its own: its tensor operands become parameters."""
    from tvm import relax

    from compile.importer.operators import on_one_thread

    distinct = list(dict.fromkeys(node.inputs))
    if node.op == "call_tir":
        return module[node.relax.args[0]], node.inputs
    try:
        builder = relax.BlockBuilder()
        params = {n: relax.Var(f"p{i}", _tensor_type(n)) for i, n in enumerate(distinct)}
        replaced = _replace(node, params)
        with builder.function("main", list(params.values())):
            builder.emit_func_output(builder.emit(replaced))
        with on_one_thread():
            legal = relax.transform.LegalizeOps(_propagating(), enable_warning=False)(builder.get())
    except Exception as error:
        reason = "TVM has no kernel for it" if isinstance(error, MISTAKES) else _last_line(error)
        raise CompileError(f"operator {node.op} ({node.name!r}) cannot be lowered: {reason}") from error
    calls = [
        b.value
        for block in legal["main"].body.blocks
        for b in block.bindings
        if type(b.value).__name__ == "Call" and b.value.op.name == "relax.call_tir"
    ]
    if len(calls) != 1:
        raise CompileError(f"operator {node.op} ({node.name!r}) cannot be lowered: TVM has no kernel for it")
    order = {param.name: distinct[i] for i, param in enumerate(params.values())}
    read = list(calls[0].args[1].fields) if type(calls[0].args[1]).__name__ == "Tuple" else [calls[0].args[1]]
    func = legal[calls[0].args[0]]
    if not all(getattr(v, "name", None) in order for v in read):
        raise CompileError(f"operator {node.op} ({node.name!r}) cannot be lowered: its kernel reads other values")
    return func, [order[v.name] for v in read]


def _propagating() -> dict[str, Callable[[Any, Any], Any]]:
    """Extremes that are not-a-number where an operand is: TVM's own are whichever side the comparison leaves."""
    import tvm
    from tvm import topi

    def pair(extreme: Callable[..., Any]) -> Callable[[Any, Any], Any]:
        def of(x: Any, y: Any) -> Any:
            return topi.where(topi.isnan(x), x, extreme(x, y))

        return lambda builder, call: builder.call_te(of, *call.args)

    def over_axes(extreme: Callable[..., Any], least: float) -> Callable[[Any, Any], Any]:
        """TVM begins with a finite number, beyond which `least` is: of nothing but that it would make a number."""

        def of(x: Any, axes: Any, keepdims: bool) -> Any:
            # Adds zeros, and NaN where an element is NaN.
            poison = topi.sum(topi.where(topi.isnan(x), x, topi.full_like(x, 0.0)), axes, keepdims)
            y = topi.add(extreme(x, axes, keepdims), poison)
            if "float" not in str(x.dtype):
                return y
            same = topi.cast(topi.equal(x, topi.full_like(x, least)), "int32")
            return topi.where(topi.min(same, axes, keepdims), topi.full_like(y, least), y)

        def legalize(builder: Any, call: Any) -> Any:
            axes = None if call.attrs.axis is None else [int(axis) for axis in call.attrs.axis]
            return builder.call_te(of, call.args[0], axes, bool(call.attrs.keepdims))

        return legalize

    def clip(builder: Any, call: Any) -> Any:
        low, high = (getattr(bound.value, "value", bound.value) for bound in call.args[1:])
        return builder.call_te(lambda x: topi.where(topi.isnan(x), x, topi.clip(x, low, high)), call.args[0])

    def sign(builder: Any, call: Any) -> Any:
        return builder.call_te(lambda x: topi.where(topi.isnan(x), x, topi.sign(x)), call.args[0])

    def index_of(extreme: Callable[..., Any]) -> Callable[[Any, Any], Any]:
        """The first where no element is beyond the bound that TVM begins with, as no infinity is."""

        def legalize(builder: Any, call: Any) -> Any:
            axis = None if call.attrs.axis is None else int(call.attrs.axis)

            def of(x: Any) -> Any:
                index = extreme(x, axis, bool(call.attrs.keepdims))
                return topi.cast(topi.maximum(index, tvm.tirx.const(0, index.dtype)), "int64")

            return builder.call_te(of, call.args[0])

        return legalize

    return {
        "relax.sign": sign,
        "relax.argmax": index_of(topi.argmax),
        "relax.argmin": index_of(topi.argmin),
        "relax.maximum": pair(topi.maximum),
        "relax.minimum": pair(topi.minimum),
        "relax.max": over_axes(topi.max, -math.inf),
        "relax.min": over_axes(topi.min, math.inf),
        "relax.clip": clip,
    }


def _replace(node: Node, params: dict[Node, Any]) -> Any:
    """The node's Relax call with its tensor operands replaced by `params`, in place of variables and constants."""
    from tvm.ir import Call
    from tvm.relax import Tuple
    from tvm.relax.op import take

    remaining = iter(node.inputs)

    def operand(arg: Any) -> Any:
        kind = type(arg).__name__
        if kind == "Tuple" and any(type(f).__name__ in ("Var", "DataflowVar", "GenericConst") for f in arg.fields):
            return Tuple([operand(f) for f in arg.fields])
        if kind in ("Var", "DataflowVar", "GenericConst"):
            return params[next(remaining)]
        return arg

    arguments = [operand(a) for a in node.relax.args]
    if node.op == "take" and not node.inputs[1].is_const:
        # Indices that are only known at run time must not lead outside the table.
        return take(*arguments, axis=node.attrs.axis, mode="clip")
    return Call(node.relax.op, arguments, node.relax.attrs, node.relax.ty_args)


def _tensor_type(node: Node) -> Any:
    from tvm import relax

    return relax.TensorType(node.shape, node.dtype)


def _at_their_start(func: Any) -> Any:
    """Tensors that begin where their pointers point, which TVM leaves open for what is written loop by loop."""
    from tvm import tirx

    return func.specialize({p: tirx.decl_buffer(p.shape, p.dtype, p.name, layout=None) for p in func.params})


def _schedule(func: Any) -> Any:
    """Vectorise each block's innermost loop where it is data-parallel and long enough."""
    import tvm
    from tvm import s_tir

    if func.body.block.name_hint != "root":  # one block that is written loop by loop
        return func
    schedule = s_tir.Schedule(tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), debug_mask="none")
    for block in schedule.get_child_blocks(schedule.get_sblock("root", func_name="main")):
        loops = schedule.get_loops(block)
        kinds = [str(v.iter_type) for v in schedule.get(block).iter_vars]
        if not loops or len(kinds) != len(loops) or "CommReduce" in kinds[-1] or kinds[-1] in ("2",):
            continue
        extent = schedule.get(loops[-1]).extent
        try:
            if int(extent) % 8 == 0:
                _, inner = schedule.split(loops[-1], [None, 8])
                schedule.vectorize(inner)
        except Exception:
            continue  # not every block can be vectorised; its plain loop is right as it is
    return schedule.mod["main"]


def _hoist_intermediates(func: Any) -> Any:
    """Intermediate tensors become parameters: their memory is the plan's business, not the kernel's stack's."""
    from tvm.s_tir import SBlock, SBlockRealize
    from tvm.tirx import PrimFunc

    root = func.body
    block = root.block
    bare = SBlock(
        block.iter_vars,
        block.reads,
        block.writes,
        block.name_hint,
        block.body,
        block.init,
        [],
        block.match_buffers,
        block.annotations,
    )
    body = SBlockRealize(root.iter_values, root.predicate, bare)
    return PrimFunc([*func.params, *block.alloc_buffers], body, func.ret_type, func.attrs)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
