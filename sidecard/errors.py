"""The daemon's own errors, by whose fault they are. None of them crosses the wire.

::

    SidecardError
     +-- ConfigError       the operator's: an invalid setting
     +-- ListenError       the host's: the socket cannot be opened
     +-- SidecardBug       ours
"""

from collections.abc import Sequence


class SidecardError(Exception):
    """A problem in the daemon or its environment; the message says what to change."""


class ConfigError(SidecardError):
    """One or more settings are invalid. ``problems`` has one sentence for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class ListenError(SidecardError):
    """A socket cannot be bound or adopted. ``lasting``: not before a setting or a permission is changed."""

    def __init__(self, problem: str, *, lasting: bool = False) -> None:
        super().__init__(problem)
        self.lasting = lasting


class SidecardBug(SidecardError):
    """A bug in sidecard, found while it handled ``event``. ``correlation`` identifies its log line."""

    def __init__(self, correlation: str, event: str) -> None:
        super().__init__(
            f"internal error (correlation id {correlation}); see the daemon's log. "
            "Make the call without the daemon, and report this error."
        )
        self.correlation = correlation
        self.event = event
