"""The one exception of this package."""

from pocketbert.errors import PocketBERTError


class PassError(PocketBERTError):
    """A model that cannot be read, checked, run or written, or a pass that broke it; the message names the remedy."""
