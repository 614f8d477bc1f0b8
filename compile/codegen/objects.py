"""TensorIR kernels -> one object file of plain C functions.

TVM's own build wraps every function in its packed calling convention, which checks DLTensors at run time. Kernels here
are called some five hundred times an inference by code generated with them, so the wrapping is left out: the same
lowering passes run without MakePackedAPI, and every PrimFunc becomes `void name(float *, int32_t, …)`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tvm
from tvm import ir, s_tir, tirx

from compile.cpus import Cpu
from compile.program import KernelSpec
from compile.targets import Target


def lower(module: Any, target: Any) -> Any:
    """Kernels written loop by loop need no scheduling passes, and LLVM does the rest.

    The simplifier is not optional: code generation sees a vector access only where the index is one plain ramp.
    """
    t = tirx.transform
    passes = [t.BindTarget(target), t.FlattenBuffer(), t.StmtSimplify(), t.LowerIntrin()]
    return tvm.ir.transform.Sequential(passes)(module)


def lower_scheduled(module: Any, target: Any) -> Any:
    """TVM's lowering passes for scheduled blocks (the generic kernels), up to plain loops over pointers."""
    t, s = tirx.transform, s_tir.transform
    passes = [
        t.BindTarget(target),
        s.CanonicalizeLoop(),
        s.LowerInitBlock(),
        s.PlanAndUpdateBufferAllocationLocation(),
        s.ConvertBlocksToOpaque(),
        s.CompactBufferAllocation(),
        s.LowerMatchBuffer(),
        s.StmtSimplify(),
        s.LowerOpaqueBlock(),
        t.FlattenBuffer(),
        t.NarrowDataType(32),
        t.VectorizeLoop(True),
        t.StorageRewrite(),
        t.UnrollLoop(),
        t.StmtSimplify(),
        t.RemoveNoOp(),
        t.LowerIntrin(),
    ]
    return tvm.ir.transform.Sequential(passes)(module)


def with_plain_pointers(func: Any) -> Any:
    """Each tensor parameter becomes a pointer, and the tensor a view of what it points to."""
    params, declarations = [], []
    for param in func.params:
        pointer = tirx.Var(param.name, ir.PointerType(ir.PrimType(str(param.dtype))))
        params.append(pointer)
        declarations.append(tirx.DeclBuffer(param, data=pointer))
    return tirx.PrimFunc(params, tirx.SeqStmt([*declarations, func.body]), func.ret_type, func.attrs)


def compile_kernels(
    kernels: Mapping[str, KernelSpec], target: Target, folder: Path, cpu: Cpu | None = None, dump: Path | None = None
) -> list[Path]:
    """Object files in `folder`, one a kernel, for `cpu` if given; kernels: each under the name of its C function.

    With `dump`, also the lowered TensorIR and the assembly of each.
    """
    spec = tvm.target.Target(target.llvm(cpu))

    def compile_one(name: str) -> Path:
        path = folder / f"{name}.o"
        _compile(kernels[name].build().with_attr("global_symbol", name), spec, path, dump)
        return path

    # TVM lets go of the interpreter while it works.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, kernels))


def _compile(func: Any, spec: Any, path: Path, dump: Path | None) -> None:
    with tvm.transform.PassContext(opt_level=3):
        module = tvm.IRModule({path.stem: func})
        if _is_pointer(func.params[0]):
            lowered = lower(module, spec)
        else:
            (variable,) = module.get_global_vars()
            lowered = lower_scheduled(module, spec)
            lowered[variable] = with_plain_pointers(lowered[variable])
        built = tvm.get_global_func("target.build.llvm")(lowered, spec)
    _write_object(built, path)
    if dump:
        (dump / f"{path.stem}.tir.py").write_text(lowered.script())
        (dump / f"{path.stem}.s").write_text(built.inspect_source("asm"))


def _write_object(built: Any, path: Path) -> None:
    """LLVM ends the whole process where it cannot write, as on a full disk: it writes to memory, Python to the disk."""
    if not hasattr(os, "memfd_create"):  # Linux has it
        built.write_to_file(str(path), "o")
        return
    with open(os.memfd_create(path.stem), "rb") as memory:
        built.write_to_file(f"/proc/self/fd/{memory.fileno()}", "o")
        path.write_bytes(memory.read())


def _is_pointer(parameter: Any) -> bool:
    return isinstance(parameter.ty, ir.PointerType)
