"""An entry as a store keeps it."""

from msgspec import Struct

from sidecard.core.entries import NO_USAGE
from sidecard_client.wire import Usage


class Record(Struct, frozen=True):
    """A stored answer without its key, and without instants: clocks of other runs and other hosts are not ours.

    ``seconds`` is how long the call took that made it; the other fields are those of `sidecard.core.entries.Terms`.
    """

    value: bytes
    seconds: float
    ttl_seconds: float
    window_seconds: float
    backend: str
    usage: Usage = NO_USAGE
    tags: tuple[str, ...] = ()
    age_seconds: float = 0.0
    """When it was read; 0 where it is just made."""
    compressed: bool = False
    """See `sidecard.core.compression`."""

    @property
    def remaining_seconds(self) -> float:
        """How much longer somebody may be served it."""
        return max(self.ttl_seconds, self.window_seconds) - self.age_seconds
