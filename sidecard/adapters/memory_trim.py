"""Return memory that entries and connections have left to the operating system.

The C library keeps freed memory for later. Values of all sizes that leave in another order than they came leave holes, of
which whole pages are 8 MiB of a cache of 64 MiB; if large values are followed by small ones, all of the cache's size.
"""

import asyncio
import time
from collections.abc import Callable

PERIOD_SECONDS = 0.5

LEAST_BYTES = 4 * 1024 * 1024
"""Bytes of entries and connections that leave between two trims."""

MAX_SECONDS = 0.01
"""A trim of a cache of 64 MiB takes 1 to 2 ms, and nothing runs meanwhile. Once one takes longer than this, as with caches of
gigabytes, the next ones come more rarely, and after a few there are none."""

MAX_TRIM_SLOWDOWN = 64
"""Beyond so many times `LEAST_BYTES`, there are no more trims."""

Trim = Callable[[int], object]


class MemoryTrim:
    """Trims after so many bytes have left. ``removed_bytes`` counts them, and only grows.

    ``clock`` is the processor time of the thread: that a busy host takes it away makes no trim slow.
    """

    def __init__(
        self,
        removed_bytes: Callable[[], int],
        load: Callable[[], Trim | None] | None = None,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._removed_bytes = removed_bytes
        self._load = load or load_trim
        self._clock = clock
        self._trimmed_at = 0
        self._slowdown = 1

    async def run(self) -> None:
        """Trim until canceled; return if the C library offers no way."""
        trim: Trim | None = None
        while self._slowdown <= MAX_TRIM_SLOWDOWN:
            await asyncio.sleep(PERIOD_SECONDS)
            if not self.is_due():
                continue

            if trim is None:
                # In a thread, and not at the start: importing ctypes takes some milliseconds.
                trim = await asyncio.to_thread(self._load)
                if trim is None:
                    return

            self.trim(trim)

    def is_due(self) -> bool:
        """Return whether enough has left since the last trim."""
        return self._removed_bytes() - self._trimmed_at >= LEAST_BYTES * self._slowdown

    def trim(self, trim: Trim) -> None:
        """Trim now."""
        began_at = self._clock()
        trim(0)
        if self._clock() - began_at > MAX_SECONDS:
            self._slowdown *= 4

        self._trimmed_at = self._removed_bytes()


def load_trim() -> Trim | None:
    """Return the C library's ``malloc_trim``; None where there is none, as with musl."""
    try:
        import ctypes  # noqa: PLC0415 - see `MemoryTrim.run`

        trim = ctypes.CDLL(None).malloc_trim
    except (ImportError, OSError, AttributeError):
        return None

    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    loaded: Trim = trim
    return loaded
