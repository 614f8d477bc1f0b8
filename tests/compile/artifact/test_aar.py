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
from compile.artifact.aar import write_aar
from compile.artifact.maven import Coordinates, package_version
from compile.running.load import read_manifest

ANDROID = "{http://schemas.android.com/apk/res/android}"
POM = "{http://maven.apache.org/POM/4.0.0}"
MODEL = Coordinates("com.example.models", "mobilebert", "1.2")
PLACE = "maven/com/example/models/mobilebert/1.2"

pytestmark = pytest.mark.skipif(
    shutil.which("javac") is None, reason="needs a JDK: Debian package default-jdk-headless"
)


@pytest.fixture(scope="module")
def artifact(mobilebert_android: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of MobileBERT for Android, with its archive."""
    folder = tmp_path_factory.mktemp("aar") / "artifact"
    shutil.copytree(mobilebert_android, folder)
    write_aar(folder, read_manifest(folder), MODEL)
    return folder


@pytest.fixture
def archive(artifact: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(artifact / PLACE / "mobilebert-1.2.aar")


def test_archive_holds_what_gradle_looks_for(archive: zipfile.ZipFile, artifact: Path) -> None:
    assert archive.testzip() is None
    names = archive.namelist()
    assert len(set(names)) == len(names)
    assert {"AndroidManifest.xml", "classes.jar", "R.txt", "jni/arm64-v8a/libmobilebert.so"} <= set(names)
    assert b"Apache License" in archive.read("META-INF/LICENSE")
    assert archive.read("jni/arm64-v8a/libmobilebert.so") == (artifact / "libmobilebert.so").read_bytes()
    metadata = archive.read("META-INF/com/android/build/gradle/aar-metadata.properties").decode()
    assert {"aarFormatVersion=1.0", "aarMetadataVersion=1.0"} <= set(metadata.split())


def test_manifest_names_a_package_of_its_own_and_android_6(archive: zipfile.ZipFile) -> None:
    manifest = xml.fromstring(archive.read("AndroidManifest.xml"))
    assert manifest.tag == "manifest"
    assert manifest.get("package") == "com.example.models.libmobilebert"
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
    assert len(libraries) == 1
    for entry in libraries:
        assert entry.compress_type == zipfile.ZIP_STORED
        offset = data_offset(artifact / PLACE / "mobilebert-1.2.aar", entry)
        assert offset % 16384 == 0
        with (artifact / PLACE / "mobilebert-1.2.aar").open("rb") as file:
            file.seek(offset)
            assert file.read(4) == b"\x7fELF"


def test_prefab_package_has_the_headers_and_leaves_the_library_to_jni(archive: zipfile.ZipFile, artifact: Path) -> None:
    package = json.loads(archive.read("prefab/prefab.json"))
    assert (package["schema_version"], package["name"], package["dependencies"]) == (2, "mobilebert", [])
    assert re.fullmatch(r"\d+(\.\d+){0,3}", package["version"])  # all that CMake takes
    module = "prefab/modules/mobilebert/"
    assert json.loads(archive.read(module + "module.json")) == {"export_libraries": []}
    headers = {path.name for path in (artifact / "include").iterdir()}
    prefix = module + "include/"
    assert {name.removeprefix(prefix) for name in archive.namelist() if name.startswith(prefix)} == headers
    assert "mobilebert.h" in headers


def runtime_file(artifact: Path, ending: str) -> zipfile.ZipFile:
    number = package_version()
    return zipfile.ZipFile(artifact / f"maven/com/pocketbert/runtime/{number}/runtime-{number}{ending}")


def test_classes_are_in_the_runtime_alone_so_that_two_models_live_in_one_app(
    archive: zipfile.ZipFile, artifact: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(archive.extract("classes.jar", tmp_path)) as jar:
        assert jar.namelist() == []
    with runtime_file(artifact, ".jar") as jar:
        assert {"com/pocketbert/Model.class", "META-INF/LICENSE"} <= set(jar.namelist())


def test_classes_are_of_java_8_and_are_what_the_rules_keep(artifact: Path) -> None:
    with runtime_file(artifact, ".jar") as jar:
        classes = {name: jar.read(name) for name in jar.namelist() if name.endswith(".class")}
        rules = jar.read("META-INF/proguard/pocketbert.pro").decode()  # where R8 looks for them
    assert {"com/pocketbert/Model.class", "com/pocketbert/Native.class"} <= set(classes)
    for data in classes.values():
        magic, _, major = struct.unpack(">LHH", data[:8])
        assert (magic, major) == (0xCAFEBABE, 52)
    kept = re.fullmatch(r"-keep class ([\w.]+) \{ native <methods>; boolean (\w+)\((.*)\); \}\n", rules)
    assert kept
    # What jni.c asks the virtual machine for.
    native = classes[kept[1].replace(".", "/") + ".class"]
    arguments = {"java.lang.String": "Ljava/lang/String;", "long": "J", "int": "I"}
    assert kept[2].encode() in native
    assert f"({''.join(arguments[a] for a in kept[3].split(', '))})Z".encode() in native


def test_maven_folder_leads_to_the_archive_and_from_there_to_the_runtime(artifact: Path) -> None:
    metadata = xml.parse(artifact / PLACE / "../maven-metadata.xml").getroot()
    assert [metadata.findtext(key) for key in ("groupId", "artifactId")] == ["com.example.models", "mobilebert"]
    assert [v.text for v in metadata.iter("version")] == ["1.2"]
    pom = xml.parse(artifact / PLACE / "mobilebert-1.2.pom").getroot()
    coordinates = [pom.findtext(POM + key) for key in ("groupId", "artifactId", "version", "packaging")]
    assert coordinates == ["com.example.models", "mobilebert", "1.2", "aar"]
    (needed,) = pom.iter(POM + "dependency")
    names = [needed.findtext(POM + key) for key in ("groupId", "artifactId", "version")]
    assert names == ["com.pocketbert", "runtime", package_version()]
    runtime = artifact / "maven" / Path(*names[0].split("."), names[1], names[2]) / f"{names[1]}-{names[2]}.pom"
    for root in (pom, xml.parse(runtime).getroot()):
        assert root.findtext(f"{POM}licenses/{POM}license/{POM}name") == "Apache-2.0"
        assert root.findtext(POM + "name")
        assert root.findtext(POM + "description")


def test_runtime_has_sources_and_documentation(artifact: Path) -> None:
    with runtime_file(artifact, "-sources.jar") as sources:
        assert b"public final class Model" in sources.read("com/pocketbert/Model.java")
    with runtime_file(artifact, "-javadoc.jar") as javadoc:
        assert b"Model" in javadoc.read("com/pocketbert/Model.html")


def test_library_is_in_the_folder_and_in_the_archive_and_nowhere_else(artifact: Path) -> None:
    size = (artifact / "libmobilebert.so").stat().st_size
    large = [path.relative_to(artifact).as_posix() for path in artifact.rglob("*") if path.stat().st_size >= size]
    assert sorted(large) == ["libmobilebert.so", f"{PLACE}/mobilebert-1.2.aar"]


def test_every_file_of_the_maven_folder_has_its_checksums(artifact: Path) -> None:
    files = [path for path in (artifact / "maven").rglob("*") if path.is_file()]
    digests = {".md5", ".sha1", ".sha256", ".sha512"}
    whole = [path for path in files if path.suffix not in digests]
    assert len(whole) == 3 + 5  # the model's archive, POM and list of versions; the runtime's, and three jars
    for path in whole:
        for kind in digests:
            wanted = hashlib.new(kind[1:], path.read_bytes()).hexdigest()
            assert path.with_name(path.name + kind).read_text() == wanted


def test_same_artifact_same_bytes(artifact: Path, mobilebert_android: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(mobilebert_android, again)
    write_aar(again, read_manifest(again), MODEL)
    for path in (artifact / "maven").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(artifact)).read_bytes(), path.name


def test_model_that_is_called_as_the_runtime_is(mobilebert_android: Path, tmp_path: Path) -> None:
    with pytest.raises(compile.CompileError, match="give another --name or --group"):
        write_aar(tmp_path, read_manifest(mobilebert_android), Coordinates("com.pocketbert", "runtime", "1"))
    assert list(tmp_path.iterdir()) == []


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
    with pytest.raises(compile.CompileError, match="choose one of aar, "):
        compile.build(package="zip")
