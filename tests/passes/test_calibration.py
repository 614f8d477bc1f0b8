"""Plain English as a model's inputs, where its vocabulary is known."""

import numpy as np
import pytest
from onnx import TensorProto
from tokenizers.models import WordPiece

from passes.calibration import plain_inputs, read_texts, read_tokenizer, text_inputs
from passes.plain_texts import LENGTHS, SENTENCES, plain_texts

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


@pytest.fixture
def words(tmp_path):
    """words(pieces): a tokenizer that knows these beside the special ones."""

    def write(pieces):
        path = tmp_path / "vocab.txt"
        path.write_text("\n".join([*SPECIAL, *pieces]) + "\n", encoding="utf-8")
        return read_tokenizer(path, False)

    return write


@pytest.fixture
def english(words):
    spelt = " ".join(SENTENCES).lower()
    for mark in ".,:;?!%$'":
        spelt = spelt.replace(mark, f" {mark} ")
    return words(sorted(set(spelt.replace("-", " - ").split())))


def model(b, rows=1000, other=None):
    ids = b.input("input_ids", [1, 96], TensorProto.INT64)
    mask = b.input("attention_mask", [1, 96], TensorProto.INT64)
    x = b("Mul", b("Gather", b.normal(rows, 8), ids), b("Unsqueeze", b("Cast", mask, to=1), b.const(np.array([2]))))
    return b.model(b("Add", x, b.input(*other)) if other else x)


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n", "\t\r\n", "\u00a0\n", "\u3000\n"], ids=ascii)
def test_words_are_read_as_tokenizers_reads_them(tmp_path, end):
    path = tmp_path / "vocab.txt"
    path.write_bytes(end.join([*SPECIAL, "a", " b", "", "c\x1c", "a", "\u200b"]).encode() + end.encode())
    assert read_tokenizer(path, False).get_vocab() == WordPiece.read_file(str(path))


def test_a_text_is_a_line_without_its_end_and_without_the_files_mark(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeffone\r\n  two \n\r\n \u00a0\nthree\u2028four\rfive\t".encode())
    assert read_texts(path) == ["one", "  two ", "three\u2028four\rfive\t"]


def test_each_sentence_is_used_once():
    assert len(plain_texts()) == len(LENGTHS)
    assert " ".join(plain_texts()) == " ".join(SENTENCES)
    assert len(set(SENTENCES)) == len(SENTENCES) == sum(LENGTHS)


def test_plain_english_is_what_a_known_vocabulary_is_sampled_on(build, english):
    graph = model(build())
    samples = plain_inputs(graph, english)
    assert [dict(sample).keys() for sample in samples] == [{"input_ids", "attention_mask"}] * len(LENGTHS)
    wanted = text_inputs(graph, plain_texts(), english)
    for sample, same in zip(samples, wanted, strict=True):
        assert np.array_equal(sample["input_ids"], same["input_ids"])
        assert np.array_equal(sample["input_ids"] > 0, sample["attention_mask"] == 1)
    assert max(sample["attention_mask"].sum() for sample in samples) == 96


def test_positions_and_types_of_a_text(build, words):
    """In a batch of two, which has the text twice."""
    b = build()
    shape = [2, 7]
    tables = {"input_ids": 9, "token_type_ids": 2, "position_ids": 8}
    ids, types, places = (b("Gather", b.normal(n, 4), b.input(name, shape, 7)) for name, n in tables.items())
    mask = b("Unsqueeze", b("Cast", b.input("attention_mask", shape, 7), to=1), b.const(np.array([2])))
    graph = b.model(b("Mul", b("Add", b("Add", ids, types), places), mask))
    (sample,) = text_inputs(graph, ["a b a"], words(["a", "b"]))
    rows = {"input_ids": [2, 4, 5, 4, 3, 0, 0], "token_type_ids": [0] * 7, "position_ids": list(range(7))}
    rows["attention_mask"] = [1, 1, 1, 1, 1, 0, 0]
    assert {name: value.tolist() for name, value in sample.items()} == {name: [r, r] for name, r in rows.items()}


def test_a_vocabulary_of_another_language_is_not(build, words):
    assert plain_inputs(model(build()), words(["der", "die", "das", "."])) == ()


def test_a_vocabulary_that_is_larger_than_the_table_is_not(build, english):
    assert plain_inputs(model(build(), rows=100), english) == ()


def test_a_model_that_takes_more_than_a_text_is_not(build, english):
    assert plain_inputs(model(build(), other=("bias", [1, 96, 8])), english) == ()
