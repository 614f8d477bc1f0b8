"""The files that say how a model reads text -> its text side.

A folder's tokenizer.json is taken as it is; where there is none, vocab.txt (WordPiece) or vocab.json with merges.txt
(byte-level BPE) with what tokenizer_config.json, special_tokens_map.json and added_tokens.json say of them, as
`transformers` makes a tokenizer of those. What tokenizer_config.json says of case, accents and Chinese characters holds
for a tokenizer.json, too: `transformers` lets it overrule the file.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from compile.errors import CompileError
from compile.text.side import MAX_ID, Setting, TextSide, asked, make_side
from pocketbert.reading import WHITE_SPACE, read_bytes, read_json, read_text

UNKNOWN, CLS, SEP, PAD, MASK = "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"
BERT_TOKENS = {"unk_token": UNKNOWN, "sep_token": SEP, "pad_token": PAD, "cls_token": CLS, "mask_token": MASK}
ROBERTA_TOKENS = {"unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>", "cls_token": "<s>"}
ROBERTA_TOKENS |= {"bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
# tokenizer_config.json's names, and those of `tokenizers`, for what BertNormalizer does.
BERT_SETTINGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
# Classes that take tokenizer.json as it is, and those that make their tokenizer from vocab.txt as BERT's does.
PLAIN_CLASSES = ("PreTrainedTokenizer", "TokenizersBackend")
BERT_CLASSES = ("Bert", "DistilBert", "MobileBert", "Electra", "ConvBert", "LayoutLM", "SqueezeBert", "")
ROBERTA_CLASSES = ("Roberta", "Longformer", "")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def read_vocabulary(path: Path, cased: bool) -> TextSide:
    """BERT's tokenizer with the pieces of a vocab.txt. Raises CompileError naming the line that is wrong."""
    where = f"--vocab {path}"
    names = _read_pieces(path, where)
    if missing := [piece for piece in (UNKNOWN, CLS, SEP) if piece not in names.values()]:
        raise CompileError(f"{where}: {', '.join(missing)} is missing: not a vocab.txt of BERT's kind")
    said = {"lowercase": not cased}
    tokenizer = _bert(names, {role: _token(token) for role, token in BERT_TOKENS.items()}, said)
    source = "--cased" if cased else "the default of --vocab"
    return make_side(tokenizer, (Setting("lowercase", json.dumps(not cased), source),), where, names=names)


def read_folder(folder: Path) -> TextSide | None:
    """The text side of a Hugging Face folder; None where it has none.

    Raises CompileError naming the file: one that is damaged, or a kind of tokenizer that needs its tokenizer.json.
    """
    config = _object(folder / "tokenizer_config.json")
    longest, limit = _longest(folder, config)
    if (folder / "tokenizer.json").exists():
        tokenizer, settings = _from_json(folder, config)
        where = f"{folder / 'tokenizer.json'}"
    elif (folder / "vocab.txt").exists():
        where = f"{folder / 'vocab.txt'}"
        _require_class(config, BERT_CLASSES, where)
        names = _read_pieces(folder / "vocab.txt", where)
        tokenizer, settings = _from_vocabulary(folder, config, names, where)
        _add_tokens(tokenizer, folder, config, where)
        return make_side(tokenizer, settings + limit, where, longest, names)
    elif (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        where = f"{folder / 'vocab.json'}"
        _require_class(config, ROBERTA_CLASSES, where)
        tokenizer, settings = _from_merges(folder, config, where)
    elif models_ := [
        name for name in ("spiece.model", "sentencepiece.bpe.model", "spm.model") if (folder / name).exists()
    ]:
        raise CompileError(
            f"{folder / models_[0]}: save the tokenizer with its tokenizer.json "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(...)), or build with --no-text"
        )
    else:
        return None
    _add_tokens(tokenizer, folder, config, where)
    return make_side(tokenizer, settings + limit, where, longest)


def _from_json(folder: Path, config: Mapping[str, Any]) -> tuple[Tokenizer, tuple[Setting, ...]]:
    path = folder / "tokenizer.json"
    tokenizer = asked(str(path), Tokenizer.from_str, read_text(path, CompileError))
    normalizer = tokenizer.normalizer
    if not isinstance(normalizer, normalizers.BertNormalizer):
        return tokenizer, ()
    plain = _class(config) in PLAIN_CLASSES
    settings = []
    for theirs, ours in BERT_SETTINGS.items():
        said, source = getattr(normalizer, ours), "tokenizer.json"
        if theirs in config and not plain:
            said, source = _flag(config, theirs, folder), f"tokenizer_config.json {theirs}"
            setattr(normalizer, ours, said)
        settings.append(Setting(ours, json.dumps(said), source))
    tokenizer.normalizer = normalizer
    return tokenizer, tuple(settings)


def _from_vocabulary(
    folder: Path, config: Mapping[str, Any], names: dict[int, str], where: str
) -> tuple[Tokenizer, tuple[Setting, ...]]:
    said: dict[str, Any] = {}
    settings = []
    for theirs, ours in BERT_SETTINGS.items():
        said[ours] = _flag(config, theirs, folder) if theirs in config else {"strip_accents": None}.get(ours, True)
        source = f"tokenizer_config.json {theirs}" if theirs in config else "transformers' default"
        settings.append(Setting(ours, json.dumps(said[ours]), source))
    tokens = _special_tokens(folder, config, BERT_TOKENS)
    _require_tokens(tokens, ("unk_token", "cls_token", "sep_token"), set(names.values()), where)
    return _bert(names, tokens, said), tuple(settings)


def _bert(names: Mapping[int, str], tokens: Mapping[str, AddedToken], said: Mapping[str, Any]) -> Tokenizer:
    ids = {piece: number for number, piece in names.items()}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=tokens["unk_token"].content, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(**said)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([token for token in tokens.values() if token.content in ids])
    cls, sep = tokens["cls_token"].content, tokens["sep_token"].content
    tokenizer.post_processor = processors.BertProcessing((sep, ids[sep]), (cls, ids[cls]))
    return tokenizer


def _from_merges(folder: Path, config: Mapping[str, Any], where: str) -> tuple[Tokenizer, tuple[Setting, ...]]:
    vocabulary = _object(folder / "vocab.json")
    if not all(type(number) is int and 0 <= number < MAX_ID for number in vocabulary.values()):
        raise CompileError(f"{where}: not a vocabulary: each piece needs its id, a whole number")
    merges = []
    for number, line in enumerate(read_text(folder / "merges.txt", CompileError).split("\n"), 1):
        if line and not line.startswith("#version"):
            parts = line.removesuffix("\r").split(" ")
            if len(parts) != 2:
                raise CompileError(f"{folder / 'merges.txt'}:{number}: not two pieces with a blank between them")
            merges.append((parts[0], parts[1]))
    space = _flag(config, "add_prefix_space", folder) if "add_prefix_space" in config else False
    tokens = _special_tokens(folder, config, ROBERTA_TOKENS)
    _require_tokens(tokens, ("cls_token", "sep_token"), vocabulary, where)
    tokenizer = Tokenizer(asked(where, lambda: models.BPE(vocabulary, merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(space))
    tokenizer.add_special_tokens([token for token in tokens.values() if token.content in vocabulary])
    cls, sep = tokens["cls_token"].content, tokens["sep_token"].content
    ends = (sep, vocabulary[sep]), (cls, vocabulary[cls])
    tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=bool(space))
    source = "tokenizer_config.json" if "add_prefix_space" in config else "transformers' default"
    return tokenizer, (Setting("add_prefix_space", json.dumps(space), source),)


def _read_pieces(path: Path, where: str) -> dict[int, str]:
    """The pieces of a vocab.txt, one a line, as `tokenizers` reads them: white space at the end of a line is not the
    piece's, and a piece that stands twice has its last line's id."""
    pieces = {}
    for number, line in enumerate(read_bytes(path, CompileError).removesuffix(b"\n").split(b"\n")):
        try:
            piece = line.decode().rstrip(WHITE_SPACE)
        except UnicodeDecodeError as error:
            raise CompileError(f"{where}:{number + 1}: not UTF-8: give BERT's vocab.txt") from error
        if "\0" in piece:
            raise CompileError(f"{where}:{number + 1}: a NUL byte: save the file as UTF-8")
        pieces[number] = piece
    return pieces


def _special_tokens(folder: Path, config: Mapping[str, Any], defaults: Mapping[str, str]) -> dict[str, AddedToken]:
    """The special pieces by their roles: tokenizer_config.json's, else special_tokens_map.json's, else the defaults."""
    old = _object(folder / "special_tokens_map.json")
    result = {}
    for role, default in defaults.items():
        given = next((of[role] for of in (config, old) if of.get(role) is not None), default)
        token = given if isinstance(given, dict) else {"content": given}
        if not isinstance(token.get("content"), str) or not token["content"]:
            raise CompileError(f"{folder}: {role} is no text: correct tokenizer_config.json")
        result[role] = _token(**token)
    return result


def _token(content: str, **given: Any) -> AddedToken:
    """A special token with the flags that are given."""
    flags = {flag: given[flag] for flag in FLAGS if isinstance(given.get(flag), bool)}
    return AddedToken(content, **({"normalized": False, "special": True} | flags))


def _require_tokens(
    tokens: Mapping[str, AddedToken], roles: tuple[str, ...], pieces: Collection[str], where: str
) -> None:
    if missing := [tokens[role].content for role in roles if tokens[role].content not in pieces]:
        raise CompileError(
            f"{where}: {', '.join(missing)} is missing: give the vocabulary that the model was trained with"
        )


def _add_tokens(tokenizer: Tokenizer, folder: Path, config: Mapping[str, Any], where: str) -> None:
    """The added tokens that stand beside the tokenizer's file and not in it. Raises CompileError where ids differ."""
    tokens: dict[int, AddedToken] = {}
    for content, number in _object(folder / "added_tokens.json").items():
        if type(number) is not int:
            raise CompileError(f"{folder / 'added_tokens.json'}: {content!r} has no id: give each token its number")
        tokens[number] = AddedToken(content)
    for key, given in (config.get("added_tokens_decoder") or {}).items():
        if not (key.isdecimal() and isinstance(given, dict) and isinstance(given.get("content"), str)):
            raise CompileError(
                f"{folder / 'tokenizer_config.json'}: added_tokens_decoder.{key} is no token with a content"
            )
        flags = {flag: given[flag] for flag in FLAGS if isinstance(given.get(flag), bool)}
        tokens[int(key)] = AddedToken(given["content"], **flags)
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for number, token in sorted(tokens.items()):
        if token.content in known:
            continue
        tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != number:
            raise CompileError(
                f"{where}: the added token {token.content!r} has the id {number} in the folder, and would get "
                f"{tokenizer.token_to_id(token.content)}: save the tokenizer with its tokenizer.json"
            )


def _longest(folder: Path, config: Mapping[str, Any]) -> tuple[int | None, tuple[Setting, ...]]:
    """The least of what the folder says, and where: some write 10³⁰ for no limit."""
    limits = []
    for path, key in (("tokenizer_config.json", "model_max_length"), ("sentence_bert_config.json", "max_seq_length")):
        value = (config if path == "tokenizer_config.json" else _object(folder / path)).get(key)
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool) or value < 4):
            raise CompileError(f"{folder / path}: {key} is {value!r}: it must be a number of tokens, at least 4")
        if value is not None and value < 1 << 30:
            limits.append((int(value), f"{path} {key}"))
    if not limits:
        return None, ()
    longest, source = min(limits)
    return longest, (Setting("max_tokens", json.dumps(longest), source),)


def _class(config: Mapping[str, Any]) -> str:
    return str(config.get("tokenizer_class") or "").removesuffix("Fast")


def _require_class(config: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    name = _class(config)
    if name.removesuffix("Tokenizer") not in known and name not in PLAIN_CLASSES:
        raise CompileError(
            f"{where}: of a {name} without its tokenizer.json it is not known how it reads text: save it with one "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(...)), or build with --no-text"
        )


def _flag(config: Mapping[str, Any], key: str, folder: Path) -> bool | None:
    value = config[key]
    if not (isinstance(value, bool) or (value is None and key == "strip_accents")):
        raise CompileError(f"{folder / 'tokenizer_config.json'}: {key} is {value!r}: it must be true or false")
    return value


def _object(path: Path) -> dict[str, Any]:
    """A JSON file; nothing where it is missing."""
    if not path.exists():
        return {}
    value = read_json(path, CompileError)
    if not isinstance(value, dict):
        raise CompileError(f"{path} is not a JSON object")
    return value
