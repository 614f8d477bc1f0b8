"""The iOS libraries as an XCFramework, for devices and for the simulator, zipped as Xcode and SwiftPM take it.

Each is a framework with headers and a module map, so that Swift says `import <name>` and calls the C interface.
"""

from __future__ import annotations

import plistlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compile.artifact.jar import write_archive
from compile.artifact.manifest import Manifest, Package
from compile.artifact.maven import Coordinates
from compile.targets import TARGETS, Target

MODULE_MAP = """framework module {name} {{
  umbrella header "{name}.h"
  export *
}}
"""


def write_xcframework(
    folder: Path, manifest: Manifest, coordinates: Coordinates, others: Sequence[tuple[Path, Manifest]]
) -> Package:
    """Write `<name>.xcframework.zip` into the artifact `folder`: its own library and those of `others`."""
    name, entries, libraries = manifest.name, dict[str, bytes | Path](), []
    for place, facts in ((folder, manifest), *others):
        target = TARGETS[facts.target]
        identifier = "ios-arm64-simulator" if target.is_simulator else "ios-arm64"
        libraries.append(_library(name, identifier, target))
        framework = f"{name}.xcframework/{identifier}/{name}.framework"
        entries |= {
            f"{framework}/{name}": place / facts.library,
            f"{framework}/Headers/{name}.h": place / "include" / f"{name}.h",
            f"{framework}/Headers/pocketbert.h": place / "include" / "pocketbert.h",
            f"{framework}/Modules/module.modulemap": MODULE_MAP.format(name=name).encode(),
            f"{framework}/Info.plist": plistlib.dumps(_framework(coordinates, target)),
        }
    about = {"AvailableLibraries": libraries, "CFBundlePackageType": "XFWK", "XCFrameworkFormatVersion": "1.0"}
    entries[f"{name}.xcframework/Info.plist"] = plistlib.dumps(about)
    path = folder / f"{name}.xcframework.zip"
    write_archive(path, entries)
    return Package(path.name)


def _library(name: str, identifier: str, target: Target) -> dict[str, Any]:
    facts = {
        "BinaryPath": f"{name}.framework/{name}",
        "LibraryIdentifier": identifier,
        "LibraryPath": f"{name}.framework",
        "SupportedArchitectures": ["arm64"],
        "SupportedPlatform": "ios",
    }
    return facts | ({"SupportedPlatformVariant": "simulator"} if target.is_simulator else {})


def _framework(coordinates: Coordinates, target: Target) -> dict[str, Any]:
    return {
        "CFBundleExecutable": coordinates.name,
        "CFBundleIdentifier": f"{coordinates.group}.{coordinates.name}".replace("_", "-"),
        "CFBundleInfoDictionaryVersion": "6.0",
        "CFBundleName": coordinates.name,
        "CFBundlePackageType": "FMWK",
        "CFBundleShortVersionString": coordinates.version,
        "CFBundleSupportedPlatforms": ["iPhoneSimulator" if target.is_simulator else "iPhoneOS"],
        "CFBundleVersion": coordinates.version,
        "MinimumOSVersion": target.least_version,
    }
