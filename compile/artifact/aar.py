"""What Java and Kotlin take: an Android archive in a folder of Maven's layout, for Gradle, or a plain jar.

The archive is laid out as the Android Gradle Plugin does it: manifest, classes, library, rules for R8, and a Prefab
package with headers and library for apps with C++ of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from compile.artifact.jar import find_javac, java_sources, write_archive, write_jar
from compile.artifact.manifest import Package
from compile.codegen.escape import identifier, xml
from compile.errors import CompileError
from compile.linking.link import ANDROID_API
from compile.targets import Target
from pocketbert.temporary import TemporaryFolder

GROUP = "com.pocketbert"
ABIS = {"aarch64": "arm64-v8a", "x86_64": "x86_64"}

MANIFEST = """<?xml version="1.0" encoding="utf-8"?>
<manifest xmlns:android="http://schemas.android.com/apk/res/android" package="{group}.lib{name}">
    <uses-sdk android:minSdkVersion="{api}" />
</manifest>
"""

# What the library finds by name when it is loaded, R8 must neither rename nor remove.
RULES = "-keep class com.pocketbert.Native { native <methods>; boolean publish(java.lang.String, long, int); }\n"

METADATA = """aarFormatVersion=1.0
aarMetadataVersion=1.0
minCompileSdk=1
minCompileSdkExtension=0
minAndroidGradlePluginVersion=1.0.0
coreLibraryDesugaringEnabled=false
"""

POM = """<?xml version="1.0" encoding="UTF-8"?>
<project xmlns="http://maven.apache.org/POM/4.0.0" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
    xsi:schemaLocation="http://maven.apache.org/POM/4.0.0 https://maven.apache.org/xsd/maven-4.0.0.xsd">
  <modelVersion>4.0.0</modelVersion>
  <groupId>{group}</groupId>
  <artifactId>{name}</artifactId>
  <version>{version}</version>
  <packaging>aar</packaging>
  <description>The model {name}, compiled by PocketBERT</description>
</project>
"""

VERSIONS = """<?xml version="1.0" encoding="UTF-8"?>
<metadata>
  <groupId>{group}</groupId>
  <artifactId>{name}</artifactId>
  <versioning>
    <latest>{version}</latest>
    <release>{version}</release>
    <versions>
      <version>{version}</version>
    </versions>
  </versioning>
</metadata>
"""


def write_aar(folder: Path, name: str, target: Target) -> Package:
    """Write `<name>.aar` and `maven/` into the artifact `folder`, which has its library and headers."""
    facts = {"group": GROUP, "name": identifier(name), "version": package_version(), "api": str(ANDROID_API)}
    library, aar = folder / f"lib{name}.so", folder / f"{name}.aar"
    with TemporaryFolder() as work:
        classes = work / "classes.jar"
        write_jar(classes)
        write_archive(aar, _entries(classes, library, folder / "include", target, facts))
    write_repository(folder / "maven", aar, facts)
    return Package(aar.name, "maven", f"{GROUP}:{name}:{facts['version']}")


def _entries(
    classes: Path, library: Path, headers: Path, target: Target, facts: dict[str, str]
) -> dict[str, bytes | Path]:
    return {
        "AndroidManifest.xml": _xml(MANIFEST, facts).encode(),
        "classes.jar": classes,
        "R.txt": b"",
        "proguard.txt": RULES.encode(),
        "META-INF/com/android/build/gradle/aar-metadata.properties": METADATA.encode(),
        f"jni/{ABIS[target.arch]}/{library.name}": library,
        **_prefab(library, headers, target, facts),
    }


def write_plain_jar(folder: Path, name: str, target: Target) -> Package:
    """Write `pocketbert.jar`, the classes alone: Java on Linux loads the library from its file."""
    write_jar(folder / "pocketbert.jar")
    return Package("pocketbert.jar")


# What --package makes: each writes into an artifact folder and says what and where.
PACKAGES: dict[str, Callable[[Path, str, Target], Package]] = {"aar": write_aar, "jar": write_plain_jar}


def check_package(kind: str, target: Target) -> None:
    """Raises CompileError if this package cannot be made here for `target`."""
    if kind not in PACKAGES:
        raise CompileError(f"--package {kind}: choose one of {', '.join(PACKAGES)}")
    if kind == "aar" and not target.is_android:
        raise CompileError(f"--package aar: {target.name} is not Android; for Java there, choose --package jar")
    find_javac()


def package_version() -> str:
    """PocketBERT's own: Maven and Prefab want a number."""
    try:
        return version("pocketbert")
    except PackageNotFoundError:
        return "0"


def _prefab(library: Path, headers: Path, target: Target, facts: dict[str, str]) -> dict[str, bytes | Path]:
    """The Prefab package with the model's name, whose one module of that name has all headers of the artifact."""
    abi = ABIS[target.arch]
    module = f"prefab/modules/{facts['name']}"
    package = {"schema_version": 2, "name": facts["name"], "version": facts["version"], "dependencies": []}
    # "ndk" must be there and plays no part for a library without a C++ library.
    platform = {"abi": abi, "api": ANDROID_API, "ndk": 26, "stl": "none", "static": False}
    return {
        "prefab/prefab.json": _json(package),
        f"{module}/module.json": _json({"export_libraries": []}),
        **{f"{module}/include/{header.name}": header for header in sorted(headers.iterdir())},
        f"{module}/libs/android.{abi}/abi.json": _json(platform),
        f"{module}/libs/android.{abi}/{library.name}": library,
    }


def _xml(template: str, facts: dict[str, str]) -> str:
    return template.format_map({key: xml(value) for key, value in facts.items()})


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def write_repository(folder: Path, aar: Path, facts: dict[str, str]) -> None:
    """A Maven repository that holds `aar` and the sources of its classes."""
    place = folder.joinpath(*facts["group"].split("."), facts["name"])
    release = place / facts["version"]
    release.mkdir(parents=True)
    stem = f"{facts['name']}-{facts['version']}"
    try:
        os.link(aar, release / f"{stem}.aar")  # the same file twice: models are large
    except OSError:
        shutil.copy(aar, release / f"{stem}.aar")
    (release / f"{stem}.pom").write_text(_xml(POM, facts))
    (place / "maven-metadata.xml").write_text(_xml(VERSIONS, facts))
    write_archive(release / f"{stem}-sources.jar", java_sources())
    for file in [*release.iterdir(), place / "maven-metadata.xml"]:
        digests = [hashlib.new(algorithm) for algorithm in ("md5", "sha1", "sha256", "sha512")]
        with file.open("rb") as content:
            while chunk := content.read(1 << 20):
                for digest in digests:
                    digest.update(chunk)
        for digest in digests:
            file.with_name(f"{file.name}.{digest.name}").write_text(digest.hexdigest())
