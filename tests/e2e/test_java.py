"""com.pocketbert.Model in a real Java virtual machine: an Android archive's classes, and libraries for this machine."""

import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import compile
from compile import __main__ as command_line
from compile.artifact.maven import package_version
from compile.running.load import read_manifest
from compile.runtime import INCLUDE, SRC
from tests.support.graphs import Builder

ROOT = Path(__file__).parents[2]
JAVA = Path(__file__).parent / "java"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ARGUMENT, STATE, MODEL = "IllegalArgumentException", "IllegalStateException", "ModelException"

pytestmark = pytest.mark.skipif(
    shutil.which("javac") is None, reason="needs a JDK: Debian package default-jdk-headless"
)


def scale(path: Path, factor: float) -> Path:
    """A model of one product, y = factor · x, with a fixed number of tokens."""
    weight = onnx.numpy_helper.from_array(np.eye(16, dtype=np.float32) * np.float32(factor), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    infos = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 8, 16]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "test", infos[:1], infos[1:], [weight])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def run(*command: object) -> str:
    """What the program prints. It must succeed, and `-Xcheck:jni` have nothing to say."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "native method" not in done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The jar of com.pocketbert:runtime, as an archive for Android brings it."""
    folder = tmp_path_factory.mktemp("archive")
    built = compile.build(scale(folder / "scale.onnx", 2), seq_len=8, out=folder / "artifact", package="aar").folder
    (jar,) = (built / "maven/com/pocketbert/runtime").glob("*/runtime-*[0-9].jar")
    return Path(jar)


@pytest.fixture(scope="module")
def java(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """java(command, library, ...): what Checks.java prints."""
    folder = tmp_path_factory.mktemp("checks")
    run("javac", "-cp", classes, "-d", folder, JAVA / "Checks.java")

    def call(command: str, *arguments: object, options: tuple[str, ...] = ()) -> str:
        return run("java", "-Xcheck:jni", *options, "-cp", f"{classes}:{folder}", "Checks", command, *arguments)

    return call


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every ASCII character, more that take two, three and four bytes, and a few longer pieces."""
    characters = [*map(chr, range(33, 127)), *"ßжا中語😀𝄞"]
    pieces = [*SPECIAL, *characters, *(f"##{c}" for c in characters), "capital", "paris", "##is"]
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(pieces), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def artifact(exported: Callable, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of MobileBERT-tiny with a tokenizer."""
    path, out = exported("mobilebert-tiny", seq_len=16), tmp_path_factory.mktemp("java") / "artifact"
    return compile.build(path, target="host", seq_len=16, vocab=vocabulary, out=out).folder


@pytest.fixture(scope="module")
def library(artifact: Path) -> Path:
    return artifact / "libmobilebert_tiny.so"


TEXTS = [
    "The capital of [MASK] is Paris.",
    "",
    "a question?\tan answer, longer than all that the model takes",
    "\tafter nothing",
    "naïve Straße, ЖЖ, ا, 中語 and 😀𝄞😀",  # beyond 16 bits JNI's own strings are not UTF-8
    "a NUL \0 between",
]


def test_text_gives_the_ids_and_results_that_it_gives_in_python(
    java: Callable, artifact: Path, library: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts").write_text("\n".join(TEXTS), encoding="utf-8")
    lines = java("text", library, tmp_path / "texts", tmp_path / "results").splitlines()
    wanted = b""
    with compile.load(artifact, threads=1) as model:
        for line, text in zip(lines, TEXTS, strict=False):
            ids, _ = model.tokenize(*text.split("\t"))
            assert line == "".join(f"{number} {model.token(number)} " for number in ids.tolist())
            wanted += b"".join(array.tobytes() for array in model.run_text(*text.split("\t")).values())
    assert (tmp_path / "results").read_bytes() == wanted
    outcomes = [line.split(" | ")[:2] for line in lines[len(TEXTS) :]]
    assert outcomes == [
        ["null", "NullPointerException"],
        ["short output", ARGUMENT],
        ["no piece", ARGUMENT],
        ["negative piece", ARGUMENT],
        ["half a character", "nothing"],
        ["a million letters", "nothing"],
    ]


def test_text_needs_a_vocabulary(java: Callable, mobilebert_library: Path) -> None:
    size, *outcomes = java("no vocabulary", mobilebert_library / "libmobilebert.so").splitlines()
    assert size == "0"
    assert [line.split(" | ")[:2] for line in outcomes] == [["run", MODEL], ["tokenize", MODEL], ["token", ARGUMENT]]


@pytest.fixture(scope="module")
def of_every_rank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact whose tensors have one to four dimensions."""
    folder, b = tmp_path_factory.mktemp("ranks"), Builder()
    shapes = ([7], [1, 8], [1, 3, 5], [1, 2, 3, 5])
    onnx.save(b.model(*(b("Neg", b.input(f"x{len(shape)}", shape)) for shape in shapes)), folder / "ranks.onnx")
    return compile.build(folder / "ranks.onnx", target="host", seq_len=8, out=folder / "artifact").folder


@pytest.mark.parametrize("which", ["artifact", "of_every_rank"])
def test_description_is_the_manifests(which: str, java: Callable, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)
    facts = read_manifest(folder)
    tokens, *lines = java("describe", folder / facts.library).splitlines()
    assert int(tokens) == facts.tokens
    for line, entry in zip(lines, facts.inputs + facts.outputs, strict=True):
        limits = ", {} <= id < {}".format(*entry.range) if entry.range else ""
        assert line == f"{entry.name}: {entry.dtype}{list(entry.shape)}{limits}"


REFUSALS = {
    "fine": ("nothing", ""),
    "no tokens": (ARGUMENT, "0 tokens: the model takes 1 to 16"),
    "negative tokens": (ARGUMENT, "-5 tokens"),
    "too many tokens": (ARGUMENT, "17 tokens"),
    "heap input": (ARGUMENT, "input_ids: not a direct buffer"),
    "null input": (ARGUMENT, "input_ids: not a direct buffer"),
    "no inputs": (ARGUMENT, "0 inputs: the model has 3"),
    "null inputs": ("NullPointerException", "inputs"),
    "one output": (ARGUMENT, "1 outputs: the model has 2"),
    "other order": (ARGUMENT, "input_ids: the buffer's order"),
    "input too short": (ARGUMENT, "input_ids: the buffer has 127 bytes from position to limit, the tensor 128"),
    "short is enough for fewer tokens": ("nothing", ""),
    "input behind a position": ("nothing", ""),
    "position too far": (ARGUMENT, "127 bytes"),
    "misaligned": (ARGUMENT, "aligned"),
    "read-only output": (ARGUMENT, "last_hidden_state: an output's buffer must not be read-only"),
    "read-only input": ("nothing", ""),
    "id outside its table": (ARGUMENT, "outside its table"),
    "fine again": ("nothing", ""),
    "all cores": ("nothing", ""),
    "threads": (ARGUMENT, "threads must be 0"),
    "no such file": (MODEL, "/nowhere/libnothing.so cannot be loaded"),
    "no such name": (MODEL, "nothing cannot be loaded"),
    "renamed": (MODEL, "its name must be lib<name>.so"),
    "closed": (STATE, "closed"),
}


def test_every_mistake_is_an_exception_that_says_what_is_wrong(java: Callable, library: Path) -> None:
    outcomes = [line.split(" | ") for line in java("refusals", library).splitlines()]
    assert [situation for situation, *_ in outcomes] == list(REFUSALS)
    for situation, exception, message in outcomes:
        wanted, words = REFUSALS[situation]
        assert (exception, words in message) == (wanted, True), f"{situation}: {exception}: {message}"


def test_random_bytes_are_refused_and_do_no_harm(java: Callable, library: Path) -> None:
    assert java("garbage", library) == "refused 200\n"


def test_eight_threads_on_one_model_and_on_eight(java: Callable, library: Path) -> None:
    assert java("threads", library, 25) == "agreed\n"


def test_close_waits_for_a_run_and_later_runs_are_refused(java: Callable, library: Path) -> None:
    assert java("closing", library) == "closed\n"


# A virtual machine does not survive fork(), but Android's zygote is one that forks. This stands in for it: a libc whose
# getpid gives another number as soon as a file exists.
ANOTHER_PROCESS = r"""
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>

static long call(long n, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "+a"(n) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return n;
}

long syscall(long n, ...)
{
    va_list list;
    long a[6];
    va_start(list, n);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (n == SYS_getpid && call(SYS_access, (long)getenv("FLAG"), 0, 0, 0, 0, 0) == 0)
        return 1;
    const long result = call(n, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (result < 0 && result > -4096) {
        extern int *__errno_location(void);
        *__errno_location() = (int)-result;
        return -1;
    }
    return result;
}
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="its stand-in for fork() is written for x86-64")
def test_model_that_a_process_inherits(
    java: Callable, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "another.c").write_text(ANOTHER_PROCESS)
    zig = (sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu")
    run(*zig, "-O1", "-shared", "-fPIC", tmp_path / "another.c", "-o", tmp_path / "libanother.so")
    monkeypatch.setenv("LD_PRELOAD", str(tmp_path / "libanother.so"))
    monkeypatch.setenv("FLAG", str(tmp_path / "flag"))
    lines = java("inherited", library, tmp_path / "flag").splitlines()
    assert [line.split(" | ")[:2] for line in lines] == [
        ["before", "nothing"],
        ["run", MODEL],
        ["text", MODEL],
        ["close", "nothing"],
        ["its own", "nothing"],
    ]
    assert "opened before fork()" in lines[1]


def test_models_that_nobody_closes_do_not_pile_up(java: Callable, library: Path) -> None:
    assert int(java("dropped", library)) <= 20  # of the 100 threads that 50 models have besides their callers'


def test_two_models_in_one_virtual_machine(java: Callable, library: Path, mobilebert_library: Path) -> None:
    assert java("two", library, mobilebert_library / "libmobilebert.so").endswith("agreed\n")


def test_same_name_in_another_folder_is_another_model(java: Callable, tmp_path: Path) -> None:
    libraries = []
    for factor in (2, 3):
        (tmp_path / str(factor)).mkdir()
        path = scale(tmp_path / str(factor) / "scale.onnx", factor)
        built = compile.build(path, target="host", seq_len=8, out=path.parent / "artifact")
        libraries.append(built.folder / "libscale.so")
    assert java("scales", *libraries) == "2.0 3.0\n2.0 3.0\n"


def test_library_that_the_application_loads_by_name(java: Callable, library: Path) -> None:
    options = (f"-Djava.library.path={library.parent}",)
    assert java("name", "mobilebert_tiny", options=options) == "opened\n"


def test_library_loads_where_there_is_no_pocketbert(library: Path, tmp_path: Path) -> None:
    run("javac", "-d", tmp_path, JAVA / "Alone.java")
    assert run("java", "-Xcheck:jni", "-cp", tmp_path, "Alone", library) == "loaded\n"


def test_other_libraries_are_refused(java: Callable, library: Path, tmp_path: Path) -> None:
    shutil.copy(library, tmp_path / "librenamed.so")
    (tmp_path / "libtext.so").write_text("no library")
    (tmp_path / "empty.c").touch()
    zig = (sys.executable, "-m", "ziglang", "cc")
    run(*zig, "-shared", "-nostdlib", tmp_path / "empty.c", "-o", tmp_path / "libforeign.so")
    lines = java("strangers", *(tmp_path / f"lib{name}.so" for name in ("renamed", "text", "foreign"))).splitlines()
    assert re.match(r"renamed \| nothing", lines[0])
    assert re.match(r"text \| ModelException \| .*libtext.so cannot be loaded", lines[1])
    assert re.match(r"foreign \| ModelException \| .*is no model", lines[2])


def test_hand_declared_interface_is_the_jdks(tmp_path: Path) -> None:
    """Every function that java.h declares is where the JDK's jni.h has it, every other type as large."""
    include = Path(shutil.which("javac") or "").resolve().parents[1] / "include"
    if not (include / "jni.h").exists():
        pytest.skip("needs jni.h: Debian package default-jdk-headless")
    ours = (SRC / "java.h").read_text()
    lines = ["#include <stddef.h>", "#include <jni.h>", '#include "java.h"']
    for kind, theirs in (("pb_jni", "JNINativeInterface_"), ("pb_jvm", "JNIInvokeInterface_")):
        body = re.search(rf"struct {kind} {{(.*?)}};", ours, re.DOTALL)
        functions = re.findall(r"\(\*(\w+)\)", body[1]) if body else []
        assert functions
        lines += [
            f'_Static_assert(offsetof(struct {kind}, {f}) == offsetof(struct {theirs}, {f}), "{f}");' for f in functions
        ]
    pairs = [("pb_jvalue", "jvalue"), ("pb_jni_method", "JNINativeMethod"), ("pb_env", "JNIEnv"), ("pb_vm", "JavaVM")]
    lines += [f'_Static_assert(sizeof({a}) == sizeof({b}), "{b}");' for a, b in pairs]
    members = [("name", "name"), ("signature", "signature"), ("function", "fnPtr")]
    lines += [
        f'_Static_assert(offsetof(pb_jni_method, {a}) == offsetof(JNINativeMethod, {b}), "{b}");' for a, b in members
    ]
    lines += [
        '_Static_assert(PB_JNI_VERSION == JNI_VERSION_1_6 && PB_JNI_OK == JNI_OK && PB_JNI_ERROR == JNI_ERR, "");'
    ]
    (tmp_path / "compare.c").write_text("\n".join(lines))
    folders = ["-I", include, "-I", include / "linux", "-I", SRC, "-I", INCLUDE]
    run(sys.executable, "-m", "ziglang", "cc", "-std=c11", *folders, "-c", tmp_path / "compare.c", "-o", tmp_path / "o")


# --- The page for app developers


@pytest.fixture(scope="module")
def workplace(randomized: Callable, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the page supposes it, but with a checkpoint `mobilebert` of one layer instead of the preset."""
    import model

    folder = tmp_path_factory.mktemp("workplace")
    small = {"num_hidden_layers": 1, "vocab_size": len(vocabulary.read_text().splitlines())}
    config = replace(model.PRESETS["mobilebert-tiny"], **small)
    model.save_checkpoint(randomized(config, "mlm"), folder / "mobilebert")
    shutil.copy(vocabulary, folder / "vocab.txt")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "android.md").read_text(), re.DOTALL)


def test_commands_of_the_page(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(workplace)
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    outputs = [execute(line) or capsys.readouterr().out for line in lines]
    without_mask = shlex.split(lines[-1].replace("[MASK]", ""))
    done = subprocess.run(without_mask, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "Ask: there is no [MASK] (or <mask>) in the text\n")
    folder = workplace / "build/mobilebert-mlm-arm64-android"
    assert (folder / read_manifest(folder).package.file).exists()
    assert f"com.pocketbert:mobilebert_mlm:{package_version()}" in outputs[0]
    words = [line.split() for line in outputs[-1].splitlines()]
    assert len(words) == 5
    assert [float(score) for score, _ in words] == sorted((float(score) for score, _ in words), reverse=True)
    with compile.load("build/mlm", threads=1) as model:
        ids, _ = model.tokenize("the capital of [MASK] is paris")
        logits = next(iter(model.run_text("the capital of [MASK] is paris").values()))
        scores = logits[0, ids.tolist().index(SPECIAL.index("[MASK]"))]
        assert [word for _, word in words] == [model.token(int(i)) for i in np.argsort(-scores)[:5]]


def execute(line: str) -> str:
    """What a command prints; a build runs in this process, with the folder for the preset, and prints to the screen."""
    words = shlex.split(line)
    if words[:4] != ["python", "-m", "compile", "mobilebert"]:
        return run(*words)
    assert command_line.main(["./mobilebert", *words[4:]]) == 0
    return ""


def test_java_code_of_the_page(classes: Path, artifact: Path, library: Path, tmp_path: Path) -> None:
    (code,) = blocks("java")
    (tmp_path / "Embedding.java").write_text(code)
    main = "class Main { public static void main(String[] a) { System.out.println(Embedding.first(a[0], IDS)); } }"
    (tmp_path / "Main.java").write_text(main.replace("IDS", "new long[] {2, 7, 8, 9, 3}"))
    run("javac", "-cp", classes, "-d", tmp_path, tmp_path / "Embedding.java", tmp_path / "Main.java")
    path = f"-Djava.library.path={library.parent}"
    printed = run("java", "-Xcheck:jni", path, "-cp", f"{classes}:{tmp_path}", "Main", "mobilebert_tiny")
    ids = np.array([[2, 7, 8, 9, 3]])
    with compile.load(artifact) as model:
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        wanted = next(iter(model.run(inputs).values())).flat[0]
    assert np.float32(printed) == wanted


def test_page_and_app_name_the_archive_that_their_command_makes() -> None:
    app = ROOT / "examples" / "android"
    coordinates = f"com.pocketbert:mobilebert_mlm:{package_version()}"
    places = [ROOT / "docs" / "android.md", app / "gradle.properties"]
    assert all(coordinates in path.read_text() for path in places)
    properties = (app / "gradle.properties").read_text()
    command = next(line for line in (app / "README.md").read_text().splitlines() if line.startswith("python"))
    assert f"artifact=../../{command.split('# ')[1]}\n" in properties
    wanted = [word for word in command.split("#")[0].split() if word not in ("--target", "android")]
    assert wanted == blocks("sh")[0].split()
