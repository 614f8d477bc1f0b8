"""The one exception of this package, and how others are quoted in it."""


class PassError(Exception):
    """A model that cannot be read, checked, run or written, or a pass that broke it; the message names the remedy."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
