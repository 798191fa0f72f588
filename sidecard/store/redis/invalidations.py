"""Invalidations: hosts publish each changed entry, each ended claim and each purge on one channel.

One connection receives them for all callers of the host. The server confirms the subscription before the first read.
Otherwise: 1. a host reads a key that another host computes; 2. that host stores the entry, and publishes; 3. the first host
subscribes, and waits for a message that was published before.
If the connection ends, messages are lost. The session ends with it, and the next one begins with `InvalidationsMissed`.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from sidecard.core.events import EntriesPurged, KeyChanged
from sidecard.store.base import StoreReporter
from sidecard.store.redis.scripts import CHANNEL
from sidecard.store.redis.single import SingleConnection
from sidecard.store.validation import UNDECODABLE, StoredTask

KeyChange = Literal["stored", "removed", "released", "unshared"]


_Name = Annotated[str, Meta(max_length=1024)]
"""A scope, key, namespace or tag: none is longer than a key may be."""


class _Message(Struct, array_like=True, frozen=True):
    """``first`` and ``second`` are scope and key of a change, or namespace and tag of a purge."""

    host: str
    what: KeyChange | Literal["purged", "task_purged"]
    first: _Name | None
    second: _Name | None
    task: StoredTask | None = None
    """Task of a purge. A purge by task has another word: a host whose version ignores tasks must not purge all of them."""


_unpack = msgspec.msgpack.Decoder(_Message).decode


class Invalidations:
    """The messages that this ``host`` publishes and receives."""

    def __init__(self, host: str, reporter: StoreReporter) -> None:
        self._host = host
        self._reporter = reporter

    def of_key(self, change: KeyChange, scope: str, key: str) -> bytes:
        """Return the message about a changed key."""
        return msgspec.msgpack.encode((self._host, change, scope, key))

    def of_purge(self, namespace: str | None, tag: str | None, task: str | None) -> bytes:
        """Return the message about a purge."""
        if task is None:
            return msgspec.msgpack.encode((self._host, "purged", namespace, tag))

        return msgspec.msgpack.encode((self._host, "task_purged", namespace, tag, task))

    async def subscribe(self, connection: SingleConnection) -> None:
        """Receive all messages that are published after this returns. Raises `FAULTS`."""
        await connection.subscribe(CHANNEL, self.received)

    def received(self, data: bytes) -> None:
        """Report a message to the engine."""
        try:
            message = _unpack(data)
        except UNDECODABLE:
            # Another version's, or another program's. What it invalidates, if anything, is unknown, and it may be sent often.
            self._reporter.invalid("an invalidation cannot be decoded")
            return

        notify = self._reporter.notify
        what, first, second = message.what, message.first, message.second
        if what == "purged" or what == "task_purged":  # noqa: PLR1714 - the type checker follows these alone
            if message.host != self._host:
                notify(EntriesPurged(first, second, message.task))
        elif first is not None and second is not None:
            # The engine knows this host's own changes. But a caller of this host may have read the key just before the
            # change, and now waits because the key was claimed.
            notify(KeyChanged(first, second, "released" if message.host == self._host else what))
