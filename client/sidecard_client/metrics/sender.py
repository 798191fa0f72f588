"""Brings a client's metrics to the daemon: a thread with a connection of its own, begun with the first thing there is to send.

What is sent stays *on its way* until the daemon has acknowledged it, and is sent again, under the same number, where the
connection was lost before: the daemon takes each number of a session once.
Interleaving: 1. a batch is sent; 2. the daemon takes it; 3. the connection is cut; 4. the batch is sent on a new one and
changes nothing.

The connection stays open, because gauges belong to it: when the process dies the kernel ends it, and they vanish.
A daemon that was restarted is found by the end of the connection, and told all gauges anew.
"""

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from weakref import WeakSet

from msgspec import Struct

from sidecard_client._sync.connection import BlockingConnection
from sidecard_client.call.availability import Availability
from sidecard_client.metrics.instruments import Metrics
from sidecard_client.protocol.connection import ConnectionLost
from sidecard_client.protocol.wire import Error, Measurement, Recorded, RecordMetrics

FLUSH_SECONDS = 1.0
"""How long measurements are gathered. Precedent: the Datadog agent's clients send every 2 s."""

POLL_SECONDS = 5.0
"""How often gauges with functions and other registries are asked: a third of Prometheus' usual scrape interval."""

MAX_BATCH = 500
"""Measurements of one message: some 100 KB."""

CLOSE_SECONDS = 0.5
"""How long the end of a client or of a process may be held up."""


class _Batch(Struct, frozen=True):
    sequence: int
    measurements: tuple[Measurement, ...]
    dropped: int


class MetricsSender:
    """Sends what ``metrics`` gather to ``path()``, which is asked at each connection. Thread-safe."""

    def __init__(self, path: Callable[[], str], timeout_seconds: float) -> None:
        self.metrics = Metrics(self._wake_up)
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._start_over()
        _senders.add(self)

    def _start_over(self) -> None:
        self._session = os.urandom(16).hex()
        self._sequence = 0
        self._on_its_way: deque[_Batch] = deque()
        self._connection: BlockingConnection | None = None
        self._availability = Availability(lambda: os.urandom(1)[0] / 256, probe_seconds=2 * self._timeout_seconds)
        self._lock = threading.Lock()  # guards _thread
        self._sending = threading.Lock()  # held by who sends: the thread, or `flush`
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closed = False

    def flush(self, timeout_seconds: float) -> bool:
        """Send what has been counted until now; True once the daemon has acknowledged all of it. Blocks so long at most."""
        if not self._sending.acquire(timeout=timeout_seconds):
            return False

        try:
            deadline = monotonic() + timeout_seconds
            if not self._send(deadline):
                return False

            self._take()
            return self._send(deadline)
        finally:
            self._sending.release()

    def close(self) -> None:
        """Send what is left, within `CLOSE_SECONDS`, and end the connection: the gauges of this client vanish."""
        if self._closed:
            return

        self._closed = True
        self._wake.set()
        if self.metrics.stirred or self._on_its_way:
            self.flush(CLOSE_SECONDS)

        if self._sending.acquire(timeout=CLOSE_SECONDS):
            try:
                self._hang_up()
            finally:
                self._sending.release()

    def leave_to_parent(self) -> None:
        """Begin anew in the child of a fork."""
        if self._connection is not None:
            self._connection.close()

        closed = self._closed
        self._start_over()
        self._closed = closed
        self.metrics.forget()
        if self.metrics.polls:
            # What must be asked does not stir by itself.
            self.metrics.stir()

    def before_fork(self) -> None:
        """Prepare for `leave_to_parent`, in the parent."""
        self.metrics.before_fork()

    def _wake_up(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._run, name="sidecard-metrics", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is shutting down, or the process may have no more threads
                    return

                self._thread = thread

        self._wake.set()

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._patience_seconds())
            self._wake.clear()
            if self._closed:
                return

            self._gather(FLUSH_SECONDS)
            with self._sending:
                self._look_whether_it_ended()
                self._take()
                if not self._closed:
                    self._send_all(monotonic() + self._timeout_seconds)

    def _gather(self, seconds: float) -> None:
        """Let what happens in the next moments go with what has woken us."""
        end = monotonic() + seconds
        while not self._closed and (left := end - monotonic()) > 0:
            self._wake.wait(left)
            self._wake.clear()

    def _patience_seconds(self) -> float | None:
        if self._on_its_way:
            return FLUSH_SECONDS

        return POLL_SECONDS if self.metrics.has_gauges else None

    def _take(self) -> None:
        """Put what has happened on its way, unless there is something already: until that has arrived, numbers only grow."""
        if self._on_its_way:
            return

        measurements, dropped = self.metrics.take()
        for begin in range(0, max(len(measurements), bool(dropped)), MAX_BATCH):
            self._sequence += 1
            batch = tuple(measurements[begin : begin + MAX_BATCH])
            self._on_its_way.append(_Batch(self._sequence, batch, 0 if begin else dropped))

    def _send_all(self, deadline: float) -> None:
        if self._send(deadline) and self.metrics.stirred:
            # What came while something else was on its way, and what a new daemon must be told: nobody wakes us for it.
            self._take()
            self._send(deadline)

    def _send(self, deadline: float) -> bool:
        """Send what is on its way; False where the daemon has not acknowledged all of it."""
        while self._on_its_way:
            now = monotonic()
            if now > deadline or not self._availability.admit(now):
                return False

            batch = self._on_its_way[0]
            try:
                reply = self._exchange(batch)
            except (ConnectionLost, ValueError):  # a path that cannot be is a ValueError
                self._hang_up()
                self._availability.failed(monotonic())
                return False

            if isinstance(reply, Recorded):
                self._availability.succeeded()
            elif isinstance(reply, Error) and reply.code in {"bad_request", "too_large"}:
                # It will not be taken the next time either, and whatever comes after it would wait for ever.
                self.metrics.drop(len(batch.measurements))
            else:
                self._availability.failed(monotonic())
                return False

            self._on_its_way.popleft()

        return True

    def _exchange(self, batch: _Batch) -> object:
        if self._connection is None:
            self._connection = BlockingConnection(self._path(), self._timeout_seconds)
            if self._sequence > 1:
                self.metrics.retell()

        request = RecordMetrics(
            id=self._connection.next_id(),
            metrics=batch.measurements,
            acknowledge=True,
            session=self._session,
            sequence=batch.sequence,
            dropped=batch.dropped,
        )
        return self._connection.exchange(request)

    def _look_whether_it_ended(self) -> None:
        if self._connection is not None and self._connection.has_something():
            # Nothing is outstanding, so it can only be the connection's end.
            self._hang_up()
            self.metrics.retell()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


_senders: WeakSet[MetricsSender] = WeakSet()


@atexit.register
def _flush_at_exit() -> None:
    for sender in list(_senders):
        sender.close()
