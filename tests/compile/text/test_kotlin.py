"""Kotlin on the pages and in the Android example compiles, and gives Python's bits from this machine's libraries."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compile
from compile.artifact.jar import write_jar
from tests.compile.text.test_task_languages import MODELS

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "android"
# A kernel for notebooks that is distributed with the compiler.
COMPILER = importlib.util.find_spec("run_kotlin_kernel")
JARS = sorted(Path(next(iter(COMPILER.submodule_search_locations or []))).glob("jars/*.jar")) if COMPILER else []

pytestmark = pytest.mark.skipif(
    not JARS or not shutil.which("javac"), reason="needs a JDK, and `pip install --no-deps kotlin-jupyter-kernel`"
)

# What the example asks of Android and of its own build; ANDROID_HOME's android.jar is taken where there is one.
ANDROID = {
    "android.os.Bundle": "class Bundle {}",
    "android.content.pm.ApplicationInfo": "class ApplicationInfo { public String nativeLibraryDir; }",
    "android.content.Context": """class Context {
        public android.content.pm.ApplicationInfo getApplicationInfo() { return null; }
        public java.io.File getExternalFilesDir(String type) { return null; } }""",
    "android.app.Activity": """class Activity extends android.content.Context {
        protected void onCreate(android.os.Bundle state) {}
        protected void onDestroy() {}
        public void setContentView(android.view.View view) {}
        public final void runOnUiThread(Runnable work) {} }""",
    "android.view.View": """class View {
        public interface OnClickListener { void onClick(View view); }
        public View(android.content.Context context) {}
        public void setOnClickListener(OnClickListener listener) {}
        public boolean getFitsSystemWindows() { return false; }
        public void setFitsSystemWindows(boolean fits) {} }""",
    "android.view.ViewGroup": """class ViewGroup extends View {
        public ViewGroup(android.content.Context context) { super(context); }
        public void addView(View view) {} }""",
    "android.widget.ScrollView": """class ScrollView extends android.view.ViewGroup {
        public ScrollView(android.content.Context context) { super(context); } }""",
    "android.widget.LinearLayout": """class LinearLayout extends android.view.ViewGroup {
        public static final int VERTICAL = 1;
        public LinearLayout(android.content.Context context) { super(context); }
        public int getOrientation() { return 0; }
        public void setOrientation(int orientation) {} }""",
    "android.widget.TextView": """class TextView extends android.view.View {
        public TextView(android.content.Context context) { super(context); }
        public CharSequence getText() { return null; }
        public final void setText(CharSequence text) {}
        public void setTextIsSelectable(boolean selectable) {} }""",
    "android.text.Editable": "interface Editable extends CharSequence {}",
    "android.widget.EditText": """class EditText extends TextView {
        public EditText(android.content.Context context) { super(context); }
        public android.text.Editable getText() { return null; } }""",
    "android.widget.Button": """class Button extends TextView {
        public Button(android.content.Context context) { super(context); } }""",
}

PROGRAM = """
import com.example.ask.Ask
import com.pocketbert.Label
import com.pocketbert.Model
import com.pocketbert.TaskOptions

fun bits(labels: List<Label>) = labels.joinToString("") { "${it.name()} ${it.score().toRawBits()} " }

fun main(args: Array<String>) {
    val out = java.io.PrintStream(System.out, true, "UTF-8")
    when (args[0]) {
        "ask" -> Ask("model").use { ask -> args.drop(1).forEach { out.println(ask.ask(it).joinToString("\\n")) } }
        "README.md" -> { README out.println(bits(labels)) } }
        "docs/tasks.md" -> { TASKS }
        else -> {
            ANDROID out.println(bits(pieces))
            out.println((0 until logits.remaining()).joinToString(" ") { logits.get(it).toRawBits().toString() })
            } }
    }
}
"""


def blocks(page: str) -> tuple[list[str], list[str]]:
    """Its blocks of Kotlin that call a model, and those for Gradle."""
    found = re.findall(r"```kotlin\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    calls = [re.sub(r'Model\.open\("\w+"\)', 'Model.open("model")', block) for block in found if "Model.open" in block]
    return calls, [block for block in found if "Model.open" not in block]


def kotlinc(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["java", "-cp", os.pathsep.join(map(str, JARS)), "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The class path of PROGRAM around the pages' blocks, compiled without a warning with all code of the example."""
    folder = tmp_path_factory.mktemp("kotlin")
    write_jar(folder / "runtime.jar")
    sdk = sorted(Path(os.environ.get("ANDROID_HOME", folder)).glob("platforms/*/android.jar"))
    for name, body in {"com.example.ask.BuildConfig": 'class BuildConfig { public static final String MODEL = ""; }',
                       **({} if sdk else ANDROID)}.items():  # fmt: skip
        package, _, _ = name.rpartition(".")
        path = folder / "java" / f"{name.replace('.', '/')}.java"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"package {package};\npublic {body}\n")
    ((readme,), _), ((tasks,), _), ((android,), _) = map(blocks, ("README.md", "docs/tasks.md", "docs/android.md"))
    opened, closed = 'Model.open("model").use { model ->', "}\n"
    assert readme.endswith(closed)
    assert android.endswith(closed)
    text = PROGRAM.replace("README ", readme.removesuffix(closed)).replace("TASKS", tasks)
    text = text.replace("ANDROID", android[android.index(opened) :].removesuffix(closed))
    (folder / "Program.kt").write_text(text)
    path = os.pathsep.join(
        map(str, [folder / "runtime.jar", *sdk[-1:], *(jar for jar in JARS if "stdlib" in jar.name)])
    )
    done = kotlinc("-no-stdlib", "-no-reflect", "-jvm-target", "1.8", "-cp", path, "-d", folder / "classes",
                   folder / "Program.kt", folder / "java", EXAMPLE / "app" / "src" / "main" / "java")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return os.pathsep.join([str(folder / "classes"), path])


@pytest.fixture
def run(program: str) -> Callable[..., list[str]]:
    """run(artifact, argument, ...): the lines that PROGRAM prints with the artifact's library on the library path."""

    def call(artifact: Path, *arguments: str) -> list[str]:
        command = ["java", "-Xcheck:jni", f"-Djava.library.path={artifact}", "-cp", program, "ProgramKt", *arguments]
        done = subprocess.run(command, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode().splitlines()

    return call


def bits(labels: Any) -> str:
    return "".join(f"{label.name} {np.float32(label.score).view(np.int32)} " for label in labels)


def test_the_lines_of_the_pages_give_pythons_bits(built: Callable, run: Callable[..., list[str]]) -> None:
    reviews, masked = built("sequence-classification")[0], built("mlm")[0]
    with compile.load(reviews) as library:
        assert run(reviews, "README.md") == [bits(library.classify("what a film", top=1))]
        (printed,) = run(reviews, "docs/tasks.md")
        scores = {name: np.float32(score) for name, score in re.findall(r"(\w+) ([\d.E-]+)", printed)}
        assert scores == {label.name: label.score for label in library.classify("what a film", top=2)}
    text = "the capital of [MASK] is paris"
    with compile.load(masked) as library:
        pieces, logits = run(masked, "docs/android.md")
        assert pieces == bits(library.fill(text)[0])
        wanted = next(iter(library.run_text(text).values())).view(np.int32).ravel()
        assert np.array_equal(np.array(logits.split(), np.int32)[: wanted.size], wanted)


TEXTS = {
    "classify": "é😀 model the!",
    "entities": "the é😀 model of 日本語",
    "fill": "the [MASK] 😀 [MASK]",
    "embed": "é😀 model the!",
    "answer": "the model?\né😀 model the! 日本語😀😀 한국",
}


@pytest.mark.parametrize("task", TEXTS)
def test_the_example_asks_a_model_of_each_task(task: str, built: Callable, run: Callable[..., list[str]]) -> None:
    head, labels, modules, config = MODELS[task]
    artifact, text = built(head, labels, modules, **config)[0], TEXTS[task]
    with compile.load(artifact) as library:
        match task:
            case "classify":
                wanted = [f"{label.score:.3f}  {label.name}" for label in library.classify(text)]
            case "entities":
                wanted = [f"{found.name}: {text[found.begin : found.end]}" for found in library.entities(text)]
            case "fill":
                wanted = [
                    f"{label.score:.3f}  {label.name}" for labels in library.fill(text, top=5) for label in labels
                ]
            case "embed":
                wanted = ["[" + ", ".join(map(str, library.embed(text)[:8])) + ", …]"]
            case _:
                (answer,) = library.answer(*text.split("\n"))
                wanted = [f"{answer.score:.3f}  {answer.text}"]
    assert wanted
    assert run(artifact, "ask", text) == wanted
    nothing = {"fill": ["Write [MASK] (or <mask>) where a word is wanted"],
               "answer": ["Write a question, and below it the text that answers it"]}  # fmt: skip
    if task in nothing:
        assert run(artifact, "ask", "a line") == nothing[task]


def test_what_is_for_gradle_is_kotlin(tmp_path: Path) -> None:
    """Its syntax alone: its names are Gradle's, which is not here."""
    scripts = [*blocks("docs/android.md")[1], *(path.read_text() for path in sorted(EXAMPLE.rglob("*.gradle.kts")))]
    assert len(scripts) == 5
    for n, script in enumerate([*scripts, "android {"]):
        (tmp_path / f"{n}.kt").write_text(f"fun script{n}() {{\n{script}\n}}\n")
    done = kotlinc("-no-stdlib", "-no-reflect", tmp_path)
    assert {line.split(":")[0] for line in done.stderr.splitlines() if "syntax error" in line} == {f"{tmp_path}/5.kt"}
