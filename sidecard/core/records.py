"""Entries as a store keeps them, the tags by which a store finds them, and what their calls used."""

from msgspec import Struct

from sidecard_client.protocol.wire import Usage

NO_USAGE = Usage()

TASK_TAG_PREFIX = "\x01"
"""Prefix of the tag under which a store indexes an entry's task. A store has one index for tags and tasks, so a record of a
version that kept no task needs no other layout."""


def cached_tokens(usage: Usage) -> int:
    """Return the prompt tokens that a backend read from its own cache, as it reported; at most all of the prompt's."""
    return min(usage.cached_prompt_tokens or 0, usage.prompt_tokens or 0)


class Record(Struct, frozen=True):
    """A stored answer without its key and without instants: clocks of other runs and hosts differ from ours.

    ``seconds`` is the duration of the call that made it; the other fields are those of `sidecard.core.cache.entry.Terms`.
    """

    value: bytes
    seconds: float
    ttl_seconds: float
    window_seconds: float
    backend: str
    usage: Usage = NO_USAGE
    tags: tuple[str, ...] = ()
    age_seconds: float = 0.0
    """Age when it was read; 0 if it was just made."""
    task: str = ""
    """Empty in a record of a version that kept no task."""
    compressed: bool = False
    """See `sidecard.core.cache.compression`."""

    @property
    def index_tags(self) -> tuple[str, ...]:
        """The tags under which a store indexes the entry: its own, and one for its task."""
        return (*self.tags, TASK_TAG_PREFIX + self.task) if self.task else self.tags

    @property
    def remaining_seconds(self) -> float:
        """How much longer the entry may be served."""
        return max(self.ttl_seconds, self.window_seconds) - self.age_seconds


def index_tags_of_purge(tag: str | None, task: str | None) -> tuple[str, ...]:
    """Return the `Record.index_tags` that an entry must have, all of them, for a purge to remove it."""
    return (*(() if tag is None else (tag,)), *(() if task is None else (TASK_TAG_PREFIX + task,)))
