"""Commands that are asked to end."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path


def last_words(command: Callable[[], int], number: signal.Signals, said: Path) -> str:
    """The last line on standard error, kept in `said`, of a command in a process of its own that `number` ends."""
    child = os.fork()
    if child == 0:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        with said.open("w") as file:
            os.dup2(file.fileno(), 2)
            sys.stderr = file
            os._exit(command())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + number
    return said.read_text().splitlines()[-1]
