"""Facts that rooms hand to each other are dataclasses that nobody changes on the way."""

import dataclasses
import importlib
import pkgutil


def changeable(package: str) -> set[str]:
    """Names of the dataclasses in a room that can be changed."""
    room = importlib.import_module(package)
    modules = [m.name for m in pkgutil.walk_packages(room.__path__, f"{package}.") if not m.name.endswith("__main__")]
    return {
        name
        for module in map(importlib.import_module, modules)
        for name, kind in vars(module).items()
        if isinstance(kind, type) and kind.__module__ == module.__name__ and dataclasses.is_dataclass(kind)
        if not kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    }
