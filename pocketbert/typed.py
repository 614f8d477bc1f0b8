"""What JSON or TOML held, as dataclasses: every key known, every value of its type and in its range.

The first value that does not fit is named by its place. Numbers are finite, true and false are no numbers.
"""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
Place = tuple[str | int, ...]
PLAIN = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}


@dataclass(frozen=True)
class Check:
    """In `Annotated`: what a value must be beyond its type, and that in words."""

    fits: Callable[[Any], bool]
    words: str


def between(least: float, most: float) -> Check:
    return Check(lambda value: least <= value <= most, f"from {least:,} to {most:,}")


class Misfit(ValueError):
    """Names the first value that does not fit, by its place: "inputs.0.shape is 'x': it must be a list"."""

    def __init__(self, place: Place, words: str) -> None:
        super().__init__(f"{_name(place)} {words}")


def typed(kind: type[T], value: Any, place: Place = ()) -> T:
    """`value`, as json.loads or tomllib made it, as a `kind`: a dataclass, tuple, dict, Literal, union or plain type.

    A key that may be None may be left out; a section that has defaults may be given in part. Raises Misfit.
    """
    return cast(T, _convert(kind, value, place))


def nearest(name: str, choices: Iterable[str]) -> str:
    """The end of a message about an unknown `name`: what was perhaps meant, or all choices."""
    choices = list(choices)
    near = difflib.get_close_matches(name[:100], choices, 1)
    if near:
        return f": did you mean {near[0]}?"
    return f": choose from {', '.join(choices)}" if len(choices) <= 30 else ""


def _convert(kind: Any, value: Any, place: Place) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        result = _convert(arguments[0], value, place)
        for check in arguments[1:]:
            if not check.fits(result):
                raise _wrong(value, place, check.words)
        return result
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        choices = [a for a in arguments if a is not NoneType]
        return _convert(next((a for a in choices if type(value) is a), choices[0]), value, place)
    if origin is Literal:
        if not any(type(value) is type(a) and value == a for a in arguments):
            raise Misfit(place, f"is {_shown(value)}: choose from {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        return _tuple(arguments, value, place)
    if origin is dict:
        key_type, value_type = arguments
        pairs = _object(value, place).items()
        return {_convert(key_type, key, (*place, key)): _convert(value_type, v, (*place, key)) for key, v in pairs}
    if is_dataclass(kind):
        return _dataclass(kind, value, place)
    if kind is float and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise _wrong(value, place, PLAIN[kind])
    return value


def _object(value: Any, place: Place) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(value, place, "an object of keys and values")
    return value


def _tuple(kinds: tuple[Any, ...], value: Any, place: Place) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _wrong(value, place, "a list")
    if kinds[1:] == (...,):
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        raise _wrong(value, place, f"a list of {len(kinds)}")
    return tuple(_convert(kind, v, (*place, n)) for n, (kind, v) in enumerate(zip(kinds, value, strict=True)))


def _dataclass(kind: Any, value: Any, place: Place, section: Any = None) -> Any:
    """section: what the keys that `value` leaves out are taken from, where their class is not asked."""
    given, field_types, values = _object(value, place), _fields(kind), {}
    for key, v in given.items():
        if key not in field_types:
            raise Misfit((*place, key), "is unknown" + nearest(key, field_types))
        type_, _, default = field_types[key]
        inside = (*place, key)
        partly = default is not None and isinstance(v, dict)
        values[key] = _dataclass(type(default), v, inside, default) if partly else _convert(type_, v, inside)
    if section is not None:
        return replace(section, **values)
    for key, (_, required, _) in field_types.items():
        if required and key not in given:
            raise Misfit((*place, key), "is missing")
    return kind(**{key: None for key, (_, required, _) in field_types.items() if required is None} | values)


@cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool | None, Any]]:
    """For each field its type, whether it must be given (None: it is None otherwise), its section's defaults."""
    types = get_type_hints(kind, include_extras=True)
    result = {}
    for f in fields(kind):
        made = None if f.default_factory is MISSING else f.default_factory()
        required: bool | None = f.default is MISSING and f.default_factory is MISSING
        if required and NoneType in get_args(types[f.name]):
            required = None
        result[f.name] = types[f.name], required, made if is_dataclass(made) else None
    return result


def _wrong(value: Any, place: Place, words: str) -> Misfit:
    return Misfit(place, f"is {_shown(value)}: it must be {words}")


def _name(place: Place) -> str:
    parts = (str(part)[:60] for part in place)
    return ".".join(part if part.isprintable() else ascii(part) for part in parts) or "it"


def _shown(value: Any) -> str:
    text = reprlib.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
