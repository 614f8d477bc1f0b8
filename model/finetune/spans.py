"""SQuAD's long paragraphs as overlapping windows, and answers from the windows' logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .features import Row

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from .squad import Question


@dataclass(frozen=True)
class SpanSettings:
    """BERT's; lengths in tokens."""

    stride: int = 128  # from one window's begin to the next one's
    question_length: int = 64  # longer questions are cut
    answer_length: int = 30  # longer answers are not considered
    best: int = 20  # starts and ends considered in a window, and answers kept of a question
    null_threshold: float = 0.0  # v2.0: how much better than any answer "no answer" must score


@dataclass(frozen=True)
class Window:
    """Part of a question's paragraph; the paragraph's tokens begin at position `offset` of the row."""

    question: int
    row: Row
    offset: int
    characters: list[tuple[int, int]]  # of each paragraph token in the window: where it begins and ends
    fullest: list[bool]  # whether no other window shows more of the token's surroundings


@dataclass(frozen=True)
class Answer:
    text: str
    score: float  # sum of the start's and end's logit
    probability: float = 0.0  # among the answers kept


def windows(
    tokenizer: Tokenizer, questions: Sequence[Question], length: int, settings: SpanSettings, training: bool = False
) -> list[Window]:
    """Every question's windows. In training each has a target: the first answer, or [CLS] where it is not inside."""
    asked = tokenizer.encode_batch_fast([q.question for q in questions], add_special_tokens=False)
    contexts = list(dict.fromkeys(q.context for q in questions))
    encoded = dict(zip(contexts, tokenizer.encode_batch(contexts, add_special_tokens=False), strict=True))
    made = []
    for number, (question, words) in enumerate(zip(questions, asked, strict=True)):
        first, context = words.ids[: settings.question_length], encoded[question.context]
        room, offset = length - len(first) - 3, len(first) + 2
        starts = [0]
        while starts[-1] + room < len(context.ids):
            starts.append(starts[-1] + min(settings.stride, room))
        spans = [(start, min(start + room, len(context.ids))) for start in starts]
        answer = _answer_tokens(question, context.offsets) if training and question.answers else None
        for i, (begin, end) in enumerate(spans):
            targets: dict[str, float] = {"start": 0, "end": 0} if training else {}
            if answer and begin <= answer[0] and answer[1] < end:
                targets = {"start": answer[0] - begin + offset, "end": answer[1] - begin + offset}
            row = Row(first, context.ids[begin:end], targets)
            fullest = [len(spans) == 1 or _fullest(spans, token) == i for token in range(begin, end)]
            made.append(Window(number, row, offset, context.offsets[begin:end], fullest))
    return made


def _answer_tokens(question: Question, offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    begin = question.starts[0]
    end = begin + len(question.answers[0])
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > begin]
    return (inside[0], inside[-1]) if inside else None


def _fullest(spans: Sequence[tuple[int, int]], token: int) -> int:
    """The window where the shorter of the token's contexts, left and right, is longest (the longer span on a tie)."""
    scores = [
        min(token - a, b - 1 - token) + 0.01 * (b - a) if a <= token < b else -math.inf for a, b in spans
    ]  # fmt: skip
    return int(np.argmax(scores))


def best_answers(
    questions: Sequence[Question],
    made: Sequence[Window],
    logits: Sequence[tuple[np.ndarray, np.ndarray]],
    settings: SpanSettings,
) -> tuple[list[list[Answer]], list[float]]:
    """Each question's answers, best first, and its score of no answer: the least of its windows'."""
    candidates: list[dict[str, float]] = [{} for _ in questions]
    null = [math.inf] * len(questions)
    for window, (start, end) in zip(made, logits, strict=True):
        null[window.question] = min(null[window.question], float(start[0] + end[0]))
        context = questions[window.question].context
        for score, first, last in _spans(window, start, end, settings):
            text = context[window.characters[first][0] : window.characters[last][1]]
            scores = candidates[window.question]
            scores[text] = max(score, scores.get(text, -math.inf))
    answers = []
    for scores in candidates:
        ranked = sorted(scores.items(), key=lambda item: -item[1])[: settings.best]
        weights = [math.exp(score - ranked[0][1]) for _, score in ranked]
        answers.append([Answer(t, s, w / sum(weights)) for (t, s), w in zip(ranked, weights, strict=True)])
    return answers, null


def _spans(
    window: Window, start: np.ndarray, end: np.ndarray, settings: SpanSettings
) -> list[tuple[float, int, int]]:  # score, first and last token of the window's part of the paragraph
    part = slice(window.offset, window.offset + len(window.characters))
    start, end = start[part], end[part]
    firsts = [i for i in np.argsort(-start)[: settings.best] if window.fullest[i]]
    lasts = np.argsort(-end)[: settings.best]
    return [
        (float(start[i] + end[j]), int(i), int(j)) for i in firsts for j in lasts if i <= j < i + settings.answer_length
    ]


def final_answers(
    questions: Sequence[Question], answers: Sequence[Sequence[Answer]], null: Sequence[float], version: str,
    settings: SpanSettings
) -> tuple[dict[str, str], dict[str, float]]:  # fmt: skip
    """Predictions as the official script wants them and, for v2.0, the odds of no answer: its score less the best's."""
    predictions, odds = {}, {}
    for question, ranked, nothing in zip(questions, answers, null, strict=True):
        best = ranked[0] if ranked else Answer("", -math.inf)
        odds[question.id] = nothing - best.score if math.isfinite(best.score) else 1e9
        no_answer = version == "2.0" and odds[question.id] > settings.null_threshold
        predictions[question.id] = "" if no_answer else best.text
    return predictions, odds
