"""The console command and `import pocketbert`, also where a user has files of the same names as our packages."""

import subprocess
import sys
from pathlib import Path

import pytest

import pocketbert

ROOT = Path(__file__).parents[2]
ROOMS = ("compile", "model", "passes", "tune")


@pytest.fixture
def console(tmp_path: Path) -> Path:
    """What pip makes of [project.scripts]: a program in a folder of its own."""
    program = tmp_path / "bin" / "pocketbert"
    program.parent.mkdir()
    program.write_text("import sys\nfrom pocketbert.__main__ import main\nsys.exit(main())\n")
    return program


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A working directory with a user's own model.py, compile.py, passes.py and tune.py."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ROOMS:
        (folder / f"{name}.py").write_text(f"raise SystemExit('the user\\'s own {name}.py ran')\n")
    return folder


def ended(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "COLUMNS": "100"}
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("room", [*ROOMS, "profile"])
def test_console_command_does_not_depend_on_the_working_directory(room: str, console: Path, hostile: Path) -> None:
    done = ended(console, room, "--help", cwd=hostile)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: pocketbert {room}")


def test_package_as_a_command_does_its_work_beside_a_users_own_files(hostile: Path) -> None:
    done = ended("-m", "pocketbert", "model", "inspect", "mobilebert-tiny", cwd=hostile)
    assert "as the papers count" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("command", "hiding"), [("compile", "model"), ("compile", "passes"), ("tune", "compile"), ("tune", "model")]
)
def test_module_names_the_file_that_hides_ours(command: str, hiding: str, hostile: Path) -> None:
    for name in ROOMS:
        if name != hiding:
            (hostile / f"{name}.py").unlink()
    done = ended("-m", command, *(["mobilebert", "--target", "host"] if command == "compile" else []), cwd=hostile)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert all(word in done.stderr for word in (str(hostile / f"{hiding}.py"), "hides", f"`{hiding}`", "`pocketbert`"))


def test_file_that_hides_what_a_command_does_not_need_is_let_be(hostile: Path) -> None:
    (hostile / "model.py").unlink()
    assert ended("-m", "model", "inspect", "tinybert", cwd=hostile).returncode == 0


def test_unknown_command_is_one_line(console: Path, tmp_path: Path) -> None:
    done = ended(console, "compil", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "'compile'" in done.stderr


def test_every_public_name_is_there() -> None:
    assert all(getattr(pocketbert, name) is not None for name in pocketbert.__all__)
    assert set(pocketbert.__all__) <= set(dir(pocketbert))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        pocketbert.nonsense  # noqa: B018


def test_import_is_light() -> None:
    loaded = "any(name in sys.modules for name in ('torch', 'tvm', 'onnx', 'numpy', 'rich', *" + repr(ROOMS) + "))"
    done = ended("-c", f"import sys, pocketbert, pocketbert.command; sys.exit({loaded})", cwd=ROOT)
    assert done.returncode == 0


def test_one_class_catches_every_rooms_errors() -> None:
    rooms = (pocketbert.CompileError, pocketbert.ModelError, pocketbert.PassError, pocketbert.TuneError)
    assert all(issubclass(error, pocketbert.PocketBERTError) for error in rooms)
