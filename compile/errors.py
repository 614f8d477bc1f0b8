"""The exceptions of this room."""

from pocketbert.errors import PocketBERTError


class CompileError(PocketBERTError):
    """Something the user can mend: the message names what is wrong, its value and the remedy, in one line."""


class RunError(CompileError):
    """What a library itself refused. code: POCKETBERT_ERROR_… of pocketbert.h without that beginning, as "RANGE"."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code
