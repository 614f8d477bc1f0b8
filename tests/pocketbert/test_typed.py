"""JSON and TOML as dataclasses, and what is no such thing refused with the place that is wrong."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketbert.errors import PocketBERTError
from pocketbert.reading import parse_json, read_bytes, read_json, read_text, read_toml, read_typed_json
from pocketbert.typed import Check, Misfit, between, nearest, typed


@dataclass(frozen=True)
class Section:
    steps: Annotated[int, between(1, 1000)] = 10
    rate: float = 0.5


@dataclass(frozen=True)
class Point:
    x: int
    y: Annotated[float, Check(lambda v: v >= 0, "a height")] = 0.0
    tag: Literal["a", 1] | None = None
    more: dict[str, tuple[int, ...]] | None = None
    pair: tuple[int, str] = (0, "")
    section: Section = field(default_factory=lambda: Section(steps=20))
    free: Any = None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "x is missing"),
        ({"x": 1, "z": 2}, "z is unknown: choose from x, y"),
        ({"x": 1, "section": {"step": 2}}, r"section\.step is unknown: did you mean steps\?"),
        ({"x": False}, "x is False: it must be a whole number"),
        ({"x": 1.0}, r"x is 1\.0: it must be a whole number"),
        ({"x": "1" * 10**6}, "x is '111.*111': it must be a whole number"),
        ({"x": None}, "x is None"),
        ({"x": 1, "y": -1}, "y is -1: it must be a height"),
        ({"x": 1, "y": float("inf")}, "y is inf: it must be a finite number"),
        ({"x": 1, "y": float("nan")}, "y is nan"),
        ({"x": 1, "y": 10**400}, "y is 1000.*000: it must be a finite number"),
        ({"x": 1, "tag": True}, "tag is True: choose from 'a', 1"),
        ({"x": 1, "tag": "A"}, "tag is 'A': choose from 'a', 1"),
        ({"x": 1, "tag": "b"}, "tag is 'b': choose from 'a', 1"),
        ({"x": 1, "tag": 0}, "tag is 0: choose from 'a', 1"),
        ({"x": 1, "tag": 2}, "tag is 2: choose from 'a', 1"),
        ({"x": 1, "more": {"k": [1, "2"]}}, r"more\.k\.1 is '2': it must be a whole number"),
        ({"x": 1, "more": [1]}, r"more is \[1\]: it must be an object"),
        ({"x": 1, "pair": [1]}, r"pair is \[1\]: it must be a list of 2"),
        ({"x": 1, "y": 1 << 53}, "y is 9007199254740992: it must be a finite number"),
        ({"x": 1, "pair": [1, "a", 2]}, r"pair is \[1, 'a', 2\]: it must be a list of 2"),
        ({"x": 1, "pair": (1, "a")}, r"it must be a list"),
        ({"x": 1, "more": {"k": {}}}, r"more\.k is {}: it must be a list"),
        ({"x": 1, "section": {"steps": 1001}}, r"section\.steps is 1001: it must be from 1 to 1,000"),
        ({"x": 1, "section": None}, r"section is None: it must be an object"),
        ({"x": 1, "section": {"steps": 0}}, r"section\.steps is 0: it must be from 1 to 1,000"),
        ({"x": 1, "section": 3}, "section is 3: it must be an object"),
        ([], r"it is \[\]: it must be an object"),
    ],
)
def test_the_first_value_that_does_not_fit_is_named(data: Any, words: str) -> None:
    with pytest.raises(Misfit, match=words) as misfit:
        typed(Point, data)
    assert len(str(misfit.value)) < 200


def test_what_fits() -> None:
    assert typed(Point, {"x": 1, "y": 2, "more": {"k": [1]}}) == Point(1, 2.0, None, {"k": (1,)})
    assert typed(Point, {"x": 1, "tag": 1, "pair": [1, "a"], "free": [{}]}) == Point(1, tag=1, pair=(1, "a"), free=[{}])


def test_section_that_is_given_in_part_keeps_its_own_defaults() -> None:
    assert typed(Point, {"x": 1, "section": {"rate": 1}}).section == Section(steps=20, rate=1.0)


@pytest.mark.parametrize("steps", [1, 2, 999, 1000])
def test_a_range_holds_its_ends(steps: int) -> None:
    assert typed(Point, {"x": 1, "section": {"steps": steps}}).section.steps == steps


def test_whole_number_is_a_number_as_far_as_it_is_exact() -> None:
    for value in ((1 << 53) - 1, 1 - (1 << 53), 0):
        y = typed(dict[str, float], {"y": value})["y"]
        assert (y, type(y)) == (value, float)


@dataclass(frozen=True)
class Optional:
    either: int | str | None
    given: bool
    listed: tuple[str, ...] = ("a",)


def test_what_may_be_none_may_be_left_out() -> None:
    assert typed(Optional, {"given": False}) == Optional(None, False)
    assert typed(Optional, {"given": True, "either": "x", "listed": []}) == Optional("x", True, ())
    assert typed(Optional, {"given": True, "either": 3, "listed": ["b", "c"]}) == Optional(3, True, ("b", "c"))
    assert typed(Optional, {"given": True, "either": None}) == Optional(None, True)
    for value in ({}, {"given": None}, {"given": 1}, {"given": True, "either": 1.5}, {"given": True, "listed": None}):
        with pytest.raises(Misfit):
            typed(Optional, value)


def test_value_is_shown_whole_up_to_80_characters() -> None:
    for length, cut in ((13, False), (14, False), (15, True)):
        value = ["a" * 28, "b" * 28, "c" * (length - 2)]
        with pytest.raises(Misfit) as misfit:
            typed(int, value)
        shown = str(misfit.value).removeprefix("it is ").removesuffix(": it must be a whole number")
        assert shown == (str(value)[:77] + "..." if cut else str(value))


def test_choices_are_listed_unless_they_are_many_or_one_is_near() -> None:
    names = [f"{letter}{letter}" for letter in "abcdefghijklmnopqrstuvwxyzABCDE"]
    assert nearest("??", names[:30]) == f": choose from {', '.join(names[:30])}"
    assert nearest("??", names) == ""
    assert nearest("aab", iter(names)) == ": did you mean aa?"
    begin = time.perf_counter()
    nearest("x" * 10**6, ["x" * 200])
    assert time.perf_counter() - begin < 5


def test_place_that_is_long_or_steers_the_terminal_is_shown_safely() -> None:
    with pytest.raises(Misfit, match=r"^\S{50,70} is 1: it must be an object") as misfit:
        typed(dict[str, Section], {"k" * 1000: 1})
    assert "k" * 60 + " " in str(misfit.value)
    with pytest.raises(Misfit, match=r"^'\\x1b\[2J' is"):
        typed(dict[str, Section], {"\x1b[2J": 1})


KEYS = st.sampled_from(["x", "y", "tag", "more", "pair", "section", "steps"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
)


def said_of(value: Any) -> str:
    try:
        assert isinstance(typed(Point, value), Point)
    except Misfit as misfit:
        return str(misfit)
    return ""


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_any_json_fits_or_is_refused_in_a_short_line(value: Any) -> None:
    said = said_of(value)
    assert len(said) < 200
    assert said.isprintable()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 10**6, "nested too deeply"),
        ('{"a":' * 10**5 + "1" + "}" * 10**5, "nested too deeply"),
        ("NaN", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("1e999", "1e999 is beyond every number"),
        ("9" * 5000, "4300 digits"),
        ('{"a": 1,', r"2:1|1:9|1: not JSON at column 9"),
        ("", "not JSON at column 1"),
    ],
)
def test_text_that_is_no_json(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    begin = time.perf_counter()
    with pytest.raises(PocketBERTError, match=words) as refused:
        read_json(path)
    assert time.perf_counter() - begin < 1
    assert str(path) in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(ValueError):  # noqa: PT011 its kinds have one thing in common
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = ", "Invalid value"),
        ("a = " + "[" * 10**5, "too deeply"),
        ("a = " + "9" * 5000, "digits"),
        ("\0", "x.toml"),
    ],
)
def test_text_that_is_no_toml(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(PocketBERTError, match=words):
        read_toml(tmp_path / "x.toml")


def folder(path: Path) -> None:
    path.mkdir()


def large(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def latin(path: Path) -> None:
    path.write_bytes("{é}".encode("latin1"))


def to_itself(path: Path) -> None:
    path.symlink_to(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "No such file"),
        (folder, "is not a file"),
        (os.mkfifo, "is not a file"),
        (endless, "is not a file"),
        (large, "larger than 64 MiB"),
        (latin, "not UTF-8 at byte 2"),
        (to_itself, "symbolic links"),
    ],
)
def test_what_is_no_file_to_read(make: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    make(tmp_path / "x")
    begin = time.perf_counter()
    with pytest.raises(PocketBERTError, match=words):
        read_text(tmp_path / "x")
    assert time.perf_counter() - begin < 1


def test_typed_json_names_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"x": "1"}))
    with pytest.raises(PocketBERTError, match=f"{path}: x is '1': it must be a whole number"):
        read_typed_json(Point, path)
    path.write_text(json.dumps({"x": 1}))
    assert read_typed_json(Point, path) == Point(1)


def test_file_of_the_largest_size_is_read_and_one_byte_more_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\xe9" * (1 << 20))
    assert len(read_bytes(path, limit=1 << 20)) == 1 << 20
    assert read_text(path, limit=1 << 20, errors="replace") == "�" * (1 << 20)
    with pytest.raises(PocketBERTError, match=f"{path} is larger than 0 MiB"):
        read_bytes(path, limit=(1 << 20) - 1)


def test_numbers_that_are_finite_are_read() -> None:
    assert parse_json('[1.5, -2e3, 0.0, 7, {"a": null}]') == [1.5, -2000.0, 0.0, 7, {"a": None}]
    with pytest.raises(ValueError, match=r"^1{20} is beyond every number$"):
        parse_json("1" * 400 + ".0")


def test_toml_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("a = 1\n[b]\nc = [1.5]\n")
    assert read_toml(tmp_path / "x.toml") == {"a": 1, "b": {"c": [1.5]}}
