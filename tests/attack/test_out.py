"""--out: a build replaces what a build made, and nothing else."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import compile
from compile.artifact import folder as artifact_folder
from compile.artifact.folder import require_replaceable, staging
from compile.artifact.manifest import seal
from compile.errors import CompileError

MANIFEST = '{"manifest_version": 3, "name": "a browser extension"}'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny: Callable) -> dict[str, bytes]:
    """The files of an artifact by their path in it, to be laid out again and again."""
    import onnx

    place = tmp_path_factory.mktemp("made")
    onnx.save(tiny(), place / "tiny.onnx")
    folder = compile.build(place / "tiny.onnx", target="host", seq_len=4, out=place / "out").folder
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def artifact(made: dict[str, bytes], tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    write(folder, made)
    return folder


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def tree(folder: Path) -> dict[str, bytes | str]:
    """Everything in a folder, links as what they point to."""
    return {
        p.relative_to(folder).as_posix(): os.readlink(p) if p.is_symlink() else b"" if p.is_dir() else p.read_bytes()
        for p in folder.rglob("*")
    }


def replace(out: Path) -> None:
    """What a build does to `out`, without the build."""
    with staging(out) as folder:
        (folder / "new").write_text("new")


def test_manifest_lists_every_file_with_its_digest(made: dict[str, bytes]) -> None:
    import hashlib

    listed = json.loads(made["manifest.json"])["files"]
    assert listed == {n: hashlib.sha256(c).hexdigest() for n, c in made.items() if n != "manifest.json"}
    assert len(listed) >= 8


def test_artifact_is_replaced(artifact: Path) -> None:
    replace(artifact)
    assert [p.name for p in artifact.iterdir()] == ["new"]
    assert [p.name for p in artifact.parent.iterdir()] == ["artifact"]


def test_artifact_is_replaced_where_folders_cannot_change_places(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_folder, "_exchange", lambda *_: False)
    replace(artifact)
    assert [p.name for p in artifact.iterdir()] == ["new"]
    assert [p.name for p in artifact.parent.iterdir()] == ["artifact"]


def test_artifact_of_before_survives_a_rename_that_fails(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename = tree(artifact), Path.rename

    def fail(path: Path, to: Path) -> Path:
        if path.name != "old" and to == artifact:
            raise OSError(5, "Input/output error")
        return rename(path, to)

    monkeypatch.setattr(artifact_folder, "_exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output"):
        replace(artifact)
    assert tree(artifact) == before
    assert [p.name for p in artifact.parent.iterdir()] == ["artifact"]


@pytest.mark.parametrize(
    "files",
    [
        {"manifest.json": MANIFEST, "background.js": "x"},
        {"manifest.json": "[]"},
        {"manifest.json": "{}"},
        {"manifest.json": '{"format": 2, "name": "m", "manifest_sha256": ""}'},
        {"manifest.json": "not JSON"},
        {"manifest.json": "[" * 100_000},
        {"thesis.tex": "x"},
        {".hidden": "x"},
        {"manifest.json/nested": "x"},
    ],
    ids=lambda files: next(iter(files.items()))[1][:20],
)
def test_folder_that_no_build_made_is_refused(files: dict[str, str], tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    write(mine, {name: text.encode() for name, text in files.items()})
    before = tree(mine)
    with pytest.raises(CompileError, match="not an artifact") as refusal:
        replace(mine)
    assert len(str(refusal.value).splitlines()) == 1
    assert tree(mine) == before
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["notes.txt", "include/mine.h", ".git/config", "work/x", "cmake2/x.cmake", "empty/"])
def test_users_own_file_in_an_artifact_is_refused_and_named(name: str, artifact: Path) -> None:
    if name.endswith("/"):
        (artifact / name).mkdir()
    else:
        write(artifact, {name: b"mine"})
    before = tree(artifact)
    with pytest.raises(CompileError, match=f"holds '{name.split('/')[0]}"):
        replace(artifact)
    assert tree(artifact) == before


def test_users_own_file_that_comes_during_the_build_stays(artifact: Path) -> None:
    with pytest.raises(CompileError, match=r"notes\.txt"), staging(artifact):
        (artifact / "notes.txt").write_text("mine")
    assert (artifact / "notes.txt").read_text() == "mine"
    assert (artifact / "manifest.json").exists()


@pytest.mark.parametrize("change", [lambda t: t.replace('"name"', '"mane"', 1), lambda t: t[:-20], lambda t: ""])
def test_artifact_whose_manifest_is_damaged_is_refused(change: Callable[[str], str], artifact: Path) -> None:
    manifest = artifact / "manifest.json"
    manifest.write_text(change(manifest.read_text()))
    with pytest.raises(CompileError, match="not an artifact"):
        replace(artifact)


def test_artifact_of_an_older_version_is_refused(artifact: Path) -> None:
    """It has our seal, but does not say what is its own."""
    data = json.loads((artifact / "manifest.json").read_text())
    del data["files"], data["manifest_sha256"]
    (artifact / "manifest.json").write_text(seal(data))
    with pytest.raises(CompileError, match="older version"):
        replace(artifact)


def test_list_that_leads_outside_removes_nothing_there(artifact: Path) -> None:
    """A seal can be made by anyone: names in the list are only compared, never opened."""
    (artifact.parent / "secret").write_text("mine")
    data = json.loads((artifact / "manifest.json").read_text())
    data["files"] |= {"../secret": "", str(artifact.parent / "secret"): ""}
    del data["manifest_sha256"]
    (artifact / "manifest.json").write_text(seal(data))
    replace(artifact)
    assert (artifact.parent / "secret").read_text() == "mine"


def test_link_to_an_artifact_is_followed(artifact: Path) -> None:
    link = artifact.parent / "link"
    link.symlink_to("artifact")
    replace(link)
    assert os.readlink(link) == "artifact"
    assert [p.name for p in artifact.iterdir()] == ["new"]


def test_link_to_nothing_yet_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "place" / "artifact")
    replace(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "place" / "artifact" / "new").exists()


def test_link_to_a_folder_of_the_users_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "mine", {"thesis.tex": b"x"})
    (tmp_path / "link").symlink_to("mine")
    with pytest.raises(CompileError, match="not an artifact"):
        replace(tmp_path / "link")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_link_that_leads_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(CompileError, match="cannot be used"):
        replace(tmp_path / "link")


@pytest.mark.parametrize("name", ["libtiny.so", "include", "extra", "manifest.json"])
def test_link_inside_an_artifact_is_refused(name: str, artifact: Path) -> None:
    """Also in the place of a file of ours: what it points to was put there by somebody else."""
    moved = artifact.parent / "moved"
    if (artifact / name).exists():
        (artifact / name).rename(moved)
    else:
        write(moved, {"thesis.tex": b"x"})
    (artifact / name).symlink_to(moved)
    before = tree(moved) if moved.is_dir() else moved.read_bytes()
    with pytest.raises(CompileError, match=r"no build made|not an artifact"):
        replace(artifact)
    assert (tree(moved) if moved.is_dir() else moved.read_bytes()) == before
    assert (artifact / name).is_symlink()


@pytest.mark.parametrize("below", ["", "include"])
def test_folder_that_the_command_runs_in_is_refused(
    below: str, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(artifact / below)
    inode = artifact.stat().st_ino
    for out in (Path("."), artifact, Path("../artifact") if not below else Path("..")):
        with pytest.raises(CompileError, match="runs in"):
            replace(out)
    assert artifact.stat().st_ino == inode
    assert (artifact / "manifest.json").exists()


def test_dot_in_an_empty_folder_is_refused_and_the_folder_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CompileError, match="runs in"):
        replace(Path("."))
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("out", ["/", "/proc", "/proc/self", "/dev/null"])
def test_places_of_the_system_are_refused(out: str) -> None:
    with pytest.raises(CompileError):
        replace(Path(out))


def test_refusal_does_not_wait_for_the_model(tiny_file: Path) -> None:
    with pytest.raises(CompileError, match="not an artifact"):
        compile.build("not even there.onnx", target="host", out=tiny_file.parent)


def test_free_and_empty_places_are_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "a/b/c"):
        assert require_replaceable(tmp_path / name) == (tmp_path / name).resolve()
        replace(tmp_path / name)
        assert (tmp_path / name / "new").exists()


def test_parents_go_with_a_build_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staging(tmp_path / "a" / "b" / "c"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_several_builds_into_one_place_at_once(tiny_file: Path, tmp_path: Path) -> None:
    """Each replaces what the one before it made; the last is whole."""
    out = tmp_path / "deep" / "out"
    command = [sys.executable, "-m", "compile", str(tiny_file), "--target", "host", "--seq-len", "4", "--out", str(out)]
    builds = [
        subprocess.Popen([*command, "--threads", str(n)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for n in (1, 2, 3, 4)
    ]
    errors = [build.communicate(timeout=300)[1] for build in builds]
    assert [build.returncode for build in builds] == [0] * 4, errors
    assert "Traceback" not in "".join(errors)
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    with compile.load(out) as library:
        assert library.manifest.default_threads in (1, 2, 3, 4)
    require_replaceable(out)


def test_place_is_never_absent_while_it_is_replaced(artifact: Path, made: dict[str, bytes]) -> None:
    """A reader in another process, who opens the artifact all the time, always finds one."""
    reader = (
        "import os, sys, time\nend = time.monotonic() + 1.5\nseen = 0\nprint('ready', flush=True)\n"
        "while time.monotonic() < end:\n    open(sys.argv[1] + '/manifest.json').close(); seen += 1\nprint(seen)"
    )
    process = subprocess.Popen([sys.executable, "-c", reader, str(artifact)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    while process.poll() is None:
        with staging(artifact) as folder:
            write(folder, {"manifest.json": made["manifest.json"]})
    assert process.returncode == 0
    assert int(process.stdout.read()) > 100
