"""A folder of Maven's layout, for Gradle: com.pocketbert:runtime, which has the classes, and models that need it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from compile.artifact.jar import java_sources, write_archive, write_jar, write_javadoc
from compile.artifact.licence import licence
from compile.codegen.escape import xml

GROUP = "com.pocketbert"
RUNTIME = "runtime"
LICENCE = "META-INF/LICENSE"

# What a library finds by name when it is loaded, R8 must neither rename nor remove: it reads this place of any jar.
RULES_FILE = "META-INF/proguard/pocketbert.pro"
RULES = "-keep class com.pocketbert.Native { native <methods>; boolean publish(java.lang.String, long, int); }\n"

POM = """<?xml version="1.0" encoding="UTF-8"?>
<project xmlns="http://maven.apache.org/POM/4.0.0" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
    xsi:schemaLocation="http://maven.apache.org/POM/4.0.0 https://maven.apache.org/xsd/maven-4.0.0.xsd">
  <modelVersion>4.0.0</modelVersion>
  <groupId>{group}</groupId>
  <artifactId>{name}</artifactId>
  <version>{version}</version>
  <packaging>{packaging}</packaging>
  <name>{title}</name>
  <description>{description}</description>
  <licenses>
    <license>
      <name>Apache-2.0</name>
      <url>https://www.apache.org/licenses/LICENSE-2.0.txt</url>
      <comments>{comments}</comments>
    </license>
  </licenses>
{dependencies}</project>
"""

DEPENDENCY = """  <dependencies>
    <dependency>
      <groupId>{group}</groupId>
      <artifactId>{name}</artifactId>
      <version>{version}</version>
      <scope>compile</scope>
    </dependency>
  </dependencies>
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


@dataclass(frozen=True)
class Coordinates:
    """What Maven calls an artifact."""

    group: str
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.group}:{self.name}:{self.version}"

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.version}"

    def place(self, repository: Path) -> Path:
        """The folder of this version, which is made if need be."""
        folder = repository.joinpath(*self.group.split("."), self.name, self.version)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def package_version() -> str:
    """PocketBERT's own: Maven and Prefab want a number."""
    try:
        return version("pocketbert")
    except PackageNotFoundError:
        return "0"


def runtime_coordinates() -> Coordinates:
    return Coordinates(GROUP, RUNTIME, package_version())


def write_runtime(repository: Path) -> None:
    """com.pocketbert:runtime: the classes, their sources and their documentation, which all models share."""
    coordinates = runtime_coordinates()
    release, common = coordinates.place(repository), {LICENCE: licence()}
    write_jar(release / f"{coordinates.stem}.jar", common | {RULES_FILE: RULES.encode()})
    write_archive(release / f"{coordinates.stem}-sources.jar", java_sources() | common)
    write_javadoc(release / f"{coordinates.stem}-javadoc.jar", common)
    facts = {
        "packaging": "jar",
        "title": "PocketBERT's classes",
        "description": "Opens models that PocketBERT compiled, for Java and Kotlin",
        "comments": "",
    }
    finish(repository, coordinates, facts)


def finish(
    repository: Path, coordinates: Coordinates, facts: Mapping[str, str], needs: Coordinates | None = None
) -> None:
    """The POM of a version whose files are there, the list of versions, and every file's checksums."""
    release, names = coordinates.place(repository), vars(coordinates)
    dependencies = _xml(DEPENDENCY, vars(needs)) if needs else ""
    pom = POM.replace("{dependencies}", dependencies)
    (release / f"{coordinates.stem}.pom").write_text(_xml(pom, {**facts, **names}))
    (release.parent / "maven-metadata.xml").write_text(_xml(VERSIONS, names))
    for file in [*release.iterdir(), release.parent / "maven-metadata.xml"]:
        digests = [hashlib.new(algorithm) for algorithm in ("md5", "sha1", "sha256", "sha512")]
        with file.open("rb") as content:
            while chunk := content.read(1 << 20):
                for digest in digests:
                    digest.update(chunk)
        for digest in digests:
            file.with_name(f"{file.name}.{digest.name}").write_text(digest.hexdigest())


def _xml(template: str, facts: Mapping[str, str]) -> str:
    return template.format_map({key: xml(value) for key, value in facts.items()})
