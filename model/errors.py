"""The one exception of this package."""

import difflib

from pocketbert.errors import PocketBERTError


class ModelError(PocketBERTError):
    """A configuration, checkpoint or export that cannot work; the message is one line with the remedy."""


def nearest(name: str, choices: list[str]) -> str:
    """The end of a message about an unknown `name`: what was perhaps meant, or all choices."""
    near = difflib.get_close_matches(name, choices, 1)
    return f": did you mean {near[0]}?" if near else f": choose from {', '.join(choices)}"
