"""What hosts tell each other, on one channel: each change of an entry, each claim that ends, each purge.

One connection hears it, for all callers of the host. It is subscribed, and the server has confirmed that, before the first
question is asked: 1. a key is asked for, and another host computes it; 2. that host stores it, and says so; 3. whoever
subscribed only now would wait for what has been said.
Messages are lost with their connection. The session ends with it, and the next begins with `NewsMissed`.
"""

from typing import Literal

import anyio
import msgspec
from anyio.abc import TaskStatus
from redis.asyncio.client import PubSub

from sidecard.core.events import EntriesPurged, KeyChanged
from sidecard.store.base import Tell
from sidecard.store.redis_links import CLOSE_SECONDS, Link
from sidecard.store.redis_scripts import CHANNEL

PING_SECONDS = 0.5
"""How long the server may say nothing before it is asked whether it lives, and then until it says so."""

Change = Literal["stored", "removed", "released", "unshared"]

_unpack = msgspec.msgpack.Decoder(tuple[str, Change | Literal["purged"], str | None, str | None]).decode


class News:
    """What this ``host`` says, and hears."""

    def __init__(self, host: str, tell: Tell, confirm_seconds: float) -> None:
        self._host = host
        self._tell = tell
        self._confirm_seconds = confirm_seconds

    def of_key(self, change: Change, scope: str, key: str) -> bytes:
        """Return the message that tells a key's change."""
        return msgspec.msgpack.encode((self._host, change, scope, key))

    def of_purge(self, namespace: str | None, tag: str | None) -> bytes:
        """Return the message that tells a purge."""
        return msgspec.msgpack.encode((self._host, "purged", namespace, tag))

    async def hear(self, link: Link, *, task_status: TaskStatus[None]) -> None:
        """Hear what is said, until cancelled; started once the server has confirmed. Raises as `Link.exchange`."""
        subscriber = link.news()
        try:
            with anyio.fail_after(self._confirm_seconds):
                await subscriber.subscribe(CHANNEL)
                while (message := await subscriber.get_message(timeout=1.0)) is None or message["type"] != "subscribe":
                    pass

            task_status.started()
            await self._hear(subscriber)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_SECONDS):
                await subscriber.aclose()  # type: ignore[no-untyped-call]  # redis-py's

    async def _hear(self, subscriber: PubSub) -> None:
        asked = False
        while True:
            message = await subscriber.get_message(timeout=PING_SECONDS)
            if message is not None:
                asked = False
                if message["type"] == "message":
                    self._heard(message["data"])
            elif asked:
                raise TimeoutError
            else:
                asked = True
                await subscriber.ping()

    def _heard(self, data: bytes) -> None:
        try:
            host, what, first, second = _unpack(data)
        except msgspec.MsgspecError:
            return  # another version's, or somebody else's

        if what == "purged":
            if host != self._host:
                self._tell(EntriesPurged(first, second))
        elif first is not None and second is not None:
            # What this host has done it knows. But somebody here may have asked just before it was done, and have been told
            # that the key is being computed.
            self._tell(KeyChanged(first, second, "released" if host == self._host else what))
