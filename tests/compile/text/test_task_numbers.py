"""What the runtime makes of a model's numbers, of a model that is one table: poolings, windows, what is no number."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tokenizers.processors import TemplateProcessing

import compile
from compile.text.read import read_vocabulary
from compile.text.side import TextSide, make_side
from compile.text.task import Kind, Task
from tests.support.graphs import Builder

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "n"]
TABLE = np.random.default_rng(0).normal(size=(len(PIECES), 4)).astype(np.float32)
TABLE[PIECES.index("n"), 1] = np.nan
TABLE[PIECES.index("c"), :2] = 3.0  # what answers begin and end with
LABELS = ("PER", "O", "B-LOC", "I-LOC")
MODES = {"max": lambda rows: rows.max(0), "cls": lambda rows: rows[0], "last": lambda rows: rows[-1]}
OUTPUTS = {"embed": ["last_hidden_state"], "answer": ["start_logits", "end_logits"], "entities": ["logits"]}
Open = Callable[..., compile.Library]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """opened(kind, pooling, normalize): a library whose tokens have the rows of TABLE, or for answers two columns."""
    libraries = []

    def make(kind: Kind, pooling: str | None = None, normalize: bool = False) -> compile.Library:
        b = Builder()
        rows = b("Gather", b.const(TABLE), b.input("input_ids", [1, 600], 7))
        for column, name in enumerate(OUTPUTS[kind]):
            if kind == "answer":
                place = (b.const(np.array([n])) for n in (column, column + 1, 2))
                b("Squeeze", b("Slice", rows, *place), b.const(np.array([2])))
            else:
                b("Mul", rows, b.const(np.ones(4)))
            b.nodes[-1].output[0] = name
        onnx.save(b.model(*OUTPUTS[kind]), tmp_path / "m.onnx")
        (tmp_path / "vocab.txt").write_text("\n".join(PIECES))
        task = Task(kind, LABELS if kind == "entities" else (), "softmax", pooling, normalize)
        monkeypatch.setattr(sys.modules["compile.build"], "stated_task", lambda *_: task)
        given = {"vocab": tmp_path / "vocab.txt", "task": kind, "out": tmp_path / "out"}
        libraries.append(compile.load(compile.build(tmp_path / "m.onnx", target="host", **given).folder))
        return libraries[-1]

    yield make
    for library in libraries:
        library.close()


def rows(text: str) -> np.ndarray:
    return TABLE[[PIECES.index(piece) for piece in ("[CLS]", *text.split(), "[SEP]")]]


@pytest.mark.parametrize(("mode", "normalize"), [("cls", False), ("last", False), ("max", True)])
def test_poolings_and_what_is_no_number_in_them(mode: str, normalize: bool, opened: Open) -> None:
    library = opened("embed", mode, normalize)
    for text in ("a b c", "a", "a n b", "n"):
        wanted = MODES[mode](rows(text))
        wanted = wanted / np.linalg.norm(wanted) if normalize else wanted
        assert np.allclose(library.embed(text), wanted, atol=1e-6, equal_nan=True), text
    parts = ["a b c", "c a b", "b c"]  # of 5 tokens with [CLS] and [SEP], each with one of the part before it
    wanted = sum(len(rows(part)) * MODES[mode](rows(part)) for part in parts)
    wanted /= np.linalg.norm(wanted) if normalize else 5 + 5 + 4
    assert np.allclose(library.embed("a b c a b c", windows=True, max_tokens=5, stride=1), wanted, atol=1e-6)
    if mode == "max":
        one, none = library.embed("a"), library.embed("a n b")
        assert np.isnan(none).all()
        assert np.isnan(library.cosine(one, none))
        assert library.cosine(one, np.zeros_like(one)) == 0
        for precision in ("int8", "binary"):
            with pytest.raises(compile.CompileError, match="infinite or no number"):
                library.embed("a n b", precision=precision)


def test_windows_of_a_template_that_begins_with_the_text(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def side(model: Path, vocab: Path, cased: bool) -> TextSide:
        tokenizer = read_vocabulary(vocab, cased).tokenizer
        tokenizer.post_processor = TemplateProcessing(
            "$A [SEP]", "$A [SEP] $B [SEP]", [("[SEP]", PIECES.index("[SEP]"))]
        )
        return make_side(tokenizer, (), "case")

    monkeypatch.setattr(sys.modules["compile.build"], "_read_text_side", side)
    library = opened("embed", "max")
    parts = [rows(part)[1:] for part in ("a b c", "c a b", "b c")]
    wanted = sum(len(part) * part.max(0) for part in parts) / (4 + 4 + 3)
    assert np.allclose(library.embed("a b c a b c", windows=True, max_tokens=4, stride=1), wanted, atol=1e-6)


def test_answers_are_looked_for_in_windows_and_none_is_not_sure_where_nothing_is(opened: Open) -> None:
    library = opened("answer")
    first, last = TABLE[:, 0].astype(float), TABLE[:, 1].astype(float)

    def probability(context: list[str]) -> float:
        """That c is the answer, in a window of its own."""
        allowed = [PIECES.index(piece) for piece in ("[CLS]", *context)]
        c = PIECES.index("c")
        return float(np.prod([np.exp(column[c]) / np.exp(column[allowed]).sum() for column in (first, last)]))

    context = ["a"] * 500
    context[300] = "c"
    # 384 tokens with [CLS], the question and two [SEP]; the next shares 128 of them. Both have the c.
    wanted = probability(context[:380]) + probability(context[252:])
    got = {answer.text: answer.score for answer in library.answer("a", " ".join(context), 600)}
    assert got["c"] == pytest.approx(wanted, rel=1e-4)
    assert max(len(text.split()) for text in got) == 15
    assert max(len(answer.text.split()) for answer in library.answer("a", " ".join(context), 600, longest=3)) == 3
    assert all(np.isfinite(answer.score) for answer in library.answer("a", "b c", 9, no_answer=True))
    scores = [answer.score for answer in library.answer("a", "b n c", 9, no_answer=True)]
    assert len(scores) > 1
    assert np.isnan(scores).all()


def test_entities_at_the_threshold_stay_and_so_does_what_is_no_number(opened: Open, monkeypatch: Any) -> None:
    """Softmax of columns whose largest number is far below 0 or far above; an entity's score is the mean of its own."""
    rows = {"a": [-900, -900, -899, -950], "b": [80, 80, 80, 88], "c": [0, 1, 0, 0], "[UNK]": [5, np.nan, 0, 0]}
    table = TABLE.copy()
    table[[PIECES.index(piece) for piece in rows]] = list(rows.values())
    monkeypatch.setattr(sys.modules[__name__], "TABLE", table)
    probability = [float(np.exp(row - np.max(row)).max() / np.exp(row - np.max(row)).sum()) for row in rows.values()]
    library = opened("entities")
    found = library.entities("c a b b c a a c")
    assert [(e.name, e.begin, e.end) for e in found] == [("LOC", 2, 7), ("LOC", 10, 11), ("LOC", 12, 13)]
    assert found[0].score == pytest.approx((probability[0] + 2 * probability[1]) / 3, rel=1e-6)
    assert found[1].score == found[2].score == pytest.approx(probability[0], rel=1e-6)
    at = found[1].score
    assert len(library.entities("c a b b c a a c", threshold=at)) == 3
    above = float(np.nextafter(np.float32(at), np.float32(1)))
    assert [e.score for e in library.entities("c a b b c a a c", threshold=above)] == [found[0].score]
    (none,) = library.entities("c ? c", threshold=0.5)  # "?" is no piece: [UNK]
    assert (none.name, none.begin, none.end, np.isnan(none.score)) == ("PER", 2, 3, True)
