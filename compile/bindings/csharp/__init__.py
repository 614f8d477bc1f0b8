"""C#: what a NuGet package is made of. Functions are called as .NET calls C, by the name of the library."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from compile.bindings.interface import Field, Task, Type
from compile.bindings.write import Language, comment, pascal

NAMES = {
    "int8_t": "sbyte", "int32_t": "int", "int64_t": "long", "uint64_t": "ulong", "size_t": "UIntPtr", "float": "float",
    "void": "void",
}  # fmt: skip
KINDS = {"labels": "IReadOnlyList<string>", "choice": "LongText", "flag": "bool", "number": "float", "integer": "int"}
RESULTS = {"label": "Label", "piece": "Label", "entity": "Entity", "answer": "Answer", "vector": "float"}
SHAPES = {"list": "List<{}>", "lists": "List<List<{}>>", "masks": "List<List<{}>>"}
SHAPES |= {"vector": "{}[]", "vectors": "{}[][]"}


def namespace(name: str) -> str:
    """Of a model, also the package's and the assembly's name. A class of it is Model, and `System` is .NET's."""
    spelt = pascal(name)
    return f"{spelt}Library" if spelt in ("Model", "System", "Native") else spelt


def cs_name(name: str) -> str:
    """Of a type of C."""
    return NAMES.get(name, f"{name.removeprefix('pocketbert_')}_t")


def cs_member(kind: Type) -> str:
    """Of a struct's member."""
    return "IntPtr" if kind.pointers else cs_name(kind.name)


def cs_names(member: Field) -> str:
    """A member, or one for each element of an array, which C# would not lay out inside."""
    length = member.type.length
    return ", ".join(f"{member.name}{n}" for n in range(length)) if length else member.name


def cs_option(member: Field) -> str:
    return KINDS[member.kind]


def cs_parameter(parameter: Field) -> str:
    """How a function of C is given an argument."""
    kind, name = parameter.type, cs_name(parameter.type.name)
    if not kind.pointers:
        return name
    if kind.name == "pocketbert_model":
        return "out IntPtr" if kind.pointers == 2 else "IntPtr"
    if kind.name == "char":
        return "byte[]"
    if kind.name == "void":
        return "IntPtr"
    if parameter.name in ("options", "description", "tokens") and kind.name.startswith("pocketbert_"):
        return f"ref {name}"
    if kind.name == "int32_t" and parameter.name != "overflows":
        return "out int"
    return f"{name}[]" if kind.const else f"[In, Out] {name}[]"


def cs_result(task: Task) -> str:
    return SHAPES[task.gives].format(RESULTS[task.of])


def summary(text: str, indent: str) -> str:
    """A comment for documentation, one line or several; nothing for no text."""
    if not text:
        return ""
    lines = comment(escape(text, quote=False), f"{indent}/// ")
    return f"{indent}/// <summary>\n{lines}{indent}/// </summary>\n"


def example(task: Task | None) -> Mapping[str, Any]:
    texts = ["text"] if task is None else [text for text in task.texts if text != "pair"]
    given = ", ".join(f"args[{n}]" for n in range(len(texts)))
    return {"method": "run_text" if task is None else task.name, "texts": texts, "arguments": given}


CSHARP = Language(
    name="csharp",
    package="nuget",
    templates={
        "{namespace}.nuspec": "package.nuspec.jinja",
        "Model.cs": "Model.cs.jinja",
        "example/Program.cs": "Program.cs.jinja",
        "example/example.csproj": "example.csproj.jinja",
    },
    platforms={"x86_64-linux": {"rid": "linux-x64"}, "arm64-linux": {"rid": "linux-arm64"}},
    reserved=frozenset(),
    names=lambda name: {"namespace": namespace(name)},
    filters={
        "cs_name": cs_name, "cs_member": cs_member, "cs_names": cs_names, "cs_option": cs_option,
        "cs_parameter": cs_parameter, "cs_result": cs_result, "summary": summary,
    },
    example=example,
)  # fmt: skip
