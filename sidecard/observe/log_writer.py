"""Log lines on their way to a stream that may not take them: a terminal that was stopped, a pipe that nobody reads.

Whoever says something must not wait for it: the event loop would stand still with it, and all callers of the host.
Lines wait in memory, bounded, and a thread writes them; beyond the bound they are dropped and counted.
"""

import threading
from collections import deque
from typing import TextIO

MAX_WAITING_LINES = 10_000
"""Some 3 MB. At 20 lines a second of each event this is minutes."""


class LogWriter:
    """A stream whose ``write`` never waits; the text goes to ``stream``, in order, from a thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: deque[str] = deque()
        self._unwritten = 0
        """Those waiting, and the one that is being written."""
        self._changed = threading.Condition()  # guards both; never held while the stream is written to
        self.dropped = 0
        """Lines for which there was no room, or which the stream refused."""
        threading.Thread(target=self._run, name="sidecard-log", daemon=True).start()

    def isatty(self) -> bool:
        """Tell whether people read it as it comes."""
        return self._stream.isatty()

    def write(self, text: str) -> int:
        """Take a line."""
        with self._changed:
            if len(self._waiting) >= MAX_WAITING_LINES:
                self.dropped += 1
            else:
                self._waiting.append(text)
                self._unwritten += 1
                self._changed.notify_all()

        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread flushes after each line."""

    def drain(self, timeout_seconds: float) -> bool:
        """Wait until everything was written; False where the stream has not taken it in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._unwritten, timeout_seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                text = self._waiting.popleft()

            self._write(text)
            with self._changed:
                self._unwritten -= 1
                self._changed.notify_all()

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a pipe that was closed, a stream that was
            self.dropped += 1
