"""The one exception of this room."""

from pocketbert.errors import PocketBERTError


class TuneError(PocketBERTError):
    """Something the user can mend: the message names what is wrong, its value and the remedy, in one line."""
