"""C sources and kernels -> one shared library, with zig's clang from pip or the NDK's where there is one.

Neither headers nor libraries of the target are needed: the sources declare what they use, and the linker is given stub
libraries that define the same symbols under the target's sonames.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from compile.errors import CompileError
from compile.linking.symbols import DLLS, ELF_TABLE, LIBC, LIBM, LIBSYSTEM, available, hide_symbols, symbols
from compile.runtime import INCLUDE, SRC, TOOLS
from compile.targets import Target, runs_here
from pocketbert.files import write_whole

ANDROID_API = 23

SANITIZERS = frozenset(["address", "fuzzer", "thread", "undefined"])
# What sanitized code calls: the program that loads the library is linked with the sanitizers, and so defines it.
SANITIZER_SYMBOLS = ("__asan_", "__sanitizer_", "__sancov_", "__start_", "__stop_", "__tsan_", "__ubsan_")
WASM_MEMORY = 1 << 31  # what lies above is for handles (runtime/src/platform_wasm.c)
KEPT_OBJECTS = 128  # of some kilobytes each
_runtime_objects: OrderedDict[str, bytes] = OrderedDict()  # by all that makes them, the oldest first
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-std=c11"]


@dataclass(frozen=True)
class Toolchain:
    """A C compiler for one target; `description` goes into the manifest."""

    command: tuple[str, ...]
    description: str
    sanitize: str = ""

    @property
    def is_zig(self) -> bool:
        return "cc" in self.command

    @property
    def dlltool(self) -> Toolchain:
        """zig's own, which makes import libraries."""
        return replace(self, command=(*self.command[: self.command.index("cc")], "dlltool"))

    def with_triple(self, triple: str) -> Toolchain:
        """zig for another target."""
        return replace(self, command=(*self.command[:-1], triple))


def find_toolchain(target: Target, sanitize: str = "") -> Toolchain:
    """The NDK if ANDROID_NDK_HOME is set and the target is Android, else zig. Raises CompileError if there is none.

    sanitize: clang's sanitizers to build with, separated by commas. That takes the system's clang and its own machine.
    """
    if sanitize:
        return _clang(target, sanitize)
    ndk = os.environ.get("ANDROID_NDK_HOME")
    if ndk and target.is_android:
        name = f"{target.triple}{ANDROID_API}-clang"
        compilers = sorted(Path(ndk).glob(f"toolchains/llvm/prebuilt/*/bin/{name}"))
        if not compilers:
            raise CompileError(f"ANDROID_NDK_HOME is {ndk!r} but holds no {name}: correct it, or unset it to use zig")
        return Toolchain((str(compilers[0]),), f"NDK {name}")
    return zig("-target", target.zig_triple)


def zig(*options: str) -> Toolchain:
    """zig's C compiler, from pip. Raises CompileError where it is not installed."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise CompileError("no linker found: pip install ziglang, or set ANDROID_NDK_HOME to an Android NDK")
    # Not `python -m ziglang`: another interpreter for each source takes longer than some sources do.
    program = os.path.join(os.path.dirname(spec.origin), "zig")
    return Toolchain((program, "cc", *options), f"zig {version('ziglang')}")


def _clang(target: Target, sanitize: str) -> Toolchain:
    kinds = set(sanitize.split(","))
    if not kinds <= SANITIZERS or {"address", "thread"} <= kinds:
        raise CompileError(f"--sanitize {sanitize}: choose of {', '.join(sorted(SANITIZERS))}; not address with thread")
    if not runs_here(target):
        raise CompileError(f"--sanitize: {target.name} libraries do not run on this machine: choose --target host")
    if not shutil.which("clang"):
        raise CompileError("--sanitize needs clang (Debian package clang): install it")
    return Toolchain(("clang",), f"clang -fsanitize={sanitize}", sanitize)


def run_compiler(toolchain: Toolchain, arguments: list[str], folder: Path) -> None:
    """Run the compiler in `folder`. Raises CompileError with the compiler's first line.

    zig's caches are inside the folder, except the global one where ZIG_GLOBAL_CACHE_DIR names another: it keeps the
    target's libc, which a program takes seconds to link without.
    """
    cache = str(folder / "zig-cache")
    environment = {"ZIG_GLOBAL_CACHE_DIR": cache} | os.environ | {"ZIG_LOCAL_CACHE_DIR": cache}
    try:
        done = subprocess.run(
            [*toolchain.command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise CompileError(f"{toolchain.command[0]} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        free = shutil.disk_usage(folder).free
        if free < 1 << 20:  # zig writes to mapped files: a full disk is a signal, and no message
            raise CompileError(f"disk full: {toolchain.description} failed, {folder} has {free >> 10} KiB left")
        silent = [f"exit status {done.returncode}"]
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or silent
        raise CompileError(f"{toolchain.description} failed: {lines[0].strip()}")


def build_runner(target: Target, folder: Path) -> Path:
    """The program that loads any library and runs it on inputs from a file (runtime/tools/runner.c).

    For Android it is a glibc program: that is what runs under emulation here.
    """
    toolchain = zig("-target", target.zig_triple.replace("android", "gnu"))
    runner = folder / "runner"
    arguments = ["-O2", *WARNINGS, f"-I{INCLUDE}"]
    arguments += [str(TOOLS / "runner.c"), "-o", runner.name]
    run_compiler(toolchain, arguments, folder)
    return runner


def link_library(
    toolchain: Toolchain,
    target: Target,
    folder: Path,
    sources: list[Path],
    kernels: list[Path],
    name: str,
    output: Path,
) -> list[Path]:
    """Link `sources` and the kernels' objects into `output`; only `{name}_*` and JNI_OnLoad are visible.

    Returns all objects that went in. Raises CompileError if a kernel needs a function that is not in libc or libm.
    """
    objects = [*kernels, *compile_sources(toolchain, target, folder, sources, name)]
    if target.is_web:
        _link_module(toolchain, target, folder, objects, name, output)
        return objects
    wanted, defined = (set().union(*names) for names in zip(*map(symbols, objects), strict=True))
    foreign = wanted - defined - available(target) - {ELF_TABLE}
    if toolchain.sanitize:
        foreign = {symbol for symbol in foreign if not symbol.startswith(SANITIZER_SYMBOLS)}
    if foreign:
        raise CompileError(f"a kernel calls {min(foreign)}, which is neither in libc nor in libm")
    if not target.is_elf:
        for kernel in kernels:
            hide_symbols(kernel)
    if target.is_windows:
        _link_dll(toolchain, target, folder, objects, wanted, name, output)
    elif target.is_apple:
        _link_dylib(toolchain, target, folder, objects, wanted, output)
    else:
        _link_elf(toolchain, target, folder, objects, wanted, name, output)
    return objects


def compile_sources(toolchain: Toolchain, target: Target, folder: Path, sources: list[Path], name: str) -> list[Path]:
    """Their object files, in `folder`, under the names of the sources.

    Those of the runtime are most of a small library's build. A process that builds the next one of the same name, as a
    search does for every kernel, has them already.
    """
    made_of = [*SRC.iterdir(), *INCLUDE.iterdir(), *folder.glob("*.h")]
    contents = hashlib.sha256(repr([(f.name, f.read_bytes()) for f in sorted(made_of) if f.is_file()]).encode())

    def compile_one(source: Path) -> Path:
        if source.parent != SRC:  # generated for this library
            return _compile_source(toolchain, target, folder, source, name)
        key, output = (
            repr((toolchain, target, name, source, WARNINGS, contents.hexdigest())),
            folder / f"{source.stem}.o",
        )
        if (known := _runtime_objects.get(key)) is not None:
            write_whole(output, known, CompileError)
            return output
        _compile_source(toolchain, target, folder, source, name)
        _runtime_objects[key] = output.read_bytes()
        if len(_runtime_objects) > KEPT_OBJECTS:
            _runtime_objects.popitem(last=False)
        return output

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources))


def inside(path: Path, folder: Path) -> str:
    """As seen from `folder`, where compilers run: zig cannot read back some names that a user's folder may have."""
    return os.path.relpath(path, folder)


def _compile_source(toolchain: Toolchain, target: Target, folder: Path, source: Path, name: str) -> Path:
    output = folder / f"{source.stem}.o"
    common = ["-O2", "-fvisibility=hidden", "-ffreestanding", *_sanitizing(toolchain), *WARNINGS]
    if target.is_elf:
        common.append("-fPIC")
    if toolchain.is_zig:
        common += target.c_options
    elif target.arch == "aarch64":
        common.append("-mno-outline-atomics")  # their helpers are in a library that we do not link
    includes = [f"-I{inside(path, folder)}" for path in (folder, SRC, INCLUDE)]
    arguments = [*common, f"-DPB(x)={name}_##x", *includes, "-c", inside(source, folder), "-o", output.name]
    run_compiler(_freestanding(toolchain, target), arguments, folder)
    return output


def public_functions(*more: str) -> list[str]:
    """All that api.h and those files of the runtime declare, without the model's name."""
    text = "".join((SRC / file).read_text() for file in ("api.h", *more))
    return sorted({*re.findall(r"\bPB\((\w+)\)\(", text)})


def _link_module(
    toolchain: Toolchain, target: Target, folder: Path, objects: list[Path], name: str, output: Path
) -> None:
    """A WebAssembly module, with what it needs of libm inside."""
    arguments = ["-O2", *target.c_options, "-mexec-model=reactor", "-nostartfiles", "-Wl,--no-entry", "-Wl,-s"]
    arguments += [f"-Wl,--export={name}_{function}" for function in public_functions("web.c")]
    arguments += [f"-Wl,--max-memory={WASM_MEMORY}", *(inside(path, folder) for path in objects), "-lm"]
    run_compiler(toolchain, [*arguments, "-o", inside(output, folder)], folder)


def _link_dll(
    toolchain: Toolchain, target: Target, folder: Path, objects: list[Path], wanted: set[str], name: str, output: Path
) -> None:
    """A DLL, and beside it the import library that programs are linked with."""
    machine = {"x86_64": "i386:x86-64", "aarch64": "arm64"}[target.arch]
    public = [f"{name}_{function}" for function in public_functions()]
    (folder / "exports.def").write_text("\n".join(["EXPORTS", *public, "JNI_OnLoad", ""]))
    arguments = ["-shared", "-nostdlib", "-Wl,-s", f"-Wl,--out-implib,{output.stem}.lib", "exports.def"]
    arguments += [inside(path, folder) for path in objects]
    for number, (dll, has) in enumerate(DLLS.items()):
        if names := sorted(wanted & has):
            definition = folder / f"dll{number}.def"
            definition.write_text("\n".join([f'LIBRARY "{dll}"', "EXPORTS", *names, ""]))
            arguments.append(f"dll{number}.lib")
            run_compiler(toolchain.dlltool, ["-m", machine, "-d", definition.name, "-l", arguments[-1]], folder)
    run_compiler(toolchain, [*arguments, "-o", output.name], folder)
    for file in (output.name, f"{output.stem}.lib"):
        (folder / file).replace(output.with_name(file))


# What a library may take of Apple's one: tapi's text form of a stub library. The loader binds by the last symbol.
LIBSYSTEM_STUB = """--- !tapi-tbd
tbd-version: 4
targets: [ arm64-macos, arm64-ios, arm64-ios-simulator ]
install-name: '/usr/lib/libSystem.B.dylib'
exports:
  - targets: [ arm64-macos, arm64-ios, arm64-ios-simulator ]
    symbols: [ {symbols}, dyld_stub_binder ]
...
"""


def _link_dylib(
    toolchain: Toolchain, target: Target, folder: Path, objects: list[Path], wanted: set[str], output: Path
) -> None:
    """A dynamic library. zig knows libSystem on macOS alone; its own stub is taken out again."""
    names = ", ".join(f"_{symbol}" for symbol in sorted(wanted & LIBSYSTEM))
    (folder / "libSystem.tbd").write_text(LIBSYSTEM_STUB.format(symbols=names))
    arguments = ["-shared", "-nostdlib", "-Wl,-s", f"-Wl,-install_name,{target.install_name(output.name)}"]
    arguments += ["-Wl,-dead_strip_dylibs", "libSystem.tbd", *(inside(path, folder) for path in objects)]
    run_compiler(toolchain, [*arguments, "-o", output.name], folder)
    (folder / output.name).replace(output)


def _link_elf(
    toolchain: Toolchain,
    target: Target,
    folder: Path,
    objects: list[Path],
    wanted: set[str],
    name: str,
    output: Path,
) -> None:
    stubs = [
        _stub_library(toolchain, target.libc, sorted(wanted & LIBC), folder),
        _stub_library(toolchain, target.libm, sorted(wanted & LIBM), folder),
    ]
    script = folder / "symbols.map"
    script.write_text(f"{{ global: {name}_*; JNI_OnLoad; local: *; }};\n")
    arguments = ["-shared", "-nostdlib", "-Wl,--hash-style=gnu", "-Wl,--build-id=sha1"]
    if not toolchain.sanitize:
        arguments += ["-Wl,-s", "-Wl,--no-undefined"]
    arguments += ["-Wl,-z,max-page-size=16384", "-Wl,-z,noexecstack", "-Wl,-z,relro", "-Wl,-z,now"]
    arguments += [f"-Wl,-soname,lib{name}.so", f"-Wl,--version-script={script.name}"]
    arguments += [*(inside(path, folder) for path in (*objects, *stubs)), "-o", inside(output, folder)]
    run_compiler(toolchain, arguments, folder)


def _sanitizing(toolchain: Toolchain) -> list[str]:
    if not toolchain.sanitize:
        return ["-fno-sanitize=undefined"]  # on by default in zig
    kinds = toolchain.sanitize.replace("fuzzer", "fuzzer-no-link")
    return [f"-fsanitize={kinds}", "-fno-sanitize-recover=all", "-g", "-fno-omit-frame-pointer"]


def _freestanding(toolchain: Toolchain, target: Target) -> Toolchain:
    """The compiler for code that asks nothing of the operating system.

    For 64-bit Android zig outlines atomics whatever it is told; code without an operating system has the same ABI. On
    32-bit Arm, Windows and Apple's systems it has another, and nothing is outlined.
    """
    system = "freestanding" if target.is_web else "linux-none"
    plain = toolchain.is_zig and target.arch != "arm" and (target.is_web or target.is_elf)
    return toolchain.with_triple(f"{target.arch}-{system}") if plain else toolchain


def _stub_library(toolchain: Toolchain, soname: str, symbols: list[str], folder: Path) -> Path:
    """A shared library that defines `symbols` and carries `soname`: all that the linker wants to know."""
    source = folder / f"stub_{soname.split('.')[0]}.c"
    source.write_text("".join(f"void {symbol}(void) {{}}\n" for symbol in symbols))
    library = folder / f"stub_{soname}"
    options = ["-shared", "-nostdlib", "-fPIC", "-fno-builtin", "-w", f"-Wl,-soname,{soname}"]
    run_compiler(toolchain, [*options, source.name, "-o", library.name], folder)
    return library


def require_space(folder: Path, needed: int) -> None:
    """Raises CompileError if the disk that holds `folder` has fewer than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CompileError(
            f"{folder} has {free >> 20} MiB left and the build needs {needed >> 20} MiB: free some space"
        )
