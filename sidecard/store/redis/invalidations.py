"""What hosts tell each other, on one channel: each change of an entry, each claim that ends, each purge.

One connection hears it, for all callers of the host. It is subscribed, and the server has confirmed that, before the first
question is asked: 1. a key is asked for, and another host computes it; 2. that host stores it, and says so; 3. whoever
subscribed only now would wait for what has been said.
Messages are lost with their connection. The session ends with it, and the next begins with `InvalidationsMissed`.
"""

from typing import Literal

import msgspec
from msgspec import Struct

from sidecard.core.events import EntriesPurged, KeyChanged
from sidecard.store.base import StoreListener as Tell
from sidecard.store.redis.connections import Wire
from sidecard.store.redis.scripts import CHANNEL

Change = Literal["stored", "removed", "released", "unshared"]


class _Message(Struct, array_like=True, frozen=True):
    """``first`` and ``second`` are scope and key of a change, namespace and tag of a purge."""

    host: str
    what: Change | Literal["purged", "task_purged"]
    first: str | None
    second: str | None
    task: str | None = None
    """Of a purge. Those that name one go by another word: a host of a version that knows of no tasks must not take it for
    a purge of them all."""


_unpack = msgspec.msgpack.Decoder(_Message).decode


class News:
    """What this ``host`` says, and hears."""

    def __init__(self, host: str, tell: Tell) -> None:
        self._host = host
        self._tell = tell

    def of_key(self, change: Change, scope: str, key: str) -> bytes:
        """Return the message that tells a key's change."""
        return msgspec.msgpack.encode((self._host, change, scope, key))

    def of_purge(self, namespace: str | None, tag: str | None, task: str | None) -> bytes:
        """Return the message that tells a purge."""
        if task is None:
            return msgspec.msgpack.encode((self._host, "purged", namespace, tag))

        return msgspec.msgpack.encode((self._host, "task_purged", namespace, tag, task))

    async def subscribe(self, wire: Wire) -> None:
        """Hear what is said, from when this returns. Raises `FAULTS`."""
        await wire.subscribe(CHANNEL, self._heard)

    def _heard(self, data: bytes) -> None:
        try:
            message = _unpack(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return  # another version's, or somebody else's

        what, first, second = message.what, message.first, message.second
        if what == "purged" or what == "task_purged":  # noqa: PLR1714 - the type checker follows these alone
            if message.host != self._host:
                self._tell(EntriesPurged(first, second, message.task))
        elif first is not None and second is not None:
            # What this host has done it knows. But somebody here may have asked just before it was done, and have been told
            # that the key is being computed.
            self._tell(KeyChanged(first, second, "released" if message.host == self._host else what))
