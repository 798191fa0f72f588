"""Requests of the async client: gathered for one turn of the event loop and handed to the kernel without awaiting.

So no cancellation can cut a message, and many callers cost one ``send``.
"""

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from sidecard_client._async.event_loops import EventLoop

if TYPE_CHECKING:
    from sidecard_client._async.reply_futures import ReplyFuture

MESSAGES_PER_SEND = 16
"""More messages of one turn are sent in parts, so that the daemon works while the loop goes on.
Measured with 64 tasks: 8 to 32 are alike, one send per turn is a third slower."""


class SendBuffer:
    """The sending half of ``sock``. If sending fails, the socket is shut down, which its reader notices."""

    __slots__ = ("_closed", "_gathered", "_loop", "_socket", "_taken", "_unsent")

    def __init__(self, sock: socket.socket, loop: EventLoop) -> None:
        self._socket = sock
        self._loop = loop
        self._closed = False
        self._gathered: list[bytes] = []
        self._unsent = memoryview(b"")  # not taken by the kernel, whose buffer is full
        self._taken: list[ReplyFuture] = []  # set when the kernel has taken all of it

    @property
    def backlog_bytes(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return len(self._unsent) + sum(map(len, self._gathered)) if self._unsent else 0

    def send(self, data: bytes, *, at_once: bool = False) -> None:
        """Send ``data`` at the end of the loop's turn, or immediately, which saves a single caller a turn."""
        gathered = self._gathered
        gathered.append(data)
        if at_once or len(gathered) >= MESSAGES_PER_SEND:
            self.flush()
        elif len(gathered) == 1:
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send all gathered messages."""
        # Messages gather until the kernel has taken the unsent bytes: that keeps their order.
        if self._gathered and not self._unsent and not self._closed:
            data = b"".join(self._gathered)
            self._gathered.clear()
            self._hand_over(memoryview(data))

    async def drain(self) -> None:
        """Return when the kernel has taken everything, or the buffer is closed."""
        self.flush()
        while self._unsent and not self._closed:
            taken = self._loop.new_future()
            self._taken.append(taken)
            await taken

    def close(self) -> None:
        """Drop the rest."""
        self._closed = True
        self._wake()

    def _hand_over(self, data: memoryview) -> None:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The reader reads what arrived before the end, and finds the end.
            sent = len(data)
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

        self._unsent = data[sent:]
        if self._unsent:
            self._loop.when_writable(self._socket, self._go_on)

    def _go_on(self) -> None:
        if self._closed:
            return

        self._hand_over(self._unsent)
        if not self._unsent:
            self._wake()
            self.flush()

    def _wake(self) -> None:
        taken, self._taken = self._taken, []
        for future in taken:
            if not future.done():
                future.set_result(None)
