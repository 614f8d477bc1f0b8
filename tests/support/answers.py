"""Answers as transformers' question-answering pipeline gave them until version 5 left it out.

Windows and spans are those of `tokenizers` and of the pipeline for documents, which still has the same functions;
what follows them is the pipeline's postprocessing as version 4.57 had it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Answer(NamedTuple):
    text: str
    score: float
    begin: int
    end: int


class Pipeline:
    """Of a folder of transformers'."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForQuestionAnswering, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()

    def __call__(
        self, question: str, context: str, top: int, max_tokens: int, stride: int, longest: int = 15, none: bool = False
    ) -> list[Answer]:
        import torch
        from transformers.pipelines.document_question_answering import select_starts_ends

        windows = self.tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=max_tokens,
            stride=stride,
            return_overflowing_tokens=True,
            return_token_type_ids=True,
        )
        answers: list[dict[str, Any]] = []
        null_score = 1000000.0
        for n, ids in enumerate(windows["input_ids"]):
            encoding = windows.encodings[n]
            inside = np.array([sequence == 1 for sequence in encoding.sequence_ids])
            mask = ~(inside | (np.array(ids) == self.tokenizer.cls_token_id))
            with torch.no_grad():
                out = self.model(torch.tensor([ids]), token_type_ids=torch.tensor([windows["token_type_ids"][n]]))
            starts, ends, scores, null_score = select_starts_ends(
                out.start_logits.numpy(),
                out.end_logits.numpy(),
                mask.astype(int)[None],
                np.ones((1, len(ids)), int),
                null_score,
                2 * top + 10,
                none,
                longest,
            )
            for first, last, score in zip(starts, ends, scores, strict=True):
                if score == 0:  # what is left where there are fewer spans than asked for
                    continue
                begin = encoding.word_to_chars(encoding.token_to_word(first), 1)[0]
                end = encoding.word_to_chars(encoding.token_to_word(last), 1)[1]
                text = context[begin:end]
                same = next((answer for answer in answers if answer["text"].lower() == text.lower()), None)
                if same:
                    same["score"] += score.item()
                else:
                    answers.append({"text": text, "score": score.item(), "begin": begin, "end": end})
        if none:
            answers.append({"text": "", "score": null_score, "begin": 0, "end": 0})
        return [Answer(**a) for a in sorted(answers, key=lambda a: -a["score"])][:top]
