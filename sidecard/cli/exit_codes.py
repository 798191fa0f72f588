"""Exit codes of all commands, and the errors that lead to them."""

from typing import Final

OK: Final = 0
PROBLEM: Final = 1
"""The command failed, or found a problem."""
USAGE: Final = 2
"""The code with which argparse exits."""
UNREACHABLE: Final = 69
"""No daemon, or no database, answers: EX_UNAVAILABLE of sysexits.h."""
BAD_CONFIG: Final = 78
"""EX_CONFIG of sysexits.h."""
INTERRUPTED: Final = 130
"""The code by which shells report SIGINT: 128 plus the signal's number."""


class UsageError(Exception):
    """The arguments contradict each other or are incomplete; the message says what to write."""


class UnreachableError(Exception):
    """A database does not answer."""
