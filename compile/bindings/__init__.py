"""Packages of a compiled model for other languages: bindings that are made of one description, the C headers."""

from compile.bindings.csharp import CSHARP
from compile.bindings.go import GO
from compile.bindings.rust import RUST
from compile.bindings.write import Language, Model, write_binding

LANGUAGES = {language.package: language for language in (GO, RUST, CSHARP)}

__all__ = ["LANGUAGES", "Language", "Model", "write_binding"]
