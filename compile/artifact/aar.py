"""A model for Android apps: an archive as the Android Gradle Plugin lays it out, in a folder of Maven's layout.

Classes are in com.pocketbert:runtime, which stands in the same folder and once in an app, whatever models that has. For
apps with C++ of their own a Prefab package brings the headers; they open the library by name, as Java does, so that it
is in the archive once.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from compile.artifact.jar import write_archive
from compile.artifact.licence import licence
from compile.artifact.manifest import AbiLibrary, Manifest, Package
from compile.artifact.maven import LICENCE, Coordinates, finish, runtime_coordinates, write_runtime
from compile.codegen.escape import identifier, xml
from compile.errors import CompileError
from compile.linking.link import ANDROID_API
from compile.targets import TARGETS

MANIFEST = """<?xml version="1.0" encoding="utf-8"?>
<manifest xmlns:android="http://schemas.android.com/apk/res/android" package="{group}.lib{name}">
    <uses-sdk android:minSdkVersion="{api}" />
</manifest>
"""

METADATA = """aarFormatVersion=1.0
aarMetadataVersion=1.0
minCompileSdk=1
minCompileSdkExtension=0
minAndroidGradlePluginVersion=1.0.0
coreLibraryDesugaringEnabled=false
"""


def write_aar(
    folder: Path, manifest: Manifest, coordinates: Coordinates, others: Sequence[tuple[Path, Manifest]] = ()
) -> Package:
    """Write `maven/` with the model and the runtime into an artifact folder, which has its library and headers.

    others: artifact folders of the same model for other ABIs.

    Raises CompileError where the coordinates are the runtime's own.
    """
    identifier(coordinates.name)
    runtime = runtime_coordinates()
    if (coordinates.group, coordinates.name) == (runtime.group, runtime.name):
        raise CompileError(
            f"{runtime.group}:{runtime.name} are PocketBERT's own classes: give another --name or --group"
        )
    repository = folder / "maven"
    write_runtime(repository)
    archive = coordinates.place(repository) / f"{coordinates.stem}.aar"
    built = {TARGETS[facts.target].abi: (place, facts) for place, facts in ((folder, manifest), *others)}
    libraries = {abi: place / facts.library for abi, (place, facts) in built.items()}
    write_archive(archive, _entries(libraries, folder / "include", coordinates))
    pom = {
        "packaging": "aar",
        "title": manifest.name,
        "description": f"The model {manifest.name}, compiled by PocketBERT {manifest.versions['pocketbert']}",
        "comments": "The library but for the model's weights, which are under the model's own licence",
    }
    finish(repository, coordinates, pom, runtime)
    held = [AbiLibrary(abi, m.target, m.sizes.library_bytes, m.sha256) for abi, (_, m) in built.items()]
    return Package(archive.relative_to(folder).as_posix(), repository.name, str(coordinates), tuple(held))


def _entries(libraries: Mapping[str, Path], headers: Path, coordinates: Coordinates) -> dict[str, bytes | Path]:
    facts = {**vars(coordinates), "api": str(ANDROID_API)}
    return {
        "AndroidManifest.xml": MANIFEST.format_map({key: xml(value) for key, value in facts.items()}).encode(),
        "classes.jar": _empty_jar(),
        "R.txt": b"",
        "META-INF/com/android/build/gradle/aar-metadata.properties": METADATA.encode(),
        LICENCE: licence(),
        **{f"jni/{abi}/{library.name}": library for abi, library in libraries.items()},
        **_prefab(headers, coordinates),
    }


def _empty_jar() -> bytes:
    """Gradle wants a classes.jar, and this archive has no classes of its own."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w"):
        pass
    return memory.getvalue()


def _prefab(headers: Path, coordinates: Coordinates) -> dict[str, bytes | Path]:
    """The Prefab package with the model's name, whose one module of that name has all headers of the artifact."""
    module = f"prefab/modules/{coordinates.name}"
    package = {"schema_version": 2, "name": coordinates.name, "version": coordinates.version, "dependencies": []}
    return {
        "prefab/prefab.json": _json(package),
        f"{module}/module.json": _json({"export_libraries": []}),
        **{f"{module}/include/{header.name}": header for header in sorted(headers.iterdir())},
    }


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
