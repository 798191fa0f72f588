"""Write log lines to a stream that may block: a stopped terminal, a pipe whose reader hangs.

The event loop must not wait for it. Lines are queued, within a bound, and a worker thread writes them; lines above the bound
are dropped and counted.
"""

import threading
from functools import partial
from typing import TextIO

from sidecard.persistence.worker import WorkerThread

MAX_QUEUED_LINES = 10_000
"""About 3 MB; minutes of one event at 20 lines per second."""


class LogWriter:
    """A stream whose ``write`` never blocks; a thread writes to ``stream``, in order."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._worker = WorkerThread("sidecard-log")
        self.dropped = 0
        """Lines above the bound, or that the stream rejected."""

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._stream.isatty()

    def write(self, text: str) -> int:
        """Queue a line."""
        if self._worker.queued >= MAX_QUEUED_LINES:
            self.dropped += 1
        else:
            self._worker.submit(partial(self._write, text))

        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread flushes after each line."""

    def drain(self, timeout_seconds: float) -> bool:
        """Wait until every line is written. Return False if the stream has not accepted them in time."""
        written = threading.Event()
        self._worker.submit(written.set)
        return written.wait(timeout_seconds)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a closed pipe, a closed stream
            self.dropped += 1
