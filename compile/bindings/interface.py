"""The C interface as data, read from its headers: the one description that every language's binding is made of.

Types, codes and functions are pocketbert.h's, what they mean is in its comments and in api.h's. A function of a task is
told by its parameters: which texts it reads, what it gives and how much room that needs (`Task`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from pycparser import c_ast, c_generator, c_parser

from compile.runtime import INCLUDE, SRC

PREFIX = "pocketbert_"
# What pocketbert.h includes, as far as it uses it.
STANDARD = "typedef unsigned long size_t; typedef signed char int8_t; typedef int int32_t; typedef long int64_t; "
STANDARD += "typedef unsigned long uint64_t;"
# Members that C has as numbers: those that say yes or no, and those that are one of an enum's.
FLAGS = frozenset(["profile", "windows", "no_answer"])
CHOICES = {"long_text": ("REFUSE", "TRUNCATE", "WINDOWS")}
# Parameters that follow a task's options, in their order -> how it gives its results.
GIVES = {
    ("room", "count", "overflow"): "list",
    ("room", "count"): "list",
    ("each", "room", "masks", "overflow"): "masks",
    ("each", "overflows"): "lists",
    ("size", "overflow"): "vector",
    ("size", "overflows"): "vectors",
}


@dataclass(frozen=True)
class Type:
    """name: "int32_t", "char", "pocketbert_label", …; pointers: how many lead to it; length: of an array, else 0.

    const: whether what the last pointer leads to is only read.
    """

    name: str
    pointers: int = 0
    length: int = 0
    const: bool = False


@dataclass(frozen=True)
class Field:
    """A member or a parameter; c: its declaration in C."""

    name: str
    type: Type
    doc: str
    c: str

    @property
    def kind(self) -> str:
        """What a person gives for a member of options: a number, a flag, a choice, labels; "" for what is not given."""
        if self.name in CHOICES:
            return "choice"
        if self.name in FLAGS:
            return "flag"
        if self.type == Type("int32_t", 1, const=True):
            return "labels"
        own = self.name == "size" or self.name.endswith("_count")
        return "" if own or self.type.pointers else "number" if self.type.name == "float" else "integer"


@dataclass(frozen=True)
class Struct:
    """name: without `pocketbert_`."""

    name: str
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Constant:
    """name: without `POCKETBERT_`."""

    name: str
    value: int
    doc: str


@dataclass(frozen=True)
class Function:
    """An entry of the table of functions; doc: its first paragraph in api.h."""

    name: str
    result: Type
    parameters: tuple[Field, ...]
    doc: str

    @cached_property
    def task(self) -> Task | None:
        """What it is to a caller; None for a function that reads no text by options.

        Raises ValueError for a parameter that no binding has learnt to give.
        """
        names = [p.name for p in self.parameters]
        if names[:1] != ["model"] or "options" not in names:
            return None
        place = names.index("options")
        texts = tuple(p.name for p in self.parameters[1:place] if p.type.pointers)
        result, *rest = self.parameters[place + 1 :]
        lengths = ["text_count"] if texts == ("texts",) else [f"{text}_bytes" for text in texts]
        gives = GIVES.get(tuple(p.name for p in rest))
        if gives is None or sorted(names[1:place]) != sorted([*texts, *lengths]):
            raise ValueError(f"{self.name}({', '.join(names)}): no binding knows how to call that: see GIVES")
        of = {"pieces": "piece", "vector": "vector", "vectors": "vector"}.get(result.name, "")
        return Task(self.name, texts, gives, of or result.type.name.removeprefix(PREFIX), self.doc)


@dataclass(frozen=True)
class Task:
    """A function that reads texts.

    texts: their names, of which `pair` may be left out; `texts` is a list.
    gives: a "list" whose length the function says; "lists", one for each text; "masks", a list for each; a "vector", or
    "vectors", one for each text.
    of: "label", "piece" (of the vocabulary), "entity", "answer" or "vector".
    """

    name: str
    texts: tuple[str, ...]
    gives: str
    of: str
    doc: str


@dataclass(frozen=True)
class Interface:
    """All of pocketbert.h."""

    constants: tuple[Constant, ...]
    structs: tuple[Struct, ...]
    functions: tuple[Function, ...]

    def values(self, prefix: str) -> list[Constant]:
        """Constants whose names begin with `prefix`, which goes."""
        own = (c for c in self.constants if c.name.startswith(prefix))
        return [Constant(c.name.removeprefix(prefix), c.value, c.doc) for c in own]

    def value(self, name: str) -> int:
        return next(c.value for c in self.constants if c.name == name)

    def struct(self, name: str) -> Struct:
        return next(s for s in self.structs if s.name == name)

    @property
    def tasks(self) -> list[Task]:
        return [function.task for function in self.functions if function.task]


@cache
def read_interface(header: Path = INCLUDE / "pocketbert.h", manual: Path = SRC / "api.h") -> Interface:
    """What the headers say. Raises ValueError for what is not C."""
    text = header.read_text()
    comments = _comments(text)
    code = re.sub(r"#ifdef __cplusplus.*?#endif", _blank, text, flags=re.DOTALL)
    code = re.sub(r"/\*.*?\*/|^#.*?$", _blank, code, flags=re.DOTALL | re.MULTILINE)
    try:
        tree = c_parser.CParser().parse(f"{STANDARD}\n#line 1\n{code}")
    except Exception as error:
        raise ValueError(f"{header.name}: {error}") from error
    constants, structs, functions = [], [], []
    about = _manual(manual.read_text())
    for node in tree.ext:
        kind = getattr(node.type, "type", node.type)
        if isinstance(kind, c_ast.Enum):
            constants += _constants(kind, comments)
        elif isinstance(kind, c_ast.Struct) and kind.decls and node.name == f"{PREFIX}functions":
            functions = [_function(entry, about) for entry in kind.decls if _is_function(entry)]
        elif isinstance(kind, c_ast.Struct) and kind.decls:
            fields = tuple(_field(entry, comments.get(entry.coord.line, "")) for entry in kind.decls)
            structs.append(Struct(node.name.removeprefix(PREFIX), fields))
    return Interface(tuple(constants), tuple(structs), tuple(functions))


def _comments(text: str) -> dict[int, str]:
    """A header's comments by the lines that they begin on."""
    return {
        text.count("\n", 0, match.start()) + 1: " ".join(re.sub(r"\n\s*\* ?", "\n", match[1]).split())
        for match in re.finditer(r"/\*(.*?)\*/", text, re.DOTALL)
    }


def _blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def _manual(text: str) -> dict[str, str]:
    """The first paragraph about each function."""
    found = re.findall(r"/\* ((?:(?!\*/).)*?)\*/\n[^;/]*?\bPB\((\w+)\)\(", text, re.DOTALL)
    paragraphs = {name: re.split(r"\n \*\n", comment)[0] for comment, name in found}
    return {
        name: " ".join(re.sub(r"\bPB\((\w+)\)", r"\1", re.sub(r"\n \*", " ", words)).split())
        for name, words in paragraphs.items()
    }


def _constants(enum: c_ast.Enum, comments: dict[int, str]) -> list[Constant]:
    constants: list[Constant] = []
    for entry in enum.values.enumerators:
        value = int(entry.value.value) if entry.value else constants[-1].value + 1 if constants else 0
        constants.append(Constant(entry.name.removeprefix("POCKETBERT_"), value, comments.get(entry.coord.line, "")))
    return constants


def _is_function(entry: c_ast.Decl) -> bool:
    return isinstance(entry.type, c_ast.PtrDecl) and isinstance(entry.type.type, c_ast.FuncDecl)


def _function(entry: c_ast.Decl, about: dict[str, str]) -> Function:
    function = entry.type.type
    parameters = tuple(_field(p, "") for p in function.args.params)
    return Function(entry.name, _type(function.type), parameters, about[entry.name])


def _field(entry: c_ast.Decl, doc: str) -> Field:
    return Field(entry.name, _type(entry.type), doc, c_generator.CGenerator().visit(entry))


def _type(node: c_ast.Node) -> Type:
    if isinstance(node, c_ast.PtrDecl):
        if isinstance(node.type, c_ast.FuncDecl):
            return Type("function", 1)
        inner = _type(node.type)
        return Type(inner.name, inner.pointers + 1, inner.length, inner.const)
    if isinstance(node, c_ast.ArrayDecl):
        return Type(_type(node.type).name, 0, int(node.dim.value))
    return Type(" ".join(node.type.names), const="const" in node.quals)
