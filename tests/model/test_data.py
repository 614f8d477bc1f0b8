import json
import re
from collections import Counter
from concurrent.futures import BrokenExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model import ModelError
from model.data import Masking, PreTrainingBatches, Shards, loader, prepare, read_vocabulary, shards, train_vocabulary
from model.data.batches import TwoLengths
from model.data.corpus import documents, split_sentences
from model.data.instances import IGNORED, Instances, _shorten, _Window, permute
from model.data.text import paragraphs
from model.processes import Processes
from model.recipes.corpus import pretraining_batches
from model.recipes.sources import TextData

TEXT = Path("../shared/data/text/wikipedia-en.valid.txt")
VOCABULARY = Path("../shared/data/vocab/bert-base-uncased-vocab.txt")


def test_sentences_end_before_capitals_but_not_after_initials() -> None:
    text = 'He met J. R. Smith. "Who?" she said. Dr. No paid $3.5 million! It was 1999. nothing else'
    assert split_sentences(text) == [
        "He met J. R. Smith.", '"Who?" she said.', "Dr. No paid $3.5 million!", "It was 1999. nothing else"
    ]  # fmt: skip


def test_blank_lines_separate_documents_and_files_do_not_run_together(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("\ufeffOne. Two.\nThree.\n\n \nFour.".encode())
    (tmp_path / "b").write_text("\nFive.\r\n")
    assert list(documents([tmp_path / "a", tmp_path / "b"])) == [["One.", "Two.", "Three."], ["Four."], ["Five."]]


def test_text_that_is_not_utf8_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"fine\nca\xe9\n")
    with pytest.raises(ModelError, match=r"a:2: not UTF-8 at byte 3"):
        list(documents([tmp_path / "a"]))


def test_a_trained_vocabulary_reads_back(tmp_path: Path, corpus: Path) -> None:
    path = train_vocabulary([corpus], tmp_path / "vocab.txt", 200)
    tokenizer = read_vocabulary(path)
    assert tokenizer.token_to_id("[PAD]") == 0
    encoding = tokenizer.encode(corpus.read_text().splitlines()[0])
    assert "[UNK]" not in encoding.tokens
    assert encoding.tokens[0] != "[CLS]"


@pytest.mark.parametrize(
    ("content", "message"),
    [("[PAD]\n[UNK]\n[CLS]\n[SEP]\n", r"\[MASK\] is missing"), ("[PAD]\na\na\n", r"vocab.txt:3: piece 'a' already")],
)
def test_bad_vocabularies(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "vocab.txt").write_text(content)
    with pytest.raises(ModelError, match=message):
        read_vocabulary(tmp_path / "vocab.txt")


def test_a_vocabulary_holds_the_special_pieces_and_one_more(tmp_path: Path, corpus: Path) -> None:
    for size in (0, 4, 5):
        with pytest.raises(ModelError, match=f"a vocabulary of {size} pieces is too small: at least 6"):
            train_vocabulary([corpus], tmp_path / "vocab.txt", size)
    with pytest.raises(ModelError, match=r"vocab.json is not there: a tokenizer.json is taken as it is"):
        train_vocabulary([corpus], tmp_path / "vocab.json")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_killed_while_it_tokenized_is_said_so(vocabulary: Path) -> None:
    with (
        pytest.raises(ModelError, match="a process that tokenized was killed: is there memory enough"),
        shards._pool(vocabulary, 2),
    ):
        raise BrokenExecutor


def test_a_small_corpus_is_read_by_one_process(
    tmp_path: Path, corpus: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools, pool = [], shards._pool
    monkeypatch.setattr(shards, "_pool", lambda path, count: pools.append(count) or pool(path, 1))
    monkeypatch.setattr(shards, "cores", lambda: 7)
    for name, alone in (("small", corpus.stat().st_size + 1), ("large", corpus.stat().st_size)):
        monkeypatch.setattr(shards, "ALONE", alone)
        prepare([corpus], vocabulary, tmp_path / name)
    assert pools == [1, 7]


def test_vocabulary_reads_bert_as_transformers_does() -> None:
    if not VOCABULARY.exists():
        pytest.skip(f"{VOCABULARY} is not here")
    from transformers import BertTokenizer

    theirs, ours = BertTokenizer(str(VOCABULARY)), read_vocabulary(VOCABULARY)
    text = "Zürich's café — 東京, naïve [MASK]ing; “quoted” U.S.-style 3.14!"
    for line in (text.replace("[MASK]", ""), "unaffable", "x" * 101):
        assert ours.encode(line).ids == theirs(line, add_special_tokens=False)["input_ids"]


def test_shards_hold_the_corpus_in_order(tmp_path: Path, corpus: Path, vocabulary: Path) -> None:
    tokenizer = read_vocabulary(vocabulary)
    expected = [tokenizer.encode(s).ids for d in documents([corpus]) for s in d]
    for limit, count in ((1 << 28, 1), (300, None)):
        shards = Shards(prepare([corpus], vocabulary, tmp_path / str(limit), limit))
        assert count is None or len(shards.shards) == count
        got = [
            s.tokens[a:b].tolist() for s in shards.shards for a, b in zip(s.sentences, s.sentences[1:], strict=False)
        ]
        assert got == expected
        counts = {name: sum(c[name] for c in shards.counts) for name in ("tokens", "sentences", "documents")}
        assert tuple(counts.values()) == (sum(map(len, expected)), len(expected), len(list(documents([corpus]))))
        assert isinstance(shards.shards[0].tokens, np.memmap)
    (shard,) = Shards(tmp_path / str(1 << 28)).shards
    sentences = [sum(bool(tokenizer.encode(s).ids) for s in d) for d in documents([corpus])]
    assert shard.documents.tolist() == np.cumsum([0, *sentences]).tolist()


def same_corpus(folder: Path, other: Path) -> bool:
    names = sorted(file.name for file in folder.glob("0*"))
    return names == sorted(file.name for file in other.glob("0*")) and all(
        (folder / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def test_processes_tokenize_as_one_does(tmp_path: Path, corpus: Path, vocabulary: Path, monkeypatch) -> None:
    monkeypatch.setattr("model.data.shards.BATCH", 4)
    monkeypatch.setattr("model.data.shards.AHEAD", 1)
    one, two = (prepare([corpus], vocabulary, tmp_path / str(n), 700, processes=n) for n in (1, 2))
    assert len(Shards(one).shards) > 2
    assert same_corpus(one, two)


def test_rows_of_every_kind_of_file_are_the_documents_of_plain_text(
    tmp_path: Path, corpus: Path, vocabulary: Path
) -> None:
    import pyarrow
    from pyarrow import ipc, parquet

    texts = [*corpus.read_text().split("\n\n"), "", None]
    table = pyarrow.table({"id": list(range(len(texts))), "story": texts})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"story": text}) + "\n" for text in texts))
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    with ipc.new_file(tmp_path / "file.arrow", table.schema) as writer:
        writer.write_table(table, 5)
    # What `datasets` writes: a folder of streams, and for several splits one of such folders.
    split = tmp_path / "dict/train"
    split.mkdir(parents=True)
    (tmp_path / "dict/dataset_dict.json").write_text('{"splits": ["test", "train"]}')
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    (split / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    for name, part in zip(names, (table.slice(0, 11), table.slice(11)), strict=True):
        with ipc.new_stream(split / name, table.schema) as writer:
            writer.write_table(part, 3)
    for name in ("a.jsonl", "a.parquet", "file.arrow", f"dict/train/{names[0]}"):
        seen: list[int] = []
        assert list(paragraphs(tmp_path / name, "story", seen.append))
        size = (tmp_path / name).stat().st_size
        assert min(seen) >= 0, name
        least = size if name in ("a.parquet", "file.arrow") else 0.8 * size
        assert least <= sum(seen) <= size, name  # what was read when the last text came
    plain = prepare([corpus], vocabulary, tmp_path / "plain")
    for i, text in enumerate(("a.jsonl", "a.parquet", "file.arrow", "dict", "dict/train")):
        made = prepare([tmp_path / text], vocabulary, tmp_path / f"made-{i}", field="story")
        assert same_corpus(plain, made), text
        Shards(made).check_made_from([tmp_path / text], vocabulary, "story")
    with pytest.raises(ModelError, match=r"was made of 'story', data.text_field is 'text'"):
        Shards(made).check_made_from([tmp_path / "dict"], vocabulary)
    trained = train_vocabulary([tmp_path / "dict"], tmp_path / "vocab.txt", 200, "story")
    assert len(trained.read_text().splitlines()) == 200


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n[1]\n', "a.jsonl:2: not a JSON object"),
        ("a.jsonl", b'{"story": "x", "id": 1}\n', "a.jsonl:1: no text in 'text': set data.text_field to one of story$"),
        ("a.jsonl", b'{"text": 1}\n', "a.jsonl:1: no text in 'text'"),
        ("a.parquet", b"PAR1", r"cannot read .*a.parquet: (?!None)\w"),
        ("a.arrow", b"x", r"cannot read .*a.arrow: (?!None)\w"),
        ("dict/dataset_dict.json", b'{"splits": ["a", "b"]}', "dict has the splits a, b and no train"),
        ("dict/state.json", b'{"_data_files": [{"filename": "../x"}]}', "names no files of its folder"),
        ("dict/readme.md", b"x", "dict has no .txt, .jsonl"),
    ],
)
def test_what_is_no_corpus_is_named(name: str, content: bytes, message: str, vocabulary: Path, tmp_path: Path) -> None:
    path = tmp_path / "text" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        prepare([path if path.parent.name == "text" else path.parent], vocabulary, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_column_of_numbers_is_no_text(vocabulary: Path, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": [1], "body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(ModelError, match=r"no text in 'text': set data.text_field to one of body$"):
        prepare([tmp_path / "a.parquet"], vocabulary, tmp_path / "out")


def test_preparing_says_how_far_it_is_and_how_long_it_takes(
    corpus: Path, vocabulary: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("model.progress.TELL", 0.0)
    prepare([corpus], vocabulary, tmp_path / "out")
    last = capsys.readouterr().err.splitlines()[-1]
    size = corpus.stat().st_size / 1e6
    assert re.fullmatch(rf"tokenizing text: {size:,.0f} of {size:,.0f} MB, 0:00:00 left", last)


@pytest.mark.parametrize(("pieces", "dtype"), [(1 << 16, "uint16"), ((1 << 16) + 1, "uint32")])
def test_ids_are_as_wide_as_the_vocabulary(pieces: int, dtype: str, tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(pieces - 5))]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "text").write_text(words[-1])
    shards = Shards(prepare([tmp_path / "text"], tmp_path / "vocab.txt", tmp_path / "out"))
    assert (shards.shards[0].tokens.dtype, shards.shards[0].tokens.tolist()) == (np.dtype(dtype), [pieces - 1])


def test_windows_cover_the_corpus_across_documents(prepared: Path) -> None:
    (shard,) = Shards(prepared).shards
    starts = shard.sentences[shard.windows(40)]
    assert starts[0] == 0
    assert (np.diff(starts) <= 40).all()  # no sentence is that long: all text is covered
    assert (np.diff(starts) > 40 - np.diff(shard.sentences).max()).all()  # cut where full, inside of a sentence
    assert len(shard.tokens) - 40 - 40 < starts[-1] <= len(shard.tokens) - 40
    assert shard.windows(len(shard.tokens) + 1).tolist() == [0]


@pytest.mark.parametrize(("stop", "last"), [(4, 4), (5, 4), (6, 5), (9, 8)])
def test_a_window_is_divided_inside_of_it_or_behind_its_only_token(stop: int, last: int) -> None:
    window, rng = _Window(0, None, 3, stop), np.random.default_rng(0)  # type: ignore[arg-type]
    assert {window.inside(rng) for _ in range(200)} == set(range(4, last + 1))


def test_permutation_visits_every_number_once() -> None:
    for size in (1, 2, 3, 7, 64, 1000):
        orders = [[permute(i, size, key) for i in range(size)] for key in range(2)]
        assert all(sorted(order) == list(range(size)) for order in orders)
    assert orders[0] != orders[1]
    assert np.corrcoef(orders[0], range(size))[0, 1] < 0.1


def test_an_order_is_the_same_in_every_version() -> None:
    """So that a run that is resumed goes on where it was."""
    assert [permute(i, 12, 7) for i in range(12)] == [7, 6, 0, 8, 10, 3, 11, 2, 5, 4, 9, 1]


def test_instances_mask_15_percent_and_follow_on_half_the_time(prepared: Path) -> None:
    shards = Shards(prepared)
    instances = Instances(shards, 48, seed=3, masking=Masking(short_pairs=0.0))
    special = shards.special
    counts: Counter[str] = Counter()
    for i in range(4000):
        it = instances[divmod(i, len(instances))]
        chosen = it.labels != IGNORED
        original = np.where(chosen, it.labels, it.input_ids)
        separators = np.flatnonzero(original == special["[SEP]"])
        assert original[0] == special["[CLS]"]
        assert separators[-1] == len(original) - 1
        assert len(separators) == 2
        assert len(original) <= 48
        assert not chosen[[0, *separators]].any()
        assert it.token_type_ids.tolist() == [0] * (separators[0] + 1) + [1] * (len(original) - separators[0] - 1)
        assert chosen.sum() == max(1, round(0.15 * len(original)))
        counts["chosen"] += chosen.sum()
        counts["masked"] += (it.input_ids[chosen] == special["[MASK]"]).sum()
        counts["kept"] += (it.input_ids[chosen] == it.labels[chosen]).sum()
        counts["elsewhere"] += it.next_sentence
    assert counts["masked"] / counts["chosen"] == pytest.approx(0.8, abs=0.015)
    assert counts["kept"] / counts["chosen"] == pytest.approx(0.1, abs=0.015)
    assert counts["elsewhere"] / 4000 == pytest.approx(0.5, abs=0.03)


def segments(instances: Instances, i: int) -> tuple[list[int], list[int], int]:
    """A and B as they stood in the text, and whether B is from elsewhere."""
    it = instances[divmod(i, len(instances))]
    original = np.where(it.labels != IGNORED, it.labels, it.input_ids)
    first, second = (original[it.token_type_ids == t].tolist() for t in (0, 1))
    return first[1:-1], second[:-1], it.next_sentence


def places(text: list[int], part: list[int]) -> list[int]:
    return [i for i in range(len(text) - len(part) + 1) if text[i : i + len(part)] == part]


def test_followers_follow_and_others_are_from_another_document(prepared: Path) -> None:
    shards = Shards(prepared)
    (shard,) = shards.shards
    text, ends = shard.tokens.tolist(), shard.sentences[shard.documents]
    documents_of = lambda start, length: {  # noqa: E731
        *range(np.searchsorted(ends, start, "right"), np.searchsorted(ends, start + length - 1, "right") + 1)
    }
    instances = Instances(shards, 48, seed=0, masking=Masking(short_pairs=0.0))
    seen: Counter[int] = Counter()
    for i in range(200):
        first, second, elsewhere = segments(instances, i)
        assert len(first) + len(second) == 45
        starts, others = places(text, first), places(text, second)
        if len(first) < 4 or len(second) < 4 or len(starts) != 1 or len(others) != 1:
            continue  # the words of a few tokens stand elsewhere too
        assert (others[0] == starts[0] + len(first)) == (not elsewhere)
        if elsewhere:
            window = documents_of(starts[0], 45)
            assert not window & documents_of(others[0], len(second))
        assert others[0] in shard.sentences
        assert others[0] not in ends  # B never opens a document, so that doing so tells nothing
        seen[elsewhere] += 1
    assert min(seen.values()) > 50


def guessed(features: list[object], labels: np.ndarray) -> float:
    """How many points of 100 a table of the features' commonest labels, made from one half, gains on the other."""
    half = len(labels) // 2
    table: dict[object, list[int]] = {}
    for feature, label in zip(features[:half], labels[:half], strict=True):
        table.setdefault(feature, [0, 0])[label] += 1
    usual = int(labels[:half].mean() > 0.5)
    guesses = [(c[1] > c[0]) if (c := table.get(f)) and c[0] != c[1] else usual for f in features[half:]]
    share = labels[half:].mean()
    return 100 * float((np.asarray(guesses) == labels[half:]).mean() - max(share, 1 - share))


@pytest.mark.parametrize("length", [64, 128, 512])
def test_lengths_and_boundaries_do_not_tell_whether_b_follows(tmp_path: Path, length: int) -> None:
    if not (TEXT.exists() and VOCABULARY.exists()):
        pytest.skip(f"{TEXT} is not here")
    shards = Shards(prepare([TEXT], VOCABULARY, tmp_path / "out"))
    instances = Instances(shards, length, seed=0)
    # A window that comes again in another epoch has the same boundary only where B follows: as few epochs as can be.
    pairs = [segments(instances, i) for i in range(max(2000, len(instances)))]
    labels = np.asarray([label for *_, label in pairs])
    room = length - 3
    filled = sum(len(a) + len(b) + 3 for a, b, _ in pairs) / (length * len(pairs))
    assert filled >= 0.92
    lengths = [(8 * len(a) // room, 8 * len(b) // room, len(a) + len(b) == room) for a, b, _ in pairs]
    assert guessed(list(lengths), labels) <= 3.5  # of which chance is 1 to 2 in so few pairs
    first_tokens = Counter(b[0] for _, b, _ in pairs).most_common(30)
    common = {token for token, _ in first_tokens}
    boundaries = [(*((t if t in common else -1) for t in (a[-1], b[0], b[-1])),) for a, b, _ in pairs]
    assert guessed(list(boundaries), labels) <= 3.5


def test_epochs_and_seeds_differ_and_numbers_repeat(prepared: Path) -> None:
    make = lambda seed: Instances(Shards(prepared), 32, seed)  # noqa: E731
    a, b = make(1), make(1)
    assert all(np.array_equal(a[0, i].input_ids, b[0, i].input_ids) for i in range(20))
    assert any(not np.array_equal(a[0, i].input_ids, a[1, i].input_ids) for i in range(20))
    assert any(not np.array_equal(a[0, i].input_ids, make(2)[0, i].input_ids) for i in range(20))


def test_ranks_share_a_batch_and_workers_do_not_change_it(prepared: Path) -> None:
    batches = PreTrainingBatches(prepared, 32, 200, seed=5)
    whole = [batches.batch(k, 0, 1, 4) for k in range(3)]
    for k, expected in enumerate(whole):
        halves = [batches.batch(k, rank, 2, 2) for rank in range(2)]
        assert all(torch.equal(torch.cat([h[name] for h in halves]), expected[name]) for name in expected)
    for k, batch in zip(range(1, 3), loader(batches, 1, 3, 4, workers=1), strict=True):  # resumed at 1
        assert all(torch.equal(batch[name], whole[k][name]) for name in batch)
    assert set(whole[0]) == {"input_ids", "attention_mask", "token_type_ids", "labels", "next_sentence"}
    assert (whole[0]["attention_mask"].sum(1) <= 32).all()


def test_nothing_is_left_of_an_empty_corpus_or_a_broken_one(tmp_path: Path, vocabulary: Path) -> None:
    (tmp_path / "empty").write_text("\n \n")
    (tmp_path / "broken").write_bytes(b"good words here.\n\xff\n")
    for name, message in (("empty", "the corpus is empty"), ("broken", "broken:2: not UTF-8")):
        with pytest.raises(ModelError, match=message):
            prepare([tmp_path / name], vocabulary, tmp_path / "out")
    with pytest.raises(ModelError, match="cannot read"):
        prepare([tmp_path / "missing"], vocabulary, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken", "empty"]


def test_a_corpus_cut_short_or_of_another_vocabulary_is_refused(prepared: Path) -> None:
    with pytest.raises(ModelError, match=r"vocabulary of \d+ pieces, the model has 50"):
        PreTrainingBatches(prepared, 32, 50)
    tokens = prepared / "00000.tokens"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(ModelError, match=r"00000.tokens is missing or cut short"):
        Shards(prepared)
    with pytest.raises(ModelError, match="is no prepared corpus"):
        Shards(prepared / "nothing")
    with pytest.raises(ModelError, match="exists"):
        prepare([], Path("vocab.txt"), prepared)


def test_a_prepared_corpus_belongs_to_the_text_it_was_made_of(corpus: Path, vocabulary: Path, tmp_path: Path) -> None:
    one = Processes(0, 1, torch.device("cpu"))
    make = lambda **data: pretraining_batches(TextData(str(tmp_path / "made"), **data), 200, 0, one)  # noqa: E731
    same = {"text": (str(corpus),), "vocabulary": str(vocabulary), "sequence_length": 32}
    first = make(**same)
    moved = corpus.rename(tmp_path / "moved.txt")
    try:
        for data in (same | {"text": (str(moved),)}, same | {"text": ()}, {"sequence_length": 32}):
            assert make(**data).identity == first.identity
        with pytest.raises(ModelError, match=r"cannot read .*text.txt"):
            make(**same)
        (tmp_path / "other.txt").write_text("Other words.\n")
        with pytest.raises(ModelError, match=r"made of another text than data.text names: remove the folder"):
            make(**same | {"text": (str(tmp_path / "other.txt"),)})
        with pytest.raises(ModelError, match=r"made with another vocabulary than .*other.txt"):
            make(**same | {"text": (), "vocabulary": str(tmp_path / "other.txt")})
    finally:
        moved.rename(corpus)


def test_real_text_with_berts_vocabulary(tmp_path: Path) -> None:
    if not (TEXT.exists() and VOCABULARY.exists()):
        pytest.skip(f"{TEXT} is not here")
    batches = PreTrainingBatches(prepare([TEXT], VOCABULARY, tmp_path / "out"), 128, 30522)
    shards = batches.shards
    assert sum(c["documents"] for c in shards.counts) == 307
    unknown = np.mean(shards.shards[0].tokens == shards.special["[UNK]"])
    assert unknown < 0.005
    filled = batches.batch(0, 0, 1, 64)["attention_mask"].float().mean()
    assert filled > 0.92


@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 60), st.integers(0, 1 << 32))
def test_pairs_are_cut_from_the_longer_one_until_they_fit(first: int, second: int, room: int, seed: int) -> None:
    a, b = np.arange(first), np.arange(100, 100 + second)
    cut = _shorten(np.random.default_rng(seed), a, b, room)
    assert sum(map(len, cut)) == min(room, first + second)
    for whole, part in zip((a, b), cut, strict=True):
        assert len(part) >= 1
        assert (np.diff(part) == 1).all()
        assert set(part) <= set(whole)
    (x, y), surplus = map(len, cut), max(0, first + second - room)
    if surplus <= abs(first - second):  # the shorter one stays whole
        assert min(first, second) == (second if first >= second else first)
        assert (y if first >= second else x) == min(first, second)
    else:
        assert abs(x - y) <= 1
    if x != y and surplus > abs(first - second):
        assert (x < y) == (first >= second)


def test_text_is_cut_at_its_front_and_at_its_back() -> None:
    cuts = [_shorten(np.random.default_rng(seed), np.arange(30), np.arange(10), 20)[0] for seed in range(50)]
    assert {len(cut) for cut in cuts} == {10}
    fronts = np.array([cut[0] for cut in cuts])
    assert 7 < fronts.mean() < 13
    assert fronts.std() > 1


def test_short_pairs_are_as_many_as_asked_and_of_every_length(prepared: Path) -> None:
    shards = Shards(prepared)
    for share in (0.0, 0.1, 1.0):
        instances = Instances(shards, 48, seed=1, masking=Masking(short_pairs=share))
        lengths = np.array([len(instances[divmod(i, len(instances))].input_ids) for i in range(1500)])
        full = (lengths == 48).mean()
        assert full == pytest.approx(1 - share * 43 / 44, abs=0.03)
        assert lengths.max() == 48
        short = lengths[lengths < 48]
        if share == 1:
            assert 0 < (lengths == 48).sum() < 80  # as often as any other length
        if share:
            assert (short.min(), short.max()) == (5, 47) if share == 1 else short.min() < 12
            assert short.mean() == pytest.approx(26, abs=3)


def test_what_is_predicted_may_be_any_piece_or_itself(prepared: Path) -> None:
    shards = Shards(prepared)
    for masking, masked, changed in ((Masking(masked=0.0, random=1.0), 0, 1), (Masking(masked=0.0, random=0.0), 0, 0),
                                     (Masking(share=1.0, masked=1.0), 1, 1)):  # fmt: skip
        seen: list[int] = []
        instances = Instances(shards, 48, seed=2, masking=masking)
        for i in range(200):
            it = instances[divmod(i, len(instances))]
            chosen = it.labels != IGNORED
            if masking.share == 1:
                assert chosen.sum() == len(it.labels) - 3
            seen += it.input_ids[chosen].tolist()
            same = (it.input_ids == it.labels)[chosen].mean()
            assert same == 1 if not changed else same < 0.5
            assert (it.input_ids[chosen] == shards.special["[MASK]"]).mean() == masked or masking.random
        if masking.random == 1:
            assert (min(seen), max(seen)) == (0, shards.vocab_size - 1)
            assert len(set(seen)) > shards.vocab_size / 2


def test_at_least_one_token_is_predicted_and_too_short_sequences_are_refused(prepared: Path) -> None:
    shards = Shards(prepared)
    it = Instances(shards, 8, seed=0, masking=Masking(share=0.01))[0, 0]
    assert (it.labels != IGNORED).sum() == 1
    with pytest.raises(ModelError, match="sequence_length is 7: sentence pairs need at least 8 tokens"):
        Instances(shards, 7, seed=0)
    instances = Instances(shards, 8, seed=0)
    for number in (-1, len(instances)):
        with pytest.raises(IndexError, match=f"instance {number} of {len(instances)}"):
            instances[0, number]
    assert len(instances[0, len(instances) - 1].input_ids) <= 8


def test_padding_is_no_token_of_any_kind(prepared: Path) -> None:
    batches = PreTrainingBatches(prepared, 32, 200, seed=5, masking=Masking(short_pairs=1.0))
    batch = batches.batch(0, 0, 1, 16)
    padding = batch["attention_mask"] == 0
    assert padding.any()
    assert (batch["attention_mask"].diff(dim=1) <= 0).all()
    assert (batch["input_ids"][padding] == batches.shards.special["[PAD]"]).all()
    assert (batch["token_type_ids"][padding] == 0).all()
    assert (batch["labels"][padding] == IGNORED).all()
    ends = batch["attention_mask"].sum(1) - 1
    assert (batch["input_ids"][torch.arange(16), ends] == batches.shards.special["[SEP]"]).all()
    assert (batch["token_type_ids"][torch.arange(16), ends] == 1).all()


def test_a_vocabulary_as_large_as_the_models_fits_and_one_larger_does_not(prepared: Path) -> None:
    size = Shards(prepared).vocab_size
    PreTrainingBatches(prepared, 32, size)
    with pytest.raises(ModelError, match=f"vocabulary of {size} pieces, the model has {size - 1}"):
        PreTrainingBatches(prepared, 32, size - 1)


def test_long_sequences_begin_where_they_are_asked_for(prepared: Path) -> None:
    short, long = (PreTrainingBatches(prepared, length, 200) for length in (16, 32))
    both = TwoLengths(short, long, 3)
    assert [both.batch(k, 0, 1, 2)["input_ids"].shape[1] for k in range(5)] == [16, 16, 16, 32, 32]


@pytest.mark.parametrize("share", [-0.1, 0.0, 1.0, 1.5, float("nan")])
def test_a_share_of_long_sequences_is_between_none_and_all(share: float) -> None:
    assert TextData("folder", long_share=0.5).longest == 128
    with pytest.raises(ModelError, match=rf"^data\.long_share is {share}: it must be between 0 and 1$"):
        TextData("folder", long_share=share)
