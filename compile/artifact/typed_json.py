"""JSON into dataclasses: every key known, every value of its type and in its range; the first that is not is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

PLAIN = {int: "an integer", float: "a finite number", str: "a string", bool: "true or false"}


@dataclass(frozen=True)
class Check:
    """In `Annotated`: what a value must be beyond its type, and that in words."""

    fits: Callable[[Any], bool]
    words: str


class Misfit(ValueError):
    """Names the first value that does not fit, by its place: 'inputs.0.shape'."""

    def __init__(self, place: tuple[str | int, ...], words: str) -> None:
        super().__init__(f"at {'.'.join(str(part)[:60] for part in place)!r}: {words}")


def from_json(kind: Any, value: Any, place: tuple[str | int, ...] = ()) -> Any:
    """`value`, as json.loads made it, as a `kind`: a dataclass, tuple, dict, Literal, union or plain type.

    A key that may be None may be left out. Raises Misfit.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        result = from_json(arguments[0], value, place)
        for check in arguments[1:]:
            if not check.fits(result):
                raise Misfit(place, f"{check.words} is expected")
        return result
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        choices = [a for a in arguments if a is not NoneType]
        return from_json(next((a for a in choices if type(value) is a), choices[0]), value, place)
    if origin is Literal:
        if not any(type(value) is type(a) and value == a for a in arguments):
            raise Misfit(place, f"one of {', '.join(map(str, arguments))} is expected")
        return value
    if origin is tuple:
        return _tuple(arguments, value, place)
    if origin is dict:
        return {key: from_json(arguments[1], v, (*place, key)) for key, v in _object(value, place).items()}
    if is_dataclass(kind):
        return _dataclass(kind, value, place)
    if kind is float and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise Misfit(place, f"{PLAIN[kind]} is expected")
    return value


def _object(value: Any, place: tuple[str | int, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Misfit(place, "an object is expected")
    return value


def _tuple(kinds: tuple[Any, ...], value: Any, place: tuple[str | int, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise Misfit(place, "a list is expected")
    if kinds[1:] == (...,):
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        raise Misfit(place, f"{len(kinds)} values are expected")
    return tuple(from_json(kind, v, (*place, n)) for n, (kind, v) in enumerate(zip(kinds, value, strict=True)))


def _dataclass(kind: Any, value: Any, place: tuple[str | int, ...]) -> Any:
    given, known = _object(value, place), _fields(kind)
    if unknown := [key for key in given if key not in known]:
        raise Misfit((*place, unknown[0]), "no such key is known")
    for name, (_, optional) in known.items():
        if name not in given and not optional:
            raise Misfit((*place, name), "this key is missing")
    without_default = {name: None for name, (_, optional) in known.items() if optional == "None"}
    return kind(**without_default | {key: from_json(known[key][0], v, (*place, key)) for key, v in given.items()})


@cache
def _fields(kind: Any) -> dict[str, tuple[Any, str]]:
    """For each field its type, and what stands for it where it is left out: "default", "None", or "" for nothing."""
    types = get_type_hints(kind, include_extras=True)
    found = {}
    for f in fields(kind):
        has_default = f.default is not MISSING or f.default_factory is not MISSING
        found[f.name] = types[f.name], "default" if has_default else "None" * (NoneType in get_args(types[f.name]))
    return found
