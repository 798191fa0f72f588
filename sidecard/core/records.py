"""An entry as a store keeps it, and by what a store finds those that a purge is to take."""

from msgspec import Struct

from sidecard.core.cache.entry import NO_USAGE
from sidecard_client.protocol.wire import Usage

TASK_MARK = "\x01"
"""What a task begins with where a store looks for it among an entry's tags: it has an index for both, or none. Entries of
versions that did not tell lack it, so no store's layout is another one for it."""


class Record(Struct, frozen=True):
    """A stored answer without its key, and without instants: clocks of other runs and other hosts are not ours.

    ``seconds`` is how long the call took that made it; the other fields are those of `sidecard.core.cache.entry.Terms`.
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
    task: str = ""
    """Empty where a version wrote it that did not tell."""
    compressed: bool = False
    """See `sidecard.core.cache.compression`."""

    @property
    def marks(self) -> tuple[str, ...]:
        """By what a store finds the entries of a purge: the tags, and the task."""
        return (*self.tags, TASK_MARK + self.task) if self.task else self.tags

    @property
    def remaining_seconds(self) -> float:
        """How much longer somebody may be served it."""
        return max(self.ttl_seconds, self.window_seconds) - self.age_seconds


def marks_of(tag: str | None, task: str | None) -> tuple[str, ...]:
    """Return which `Record.marks` an entry must have, all of them, for a purge to take it."""
    return (*(() if tag is None else (tag,)), *(() if task is None else (TASK_MARK + task,)))
