"""The one exception of this package."""


class ModelError(Exception):
    """A configuration, checkpoint or export that cannot work; the message is one line with the remedy."""
