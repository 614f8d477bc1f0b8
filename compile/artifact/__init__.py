"""The folder that a build leaves: library, headers, manifest, packages, report."""
