"""The text side of a folder, read as `transformers` reads it, from the files that its versions have saved."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

import compile
from compile.text.compiled import _items
from compile.text.read import read_folder
from compile.text.side import TextSide
from pocketbert.errors import PocketBERTError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = [*SPECIAL, *"aAbBéeÉE日", "##b", "##B", "ab", "AB", "##é", "##e", "\u0301", "日日", "##日"]
TEXT = "aB AB Éé [MASK] a\u0301 日日 [mask]"


def fine_tuned(folder: Path, **settings: Any) -> Path:
    """A folder as `transformers` saves a BERT tokenizer; settings: of tokenizer_config.json."""
    from transformers import BertTokenizer

    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(PIECES)}, **settings)
    tokenizer.save_pretrained(folder)
    return folder


def write(path: Path, value: Any) -> None:
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def with_vocabulary_alone(folder: Path) -> Path:
    """The same folder as older versions saved it: vocab.txt in place of tokenizer.json."""
    (folder / "tokenizer.json").unlink()
    write(folder / "vocab.txt", "\n".join(PIECES) + "\n")
    return folder


def read(folder: Path) -> TextSide:
    side = read_folder(folder)
    assert side
    return side


def setting(side: TextSide, name: str) -> tuple[str, str]:
    return next((s.value, s.source) for s in side.settings if s.name == name)


@pytest.mark.parametrize("form", [lambda folder: folder, with_vocabulary_alone], ids=["tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"strip_accents": False},
        {"tokenize_chinese_chars": False},
    ],
    ids=str,
)
def test_folder_gives_the_ids_of_transformers(settings: dict[str, Any], form: Callable, tmp_path: Path) -> None:
    from transformers import BertTokenizer

    folder = form(fine_tuned(tmp_path, **settings))
    wanted = BertTokenizer.from_pretrained(folder)(TEXT, "a b")
    got = read(folder).tokenizer.encode(TEXT, "a b")
    assert (got.ids, got.type_ids) == (wanted["input_ids"], wanted["token_type_ids"])


def test_tokenizer_json_alone_is_taken_as_it_is(tmp_path: Path) -> None:
    fine_tuned(tmp_path, do_lower_case=False)
    (tmp_path / "tokenizer_config.json").unlink()
    side = read(tmp_path)
    assert side.cased
    assert side.tokenizer.encode(TEXT).ids == Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(TEXT).ids
    assert setting(side, "lowercase") == ("false", "tokenizer.json")


def test_settings_overrule_tokenizer_json_as_in_transformers(tmp_path: Path) -> None:
    fine_tuned(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    write(tmp_path / "tokenizer_config.json", config | {"do_lower_case": False})
    assert read(tmp_path).cased
    assert setting(read(tmp_path), "lowercase") == ("false", "tokenizer_config.json do_lower_case")
    write(tmp_path / "tokenizer_config.json", config | {"do_lower_case": False, "tokenizer_class": "TokenizersBackend"})
    assert not read(tmp_path).cased


def test_longest_text_is_the_least_that_the_folder_says(tmp_path: Path) -> None:
    fine_tuned(tmp_path, model_max_length=512)
    assert read(tmp_path).max_tokens == 512
    write(tmp_path / "sentence_bert_config.json", {"max_seq_length": 256})
    assert read(tmp_path).max_tokens == 256
    write(tmp_path / "tokenizer_config.json", {"model_max_length": 1000000000000000019884624838656})
    assert read(tmp_path).max_tokens == 256


def test_added_tokens_beside_the_vocabulary(tmp_path: Path) -> None:
    folder = with_vocabulary_alone(fine_tuned(tmp_path))
    write(folder / "added_tokens.json", {"<new>": len(PIECES)})
    assert len(PIECES) in read(folder).tokenizer.encode("a <new>").ids
    write(folder / "added_tokens.json", {"<new>": len(PIECES) + 1})
    with pytest.raises(
        compile.CompileError, match=r"'<new>' has the id .* save the tokenizer with its tokenizer\.json"
    ):
        read_folder(folder)


def test_roberta_of_vocabulary_and_merges(tmp_path: Path) -> None:
    from transformers import RobertaTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *letters, "he", "Ġhe", "<mask>"]
    write(tmp_path / "vocab.json", {piece: number for number, piece in enumerate(pieces)})
    write(tmp_path / "merges.txt", "#version: 0.2\nh e\nĠ he\n")
    wanted = RobertaTokenizer.from_pretrained(tmp_path)
    for text in ("he he hé", "a <mask> b", " <mask>", "日\u3000he"):
        assert read(tmp_path).tokenizer.encode(text, "he").ids == wanted(text, "he")["input_ids"]


def test_folder_without_text(tmp_path: Path) -> None:
    write(tmp_path / "config.json", {})
    assert read_folder(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"tokenizer.json": "{"}, r"tokenizer\.json: .*not what `tokenizers` reads"),
        ({"tokenizer.json": "[" * 100_000}, r"tokenizer\.json: "),
        ({"tokenizer.json": {"model": {"type": "WordPiece", "vocab": {}}}}, r"tokenizer\.json: "),
        ({"tokenizer_config.json": "[]", "vocab.txt": "a"}, "not a JSON object"),
        (
            {"tokenizer_config.json": {"do_lower_case": "no"}, "vocab.txt": "a"},
            "do_lower_case is 'no': it must be true or",
        ),
        ({"tokenizer_config.json": {"model_max_length": "x"}, "vocab.txt": "a"}, "model_max_length is 'x'"),
        ({"tokenizer_config.json": {"model_max_length": 1}, "vocab.txt": "a"}, "at least 4"),
        ({"tokenizer_config.json": {"cls_token": 3}, "vocab.txt": "a"}, "cls_token is no text"),
        ({"tokenizer_config.json": {"tokenizer_class": "MPNetTokenizer"}, "vocab.txt": "a"}, "MPNetTokenizer without"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"x": {}}}, "vocab.txt": "\n".join(PIECES)}, "decoder.x"),
        ({"vocab.txt": "a"}, r"\[UNK\], \[CLS\], \[SEP\] is missing"),
        ({"vocab.txt": "\udcff"}, "cannot|not UTF-8"),
        ({"added_tokens.json": {"x": "y"}, "vocab.txt": "\n".join(PIECES)}, "'x' has no id"),
        ({"spiece.model": "x"}, r"spiece\.model: save the tokenizer with its tokenizer\.json"),
        ({"vocab.json": {"a": -1}, "merges.txt": ""}, "each piece needs its id"),
        ({"vocab.json": {"a": 0}, "merges.txt": "a"}, r"merges\.txt:1: not two pieces"),
        ({"vocab.json": {"a": 0}, "merges.txt": ""}, "<s>, </s> is missing"),
        ({"vocab.json": {"<s>": 0, "</s>": 1}, "merges.txt": "a b"}, r"vocab\.json: "),
    ],
)
def test_wrong_files(files: dict[str, Any], words: str, tmp_path: Path) -> None:
    for name, value in files.items():
        (tmp_path / name).write_bytes(
            (value if isinstance(value, str) else json.dumps(value)).encode(errors="surrogateescape")
        )
    with pytest.raises(compile.CompileError, match=words):
        read_folder(tmp_path)


def test_ids_beyond_every_vocabulary(tmp_path: Path) -> None:
    model = json.loads(Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")).to_str())["model"]
    write(tmp_path / "tokenizer.json", {"model": model | {"vocab": {"[UNK]": 0, "a": 2**31}}})
    with pytest.raises(compile.CompileError, match="the id 2147483648"):
        read_folder(tmp_path)


def test_template_of_at_most_64_pieces_with_ids_of_31_bits() -> None:
    most = (1 << 31) - 1
    assert _items([("SPECIAL", 0, most), ("SPECIAL", most, 0)] * 32).count("PB_PIECE_SPECIAL") == 64
    for items in ([("FIRST", 0, 0)] * 65, *([("SPECIAL", n, 0)] for n in (-1, 1 << 31, 1 << 40)), [("FIRST", 0, -1)]):
        with pytest.raises(compile.CompileError, match="a template of more than 64 pieces"):
            _items(items)


def test_folder_builds_a_library_that_reads_text_as_transformers_does(
    folder_of_bert: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import BertTokenizer

    folder = folder_of_bert(fine_tuned(tmp_path / "cased", do_lower_case=False, model_max_length=12))
    built = compile.build(folder, target="host", seq_len=16, out=tmp_path / "artifact")
    facts = built.manifest.vocabulary
    assert facts
    assert (facts.cased, facts.max_tokens, facts.kind) == (True, 12, "WordPiece")
    assert ("lowercase", "false") in [(s.name, s.value) for s in facts.settings]
    with compile.load(built.folder) as library:
        wanted = BertTokenizer.from_pretrained(folder)(TEXT, truncation=True)["input_ids"]
        assert library.tokenize(TEXT)[0].tolist() == wanted


def test_vocabulary_and_no_text_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(compile.CompileError, match="--no-text leaves the tokenizer out and --vocab gives one"):
        compile.build(tmp_path, text=False, vocab=tmp_path / "vocab.txt")


def test_no_text_does_not_look_at_the_tokenizer(tmp_path: Path) -> None:
    write(tmp_path / "tokenizer.json", "{")
    for text, words in ((True, r"tokenizer\.json: "), (False, r"no config\.json")):
        with pytest.raises(PocketBERTError, match=words):
            compile.build(tmp_path, target="host", text=text)
