"""A command that is stopped at any moment leaves nothing, or what the next one removes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pocketbert import files, temporary
from pocketbert.errors import PocketBERTError
from pocketbert.temporary import TemporaryFolder, sweep


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


def test_folder_of_another_user_stays(scratch: Path, dead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary.os, "getuid", lambda: 12345)
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
    make = temporary.tempfile.mkdtemp
    lost: list[str] = []

    def make_and_lose(*arguments: object) -> str:
        made = make(*arguments)  # type: ignore[call-overload]
        if not lost:
            os.rmdir(made)
            lost.append(made)
        return made

    monkeypatch.setattr(temporary.tempfile, "mkdtemp", make_and_lose)
    with TemporaryFolder(scratch) as folder:
        assert folder.is_dir()
        assert str(folder) not in lost


@pytest.fixture
def build(tiny_file: Path, tmp_path: Path, scratch: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """build(): a build into tmp_path/out/deep/er, far enough to have begun its artifact."""
    started = []

    def start(*before: str) -> subprocess.Popen:
        command = [*before, sys.executable, "-m", "compile", str(tiny_file), "--target", "host", "--seq-len", "4"]
        process = subprocess.Popen(
            [*command, "--out", tmp_path / "out" / "deep" / "er"],
            env=os.environ | {"TMPDIR": str(scratch)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        while not list(tmp_path.glob("out/deep/.pocketbert-*/work/*")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_that_can_be_caught_leaves_nothing(
    number: signal.Signals, build: Callable, tmp_path: Path, scratch: Path
) -> None:
    process = build()
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert error.splitlines()[-1].startswith(f"stopped by {number.name}")
    assert "Traceback" not in error
    assert names(tmp_path, scratch) == ["given", "scratch"]


def test_what_kill_leaves_the_next_build_removes(build: Callable, tmp_path: Path, scratch: Path) -> None:
    killed = build()
    killed.kill()
    killed.communicate()
    assert names(scratch)
    assert names(tmp_path / "out" / "deep")
    after = build()
    after.communicate(timeout=300)
    assert after.returncode == 0
    assert names(scratch) == []
    assert names(tmp_path / "out" / "deep") == ["er"]


def test_hangup_is_ignored_where_it_was(build: Callable, tmp_path: Path) -> None:
    process = build("nohup")
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert (tmp_path / "out" / "deep" / "er" / "manifest.json").exists()


def test_file_written_whole_leaves_nothing_beside_it_for_long(scratch: Path, dead: Path) -> None:
    """Its temporary folder is of the same kind, so the next file's writer sweeps a dead one's."""
    temporary._sweep_once.cache_clear()
    files.write_whole(scratch / "file", "x")
    assert names(scratch) == ["file"]


def test_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to("real")
    files.write_whole(tmp_path / "link", "after")
    with files.files_written_whole(tmp_path) as folder:
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
        files.write_whole(place, "x")
    assert (place.stat().st_ino, place.stat().st_mode) == (before.st_ino, before.st_mode)
