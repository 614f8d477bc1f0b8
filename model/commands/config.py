"""A TOML file and `--set key=value` to dataclasses, with every mistake named."""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import ModelError, nearest

T = TypeVar("T")


def read(path: Path, kind: type[T], sets: Sequence[str] = ()) -> T:
    """The settings in a TOML file, changed by `sets` ("train.steps=100"), as a dataclass.

    Raises `ModelError` that names the file and the key for whatever is unknown, missing or of the wrong type.
    """
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: {error}") from error
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ModelError(f"--set {text}: write it as key=value, such as train.steps=100")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value  # a word without quotes
        place, names = content, key.strip().split(".")
        for name in names[:-1]:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise ModelError(f"--set {text}: {name} is not a section")
        place[names[-1]] = parsed
    return build(kind, content, str(path))


def build(kind: type[T], content: dict[str, Any], where: str, prefix: str = "", base: T | None = None) -> T:
    """What `content` leaves out is as in `base`, or else as the class has it."""
    hints, values = get_type_hints(kind), {}
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for name, value in content.items():
        if name not in known:
            raise ModelError(f"{where}: {prefix}{name} is unknown{nearest(name, list(known))}")
        section = _section(known[name])
        if section is not None and isinstance(value, dict):
            values[name] = build(type(section), value, where, f"{prefix}{name}.", section)
        else:
            values[name] = _convert(hints[name], value, where, prefix + name)
    for name, f in known.items():
        if base is None and name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise ModelError(f"{where}: {prefix}{name} is missing")
    return kind(**values) if base is None else replace(base, **values)  # type: ignore[type-var]


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


def _convert(hint: Any, value: Any, where: str, name: str) -> Any:
    if is_dataclass(hint) and isinstance(value, dict):
        return build(hint, value, where, name + ".")  # type: ignore[arg-type]
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ModelError(f"{where}: {name} is {value!r}: choose from {', '.join(map(repr, get_args(hint)))}")
        return value
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_convert(get_args(hint)[0], item, where, name) for item in value)
    if get_origin(hint) in (Union, type(int | None)):
        return value if value is None else _convert(get_args(hint)[0], value, where, name)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = dict if get_origin(hint) is dict else hint
    if not isinstance(plain, type) or not isinstance(value, plain) or (plain is int and isinstance(value, bool)):
        wanted = {
            "str": "text",
            "int": "a whole number",
            "float": "a number",
            "bool": "true or false",
            "tuple": "a list",
        }
        named = wanted.get(getattr(get_origin(hint) or plain, "__name__", ""), "a section")
        raise ModelError(f"{where}: {name} is {value!r}: it must be {named}")
    return value
