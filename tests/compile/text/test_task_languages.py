"""Tasks and tokens from C++ and Java: what Python says of the same texts, bit for bit."""

import json
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import compile
from compile.artifact.manifest import Manifest
from compile.artifact.maven import Coordinates
from compile.artifact.packages import PACKAGES
from compile.running.load import read_manifest
from compile.running.runners import node
from compile.runtime import INCLUDE

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[3]
TYPES = {"0": "O", "1": "B-PER", "2": "I-PER", "3": "B-LOC", "4": "I-LOC", "5": "MISC"}
MODELS: dict[str, tuple[Any, ...]] = {
    "classify": ("sequence-classification", 3, False, {"id2label": {"0": "bad", "1": "söso", "2": 'g"ood'}}),
    "entities": ("token-classification", len(TYPES), False, {"id2label": TYPES}),
    "fill": ("mlm", 2, False, {}),
    "embed": ("none", 2, True, {}),
    "answer": ("question-answering", 2, False, {}),
}
SMALLER: tuple[Any, ...] = ("int8", "binary")
TEXTS = (
    "",
    "the model",
    "é😀 model the!",
    "日本語😀😀 한국 ing ing",
    "a " * 200,
    "the 'quoted' [MASK] [SEP]",
    "\u0301\u0301é",
    "😀",
)


def bits(value: float) -> int:
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


def expected(library: compile.Library, task: str, text: str) -> str:
    def labels(found: Sequence[Any]) -> str:
        return "".join(f"{label.name} {bits(label.score)} " for label in found)

    windows: dict[str, Any] = {"windows": True, "stride": 3}
    if task == "classify":
        some = library.classify("the", text, allow=['g"ood', "bad"], deny=["bad"], max_tokens=12, **windows)
        every = library.classify_all([text, "the", ""], truncate=True)
        every += library.classify_all([(text, "the"), "the", ("", text)], truncate=True)
        return "".join(map(labels, [library.classify(text, truncate=True), some, *every]))
    if task == "embed":
        vector, other = library.embed(text, truncate=True), library.embed("the model")
        values = [*vector, *library.embed(text, max_tokens=12, **windows)]
        values += list(library.embed_all([text, "the model", ""], truncate=True).ravel())
        small = [(library.embed(text, True, precision=p), library.embed("the model", precision=p)) for p in SMALLER]
        whole = [int(value) for pair in small for value in pair[0]]
        cosines = [bits(library.cosine(*pair)) for pair in ((vector, other), *small)]
        return " ".join(map(str, [*map(bits, values), *whole, *cosines]))
    if task == "fill":
        return "".join(map(labels, library.fill(f"{text} [MASK]", top=3, max_tokens=12, **windows)))
    if task == "entities":
        found = library.entities(text, **windows)
        return "".join(f"{e.name} {bits(e.score)} {text[e.begin : e.end]}|" for e in found)
    if task == "answer":
        answers = library.answer("the model?", text, 4, max_tokens=14, stride=3, no_answer=True)
        assert all(answer.text == text[answer.begin : answer.end] for answer in answers)
        return "".join(f"{answer.text} {bits(answer.score)}|" for answer in answers)
    tokens = library.encode(text, text, 20)
    columns = zip(tokens.ids, tokens.segments, tokens.texts, tokens.begins, tokens.ends, strict=True)
    line = "".join(f"{number} {segment} {of} {text[begin:end]}|" for number, segment, of, begin, end in columns)
    return f"{line}{tokens.overflow} {library.encode(text, None, 6, windows=True, skip=2).ids.size}"


def run(*command: object) -> list[str]:
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().split("\n")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return path


# What goes wrong in each program of a binding, by its code and by the model's task (anything: "").
FAILURES = [{"classify": "12", "": "11"}, {"embed": "none", "": "11"}, {"": "1"}, {"": "1"}, {"": "13"}]


@pytest.fixture(scope="module")
def packages(built: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of a masked language model called `model` with the packages whose compiler is here."""
    artifact, folder = built("mlm")[0], tmp_path_factory.mktemp("packages")
    shutil.copytree(artifact, folder, dirs_exist_ok=True)
    for kind, compiler in (("go", "go"), ("crate", "cargo"), ("nuget", "mcs")):
        if shutil.which(compiler):
            PACKAGES[kind](folder, read_manifest(artifact), Coordinates("com.pocketbert", "model", "0.1.0"), ())
    return folder


@pytest.fixture(scope="module")
def bindings(packages: Path) -> dict[str, list[Any]]:
    """The programs of the bindings that are made of the C interface. A package is of one model; these load others."""
    found: dict[str, list[Any]] = {}
    if (place := packages / "go").exists():
        (place / "tasks").mkdir()
        shutil.copy(HERE / "tasks.go", place / "tasks")
        run("env", "-C", place, "go", "build", "-o", packages / "tasks-go", "./tasks")
        found["Go"] = [packages / "tasks-go"]
    if (place := packages / "crate").exists():
        shutil.copy(HERE / "tasks.rs", place / "examples")
        run("env", "-C", place, "cargo", "build", "--offline", "--quiet", "--example", "tasks")
        found["Rust"] = [place / "target" / "debug" / "examples" / "tasks"]
    if (place := packages / "nuget").exists() and shutil.which("mono"):
        run("mcs", f"-r:{place / 'ModelLibrary.dll'}", f"-out:{place / 'tasks.exe'}", HERE / "Tasks.cs")
        found["C#"] = ["mono", place / "tasks.exe"]
    return found


@pytest.mark.parametrize("task", [*MODELS, "encode"])
def test_every_binding_says_the_same(task: str, built: Callable, texts: Path, bindings: dict[str, list[Any]]) -> None:
    head, labels, modules, config = MODELS.get(task, MODELS["entities"])
    artifact, _ = built(head, labels, modules, **config)
    with compile.load(artifact) as library:
        wanted = [expected(library, task, text) for text in TEXTS]
        path = artifact / library.manifest.library
    failures = [codes.get(task, codes[""]) for codes in FAILURES]
    for language, command in bindings.items():
        if language == "C#":  # .NET finds a library by its name, beside the assembly
            shutil.copy(path, command[1].parent)
        got = run(*command, texts, task, path, library.manifest.name)
        assert got[: len(TEXTS)] == wanted, language
        closed = {"Go": ["1"], "C#": ["disposed"]}.get(language, [])  # in Rust a dropped model has no name
        assert got[len(TEXTS) : -1] == [*failures, *closed], language


def test_the_examples_of_the_page_run(packages: Path) -> None:
    """Its commands, in packages of a masked language model."""
    page = (ROOT / "docs" / "bindings.md").read_text()
    commands = re.findall(r"^cd build/mine/(\w+) && (.*)$", page, re.MULTILINE)
    assert len(commands) == 3
    with compile.load(packages) as library:
        best = library.fill("the [MASK] model")[0][0].name
    for kind, command in commands:
        if (packages / kind).exists() and (kind != "nuget" or shutil.which("mono")):
            shutil.copy(packages / "libmodel.so", packages / kind)
            lines = run("env", "-C", packages / kind, "sh", "-c", command.replace("Model.dll", "ModelLibrary.dll"))
            assert best in "".join(lines), kind


# What stands around each language's lines on the page; there the model is called reviews.
AROUND = {
    "go": (
        'package main\n\nimport reviews "model"\n\nfunc lines() error {\n%s_ = labels\nreturn nil\n}\n\n'
        "func main() { println(lines()) }\n"
    ),
    "rust": (
        "use model::{Error, Model, Options, TaskOptions};\n\n"
        "fn lines(context: &str) -> Result<usize, Error> {\n%sOk(answers.len())\n}\n\n"
        'fn main() {\n    println!("{:?}", lines(""));\n}\n'
    ),
    "csharp": "using System;\nusing ModelLibrary;\n\nstatic class Page { static void Main() {\n%s} }\n",
}


def test_the_lines_of_the_page_compile(packages: Path) -> None:
    page = (ROOT / "docs" / "bindings.md").read_text()
    for kind, language, file, command in (
        ("go", "go", "page/main.go", "go build -o page/page ./page"),
        ("crate", "rust", "examples/page.rs", "cargo check --offline --quiet --example page"),
        ("nuget", "csharp", "Page.cs", "mcs -r:ModelLibrary.dll -out:page.exe Page.cs"),
    ):
        (lines,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
        if (place := packages / kind).exists():
            (place / file).parent.mkdir(exist_ok=True)
            (place / file).write_text(AROUND[language] % lines)
            run("env", "-C", place, *command.split())


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    """Commands by language, of those whose compiler is here."""
    folder, found = tmp_path_factory.mktemp("programs"), {}
    if compiler := shutil.which("clang++") or shutil.which("g++"):
        run(compiler, "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", INCLUDE, HERE / "tasks.cpp",
            "-o", folder / "tasks", "-ldl")  # fmt: skip
        found["C++"] = [folder / "tasks"]
    if shutil.which("javac"):
        run(
            "javac",
            "-d",
            folder,
            *(ROOT / "compile" / "java" / "com" / "pocketbert").glob("*.java"),
            HERE / "Tasks.java",
        )
        found["Java"] = ["java", "-Xcheck:jni", "-Dfile.encoding=UTF-8", "-cp", folder, "Tasks"]
    return found


def assert_said(facts: dict[str, Any], manifest: Manifest) -> None:
    """What the library says of itself is what its manifest says of it, with who said so first."""
    vocabulary = facts.pop("vocabulary")
    assert facts == {name: getattr(manifest, name) for name in ("task", "activation", "pooling", "normalized")}
    assert manifest.vocabulary
    settings = vocabulary.pop("settings")
    assert vocabulary == {
        name: getattr(manifest.vocabulary, name) for name in ("pieces", "cased", "kind", "max_tokens")
    }
    assert settings == [asdict(setting) for setting in manifest.vocabulary.settings]
    sources = {setting["name"]: setting["source"] for setting in settings}
    assert sources["lowercase"].startswith("tokenizer")
    assert sources["task"] == ("modules.json" if facts["task"] == "embed" else "config.json architectures")
    if facts["task"] == "embed":
        assert sources["pooling"] == "1_Pooling/config.json"
    if facts["activation"]:
        assert sources["labels"] == "config.json id2label"


@pytest.mark.parametrize("task", [*MODELS, "encode"])
def test_every_language_says_the_same(
    task: str, built: Callable, texts: Path, programs: dict[str, list[object]]
) -> None:
    head, labels, modules, config = MODELS.get(task, MODELS["entities"])
    artifact, _ = built(head, labels, modules, **config)
    with compile.load(artifact) as library:
        wanted = [expected(library, task, text) for text in TEXTS]
        path = artifact / library.manifest.library
    for language, command in programs.items():
        got = run(*command, texts, task, path, library.manifest.name)
        assert got[: len(TEXTS)] == wanted, language
        assert_said(json.loads(got[len(TEXTS)]), library.manifest)
        if language == "Java":
            refused = [
                "IllegalArgumentException" if task == kind else "ModelException" for kind in ("classify", "embed")
            ]
            logged = [f"{name}true" for name in refused]
            assert got[len(TEXTS) + 1 : -1] == ["true", *logged, "1 texts and 2 pairs: give as many"]


JAVASCRIPT = r"""
import { load } from "ARTIFACT/index.js";
import { readFileSync } from "node:fs";
const model = await load(), cut = { longText: "truncate" }, windows = { longText: "windows", maxTokens: 12, stride: 3 };
const pairs = (labels) => labels.map(({ label, score }) => [label, score]);
const answers = {
  classify: (text) => [
    ...pairs(model.classify(text, undefined, cut)),
    ...pairs(model.classify("the", text, { ...windows, allow: ['g"ood', "bad"], deny: ["bad"] })),
    ...pairs(model.classify("the", undefined, { top: 1 })),
    ...model.classifyAll([text, ["the", text], "", ["", ""]], cut)
      .flatMap((labels) => [...pairs(labels), [`${labels.overflow}`]]),
  ],
  embed: (text) => [
    ["", ...model.embed(text, windows)],
    ...model.embedAll([text, "the model", ""], cut).map((vector) => ["", ...vector]),
  ],
  fill: (text) => pairs(model.fill(`${text} ${"[MASK] ".repeat(60)}`, 3, { ...windows, stride: 0 }).flat()),
  entities: (text) => model.entities(text, windows).map((e) => [`${e.label} ${e.text}`, e.score]),
  answer: (text) => model.answer("the model?", text, 4, { maxTokens: 14, stride: 3, longest: 2, noAnswer: true })
    .map((answer) => [answer.text, answer.score]),
};
const lines = readFileSync("TEXTS", "utf8").split("\n").slice(0, -1);
const refused = [
  () => model.classifyAll("the"),
  () => model.classifyAll(["the", 3]),
  () => model.classify("the", undefined, { top: 0 }),
  () => model.classify("the", undefined, { deny: ["nothing"] }),
  () => model.classifyAll(["the", "a ".repeat(200)]),
  () => model.fill("[MASK]", 1e9),
  () => model.classify(),
  () => model.tokenize(),
  () => model.classify("the", undefined, { maxTokens: "12" }),
  () => model.classify("the", undefined, { stride: 1.5 }),
  () => model.classify("the", undefined, { maxtokens: 12 }),
  () => model.answer("the"),
  () => model.classifyAll([]),
];
const messages = refused.map((work) => {
  try { return work(); } catch (error) { return `${error.code} ${error.message}`; }
});
console.log(JSON.stringify({ rows: lines.map((text) => answers.TASK(text)), messages, facts: model.facts }));
"""


REFUSED = (
    "1 texts must be an array",
    "1 a text must be a string",
    "1 top is 0: give 1 or more",
    "1 deny: the model has no label nothing: it has bad, söso",
    "12 ",
    "4 out of memory",
    "1 a text must be a string",
    "1 a text must be a string",
    "1 maxTokens is 12: give a whole number",
    "1 stride is 1.5: give a whole number",
    "1 there is no option maxtokens",
    "1 a text must be a string",
)


def in_python(library: compile.Library, task: str, text: str) -> list[tuple[str, list[float]]]:
    windows: dict[str, Any] = {"windows": True, "max_tokens": 12}

    def pairs(labels: Sequence[Any]) -> list[tuple[str, list[float]]]:
        return [(label.name, [label.score]) for label in labels]

    if task == "classify":
        some = library.classify("the", text, allow=['g"ood', "bad"], deny=["bad"], stride=3, **windows)
        rows = [*pairs(library.classify(text, truncate=True)), *pairs(some), *pairs(library.classify("the", top=1))]
        for first, second in ((text, None), ("the", text), ("", None), ("", "")):
            rows += pairs(library.classify(first, second, truncate=True))
            whole = library.encode(first, second, library.manifest.tokens)
            rows.append((str(whole.overflow), []))
        return rows
    if task == "embed":
        vectors = [library.embed(text, stride=3, **windows), *library.embed_all([text, "the model", ""], truncate=True)]
        return [("", list(vector)) for vector in vectors]
    if task == "fill":
        return [
            pair for row in library.fill(f"{text} {'[MASK] ' * 60}", top=3, stride=0, **windows) for pair in pairs(row)
        ]
    if task == "entities":
        found = library.entities(text, stride=3, **windows)
        return [(f"{e.name} {text[e.begin : e.end]}", [e.score]) for e in found]
    answers = library.answer("the model?", text, 4, max_tokens=14, stride=3, longest=2, no_answer=True)
    return [(answer.text, [answer.score]) for answer in answers]


@pytest.mark.skipif(bool(node.missing()), reason=f"needs {node.NEEDED}")
@pytest.mark.parametrize("task", MODELS)
def test_javascript_says_nearly_the_same(
    task: str, built: Callable, modules: Callable, texts: Path, tmp_path: Path
) -> None:
    """Names and places to the letter; numbers by the same kernels at another width."""
    head, labels, parts, config = MODELS[task]
    artifact, folder = built(head, labels, parts, **config)
    program = JAVASCRIPT.replace("ARTIFACT", str(modules(folder))).replace("TEXTS", str(texts)).replace("TASK", task)
    (tmp_path / "run.mjs").write_text(program)
    printed = json.loads("".join(run(*(node.command() or []), tmp_path / "run.mjs")))
    got = printed["rows"]
    with compile.load(artifact) as library:
        wanted = [in_python(library, task, text) for text in TEXTS]
    assert_said(printed["facts"], library.manifest)
    assert [[word for word, *_ in row] for row in got] == [[word for word, _ in row] for row in wanted]
    for ours, theirs in zip(got, wanted, strict=True):
        for (_, *values), (_, numbers) in zip(ours, theirs, strict=True):
            assert values == pytest.approx(numbers, abs=2e-6)
    if task == "classify":
        *messages, nothing = printed["messages"]
        assert nothing == []
        assert all(got.startswith(wanted) for got, wanted in zip(messages, REFUSED, strict=True)), messages
    else:
        assert printed["messages"][4].startswith("11 ")  # a task that is not the model's
