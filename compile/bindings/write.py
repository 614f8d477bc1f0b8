"""A compiled model as a package of another language: its library and a binding, rendered from one description."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from compile.bindings.interface import Interface, Task, read_interface
from compile.codegen.escape import identifier
from compile.errors import CompileError
from compile.runtime import INCLUDE

FOLDER = Path(__file__).parent
WIDTH = 118  # of a comment
# Of pocketbert_description: what every binding tells in its own words.
DESCRIBED = ("size", "input_count", "inputs", "output_count", "outputs", "task", "labels")


@dataclass(frozen=True)
class Model:
    """What a binding states of the model: its name, its library's file, for what target, its task, and versions."""

    name: str
    library: str
    target: str
    task: str | None
    version: str
    pocketbert: str


@dataclass(frozen=True)
class Language:
    """A language: how its package is laid out, and how it spells what the interface has.

    package: what --package calls it, and the folder that it gets in an artifact.
    templates: for each file of the package its template; names may have {name} and what `platforms` has for the target.
    platforms: for each target what the language calls it.
    reserved: words that no package may be called. filters: of its templates. example: how it calls a task's function.
    headers: whether the C headers go along. names: what else it is called, from the model's name.
    """

    name: str
    package: str
    templates: Mapping[str, str]
    platforms: Mapping[str, Mapping[str, str]]
    reserved: frozenset[str]
    filters: Mapping[str, Callable[..., str]]
    example: Callable[[Task | None], Mapping[str, Any]]
    headers: bool = False
    names: Callable[[str], Mapping[str, str]] = lambda _: {}

    def platform(self, target: str) -> Mapping[str, str]:
        """What the language calls a target. Raises CompileError where its package is not for it."""
        if target not in self.platforms:
            raise CompileError(f"--package {self.package}: not for {target}: choose {' or '.join(self.platforms)}")
        return self.platforms[target]


def write_binding(language: Language, model: Model, library: Path, folder: Path) -> None:
    """Write the package of `model`, whose library is the file `library`, into the new `folder`.

    Raises CompileError for a target that the language's package is not for.
    """
    name = identifier(model.name)
    package = f"{name}_model" if name in language.reserved else name
    interface = read_interface()
    environment = Environment(
        loader=FileSystemLoader(FOLDER / language.name), trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"comment": comment, "pascal": pascal} | dict(language.filters)
    facts = {
        **vars(model), **language.platform(model.target), **_facts(interface),
        "package": package, **language.names(name), "example": language.example(_task(interface, model.task)),
    }  # fmt: skip
    folder.mkdir()
    for file, template in language.templates.items():
        path = folder / file.format_map(facts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(environment.get_template(template).render(facts))
    shutil.copy(library, folder / model.library)
    for header in ("pocketbert.h", "pocketbert_loader.h") if language.headers else ():
        shutil.copy(INCLUDE / header, folder / header)


def _facts(interface: Interface) -> dict[str, Any]:
    """What all templates are rendered with."""
    tasks = [c for c in interface.constants if c.name in ("NO_TASK", *(t.name.upper() for t in interface.tasks))]
    return {
        "interface": interface,
        "abi": interface.value("ABI"),
        "functions": interface.functions,
        "structs": interface.structs,
        "errors": sorted(interface.values("ERROR_"), key=lambda c: c.value),
        "long_texts": [c for c in interface.constants if c.name in ("REFUSE", "TRUNCATE", "WINDOWS")],
        "tasks": tasks,
        "element_types": [c for c in interface.constants if c.name in ("FLOAT32", "INT64", "INT32", "BOOL")],
        "task_options": interface.struct("task_options").fields,
        "tokens": interface.struct("tokens").fields,
        "description": interface.struct("description").fields,
        "described": DESCRIBED,
        "option": {f.name: f.doc for f in interface.struct("options").fields},
        "max_threads": 64,
    }


def _task(interface: Interface, name: str | None) -> Task | None:
    return next((task for task in interface.tasks if task.name == name), None)


def comment(text: str, prefix: str) -> str:
    """Lines of a comment, each with the prefix; nothing for no text."""
    lines = textwrap.wrap(text.replace("`", ""), WIDTH - len(prefix))
    return "".join(f"{prefix}{line}\n" for line in lines)


def pascal(name: str) -> str:
    """max_tokens, CLASSIFY -> MaxTokens, Classify."""
    return "".join(part[:1].upper() + part[1:].lower() for part in name.split("_"))
