"""The exceptions of this room."""

from pocketbert.errors import PocketBERTError


class PassError(PocketBERTError):
    """A model that cannot be read, checked, run or written, or a pass that broke it; the message names the remedy."""


class BrokenPassError(PassError):
    """A pass that failed on a model, or changed what it computes. reason: how, as a predicate of the pass."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"pass {name!r} {reason}; --skip {name}")
        self.reason = reason
