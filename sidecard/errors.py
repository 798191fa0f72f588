"""The daemon's own faults, classes by whose fault it is. None of them crosses the wire.

::

    SidecardError
     +-- ConfigError       the operator's: a setting that cannot be
     +-- ListenError       the host's: the socket cannot be had
     +-- SidecardBug       ours
"""

from collections.abc import Sequence


class SidecardError(Exception):
    """Something in the daemon or around it is not as it must be; the message says what to change."""


class ConfigError(SidecardError):
    """One or more settings are wrong. ``problems`` has one sentence for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class ListenError(SidecardError):
    """The socket cannot be bound or adopted."""


class SidecardBug(SidecardError):
    """A mistake in sidecard itself, met while it handled ``event``. ``correlation`` finds its line in the log."""

    def __init__(self, correlation: str, event: str) -> None:
        super().__init__(
            f"The daemon made a mistake with this request: its log says more at correlation={correlation}; "
            "make the call without it, and report this."
        )
        self.correlation = correlation
        self.event = event
