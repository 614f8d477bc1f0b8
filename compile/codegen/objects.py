"""TensorIR kernels -> one object file of plain C functions.

TVM's own build wraps every function in its packed calling convention, which checks DLTensors at run time. Kernels here
are called some five hundred times an inference by code generated with them, so the wrapping is left out: the same
lowering passes run without MakePackedAPI, and every PrimFunc becomes `void name(float *, int32_t, …)`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tvm
from tvm import s_tir, tirx

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


def compile_kernels(functions: dict[str, Any], target: Target, path: Path, dump: Path | None = None) -> None:
    """Write the object file at `path`; with `dump`, also the lowered TensorIR and the assembly."""
    spec = tvm.target.Target(target.llvm())
    with tvm.transform.PassContext(opt_level=3):
        lowered = lower(tvm.IRModule(functions), spec)
        module = tvm.get_global_func("target.build.llvm")(lowered, spec)
    module.write_to_file(str(path), "o")
    if dump:
        (dump / "kernels.tir.py").write_text(lowered.script())
        (dump / "kernels.s").write_text(module.inspect_source("asm"))
