"""The one exception of this room."""

from pocketbert.errors import PocketBERTError


class ModelError(PocketBERTError):
    """A configuration, checkpoint or export that cannot work; the message is one line with the remedy."""


class NotOurs(ModelError):
    """A model that our own core does not have, as it stands; `transformers` may."""
