"""House rules that a program can check."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def tracked() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout (Debian package git)")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="needs ruff: pip install -e '.[test]'")
def test_ruff() -> None:
    run(sys.executable, "-m", "ruff", "check", ".")
    run(sys.executable, "-m", "ruff", "format", "--check", ".")


@pytest.mark.skipif(shutil.which("clang-format") is None, reason="needs clang-format: pip install '.[test]'")
def test_c_is_formatted() -> None:
    """As .clang-format says; .clang-format-ignore names what is generated or C++."""
    run("clang-format", "--dry-run", "-Werror", *(str(path) for path in tracked() if path.suffix in (".c", ".h")))


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="needs mypy: pip install -e '.[test]'")
def test_types() -> None:
    run(sys.executable, "-m", "mypy")


@pytest.mark.skipif(importlib.util.find_spec("importlinter") is None, reason="needs pip install import-linter")
def test_rooms_import_only_what_they_may() -> None:
    run(sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")


def test_no_large_file_is_tracked() -> None:
    large = [path.relative_to(ROOT) for path in tracked() if path.stat().st_size > 1 << 20]
    assert large == []


def test_no_build_product_is_tracked() -> None:
    products = {".so", ".o", ".onnx", ".safetensors", ".bin", ".pyc"}
    assert [path.relative_to(ROOT) for path in tracked() if path.suffix in products] == []


def test_every_module_says_what_it_is_for() -> None:
    packages = ("pocketbert", "model", "passes", "compile", "tune")
    silent = [
        path.relative_to(ROOT)
        for path in tracked()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in packages
        and not re.match(r"\s*(#.*\n)*\s*r?\"\"\"", path.read_text())
    ]  # fmt: skip
    assert silent == []


def test_readme_begins_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    commands = ["pip install -e . && python -m compile --target arm64-android", "pip install -e '.[test]' && pytest"]
    places = [text.index(command) for command in commands]
    assert places == sorted(places)
    assert max(places) < 1500


def anchors(document: Path) -> set[str]:
    """What a document's headings are called in links, by GitHub's rule."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_in_the_documents_lead_somewhere() -> None:
    """To a file of the project, and to a heading that it has."""
    broken, links = [], 0
    for document in tracked():
        if document.suffix == ".md":
            for link, heading in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", document.read_text()):
                if "://" not in link:
                    links += 1
                    there = document.parent / link if link else document
                    if not there.exists() or (heading and heading not in anchors(there)):
                        broken.append(f"{document.relative_to(ROOT)}: {link}#{heading}")
    assert broken == []
    assert links > 10


def test_folders_that_documents_name_are_there() -> None:
    """A path in code quotes that begins with one of our rooms."""
    rooms = "pocketbert|model|passes|compile|tune|tests|benchmarks|configs|docs|examples"
    missing = [
        f"{document.relative_to(ROOT)}: {path}"
        for document in tracked()
        if document.suffix == ".md" and document.name != "CHANGELOG.md"
        for path in re.findall(rf"`((?:{rooms})/[\w./-]*)`", document.read_text())
        if not (ROOT / path).exists()
    ]
    assert missing == []


def test_continuous_integration_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    run("bash", "-n", ".ci/run")


def test_ci_installs_versions_that_the_project_allows() -> None:
    """What .ci/lock wrote: a version of each requirement, within its range, and nothing but names and versions."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9.-]+==[0-9a-z.]+", line)] == []
    versions = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = map(Requirement, [*project["dependencies"], *extras["test"], *extras["train"], *extras["tune"]])
    for requirement in wanted:
        if requirement.name != "pocketbert":
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), str(requirement)
