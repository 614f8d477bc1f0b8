"""What can be compiled for: targets, each an operating system and ABI with the CPUs that its kernels are made for.

A `Target` is what a build needs to know about where its library will run. Triples are spelt twice because TVM and
zig disagree: TVM classes an `arm64-…` triple as 32-bit Arm, so the architecture is always `aarch64` here.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from pathlib import Path

from compile.cpus import AVX512_FEATURES, CPUS, Cpu, Isa
from compile.errors import CompileError

LINUX_NAMES = {"asimddp": "dotprod", "asimdhp": "fp16", "avx_vnni": "avxvnni", "avx512_vnni": "avx512vnni"}
LINUX_NAMES |= {"sse4_2": "sse42"}
SYSTEMS = ("Android", "Windows", "Linux", "Unknown")
# Kernels are written in vectors already. LLVM's pass for straight code would only glue accumulators into wider ones and
# spill, and its pass for loops (of LLVM 22) forgets that the remainder of an index comes round: x[i % 4] became x[i].
VECTORIZERS = ("-vectorize-slp:bool=false", "-vectorize-loops:bool=false")
# For LLVM: whether all functions say how their frames are undone. Windows ends a process that stops in one that does
# not. Told for every target, because what one sets stays for those that the process builds for after it.
UNWINDING = "-disable-nounwind-inference:bool={}"


@dataclass(frozen=True)
class Target:
    """Where a library will run.

    libc, libm: the sonames that an ELF system's dynamic linker knows; nothing else may be needed. extra_levels: CPUs
    that get kernels of their own beside those for `cpu`, chosen when a library is opened; lowest first. abi: Android's
    name. c_options: what zig's clang takes besides.
    """

    name: str
    arch: str
    triple: str
    zig_triple: str
    libc: str
    libm: str
    cpu: Cpu
    description: str
    extra_levels: tuple[Cpu, ...] = ()
    abi: str = ""
    c_options: tuple[str, ...] = ()

    @property
    def levels(self) -> tuple[Cpu, ...]:
        return (self.cpu, *self.extra_levels)

    @property
    def isa(self) -> Isa:
        return self.cpu.isa

    @property
    def is_android(self) -> bool:
        return "android" in self.triple

    @property
    def is_web(self) -> bool:
        return self.arch == "wasm32"

    @property
    def is_windows(self) -> bool:
        return "windows" in self.triple

    @property
    def is_apple(self) -> bool:
        return "apple" in self.triple

    @property
    def is_simulator(self) -> bool:
        return self.triple.endswith("-simulator")

    @property
    def is_elf(self) -> bool:
        return "linux" in self.triple

    @property
    def system(self) -> str:
        """As CMake calls it."""
        apple = "iOS" if "ios" in self.triple else "Darwin"
        return apple if self.is_apple else next(s for s in SYSTEMS if s.lower() in self.triple)

    def library_name(self, name: str) -> str:
        """The file that the model `name` becomes."""
        kinds = ((self.is_web, f"{name}.wasm"), (self.is_windows, f"{name}.dll"), (self.is_apple, f"lib{name}.dylib"))
        return next((file for holds, file in kinds if holds), f"lib{name}.so")

    @property
    def least_version(self) -> str:
        """Of Apple's systems the oldest that a library runs on."""
        return self.zig_triple.split(".", 1)[1].split("-")[0]

    def install_name(self, library: str) -> str:
        """How programs find a library of Apple's systems; on iOS, where they have only frameworks, within one."""
        name = library.removeprefix("lib").removesuffix(".dylib")
        return f"@rpath/{name}.framework/{name}" if self.system == "iOS" else f"@rpath/{library}"

    def llvm(self, cpu: Cpu | None = None, num_cores: int = 4) -> dict[str, object]:
        """TVM's description of this target, for `cpu` if given. It would ask the host for a core count left out."""
        cpu = cpu or self.cpu
        spec: dict[str, object] = {
            "kind": "llvm",
            "mtriple": self.triple,
            "mcpu": cpu.llvm_cpu,
            "num-cores": num_cores,
            "cl-opt": [*VECTORIZERS, UNWINDING.format(str(self.is_windows).lower())],
        }
        if self.arch in ("wasm32", "riscv64"):
            spec["vector-width"] = 32 * cpu.isa.lanes  # TVM does not know
        if cpu.features:
            spec["mattr"] = list(cpu.features)
        return spec


TARGETS = {
    target.name: target
    for target in (
        Target(
            name="arm64-android",
            arch="aarch64",
            triple="aarch64-linux-android",
            zig_triple="aarch64-linux-android",
            libc="libc.so",
            libm="libm.so",
            cpu=CPUS["armv8.0"],
            description="every 64-bit Android phone (API 23 and later)",
            extra_levels=(CPUS["cortex-a76"], CPUS["cortex-x2"]),
            abi="arm64-v8a",
        ),
        Target(
            name="armv7-android",
            arch="arm",
            triple="armv7a-linux-androideabi",
            zig_triple="arm-linux-androideabi",
            libc="libc.so",
            libm="libm.so",
            cpu=CPUS["armv7"],
            description="32-bit Android phones since the Cortex-A7, float32 alone",
            abi="armeabi-v7a",
            c_options=("-mcpu=generic+v7a+neon+vfp4+hwdiv_arm", "-mfloat-abi=softfp"),
        ),
        Target(
            name="x86_64-android",
            arch="x86_64",
            triple="x86_64-linux-android",
            zig_triple="x86_64-linux-android",
            libc="libc.so",
            libm="libm.so",
            cpu=CPUS["x86-64-v2"],
            description="Android's emulator on a PC, and Chromebooks",
            extra_levels=(CPUS["x86-64-v3"], CPUS["x86-64-v3-vnni"]),
            abi="x86_64",
        ),
        Target(
            name="arm64-linux",
            arch="aarch64",
            triple="aarch64-linux-gnu",
            zig_triple="aarch64-linux-gnu",
            libc="libc.so.6",
            libm="libm.so.6",
            cpu=CPUS["armv8.0"],
            description="64-bit Arm Linux with glibc (boards, servers)",
            extra_levels=(CPUS["cortex-a76"], CPUS["cortex-x2"]),
        ),
        Target(
            name="x86_64-linux",
            arch="x86_64",
            triple="x86_64-linux-gnu",
            zig_triple="x86_64-linux-gnu",
            libc="libc.so.6",
            libm="libm.so.6",
            cpu=CPUS["x86-64-v3"],
            description="64-bit x86 Linux with glibc and AVX2",
            extra_levels=(CPUS["x86-64-v3-vnni"], CPUS["x86-64-v4"], CPUS["x86-64-v4-vnni"]),
        ),
        Target(
            name="riscv64-linux",
            arch="riscv64",
            triple="riscv64-unknown-linux-gnu",
            zig_triple="riscv64-linux-gnu",
            libc="libc.so.6",
            libm="libm.so.6",
            cpu=CPUS["rv64gc"],
            description="64-bit RISC-V Linux (rv64gc; faster with vectors)",
            extra_levels=(CPUS["rv64gcv"],),
        ),
        Target(
            name="x86_64-windows",
            arch="x86_64",
            triple="x86_64-pc-windows-gnu",
            zig_triple="x86_64-windows-gnu",
            libc="",
            libm="",
            cpu=CPUS["x86-64-v3"],
            description="64-bit Windows 10 and later with AVX2",
            extra_levels=(CPUS["x86-64-v3-vnni"], CPUS["x86-64-v4"], CPUS["x86-64-v4-vnni"]),
        ),
        Target(
            name="arm64-windows",
            arch="aarch64",
            triple="aarch64-pc-windows-gnu",
            zig_triple="aarch64-windows-gnu",
            libc="",
            libm="",
            cpu=CPUS["armv8.0"],
            description="Windows 10 and later on 64-bit Arm",
            extra_levels=(CPUS["cortex-a76"], CPUS["cortex-x2"]),
        ),
        Target(
            name="arm64-macos",
            arch="aarch64",
            triple="aarch64-apple-macosx11.0.0",
            zig_triple="aarch64-macos.11.0",
            libc="",
            libm="",
            cpu=CPUS["cortex-a76"],
            description="macOS 11 and later on Apple silicon",
            extra_levels=(CPUS["cortex-x2"],),
        ),
        Target(
            name="arm64-ios",
            arch="aarch64",
            triple="aarch64-apple-ios14.0.0",
            zig_triple="aarch64-ios.14.0",
            libc="",
            libm="",
            cpu=CPUS["armv8.0"],
            description="iPhones and iPads, iOS 14 and later",
            extra_levels=(CPUS["cortex-a76"], CPUS["cortex-x2"]),
        ),
        Target(
            name="arm64-ios-simulator",
            arch="aarch64",
            triple="aarch64-apple-ios14.0.0-simulator",
            zig_triple="aarch64-ios.14.0-simulator",
            libc="",
            libm="",
            cpu=CPUS["cortex-a76"],
            description="Xcode's iOS simulator on Apple silicon",
            extra_levels=(CPUS["cortex-x2"],),
        ),
        Target(
            name="wasm32",
            arch="wasm32",
            triple="wasm32-unknown-unknown",
            zig_triple="wasm32-wasi",
            libc="",
            libm="",
            cpu=CPUS["wasm-simd128"],
            extra_levels=(CPUS["wasm-relaxed-simd"], CPUS["wasm-relaxed-dot"]),
            c_options=("-mcpu=generic+simd128+bulk_memory+sign_ext+nontrapping_fptoint",),
            description="browsers (Chrome 91, Firefox 89, Safari 16.4 and later) and Node.js",
        ),
    )
}


# What `--target android` means: one archive for all of them. The first is the one that phones have.
ANDROID = ("arm64-android", "armv7-android", "x86_64-android")
# And `--target ios`.
IOS = ("arm64-ios", "arm64-ios-simulator")
# By the name for all of them: those, and the --package that holds them.
GROUPS = {"android": (ANDROID, "aar"), "ios": (IOS, "xcframework")}


def host_cpu_flags() -> frozenset[str]:
    """Feature flags of this machine's first core, as `Cpu.required` has them; empty without /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(LINUX_NAMES.get(flag, flag) for flag in value.split())
    return frozenset()


# What Python calls this machine, and the target that it can load.
HOSTS = {
    ("Linux", "x86_64"): "x86_64-linux",
    ("Linux", "aarch64"): "arm64-linux",
    ("Linux", "riscv64"): "riscv64-linux",
    ("Darwin", "arm64"): "arm64-macos",
    ("Windows", "AMD64"): "x86_64-windows",
    ("Windows", "ARM64"): "arm64-windows",
}


def host_target() -> Target:
    """The target that this machine can load; on x86-64 Linux at the best instruction set it has."""
    host = platform.system(), platform.machine()
    if host not in HOSTS:
        raise CompileError(f"--target host: {' on '.join(host)} has no target here; name one of {names()}")
    if HOSTS[host] != "x86_64-linux":
        return TARGETS[HOSTS[host]]
    flags = host_cpu_flags()
    if not {"avx2", "fma"} <= flags:
        raise CompileError("--target host: this CPU lacks AVX2 or FMA, the least that x86-64 kernels need")
    name = "x86-64-v4" if set(AVX512_FEATURES) <= flags else "x86-64-v3"
    vnni = CPUS[f"{name}-vnni"]
    return replace(with_cpu(TARGETS["x86_64-linux"], name), extra_levels=(vnni,) if set(vnni.required) <= flags else ())


def names() -> str:
    return ", ".join([*TARGETS, *GROUPS, "host"])


def with_cpu(target: Target, cpu_name: str) -> Target:
    """`target` for one CPU and those that have all of it. Raises CompileError if it is unknown or of another kind."""
    fitting = [c.name for c in CPUS.values() if c.arch == target.arch]
    if cpu_name not in fitting:
        raise CompileError(f"unknown CPU {cpu_name!r} for target {target.name}: choose one of {', '.join(fitting)}")
    return replace(target, cpu=CPUS[cpu_name], extra_levels=())


def find_target(name: str, cpu: str | None = None) -> Target:
    """The target called `name` ("host" is this machine), for `cpu` if given. Raises CompileError."""
    if name == "host":
        target = host_target()
    elif name in TARGETS:
        target = TARGETS[name]
    else:
        raise CompileError(f"unknown target {name!r}: choose one of {names()}")
    return with_cpu(target, cpu) if cpu else target


def find_targets(name: str, cpu: str | None = None) -> list[Target]:
    """`find_target`, and for "android" or "ios" all of its targets. Raises CompileError."""
    if name not in GROUPS:
        return [find_target(name, cpu)]
    members, _ = GROUPS[name]
    if cpu:
        raise CompileError(f"--target {name} is for several CPUs: leave --cpu out, or name one of {', '.join(members)}")
    return [TARGETS[one] for one in members]


def why_not_here(target: Target) -> str:
    """What this machine lacks to load a library built for `target`; empty if it can."""
    host = platform.system(), platform.machine()
    if HOSTS.get(host) != target.name:
        return f"this machine ({' on '.join(host)}) cannot load it"
    if host[0] != "Linux":
        return ""  # the library itself says what a CPU lacks
    missing = set(target.cpu.required) - host_cpu_flags()
    return f"this CPU lacks {', '.join(sorted(missing))}" if missing else ""


def runs_here(target: Target) -> bool:
    """Whether this machine can load a library built for `target`."""
    return not why_not_here(target)
