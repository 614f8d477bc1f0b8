"""Rust: a crate without dependencies, with the library embedded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compile.bindings.interface import Field, Task, Type
from compile.bindings.write import Language

NAMES = {
    "int8_t": "i8", "int32_t": "i32", "int64_t": "i64", "uint64_t": "u64", "size_t": "usize", "float": "f32",
    "char": "c_char", "void": "c_void", "function": "c_void",
}  # fmt: skip
KINDS = {"labels": "Option<Vec<String>>", "choice": "LongText", "flag": "bool", "number": "f32", "integer": "i32"}
RESULTS = {"label": "Label", "piece": "Label", "entity": "Entity", "answer": "Answer", "vector": "f32"}
DEPTH = {"list": 1, "lists": 2, "masks": 2, "vector": 1, "vectors": 2}
RESERVED = """abstract alloc as async await become box break const continue core crate do dyn else enum extern
false final fn for if impl in let loop macro match mod move mut override priv proc_macro pub ref
return self static std struct super test trait true try type typeof union unsafe unsized use virtual
where while yield"""


def rust_name(name: str) -> str:
    """Of a type of C."""
    return NAMES.get(name, name)


def rust_type(kind: Type) -> str:
    pointers = "*mut " * (kind.pointers - 1) + ("*const " if kind.const else "*mut ") if kind.pointers else ""
    own = pointers + rust_name(kind.name)
    return f"[{own}; {kind.length}]" if kind.length else own


def rust_option(member: Field) -> str:
    return KINDS[member.kind]


def rust_word(name: str) -> str:
    return f"r#{name}" if name in RESERVED.split() else name


def rust_result(task: Task) -> str:
    depth = DEPTH[task.gives]
    return "Vec<" * depth + RESULTS[task.of] + ">" * depth


def example(task: Task | None) -> Mapping[str, Any]:
    if task is None:
        return {"method": "run_text", "texts": ["text"], "arguments": "texts[0].as_str()"}
    texts = [text for text in task.texts if text != "pair"]
    given = [f"texts[{n}].as_str()" for n in range(len(texts))]
    return {"method": task.name, "texts": texts, "arguments": ", ".join([*given, "&Default::default()"])}


RUST = Language(
    name="rust",
    package="crate",
    templates={
        "Cargo.toml": "Cargo.toml.jinja",
        "src/lib.rs": "lib.rs.jinja",
        "src/library.rs": "library.rs.jinja",
        "examples/example.rs": "example.rs.jinja",
    },
    platforms={"x86_64-linux": {"arch": "x86_64"}, "arm64-linux": {"arch": "aarch64"}},
    reserved=frozenset(RESERVED.split()),
    filters={
        "rust_name": rust_name,
        "rust_type": rust_type,
        "rust_option": rust_option,
        "rust_word": rust_word,
        "rust_result": rust_result,
    },
    example=example,
)
