"""Exit codes of all commands, and the errors that lead to them."""

from typing import Final

OK: Final = 0
PROBLEM: Final = 1
"""The command failed, or found a problem."""
USAGE: Final = 2
"""The code with which argparse exits."""
UNREACHABLE: Final = 69
"""No daemon, or no database, answers: EX_UNAVAILABLE of sysexits.h."""
CANNOT_WRITE: Final = 74
"""Output could not be written: EX_IOERR of sysexits.h."""
BAD_CONFIG: Final = 78
"""EX_CONFIG of sysexits.h."""
INTERRUPTED: Final = 130
"""The code by which shells report SIGINT: 128 plus the signal's number."""


UNWRITABLE: Final = "cannot write to standard output: {}. Redirect it to a file or a program that accepts it."


class UsageError(Exception):
    """The arguments contradict each other or are incomplete; the message says what to write."""


class OutputError(Exception):
    """Standard output, or a file that the user named, cannot be written."""


class UnreachableError(Exception):
    """A database does not answer."""
