"""The one exception of this room."""


class TuneError(Exception):
    """Something the user can mend: the message names what is wrong, its value and the remedy, in one line."""
