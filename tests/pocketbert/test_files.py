"""A file is whole or as it was before."""

import errno
import os
import stat
from pathlib import Path

import pytest

from pocketbert.errors import PocketBERTError
from pocketbert.files import files_written_whole, write_whole, written_whole


class OwnError(PocketBERTError):
    """A room's."""


def test_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with written_whole(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert os.listdir(path.parent) == ["file"]


def test_new_file_has_the_rights_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", "é")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert (tmp_path / "file").read_bytes() == "é".encode()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("odd")])
def test_what_was_there_stays_when_the_block_fails(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with written_whole(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises((KeyboardInterrupt, ValueError)):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("database or disk is full")],
)
def test_full_disk_is_an_error_of_the_room(error: Exception, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OwnError, match=f"cannot write {path}: disk full; what was"), written_whole(path, OwnError):
        raise error
    with pytest.raises(OwnError, match=f"cannot write {tmp_path}: disk full"), files_written_whole(tmp_path, OwnError):
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OwnError, match=r"Not a directory|File exists"):
        write_whole(tmp_path / "file" / "x", b"", OwnError)


def test_several_files_appear_together(tmp_path: Path) -> None:
    with files_written_whole(tmp_path) as folder:
        (folder / "m.onnx").write_text("needs the data")
        (folder / "m.onnx.data").write_text("data")
        assert [p.name for p in tmp_path.iterdir()] == [folder.name]
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.data"]

    def fail() -> None:
        with files_written_whole(tmp_path) as folder:
            (folder / "m.onnx").write_text("half")
            raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        fail()
    assert (tmp_path / "m.onnx").read_text() == "needs the data"
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.data"]
