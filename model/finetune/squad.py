"""SQuAD v1.1 and v2.0: their JSON files and the official metrics, exact match and F1 in percent."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketbert import reading
from pocketbert.typed import typed

from ..errors import ModelError

VERSIONS = {"squad-v1.1": "1.1", "squad-v2.0": "2.0"}
"""What a task of that name is scored as."""


@dataclass(frozen=True)
class Question:
    """One question on a paragraph. No answers: it has none in the text (v2.0)."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]  # where each answer begins, in characters


def read_questions(path: Path) -> list[Question]:
    """Raises `ModelError` with file and line for what is no JSON, and with the place for what is no SQuAD."""
    content = read_json(path)
    questions = []
    place = "data"
    try:
        for i, article in enumerate(content["data"]):
            for j, paragraph in enumerate(article["paragraphs"]):
                for k, qa in enumerate(paragraph["qas"]):
                    place = f"data[{i}].paragraphs[{j}].qas[{k}]"
                    answers = qa["answers"]
                    texts = tuple(typed(str, a["text"], ("text",)) for a in answers)
                    starts = tuple(typed(int, a["answer_start"], ("answer_start",)) for a in answers)
                    words = (qa["id"], qa["question"], paragraph["context"])
                    questions.append(Question(*typed(tuple[str, str, str], list(words), ("text",)), texts, starts))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        cause = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError(f"{path}: {place}: {cause}: not a SQuAD file") from error
    if not questions:
        raise ModelError(f"{path} has no questions")
    return questions


def read_json(path: Path) -> Any:
    return reading.read_json(path, ModelError, limit=1 << 30)


ARTICLE = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(answer: str) -> list[str]:
    """The words that count: lower case, without punctuation and articles."""
    return ARTICLE.sub(" ", answer.lower().translate(PUNCTUATION)).split()


def exact(truth: str, predicted: str) -> float:
    return float(normalize(truth) == normalize(predicted))


def f1(truth: str, predicted: str, version: str = "2.0") -> float:
    """The harmonic mean of the precision and recall of words, as a bag; of two empty answers 1 in v2.0, else 0."""
    expected, got = normalize(truth), normalize(predicted)
    if version == "2.0" and not (expected and got):
        return float(expected == got)
    common = sum((Counter(expected) & Counter(got)).values())
    if not common:
        return 0.0
    precision, recall = common / len(got), common / len(expected)
    return 2 * precision * recall / (precision + recall)


@dataclass(frozen=True)
class Scored:
    """One question's best exact match and F1 over its answers, each 0 to 1."""

    question: Question
    exact: float
    f1: float


def score_each(questions: Sequence[Question], predictions: dict[str, str], version: str) -> list[Scored]:
    """In v2.0 only truths that have words count, and a question without any is answered by nothing."""
    scored = []
    for question in questions:
        truths: tuple[str, ...] = question.answers
        if version == "2.0":
            truths = tuple(truth for truth in truths if normalize(truth)) or ("",)
        answer = predictions.get(question.id)
        if answer is None:
            scored.append(Scored(question, 0.0, 0.0))
        else:
            best = max(exact(t, answer) for t in truths), max(f1(t, answer, version) for t in truths)
            scored.append(Scored(question, *best))
    return scored


def score(
    questions: Sequence[Question],
    predictions: dict[str, str],
    version: str,
    null_odds: dict[str, float] | None = None,
    null_threshold: float = 1.0,
) -> dict[str, float]:
    """The official script's figures under its names, in percent.

    With `null_odds` (v2.0) a question whose odds exceed `null_threshold` counts as answered by nothing, whatever its
    prediction, and the thresholds that would have been best are found too. The default is the official script's.

    A question without a prediction counts as wrong in v1.1 and is refused in v2.0, as there.
    """
    missing = [question.id for question in questions if question.id not in predictions]
    if version == "2.0" and missing:
        raise ModelError(f"no prediction for question {missing[0]} ({len(missing)} of {len(questions)} are missing)")
    if version == "1.1" and (without := [question.id for question in questions if not question.answers]):
        raise ModelError(f"question {without[0]} has no answers: score it as squad-v2.0")
    scored = score_each(questions, predictions, version)
    if version == "1.1":
        total = _mean(scored)
        return {"exact_match": total["exact"], "f1": total["f1"]}
    counted = scored
    if null_odds is not None:
        if absent := [s.question.id for s in scored if s.question.id not in null_odds]:
            raise ModelError(f"no odds for question {absent[0]}: the null odds must cover every question")
        counted = [_or_nothing(s, null_odds[s.question.id] > null_threshold) for s in scored]
    result = dict(_mean(counted))
    for name, answerable in (("HasAns", True), ("NoAns", False)):
        if part := [s for s in counted if bool(s.question.answers) == answerable]:
            result |= {f"{name}_{key}": value for key, value in _mean(part).items()}
    if null_odds is not None:
        for name in ("exact", "f1"):
            best, threshold = best_threshold(scored, predictions, null_odds, name)
            result |= {f"best_{name}": best, f"best_{name}_thresh": threshold}
    return result


def _or_nothing(scored: Scored, nothing: bool) -> Scored:
    right = float(not scored.question.answers)
    return Scored(scored.question, right, right) if nothing else scored


def _mean(scored: Sequence[Scored]) -> dict[str, float]:
    n = len(scored)
    return {"exact": 100 * sum(s.exact for s in scored) / n, "f1": 100 * sum(s.f1 for s in scored) / n, "total": n}


def best_threshold(
    scored: Sequence[Scored], predictions: dict[str, str], null_odds: dict[str, float], name: str
) -> tuple[float, float]:
    """The best metric (percent) of answering nothing where the odds of no answer exceed a threshold, and that one."""
    current = best = sum(not s.question.answers for s in scored)  # nothing is answered
    threshold = 0.0
    by_id = {s.question.id: s for s in scored}
    for s in (by_id[id] for id in sorted(null_odds, key=lambda id: null_odds[id]) if id in by_id):
        if s.question.answers:
            current += getattr(s, name)
        elif predictions[s.question.id]:
            current -= 1
        if current > best:
            best, threshold = current, null_odds[s.question.id]
    return 100 * best / len(scored), threshold


def read_predictions(path: Path) -> dict[str, str]:
    """A JSON object from question id to answer text."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path}: predictions are a JSON object of question id to answer")
    if bad := [key for key, value in content.items() if not isinstance(value, str)]:
        raise ModelError(f"{path}: the answer to {bad[0]} is not text")
    return content
