"""Log lines on their way to a stream that may block: a stopped terminal, a pipe that nobody reads.

Logging must not block the event loop and with it all callers of the host. A thread writes the lines;
beyond `MAX_WAITING_LINES` they are dropped and counted.
"""

import threading
from functools import partial
from typing import TextIO

from sidecard.persistence.worker import Worker

MAX_WAITING_LINES = 10_000
"""Some 3 MB. At 20 lines a second of each event this is minutes."""


class LogWriter:
    """A stream whose ``write`` never waits; a thread writes the text to ``stream``, in order."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._worker = Worker("sidecard-log")
        self.dropped = 0
        """Lines for which there was no room, or which the stream refused."""

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._stream.isatty()

    def write(self, text: str) -> int:
        """Queue a line."""
        if self._worker.queued >= MAX_WAITING_LINES:
            self.dropped += 1
        else:
            self._worker.submit(partial(self._write, text))

        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread flushes after each line."""

    def drain(self, timeout_seconds: float) -> bool:
        """Wait until all lines are written; return False where the stream has not taken them in time."""
        written = threading.Event()
        self._worker.submit(written.set)
        return written.wait(timeout_seconds)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a closed pipe, a closed stream
            self.dropped += 1
