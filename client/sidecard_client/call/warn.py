"""Warnings to the app's developer: a faulty hook or an unshareable value never breaks a call."""

import warnings
from typing import Final

from sidecard_client.protocol.errors import SidecardWarning

MAX_WARNED: Final = 1000
"""How many subjects are remembered. Beyond them, Python's own warning filter limits repetition."""

_warned_of: set[str] = set()


def warn(message: str, *, stack_level: int = 3) -> None:
    """Warn the developer."""
    warnings.warn(message, SidecardWarning, stacklevel=stack_level)


def warn_once(subject: str, message: str) -> None:
    """Warn once for each ``subject``."""
    if subject not in _warned_of:
        if len(_warned_of) < MAX_WARNED:
            _warned_of.add(subject)

        warn(message, stack_level=4)
