"""The one exception of this package."""


class PassError(Exception):
    """A model that cannot be read, checked, run or written, or a pass that broke it; the message names the remedy."""
