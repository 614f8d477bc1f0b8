"""Where text comes from: plain text, JSON lines, Parquet, and the folders that Hugging Face's `datasets` writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pocketbert.errors import first_line
from pocketbert.reading import parse_json, read_json

from ..errors import ModelError

LONGEST_LINE = 64 << 20  # bytes
TABLES = (".parquet", ".arrow")
KINDS = (".txt", ".jsonl", *TABLES)  # in a folder; a file that is none of the others is plain text

Read = Callable[[int], object]
"""Told how many more bytes of a file were read."""


def text_files(paths: Iterable[Path]) -> list[Path]:
    """The files of text that `paths` are or, as folders, hold. Raises `ModelError` for a folder without any.

    Of a `DatasetDict` that is the split "train", or the only one.
    """
    return [file for path in paths for file in (_folder(path) if path.is_dir() else [path])]


def size_of(files: Iterable[Path]) -> int:
    """Bytes; a file that is not there has none, and is found out when it is read."""
    return sum(file.stat().st_size for file in files if file.exists())


def _folder(folder: Path) -> list[Path]:
    if (folder / "dataset_dict.json").exists():
        splits = _strings(folder / "dataset_dict.json", "splits")
        split = "train" if "train" in splits else splits[0] if len(splits) == 1 else None
        if split is None:
            raise ModelError(f"{folder} has the splits {', '.join(splits)} and no train: name the folder of one")
        return _folder(folder / split)
    if (folder / "state.json").exists():
        return [folder / name for name in _strings(folder / "state.json", "_data_files")]
    files = sorted(file for file in folder.rglob("*") if file.suffix in KINDS and file.is_file())
    if not files:
        raise ModelError(f"{folder} has no {', '.join(KINDS)}, and `datasets` did not write it: name a file of text")
    return files


def _strings(path: Path, key: str) -> list[str]:
    """Names of files in the same folder, each a string or the `filename` of an object."""
    content = read_json(path, ModelError)
    entries = content.get(key) if isinstance(content, dict) else None
    names: list[Any] = [entry.get("filename") if isinstance(entry, dict) else entry for entry in entries or ()]
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ModelError(f"{path}: {key!r} names no files of its folder: `datasets` did not write it")
    return names


def lines(path: Path, read: Read = lambda size: None) -> Iterator[str]:
    """The lines of a UTF-8 file; raises `ModelError` with file and line number where it is not."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
                if len(line) == LONGEST_LINE:
                    raise ModelError(f"{path}:{number}: a line of {LONGEST_LINE >> 20} MiB: this is no text file")
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise ModelError(
                        f"{path}:{number}: not UTF-8 at byte {error.start + 1}: convert the file"
                    ) from error
                read(len(line))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error


def paragraphs(path: Path, field: str = "text", read: Read = lambda size: None) -> Iterator[list[str]]:
    """Each document of a file as its paragraphs, none empty; never more than some in memory.

    In plain text a paragraph is a line, and documents stand between blank lines. Else a document is what a row has in
    `field`. Raises `ModelError` that names the file, and the line or the columns that there are.
    """
    if path.suffix not in (".jsonl", *TABLES):
        yield from _plain(path, read)
        return
    for text in _objects(path, field, read) if path.suffix == ".jsonl" else _table(path, field, read):
        document = [line.strip() for line in text.splitlines() if line.strip()]
        if document:
            yield document


def _plain(path: Path, read: Read) -> Iterator[list[str]]:
    document: list[str] = []
    for line in lines(path, read):
        if stripped := line.strip():
            document.append(stripped)
        elif document:
            yield document
            document = []
    if document:
        yield document


def _objects(path: Path, field: str, read: Read) -> Iterator[str]:
    for number, line in enumerate(lines(path, read), 1):
        if not line.strip():
            continue
        row: Any = None
        with suppress(ValueError, RecursionError):
            row = parse_json(line)
        if not isinstance(row, dict):
            raise ModelError(f"{path}:{number}: not a JSON object: a .jsonl file has one a line")
        if not isinstance(text := row.get(field, row), str | None):
            raise ModelError(f"{path}:{number}: {_no_text(field, (k for k, v in row.items() if isinstance(v, str)))}")
        yield text or ""


def _no_text(field: str, others: Iterable[str]) -> str:
    return f"no text in {field!r}: set data.text_field to one of {', '.join(others)}"


def _table(path: Path, field: str, read: Read) -> Iterator[str]:
    try:
        import pyarrow
    except ImportError as error:
        raise ModelError(f"{path}: pyarrow is not installed: pip install 'pocketbert[train]'") from error
    size, told = path.stat().st_size if path.exists() else 0, 0
    try:
        for done, batch in _batches(path, field):
            if field not in (names := _text_columns(batch.schema)):
                raise ModelError(f"{path}: {_no_text(field, names)}")
            for value in batch.column(field):
                yield value.as_py() or ""
            read(int(done * size) - told)
            told = int(done * size)
    except (pyarrow.ArrowException, OSError) as error:
        raise ModelError(f"cannot read {path}: {getattr(error, 'strerror', None) or first_line(error)}") from error


def _text_columns(schema: Any) -> list[str]:
    from pyarrow import types

    return [column.name for column in schema if types.is_string(column.type) or types.is_large_string(column.type)]


def _batches(path: Path, field: str) -> Iterator[tuple[float, Any]]:
    """Record batches, and the share of the file that is done with each."""
    import pyarrow
    from pyarrow import ipc, parquet

    if path.suffix == ".parquet":
        with parquet.ParquetFile(path) as file:
            rows, done = file.metadata.num_rows, 0
            columns = [field] if field in _text_columns(file.schema_arrow) else None
            for batch in file.iter_batches(1024, columns=columns):
                done += batch.num_rows
                yield done / max(1, rows), batch
        return
    with pyarrow.memory_map(str(path)) as source:
        try:
            stream = ipc.open_stream(source)
        except pyarrow.ArrowInvalid:  # the other of Arrow's two formats
            source.seek(0)
            file = ipc.open_file(source)
            for i in range(file.num_record_batches):
                yield (i + 1) / file.num_record_batches, file.get_batch(i)
            return
        for batch in stream:
            yield source.tell() / max(1, source.size()), batch
