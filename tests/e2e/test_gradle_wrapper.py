"""The example's Gradle wrapper is Gradle's own and starts the version that its properties name."""

import hashlib
import shutil
import subprocess
from pathlib import Path
from zipfile import ZipFile

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "android"
# As gradle.org publishes it for the wrapper of 8.10.2.
SHA256 = "2db75c40782f5e8ba1fc278a5574bab070adccb2d21ca5a6e5ed840888448046"
MAIN = """package org.gradle.launcher;
public class GradleMain {
    public static void main(String[] arguments) { System.out.println("started with " + String.join(" ", arguments)); }
}
"""


def test_wrapper_jar_is_what_gradle_publishes() -> None:
    jar = (EXAMPLE / "gradle" / "wrapper" / "gradle-wrapper.jar").read_bytes()
    assert hashlib.sha256(jar).hexdigest() == SHA256


@pytest.mark.skipif(not shutil.which("javac"), reason="needs a JDK")
def test_gradlew_starts_the_distribution(tmp_path: Path) -> None:
    """A distribution of one class in place of Gradle, as there may be no network."""
    shutil.copytree(EXAMPLE, tmp_path / "app")
    properties = tmp_path / "app" / "gradle" / "wrapper" / "gradle-wrapper.properties"
    url = "https\\://services.gradle.org/distributions/gradle-8.10.2-bin.zip"
    archive = tmp_path / "gradle-8.10.2-bin.zip"
    text = properties.read_text()
    assert f"distributionUrl={url}\n" in text
    properties.write_text(text.replace(url, archive.as_uri()))
    (tmp_path / "GradleMain.java").write_text(MAIN)
    subprocess.run(["javac", "-d", "classes", "GradleMain.java"], cwd=tmp_path, check=True)
    with ZipFile(tmp_path / "launcher.jar", "w") as jar:
        jar.write(tmp_path / "classes" / "org" / "gradle" / "launcher" / "GradleMain.class",
                  "org/gradle/launcher/GradleMain.class")  # fmt: skip
    with ZipFile(archive, "w") as made:
        for folder in ("", "lib", "bin"):
            made.mkdir(f"gradle-8.10.2/{folder}")
        made.write(tmp_path / "launcher.jar", "gradle-8.10.2/lib/gradle-launcher-8.10.2.jar")
        made.writestr("gradle-8.10.2/bin/gradle", "")
    command = ["./gradlew", "-g", str(tmp_path / "home"), "installDebug"]
    done = subprocess.run(command, cwd=tmp_path / "app", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("installDebug")
