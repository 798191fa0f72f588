"""What a thread waits at for other threads, for sockets, and for the garbage collector."""

import os
import select
from collections.abc import Iterable
from contextlib import suppress

MAX_WAIT_SECONDS = 86_400.0
"""Limit of one wait: the kernel counts milliseconds in 31 bits."""


class Doorbell:
    """Wakes the thread that waits here. Raises `OSError` if no descriptor is left.

    `ring` takes no lock, so the garbage collector may call it at any point of any thread.
    """

    __slots__ = ("_descriptor",)

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        """End the wait, or the next one."""
        with suppress(BlockingIOError):  # it has been rung 2**64 times
            os.eventfd_write(self._descriptor, 1)

    def wait(self, seconds: float, sockets: Iterable[int] = ()) -> set[int]:
        """Wait for `ring`, for one of ``sockets`` to be readable, or for ``seconds``; return those that are readable."""
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        for descriptor in sockets:
            poller.register(descriptor, select.POLLIN)

        ready = {descriptor for descriptor, _ in poller.poll(1000 * max(0.0, min(seconds, MAX_WAIT_SECONDS)))}
        if self._descriptor in ready:
            ready.discard(self._descriptor)
            with suppress(BlockingIOError):
                os.eventfd_read(self._descriptor)

        return ready

    def __del__(self) -> None:
        # Not before the last reference is gone: a descriptor that is closed earlier may be another file's when it is rung.
        descriptor = getattr(self, "_descriptor", None)
        if descriptor is not None:
            os.close(descriptor)
