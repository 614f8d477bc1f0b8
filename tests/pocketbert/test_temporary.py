"""Temporary folders: gone with their block, swept where their process is dead, and never anybody else's."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pocketbert import files, temporary
from pocketbert.temporary import TemporaryFolder, locked, sweep


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def dead(scratch: Path) -> Path:
    """What a process that was killed has left."""
    code = (
        "import os, sys; from pocketbert.temporary import TemporaryFolder; folder = TemporaryFolder(sys.argv[1]);"
        "(folder.path / 'weights.bin').write_text('x'); print(folder.path, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, scratch], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    return Path(done.stdout.strip())


def names(*folders: Path) -> list[str]:
    return sorted(p.name for folder in folders for p in folder.iterdir())


def test_folder_goes_with_its_block_and_its_object(scratch: Path) -> None:
    with TemporaryFolder(scratch) as folder:
        (folder / "a").mkdir()
        assert folder.stat().st_mode & 0o777 == 0o700
    object_ = TemporaryFolder(scratch)
    assert names(scratch) == [object_.path.name]
    del object_
    assert names(scratch) == []


def test_folder_of_a_dead_process_is_swept_and_a_live_ones_stays(scratch: Path, dead: Path) -> None:
    assert (dead / "weights.bin").exists()
    with TemporaryFolder(scratch) as live:  # the first here: sweeps
        assert names(scratch) == [live.name]
        sweep(scratch)
        assert live.exists()


def test_folder_whose_forked_child_lives_is_not_swept(scratch: Path) -> None:
    code = (
        "import os, sys; from pocketbert.temporary import TemporaryFolder; folder = TemporaryFolder(sys.argv[1])\n"
        "if os.fork(): os.kill(os.getpid(), 9)\n"
        "print(folder.path, flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, scratch], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    folder = Path(child.stdout.readline().strip())
    child.wait(timeout=60)
    sweep(scratch)
    assert folder.exists()
    child.stdin.close()
    assert not child.stdout.read()  # to its end: the grandchild has gone
    time.sleep(0.1)
    sweep(scratch)
    assert not folder.exists()


@pytest.mark.parametrize(
    "name", ["pocketbert-notes", ".pocketbert-1-abcdefgh", "pocketbert-1-abcdefgh.tmp.d", "xpocketbert-1-abcdefgh.tmp"]
)
def test_folders_with_other_names_are_nobodys_business(name: str, scratch: Path) -> None:
    (scratch / name).mkdir()
    sweep(scratch)
    assert names(scratch) == [name]


def test_link_and_file_with_such_a_name_are_not_followed(scratch: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (scratch / "pocketbert-1-abcdefgh.tmp").symlink_to(tmp_path / "mine")
    (scratch / "pocketbert-2-abcdefgh.tmp").write_text("mine")
    sweep(scratch)
    assert len(names(scratch)) == 2
    assert (tmp_path / "mine").exists()


def test_signal_while_a_folder_is_made_leaves_none(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = os.mkdir

    def make_and_stop(path: Path, mode: int) -> None:
        make(path, mode)
        raise KeyboardInterrupt

    monkeypatch.setattr(temporary.os, "mkdir", make_and_stop)
    with pytest.raises(KeyboardInterrupt):
        TemporaryFolder(scratch)
    assert names(scratch) == []


def test_folder_whose_name_is_taken_gets_another(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = iter(["abcdabcd", "abcdabcd", "12341234"])
    monkeypatch.setattr(temporary.secrets, "token_hex", lambda _: next(random))
    with TemporaryFolder(scratch) as first, TemporaryFolder(scratch) as second:
        assert first != second
        assert first.is_dir()
    assert names(scratch) == []


@pytest.mark.parametrize("user", [os.getuid() + 1, os.getuid() - 1])
def test_folder_of_another_user_stays(user: int, scratch: Path, dead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary.os, "getuid", lambda: user)
    sweep(scratch)
    assert dead.exists()


def test_nothing_is_swept_where_the_file_system_has_no_locks(
    scratch: Path, dead: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(temporary.fcntl, "flock", unsupported)
    sweep(scratch)
    assert dead.exists()
    with TemporaryFolder(scratch) as folder:
        assert folder.is_dir()


def test_folder_that_is_swept_before_it_is_locked_is_made_again(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = os.mkdir
    lost: list[str] = []

    def make_and_lose(path: Path, mode: int) -> None:
        make(path, mode)
        if not lost:
            os.rmdir(path)
            lost.append(str(path))

    monkeypatch.setattr(temporary.os, "mkdir", make_and_lose)
    with TemporaryFolder(scratch) as folder:
        assert folder.is_dir()
        assert str(folder) not in lost


def test_file_written_whole_leaves_nothing_beside_it_for_long(scratch: Path, dead: Path) -> None:
    """Its temporary folder is of the same kind, so the next file's writer sweeps a dead one's."""
    temporary._sweep_once.cache_clear()
    files.write_whole(scratch / "file", "x")
    assert names(scratch) == ["file"]


def test_name_says_whose_it_is_and_is_hidden_beside_a_users_files(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TemporaryFolder(scratch) as folder:
        assert folder.name.startswith(f".pocketbert-{os.getpid()}-")
    monkeypatch.setattr(temporary.tempfile, "tempdir", str(scratch))
    with TemporaryFolder() as folder:
        assert folder.parent == scratch
        assert folder.name.startswith(f"pocketbert-{os.getpid()}-")
        assert temporary._NAME.fullmatch(folder.name)


def test_folder_that_somebody_removed_is_closed_in_silence_and_twice(scratch: Path) -> None:
    folder = TemporaryFolder(scratch)
    folder.path.rmdir()
    folder.close()
    folder.close()


def test_what_a_dying_compiler_still_writes_goes_too(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    with TemporaryFolder(scratch):

        def late(seconds: float) -> None:
            pauses.append(seconds)

        def remove(path: Path, ignore_errors: bool) -> None:
            if len(pauses) > 2:
                os.rmdir(path)

        monkeypatch.setattr(temporary.time, "sleep", late)
        monkeypatch.setattr(temporary.shutil, "rmtree", remove)
    assert len(pauses) == 3
    assert pauses == sorted(pauses)
    assert pauses[0] == 0
    assert 0.05 <= pauses[1] <= sum(pauses) <= 1
    assert names(scratch) == []


def test_closing_and_sweeping_keep_no_file_open(scratch: Path, dead: Path) -> None:
    before = os.listdir("/dev/fd")
    with TemporaryFolder(scratch) as live:
        sweep(scratch)
        os.rename(live, scratch / "elsewhere")
    assert os.listdir("/dev/fd") == before


def test_forked_child_that_ends_leaves_its_parents_folder(scratch: Path) -> None:
    folder = TemporaryFolder(scratch)
    child = os.fork()
    if child == 0:
        folder.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert folder.path.is_dir()
    folder.close()


def test_one_of_two_is_in_the_block_of_a_locked_folder(scratch: Path) -> None:
    order = []

    def second() -> None:
        with locked(scratch):
            order.append("second")

    with locked(scratch):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


def test_a_temporary_folder_that_is_locked_again_does_not_wait_for_itself(scratch: Path) -> None:
    before = os.listdir("/dev/fd")
    with TemporaryFolder(scratch) as folder, locked(folder):
        descriptor = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
    with locked(scratch):
        pass
    assert os.listdir("/dev/fd") == before


def test_lock_that_cannot_be_had_is_done_without(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(temporary.fcntl, "flock", unsupported)
    before = os.listdir("/dev/fd")
    with locked(scratch):
        pass
    with TemporaryFolder(scratch):
        pass
    assert os.listdir("/dev/fd") == before
    assert names(scratch) == []


def test_place_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    sweep(tmp_path / "nowhere")
    with pytest.raises(OSError, match="nowhere"):
        TemporaryFolder(tmp_path / "nowhere")
