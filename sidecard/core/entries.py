"""A stored answer."""

from msgspec import Struct

from sidecard_client.wire import Usage

ENTRY_OVERHEAD_BYTES = 300
"""What an entry costs beside its key's and value's own bytes: this Struct, two string headers, three floats, its slots in
the table, the queue and the expiry wheel. Measured against the resident set by `sidecard bench --full`."""


class Origin(Struct, frozen=True):
    """What many entries have in common, so that they share one object."""

    backend: str
    usage: Usage
    tags: tuple[str, ...]


class Entry(Struct, gc=False):
    """A stored answer. Times are instants of the monotonic clock.

    Until ``stored_at + ttl_seconds`` it is a `Hit`; until ``stored_at + window_seconds`` it is still `Shared`,
    even where nothing is cached. There may be millions of these, so what is equal is shared and what can be derived is not kept.
    """

    scope: str
    key: str
    value: bytes
    stored_at: float
    ttl_seconds: float
    window_seconds: float
    seconds: float
    """How long the call took that made it, from the lease to its `complete`."""
    dollars: float
    origin: Origin
    asked: int = 0
    """Hits since the policy last looked, saturating."""
    in_main: bool = False
    """Which of the policy's queues it is in."""
    alive: bool = True

    @property
    def expires_at(self) -> float:
        """From this instant on nobody is served it."""
        return self.stored_at + max(self.ttl_seconds, self.window_seconds)

    @property
    def charge(self) -> int:
        """The bytes that it counts for."""
        return len(self.key) + len(self.value) + ENTRY_OVERHEAD_BYTES
