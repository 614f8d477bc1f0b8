"""HTML and SVG from nested calls. Every plain string is escaped; only what `tag` made goes in as it is."""

from __future__ import annotations

from compile.codegen.escape import xml

MIB = 1 << 20


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """An element. Of attribute names a trailing underscore is dropped and others become hyphens; None is left out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{xml(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{join(*children)}</{name}>")


def join(*parts: str) -> Markup:
    return Markup("".join(part if isinstance(part, Markup) else xml(part) for part in parts))


def datum(value: object, key: str, text: str | None = None) -> Markup:
    """A number of the manifest as a reader sees it, with the exact one and its place in the manifest beside it."""
    return tag("data", _number(value) if text is None else text, value=value, data_key=key)


def _number(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def size(number: float) -> str:
    """A number of bytes in words."""
    if number >= MIB:
        return f"{number / MIB:.2f} MiB" if number < 10 * MIB else f"{number / MIB:.1f} MiB"
    return f"{number / 1024:.1f} KiB" if number >= 1024 else f"{number:.0f} bytes"


def count(number: int, noun: str, plural: str = "") -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def work(flops: float) -> str:
    """Floating-point operations (2 × multiply-adds) in words."""
    for unit, factor in (("GFLOP", 1e9), ("MFLOP", 1e6), ("kFLOP", 1e3)):
        if flops >= factor:
            return f"{flops / factor:.2f} {unit}" if flops < 10 * factor else f"{flops / factor:.1f} {unit}"
    return f"{flops:.0f} FLOP"
