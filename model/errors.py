"""The one exception of this room."""

from pocketbert.errors import PocketBERTError


class ModelError(PocketBERTError):
    """A configuration, checkpoint or export that cannot work; the message is one line with the remedy."""
