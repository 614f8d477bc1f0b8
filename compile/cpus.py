"""The CPUs that kernels are made for: their instruction sets, and what a library asks of them when it is opened."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Isa:
    """An instruction set as the kernels see it.

    lanes: float32 elements in one vector register; registers: how many vector registers there are;
    by_element: whether a multiply-add can take one lane of a register as its factor (Arm's fmla by element).
    dot: what multiplies int8 numbers (`kernels.linear_int8` says what each is); no matter to float32.
    """

    name: str
    lanes: int
    registers: int
    by_element: bool
    dot: str = field(compare=False)


NEON = Isa("neon", lanes=4, registers=32, by_element=True, dot="mull")
# 32-bit Arm has half the registers, and its fused multiply-add takes no lane of one.
NEON32 = Isa("neon32", lanes=4, registers=16, by_element=False, dot="maddwd")
SSE = Isa("sse", lanes=4, registers=16, by_element=False, dot="maddwd")
AVX2 = Isa("avx2", lanes=8, registers=16, by_element=False, dot="maddwd")
AVX512 = Isa("avx512", lanes=16, registers=32, by_element=False, dot="maddwd")
# WebAssembly has no registers; with more than these in use Chrome's compiler spills on x86. Relaxed SIMD multiplies and
# adds at once.
SIMD128 = Isa("simd128", lanes=4, registers=12, by_element=False, dot="maddwd")
RELAXED = replace(SIMD128, name="relaxed")
# RISC-V's base has no vectors: four lanes are four registers, of which there are 32.
RV64 = Isa("rv64", lanes=4, registers=8, by_element=False, dot="maddwd")
RVV = Isa("rvv128", lanes=4, registers=32, by_element=False, dot="maddwd")
WASM_FEATURES = ("+simd128", "+bulk-memory", "+sign-ext", "+nontrapping-fptoint")
# All that LLVM takes for granted in x86-64-v4; Xeon Phi lacks three of them.
AVX512_FEATURES = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


@dataclass(frozen=True)
class Cpu:
    """A CPU to tune for. `features` are LLVM's names; `required` is what the library checks when it is opened.

    qemu_cpu: what qemu calls a core that has these features, and not those of the CPUs below.
    """

    name: str
    arch: str
    isa: Isa
    llvm_cpu: str
    features: tuple[str, ...]
    required: tuple[str, ...]
    qemu_cpu: str = ""


# A library never holds instructions beyond its CPU's `features`, so `generic` runs on every core of its architecture.
CPUS = {
    cpu.name: cpu
    for cpu in (
        Cpu(
            name="armv8.0",
            arch="aarch64",
            isa=NEON,
            llvm_cpu="generic",
            features=("+neon",),
            required=(),
            qemu_cpu="cortex-a53",
        ),
        Cpu(
            name="cortex-a53",
            arch="aarch64",
            isa=NEON,
            llvm_cpu="cortex-a53",
            features=("+neon",),
            required=(),
            qemu_cpu="cortex-a53",
        ),
        Cpu(
            name="cortex-a76",
            arch="aarch64",
            isa=replace(NEON, dot="sdot"),
            llvm_cpu="cortex-a76",
            features=("+neon", "+dotprod", "+fullfp16"),
            required=("dotprod", "fp16"),
            qemu_cpu="cortex-a76",
        ),
        # SVE is left out: phones whose cores have it often switch it off. The rest is nothing to float32.
        Cpu(
            name="cortex-x2",
            arch="aarch64",
            isa=replace(NEON, dot="smmla"),
            llvm_cpu="cortex-a76",
            features=("+neon", "+dotprod", "+fullfp16", "+i8mm", "+bf16"),
            required=("dotprod", "fp16", "i8mm", "bf16"),
            qemu_cpu="max",
        ),
        Cpu(
            name="armv7",
            arch="arm",
            isa=NEON32,
            llvm_cpu="generic",
            features=("+v7", "+neon", "+vfp4", "+hwdiv-arm", "+hwdiv"),
            required=("vfp4", "idiva"),
            qemu_cpu="cortex-a7",
        ),
        Cpu(
            name="x86-64-v2",
            arch="x86_64",
            isa=SSE,
            llvm_cpu="x86-64-v2",
            features=(),
            required=("sse42",),
            qemu_cpu="Nehalem",
        ),
        Cpu(
            name="x86-64-v3",
            arch="x86_64",
            isa=AVX2,
            llvm_cpu="x86-64-v3",
            features=(),
            required=("avx2", "fma"),
            qemu_cpu="max",
        ),
        Cpu(
            name="x86-64-v3-vnni",
            arch="x86_64",
            isa=replace(AVX2, dot="vnni"),
            llvm_cpu="x86-64-v3",
            features=("+avxvnni",),
            required=("avx2", "fma", "avxvnni"),
            qemu_cpu="max",  # which has no VNNI and runs the level below
        ),
        Cpu(
            name="x86-64-v4",
            arch="x86_64",
            isa=AVX512,
            llvm_cpu="x86-64-v4",
            features=(),
            required=("avx2", "fma", *AVX512_FEATURES),
        ),
        Cpu(
            name="x86-64-v4-vnni",
            arch="x86_64",
            isa=replace(AVX512, dot="vnni"),
            llvm_cpu="x86-64-v4",
            features=("+avx512vnni",),
            required=("avx2", "fma", *AVX512_FEATURES, "avx512vnni"),
        ),
        Cpu(
            name="rv64gc",
            arch="riscv64",
            isa=RV64,
            llvm_cpu="generic-rv64",
            features=("+m", "+a", "+f", "+d", "+c"),
            required=(),
            qemu_cpu="rv64",
        ),
        Cpu(
            name="rv64gcv",
            arch="riscv64",
            isa=RVV,
            llvm_cpu="generic-rv64",
            features=("+m", "+a", "+f", "+d", "+c", "+v"),
            required=("v",),
            qemu_cpu="rv64,v=true,vext_spec=v1.0,vlen=128",
        ),
        # Each is a module of its own, and JavaScript chooses: an engine takes none with an instruction it lacks.
        Cpu(
            name="wasm-simd128",
            arch="wasm32",
            isa=SIMD128,
            llvm_cpu="generic",
            features=WASM_FEATURES,
            required=(),
        ),
        Cpu(
            name="wasm-relaxed-simd",
            arch="wasm32",
            isa=RELAXED,
            llvm_cpu="generic",
            features=(*WASM_FEATURES, "+relaxed-simd"),
            required=(),
        ),
        Cpu(
            name="wasm-relaxed-dot",
            arch="wasm32",
            isa=replace(RELAXED, dot="relaxed"),
            llvm_cpu="generic",
            features=(*WASM_FEATURES, "+relaxed-simd"),
            required=(),
        ),
    )
}
