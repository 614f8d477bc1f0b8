"""A TOML file and `--set key=value` to dataclasses, with every mistake named."""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pocketbert.reading import read_toml
from pocketbert.typed import Misfit, typed

from ..errors import ModelError

T = TypeVar("T")


def read(path: Path, kind: type[T], sets: Sequence[str] = ()) -> T:
    """The settings in a TOML file, changed by `sets` ("train.steps=100"), as a dataclass.

    Raises `ModelError` that names the file and the key for whatever is unknown, missing or of the wrong type.
    """
    content = read_toml(path, ModelError)
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ModelError(f"--set {text}: write it as key=value, such as train.steps=100")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except (ValueError, RecursionError):
            parsed = value  # a word without quotes
        place, names = content, key.strip().split(".")
        for name in names[:-1]:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise ModelError(f"--set {text}: {name} is not a section")
        place[names[-1]] = parsed
    try:
        return typed(kind, content)
    except Misfit as error:
        raise ModelError(f"{path}: {error}") from error


def _section(f: Field[Any]) -> Any:
    """The settings that a section has where it is left out; None for what is no section or must be given."""
    made = None if f.default_factory is MISSING else f.default_factory()
    return made if is_dataclass(made) else None


def describe(kind: type, prefix: str = "", base: Any = None) -> list[str]:
    """A line a setting: its key, its default, and what the comment beside it in the source says."""
    lines, hints, source = [], get_type_hints(kind), inspect.getsource(kind)
    for f in fields(kind):
        section = next((t for t in (hints[f.name], *get_args(hints[f.name])) if is_dataclass(t)), None)
        if section:
            lines += describe(section, f"{prefix}{f.name}.", _section(f))  # type: ignore[arg-type]
            continue
        comment = re.search(rf"^    {f.name}:.*?  # (.*)$", source, re.MULTILINE)
        made = f.default if f.default_factory is MISSING else f.default_factory()
        made = getattr(base, f.name, made)
        key = prefix + f.name + ("" if made is MISSING else f" = {json.dumps(made)}")
        lines.append(f"  {key:42} {comment[1] if comment else ''}".rstrip())
    return lines
