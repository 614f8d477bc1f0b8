"""Go: a module with the library embedded; it takes cgo, and so a C compiler where it is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compile.bindings.interface import Field, Task, Type
from compile.bindings.write import Language

NUMBERS = {"int32_t": "int32", "int64_t": "int64", "int8_t": "int8", "float": "float32"}
RESULTS = {"label": "Label", "piece": "Label", "entity": "Entity", "answer": "Answer", "vector": "float32"}
KINDS = {"choice": "LongText", "flag": "bool", "labels": "[]string", "number": "float32", "integer": "int"}
DEPTH = {"list": 1, "lists": 2, "masks": 2, "vector": 1, "vectors": 2}
RESERVED = """break case chan const continue default defer else fallthrough for func go goto if import interface
map package range return select struct switch type var main"""


def go_type(member: Field) -> str:
    """Of a member of options, of tokens (an element's), or of the description."""
    if member.type.name == "char":
        return "string"
    if member.type.pointers and member.kind != "labels":
        return NUMBERS[member.type.name]
    return KINDS.get(member.kind, "int")


def go_result(task: Task) -> str:
    return "[]" * DEPTH[task.gives] + RESULTS[task.of]


def c_type(kind: Type) -> str:
    """Of what a function returns."""
    return {"char": "const char *"}.get(kind.name, kind.name) if kind.pointers else kind.name


def element_bytes(member: Field) -> str:
    return str({"int64_t": 8, "int32_t": 4, "int8_t": 1}[member.type.name])


def example(task: Task | None) -> Mapping[str, Any]:
    if task is None:
        return {"method": "run_text", "texts": ["text"], "arguments": ""}
    texts = [text for text in task.texts if text != "pair"]
    return {
        "method": task.name,
        "texts": texts,
        "arguments": "".join(f"os.Args[{n}], " for n in range(1, 1 + len(texts))) + "nil",
    }


GO = Language(
    name="go",
    package="go",
    templates={
        "go.mod": "go.mod.jinja",
        "model.go": "model.go.jinja",
        "library_{os}_{arch}.go": "library.go.jinja",
        "example/main.go": "example.go.jinja",
    },
    platforms={
        "x86_64-linux": {"os": "linux", "arch": "amd64"},
        "arm64-linux": {"os": "linux", "arch": "arm64"},
    },
    reserved=frozenset(RESERVED.split()),
    filters={"go_type": go_type, "go_result": go_result, "c_type": c_type, "element_bytes": element_bytes},
    example=example,
    headers=True,
)
