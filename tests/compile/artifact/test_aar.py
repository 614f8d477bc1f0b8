"""The Android archive and the Maven folder: laid out as Gradle wants them, aligned, the same whenever they are made."""

import hashlib
import json
import re
import shutil
import struct
import xml.etree.ElementTree as xml
import zipfile
from pathlib import Path

import pytest

import compile
from compile.__main__ import main
from compile.artifact.aar import package_version, write_aar
from compile.targets import TARGETS

ANDROID = "{http://schemas.android.com/apk/res/android}"
POM = "{http://maven.apache.org/POM/4.0.0}"

pytestmark = pytest.mark.skipif(
    shutil.which("javac") is None, reason="needs a JDK: Debian package default-jdk-headless"
)


@pytest.fixture(scope="module")
def artifact(mobilebert_android: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of MobileBERT for Android, with its archive."""
    folder = tmp_path_factory.mktemp("aar") / "artifact"
    shutil.copytree(mobilebert_android, folder)
    write_aar(folder, "mobilebert", TARGETS["arm64-android"])
    return folder


@pytest.fixture
def archive(artifact: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(artifact / "mobilebert.aar")


def test_archive_holds_what_gradle_looks_for(archive: zipfile.ZipFile, artifact: Path) -> None:
    assert archive.testzip() is None
    names = archive.namelist()
    assert len(set(names)) == len(names)
    assert {"AndroidManifest.xml", "classes.jar", "R.txt", "proguard.txt", "jni/arm64-v8a/libmobilebert.so"} <= set(
        names
    )
    assert archive.read("jni/arm64-v8a/libmobilebert.so") == (artifact / "libmobilebert.so").read_bytes()
    metadata = archive.read("META-INF/com/android/build/gradle/aar-metadata.properties").decode()
    assert {"aarFormatVersion=1.0", "aarMetadataVersion=1.0"} <= set(metadata.split())


def test_manifest_names_a_package_of_its_own_and_android_6(archive: zipfile.ZipFile) -> None:
    manifest = xml.fromstring(archive.read("AndroidManifest.xml"))
    assert manifest.tag == "manifest"
    assert manifest.get("package") == "com.pocketbert.libmobilebert"
    (sdk,) = manifest.findall("uses-sdk")
    assert sdk.get(f"{ANDROID}minSdkVersion") == "23"


def data_offset(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of an entry begin, by the header that stands before them."""
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        signature, *_, name, extra = struct.unpack("<4s5H3L2H", file.read(30))
    assert signature == b"PK\x03\x04"
    return entry.header_offset + 30 + name + extra


def test_libraries_are_stored_as_they_are_at_multiples_of_16_kib(archive: zipfile.ZipFile, artifact: Path) -> None:
    libraries = [entry for entry in archive.infolist() if entry.filename.endswith(".so")]
    assert len(libraries) == 2
    for entry in libraries:
        assert entry.compress_type == zipfile.ZIP_STORED
        offset = data_offset(artifact / "mobilebert.aar", entry)
        assert offset % 16384 == 0
        with (artifact / "mobilebert.aar").open("rb") as file:
            file.seek(offset)
            assert file.read(4) == b"\x7fELF"


def test_prefab_package_has_headers_and_library(archive: zipfile.ZipFile, artifact: Path) -> None:
    package = json.loads(archive.read("prefab/prefab.json"))
    assert (package["schema_version"], package["name"], package["dependencies"]) == (2, "mobilebert", [])
    assert re.fullmatch(r"\d+(\.\d+){0,3}", package["version"])  # all that CMake takes
    module = "prefab/modules/mobilebert/"
    assert json.loads(archive.read(module + "module.json")) == {"export_libraries": []}
    abi = json.loads(archive.read(module + "libs/android.arm64-v8a/abi.json"))
    assert (abi["abi"], abi["api"], abi["stl"], abi["static"]) == ("arm64-v8a", 23, "none", False)
    library = archive.read(module + "libs/android.arm64-v8a/libmobilebert.so")
    assert library == (artifact / "libmobilebert.so").read_bytes()
    headers = {path.name for path in (artifact / "include").iterdir()}
    prefix = module + "include/"
    assert {name.removeprefix(prefix) for name in archive.namelist() if name.startswith(prefix)} == headers
    assert "mobilebert.h" in headers


def test_classes_are_of_java_8_and_are_what_the_rules_keep(archive: zipfile.ZipFile, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive.extract("classes.jar", tmp_path)) as jar:
        classes = {name: jar.read(name) for name in jar.namelist()}
    assert {"com/pocketbert/Model.class", "com/pocketbert/Native.class"} <= set(classes)
    for data in classes.values():
        magic, _, major = struct.unpack(">LHH", data[:8])
        assert (magic, major) == (0xCAFEBABE, 52)
    rules = archive.read("proguard.txt").decode()
    kept = re.fullmatch(r"-keep class ([\w.]+) \{ native <methods>; boolean (\w+)\((.*)\); \}\n", rules)
    assert kept
    # What jni.c asks the virtual machine for.
    native = classes[kept[1].replace(".", "/") + ".class"]
    arguments = {"java.lang.String": "Ljava/lang/String;", "long": "J", "int": "I"}
    assert kept[2].encode() in native
    assert f"({''.join(arguments[a] for a in kept[3].split(', '))})Z".encode() in native


def test_maven_folder_leads_to_the_archive(artifact: Path) -> None:
    number = package_version()
    place = artifact / "maven/com/pocketbert/mobilebert"
    metadata = xml.parse(place / "maven-metadata.xml").getroot()
    assert [metadata.findtext(key) for key in ("groupId", "artifactId")] == ["com.pocketbert", "mobilebert"]
    assert [v.text for v in metadata.iter("version")] == [number]
    pom = xml.parse(place / number / f"mobilebert-{number}.pom").getroot()
    coordinates = [pom.findtext(POM + key) for key in ("groupId", "artifactId", "version", "packaging")]
    assert coordinates == ["com.pocketbert", "mobilebert", number, "aar"]
    assert (place / number / f"mobilebert-{number}.aar").samefile(artifact / "mobilebert.aar")
    with zipfile.ZipFile(place / number / f"mobilebert-{number}-sources.jar") as sources:
        assert b"public final class Model" in sources.read("com/pocketbert/Model.java")


def test_every_file_of_the_maven_folder_has_its_checksums(artifact: Path) -> None:
    files = [path for path in (artifact / "maven").rglob("*") if path.is_file()]
    digests = {".md5", ".sha1", ".sha256", ".sha512"}
    whole = [path for path in files if path.suffix not in digests]
    assert len(whole) == 4
    for path in whole:
        for kind in digests:
            wanted = hashlib.new(kind[1:], path.read_bytes()).hexdigest()
            assert path.with_name(path.name + kind).read_text() == wanted


def test_same_artifact_same_bytes(artifact: Path, mobilebert_android: Path, tmp_path: Path) -> None:
    shutil.copytree(mobilebert_android, tmp_path / "again")
    write_aar(tmp_path / "again", "mobilebert", TARGETS["arm64-android"])
    for path in (artifact / "maven").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(artifact)).read_bytes(), path.name


@pytest.mark.parametrize(
    ("target", "package", "java_home", "words"),
    [
        ("host", "aar", None, "not Android"),
        ("arm64-linux", "aar", None, "choose --package jar"),
        ("arm64-android", "aar", "/nowhere", "JAVA_HOME is '/nowhere'"),
        ("host", "jar", "/nowhere", "install a JDK"),
    ],
)
def test_package_that_cannot_be_made_is_refused_before_anything_is_built(
    target: str,
    package: str,
    java_home: str | None,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    if java_home:
        monkeypatch.setenv("JAVA_HOME", java_home)
    arguments = ["no-such-model", "--target", target, "--package", package, "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert list(tmp_path.iterdir()) == []


def test_no_java_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(compile.CompileError, match="javac is not installed: install a JDK"):
        compile.build(package="aar")
    with pytest.raises(compile.CompileError, match="choose one of aar, jar"):
        compile.build(package="zip")
