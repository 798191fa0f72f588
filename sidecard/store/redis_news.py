"""What hosts tell each other, on one channel: each change of an entry, each claim that ends, each purge.

One connection hears it, for all callers of the host. It is subscribed, and the server has confirmed that, before the first
question is asked: 1. a key is asked for, and another host computes it; 2. that host stores it, and says so; 3. whoever
subscribed only now would wait for what has been said.
Messages are lost with their connection. The session ends with it, and the next begins with `NewsMissed`.
"""

from typing import Literal

import msgspec

from sidecard.core.events import EntriesPurged, KeyChanged
from sidecard.store.base import Tell
from sidecard.store.redis_links import Wire
from sidecard.store.redis_scripts import CHANNEL

Change = Literal["stored", "removed", "released", "unshared"]

_unpack = msgspec.msgpack.Decoder(tuple[str, Change | Literal["purged"], str | None, str | None]).decode


class News:
    """What this ``host`` says, and hears."""

    def __init__(self, host: str, tell: Tell) -> None:
        self._host = host
        self._tell = tell

    def of_key(self, change: Change, scope: str, key: str) -> bytes:
        """Return the message that tells a key's change."""
        return msgspec.msgpack.encode((self._host, change, scope, key))

    def of_purge(self, namespace: str | None, tag: str | None) -> bytes:
        """Return the message that tells a purge."""
        return msgspec.msgpack.encode((self._host, "purged", namespace, tag))

    async def subscribe(self, wire: Wire) -> None:
        """Hear what is said, from when this returns. Raises `FAULTS`."""
        await wire.subscribe(CHANNEL, self._heard)

    def _heard(self, data: bytes) -> None:
        try:
            host, what, first, second = _unpack(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return  # another version's, or somebody else's

        if what == "purged":
            if host != self._host:
                self._tell(EntriesPurged(first, second))
        elif first is not None and second is not None:
            # What this host has done it knows. But somebody here may have asked just before it was done, and have been told
            # that the key is being computed.
            self._tell(KeyChanged(first, second, "released" if host == self._host else what))
