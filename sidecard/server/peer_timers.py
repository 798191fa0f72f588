"""Timers of one connection: a peer must read its replies, and complete its messages, in time."""

import asyncio

from sidecard.config.schema import LimitSettings
from sidecard.server.reader import RequestReader


class PeerTimers(asyncio.Protocol):
    """The part of a connection that closes peers that are too slow.

    A base class, because an object that refers to its connection would form a cycle with it: the buffers of a closed
    connection would stay in memory until the next garbage collection.
    """

    _loop: asyncio.AbstractEventLoop
    _limits: LimitSettings
    _reader: RequestReader
    _closing: bool
    congested: bool
    _progress_timer: asyncio.TimerHandle | None = None
    _message_timer: asyncio.TimerHandle | None = None

    def _abort_for(self, limit: str, reason: str) -> None:
        raise NotImplementedError

    def _start_message_timer(self) -> None:
        # Checked only when it fires, whatever arrives meanwhile: large messages arrive in parts too.
        if self._message_timer is None:
            seconds = self._limits.message_seconds
            self._message_timer = self._loop.call_later(seconds, self._check_message, self._reader.partial)

    def _check_message(self, incomplete: int) -> None:
        """Close the peer if the message that was incomplete when the timer started still is."""
        self._message_timer = None
        if self._closing or not self._reader.partial:
            return

        if self._reader.partial == incomplete and not self.congested:
            seconds = self._limits.message_seconds
            self._abort_for("message_seconds", f"a message took longer than limits.message_seconds ({seconds:g})")
        else:
            self._start_message_timer()

    def _start_progress_timer(self) -> None:
        self._cancel_progress_timer()
        seconds = self._limits.stall_seconds
        reason = f"it read too little for limits.stall_seconds ({seconds:g})"
        self._progress_timer = self._loop.call_later(seconds, self._abort_for, "stall_seconds", reason)

    def _cancel_progress_timer(self) -> None:
        if self._progress_timer is not None:
            self._progress_timer.cancel()
            self._progress_timer = None

    def _cancel_timers(self) -> None:
        self._cancel_progress_timer()
        if self._message_timer is not None:
            self._message_timer.cancel()
