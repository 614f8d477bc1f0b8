"""Answers to questions, against what transformers' pipeline makes of the same folder."""

import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import compile
from tests.support.answers import Answer, Pipeline
from tests.support.tokenizers import WORDS, random_text

Build = Callable[..., tuple[Path, Path]]


@pytest.fixture(scope="module")
def asked(built: Build) -> Iterator[tuple[compile.Library, Pipeline]]:
    artifact, folder = built("question-answering")
    with compile.load(artifact) as library:
        assert library.manifest.task == "answer"
        yield library, Pipeline(folder)


def assert_same(got: list[Any], wanted: list[Answer]) -> None:
    """But for the order of those that are equally probable up to rounding."""
    assert len(got) == len(wanted)
    for i, (mine, theirs) in enumerate(zip(got, wanted, strict=True)):
        assert abs(mine.score - theirs.score) < 2e-6
        close = [answer for answer in wanted if abs(answer.score - theirs.score) < 2e-6]
        assert (mine.text, mine.begin, mine.end) in [(a.text, a.begin, a.end) for a in close] or i + 1 == len(wanted)


def test_contexts_of_any_length(asked: tuple[compile.Library, Pipeline]) -> None:
    library, referee = asked
    rng, windows = random.Random(0), 0
    for _ in range(60):
        question = " ".join(rng.choice(WORDS) for _ in range(3))[:12]
        context = " ".join(random_text(rng, WORDS)[: rng.choice((10, 40, 300))] for _ in range(rng.randrange(1, 4)))
        settings: dict[str, Any] = {"max_tokens": rng.choice((24, 48)), "stride": rng.choice((2, 5))}
        longest, none, top = rng.choice((2, 15)), rng.random() < 0.5, rng.choice((1, 3, 20))
        if not context.strip():
            continue
        wanted = referee(question, context, top, longest=longest, none=none, **settings)
        assert_same(library.answer(question, context, top, longest=longest, no_answer=none, **settings), wanted)
        windows = max(windows, len(list(library.each_window(question, context, **settings))))
    assert windows > 5, "the sample shows little"


def test_texts_equal_but_for_case_are_one_answer(asked: tuple[compile.Library, Pipeline]) -> None:
    library, referee = asked
    context = "é É the model É é THE the"
    settings: dict[str, Any] = {"max_tokens": 48, "stride": 5}
    wanted = referee("the?", context, 30, **settings)
    assert len({answer.text.lower() for answer in wanted}) == len(wanted)
    assert_same(library.answer("the?", context, 30, **settings), wanted)


@pytest.mark.parametrize("question", ["the?", None])
@pytest.mark.parametrize("stride", [0, 3])
def test_windows_share_the_stride_and_leave_nothing_out(
    question: str | None, stride: int, asked: tuple[compile.Library, Pipeline]
) -> None:
    context = "model a b c d e é f g h i j k l m n the o p q r s t"
    given, last = ((question, context), 1) if question else ((context, None), 0)
    whole = asked[0].encode(*given)
    parts = [window.ids[window.texts == last].tolist() for window in asked[0].each_window(*given, 12, stride)]
    assert len(parts) > 2
    assert all(part[:stride] == before[len(before) - stride :] for before, part in pairwise(parts))
    assert sum((part[stride:] for part in parts[1:]), parts[0]) == whole.ids[whole.texts == last].tolist()
    with pytest.raises(compile.CompileError, match=f"stride {len(parts[0])}: a window has no more tokens of the text"):
        list(asked[0].each_window(*given, 12, len(parts[0])))


def test_places_are_of_what_was_given(asked: tuple[compile.Library, Pipeline]) -> None:
    library, _ = asked
    context = "日本 é the 한국 model"
    (of_text,) = library.answer("é", context)
    (of_bytes,) = library.answer("é".encode(), context.encode())
    assert of_text.text == context[of_text.begin : of_text.end]
    assert (of_bytes.text, of_bytes.score) == (of_text.text.encode(), of_text.score)
    assert of_bytes.begin == len(context[: of_text.begin].encode())


def test_no_answer_and_threshold(asked: tuple[compile.Library, Pipeline]) -> None:
    library, _ = asked
    answers = library.answer("the?", "the model", 50, no_answer=True)
    assert [a for a in answers if not a.text] == [compile_answer(answers)]
    half = answers[len(answers) // 2].score
    assert library.answer("the?", "the model", 50, no_answer=True, threshold=half) == [
        answer for answer in answers if answer.score >= half
    ]
    assert library.answer("the?", "") == []
    assert [a.text for a in library.answer("the?", "", no_answer=True)] == [""]


def compile_answer(answers: list[Any]) -> Any:
    (none,) = (answer for answer in answers if (answer.begin, answer.end) == (0, 0))
    return none


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stride": 48}, "stride is 48|options->stride must be"),
        ({"max_tokens": 49}, "max_tokens is 49: give 1 to 48"),
        ({"max_tokens": 2}, "no room for the special pieces"),
        ({"longest": 0}, "longest is 0"),
        ({"top": 0}, "top is 0"),
        ({"threshold": "high"}, "threshold is 'high': give a number"),
        ({"threshold": float("nan")}, "threshold is no number"),
    ],
)
def test_wrong_options(asked: tuple[compile.Library, Pipeline], given: dict[str, Any], words: str) -> None:
    with pytest.raises(compile.CompileError, match=words):
        asked[0].answer("the?", "the model " * 30, **given)


def test_what_is_no_text_is_called_by_its_name(asked: tuple[compile.Library, Pipeline]) -> None:
    for given, words in (((None, "the"), "question is of type NoneType"), (("the?", None), "context is of type None")):
        with pytest.raises(compile.CompileError, match=words):
            asked[0].answer(*given)


def test_question_that_fills_a_window(asked: tuple[compile.Library, Pipeline]) -> None:
    with pytest.raises(compile.CompileError, match="leaves no room for a window") as refused:
        asked[0].answer("the " * 60, "the model " * 30)
    assert refused.value.code == "SHAPE"
