"""Send views to peers: each is a reply with the descriptor of a file.

A delivery waits while the file is allocated, and while its peer has not read what was sent before (see `passing`). It is tried again
after `FIRST_WAIT_SECONDS`, then after twice as long, and so on. No other reply waits for it.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sidecard.core.effects import SendView
from sidecard.server.deliveries import ReplyWriter
from sidecard_client.protocol import wire

if TYPE_CHECKING:
    import asyncio

FIRST_WAIT_SECONDS: Final = 0.001
MAX_WAIT_SECONDS: Final = 0.128

GIVE_UP_SECONDS: Final = 5.0
"""A delivery that cannot be made for this long ends in an error."""

MAX_WAITING: Final = 4
"""Deliveries that may wait for one peer."""

NO_FILE: Final = "its memory file could not be made, or was retired; ask again later"
UNREAD: Final = "earlier replies on this connection are unread: read them first"


class _PeerDeliveries:
    """The deliveries that wait for one peer."""

    def __init__(self) -> None:
        self.effects: list[SendView] = []
        self.waited_seconds = 0.0
        self.wait_seconds = FIRST_WAIT_SECONDS


class ViewDeliveries:
    """Sends views. ``writers`` returns the writer of a connected peer.

    ``open_file`` returns a new descriptor of a view's file, None while it is allocated. It raises `LookupError` if there is no file,
    and `OSError` if it cannot be opened. ``count`` gets the class of each reply.
    """

    def __init__(
        self,
        loop: "asyncio.AbstractEventLoop",
        *,
        writers: Callable[[int], ReplyWriter | None],
        open_file: Callable[[int], int | None],
        count: Callable[[type[wire.AnyReply]], None],
    ) -> None:
        self._loop = loop
        self._writers = writers
        self._open_file = open_file
        self._count = count
        self._waiting: dict[int, _PeerDeliveries] = {}
        """By peer id."""

    def send(self, effect: SendView) -> None:
        """Send a view, now or as soon as that is possible."""
        waiting = self._waiting.get(effect.peer_id)
        if waiting is None:
            if self._send(effect):
                return

            waiting = self._waiting[effect.peer_id] = _PeerDeliveries()
            self._wait(effect.peer_id, waiting)

        if len(waiting.effects) < MAX_WAITING:
            waiting.effects.append(effect)
        else:
            self._refuse(effect, UNREAD)

    def _wait(self, peer_id: int, waiting: _PeerDeliveries) -> None:
        self._loop.call_later(waiting.wait_seconds, self._retry, peer_id)
        waiting.waited_seconds += waiting.wait_seconds
        waiting.wait_seconds = min(2 * waiting.wait_seconds, MAX_WAIT_SECONDS)

    def _retry(self, peer_id: int) -> None:
        waiting = self._waiting[peer_id]
        while waiting.effects:
            effect = waiting.effects[0]
            if not self._send(effect):
                if waiting.waited_seconds < GIVE_UP_SECONDS:
                    self._wait(peer_id, waiting)
                    return

                self._refuse(effect, UNREAD)

            del waiting.effects[0]

        del self._waiting[peer_id]

    def _send(self, effect: SendView) -> bool:
        """Send a view, or an error instead. Return False if the delivery must wait."""
        writer = self._writers(effect.peer_id)
        if writer is None:
            return True

        try:
            descriptor = self._open_file(effect.view)
            if descriptor is None:
                return False

            try:
                if not writer.pass_descriptor(effect.reply, descriptor):
                    return False
            finally:
                os.close(descriptor)
        except LookupError:
            self._refuse(effect, NO_FILE)
        except OSError as error:
            self._refuse(effect, f"its descriptor cannot be sent: {error.strerror}")
        else:
            self._count(wire.View)

        return True

    def _refuse(self, effect: SendView, reason: str) -> None:
        writer = self._writers(effect.peer_id)
        if writer is not None:
            message = f"no view: {reason}; its answers come over the socket"
            writer.queue(wire.Error(effect.reply.id, "unavailable", message))
            writer.flush()
            self._count(wire.Error)
