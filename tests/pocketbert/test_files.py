"""A file is whole or as it was before."""

import errno
import os
import stat
from pathlib import Path

import pytest

from pocketbert.errors import PocketBERTError
from pocketbert.files import digest, files_written_whole, write_whole, written_whole
from pocketbert.reading import read_bytes


class OwnError(PocketBERTError):
    """A room's."""


def test_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
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


def test_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", "after")
    with files_written_whole(tmp_path) as folder:
        (folder / "other").write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "after"


@pytest.mark.parametrize("kind", ["folder", "device", "pipe"])
def test_only_a_file_is_replaced_by_a_file(kind: str, tmp_path: Path) -> None:
    """As root, -o /dev/null would otherwise take the device away from the whole system."""
    place = Path("/dev/null") if kind == "device" else tmp_path / "place"
    if kind == "folder":
        place.mkdir()
    if kind == "pipe":
        os.mkfifo(place)
    before = place.stat()
    with pytest.raises(PocketBERTError, match="not a file"):
        write_whole(place, "x")
    assert (place.stat().st_ino, place.stat().st_mode) == (before.st_ino, before.st_mode)


def test_folders_on_the_way_to_several_files_are_made(tmp_path: Path) -> None:
    with files_written_whole(tmp_path / "new" / "folder") as folder:
        (folder / "file").write_text("x")
    assert os.listdir(tmp_path / "new" / "folder") == ["file"]
    with files_written_whole(str(tmp_path / "new")) as folder:
        pass
    assert os.listdir(tmp_path / "new") == ["folder"]


def test_several_files_move_last_name_first_and_stop_at_what_is_no_file(tmp_path: Path) -> None:
    """`m.onnx` needs `m.onnx.data`, so it comes after it."""
    (tmp_path / "b").mkdir()

    def write() -> None:
        with files_written_whole(tmp_path, OwnError) as folder:
            for name in "abc":
                (folder / name).write_text("new")

    with pytest.raises(OwnError, match=f"cannot write {tmp_path / 'b'}: it is not a file; choose another place"):
        write()
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]


def test_error_of_ours_in_the_block_is_not_wrapped(tmp_path: Path) -> None:
    with pytest.raises(PocketBERTError, match=r"^mine$"), written_whole(tmp_path / "x", OwnError):
        raise PocketBERTError("mine")
    with pytest.raises(PocketBERTError, match=r"^mine$"), files_written_whole(tmp_path, OwnError):
        raise PocketBERTError("mine")


def test_name_with_a_nul_is_an_error_of_the_room() -> None:
    for use in (
        lambda: write_whole("a\0b", b"", OwnError), lambda: files_written_whole("a\0b", OwnError).__enter__(),
        lambda: digest("a\0b", OwnError), lambda: read_bytes("a\0b", OwnError),
    ):  # fmt: skip
        with pytest.raises(OwnError, match=r"^cannot (read|write) .*(NUL|null byte)"):
            use()


def test_reason_is_named_and_what_was_there_is_kept(tmp_path: Path) -> None:
    with (
        pytest.raises(OwnError, match=f"^cannot write {tmp_path}: odd; choose"),
        files_written_whole(tmp_path, OwnError),
    ):
        raise OSError("odd")
    with (
        pytest.raises(OwnError, match=r"No such device; what was there is kept$"),
        written_whole(tmp_path / "x", OwnError),
    ):
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


def test_digest_is_sha256_and_names_what_cannot_be_read(tmp_path: Path) -> None:
    write_whole(tmp_path / "x", b"abc")
    assert digest(tmp_path / "x").startswith("ba7816bf8f01cfea")
    with pytest.raises(OwnError, match=r"cannot read .*nowhere: No such file"):
        digest(tmp_path / "nowhere", OwnError)
