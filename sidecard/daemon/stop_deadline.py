"""The latest end of the daemon: targets, databases and disks that hang must not keep it from stopping."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

STOP_SECONDS: Final = 8.0
"""How long the daemon may take to write what is pending, after its peers are gone. Its parts have bounds of their own, which may add
up to more."""

LAST_WORDS_SECONDS: Final = 2.0
"""How long the last words may take: what they remove may be on the disk that hangs."""


class StopDeadline:
    """Ends the process when the time is over: in a thread, because the event loop itself may hang.

    ``last_words`` logs that, and removes what would be in the next daemon's way. Locks end with the process.
    """

    def __init__(self, last_words: Callable[[], None], end: Callable[[int], object] = os._exit) -> None:
        self._last_words = last_words
        self._end = end
        self._timer: threading.Timer | None = None

    def start(self, seconds: float = STOP_SECONDS) -> None:
        """Begin to count. Without room for a thread, there is no deadline."""
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:
            return

        self._timer = timer

    def cancel(self) -> None:
        """End the count: the daemon has stopped."""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        words = threading.Thread(target=self._try_last_words, daemon=True)
        with suppress(RuntimeError):  # no room for a thread
            words.start()
            words.join(LAST_WORDS_SECONDS)

        self._end(0)

    def _try_last_words(self) -> None:
        with suppress(Exception):  # whatever it is, the process must end
            self._last_words()
