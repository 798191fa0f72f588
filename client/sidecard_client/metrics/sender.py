"""Send a client's metrics to the daemon, from a thread with its own connection that starts with the first change.

A batch stays in flight until the daemon has acknowledged it. After a lost connection it is sent again with the same sequence
number, and the daemon accepts each number of a session once:
1. a batch is sent; 2. the daemon accepts it; 3. the connection is lost; 4. the batch is sent again and changes nothing.

The connection stays open because it owns the gauges: when the process dies, the kernel closes it and they disappear.
The end of the connection also reveals a restarted daemon, which then receives all gauges again.
"""

import atexit
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Protocol
from weakref import WeakSet, finalize, ref

from msgspec import Struct

from sidecard_client.call.availability import Availability
from sidecard_client.living import living
from sidecard_client.metrics.registry import MetricRegistry
from sidecard_client.protocol.connection import ConnectionLost
from sidecard_client.protocol.wire import Error, Measurement, Passed, Recorded, RecordMetrics

FLUSH_SECONDS = 1.0
"""Measurements are collected for so long. Precedent: the clients of the Datadog agent send every 2 s."""

POLL_SECONDS = 5.0
"""Interval for gauges with functions and other registries: a third of Prometheus' usual scrape interval."""

MAX_BATCH = 500
"""Measurements of one message: about 100 KB."""

CLOSE_SECONDS = 0.5
"""Maximum delay of a client's or a process's end."""


class MetricsConnection(Protocol):
    """A blocking connection to the daemon. It is passed in, because the clients' connections are above this package."""

    def exchange(self, request: RecordMetrics) -> object:
        """Send a request and return its reply. Raises `ConnectionLost`."""

    def has_input(self) -> bool:
        """Return whether there is something to receive, or the connection has ended."""

    def close(self) -> None:
        """Close the connection."""


class _MetricsBatch(Struct, frozen=True):
    sequence: int
    measurements: tuple[Measurement, ...]
    dropped: int
    passed: tuple[Passed, ...]


class _Wakeup:
    """Wakes one thread. Unlike `threading.Event`, `set` may be called by the garbage collector, within any code."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # locked: nothing is to be done
        self._lock.acquire()

    def set(self) -> None:
        """Wake the thread, or let its next `wait` return at once."""
        with contextlib.suppress(RuntimeError):  # it is set already
            self._lock.release()

    def wait(self, timeout_seconds: float | None) -> None:
        """Wait for `set`, and reset."""
        self._lock.acquire(timeout=-1 if timeout_seconds is None else timeout_seconds)


class _Shared:
    """What the thread keeps while it waits. It refers to the sender only while there is something to send.

    So a client that is dropped without `close` leaves neither thread nor connection behind:
    1. a counter changes: ``sender`` is set; 2. the client is dropped, which wakes the thread; 3. the thread sends the change,
    closes the connection and ends. If the sender is collected first, its finalizer does what is left of that.
    """

    def __init__(self) -> None:
        self.wake = _Wakeup()
        self.sender: MetricsSender | None = None
        self.connection: MetricsConnection | None = None
        self.wait_seconds: float | None = None
        self.stopped = False
        """The thread must end: its client was closed."""

    def end(self) -> None:
        """Close the connection, and wake the thread."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

        self.wake.set()


def _run(shared: _Shared, of_client: "ref[MetricsSender]") -> None:
    """Send the changes of a client until it is closed or gone."""
    while True:
        shared.wake.wait(shared.wait_seconds)
        sender = of_client()
        shared.sender = None
        if shared.stopped or sender is None or not sender.send_changes(shared):
            return

        del sender


class MetricsSender:
    """Send the changes of ``registry`` over the connection that ``connect()`` makes. Thread-safe."""

    def __init__(self, connect: Callable[[], MetricsConnection], timeout_seconds: float, client: object) -> None:
        self.registry = MetricRegistry(self._wake_up)
        self._connect = connect
        self._timeout_seconds = timeout_seconds
        self._client = ref(client, lambda _: self._shared.wake.set())
        self._dropped: finalize[..., MetricsSender] | None = None
        self._start()
        _senders.add(self)

    def _start(self) -> None:
        self._session = os.urandom(16).hex()
        self._sequence = 0
        self._in_flight: deque[_MetricsBatch] = deque()
        self._availability = Availability(lambda: os.urandom(1)[0] / 256, probe_seconds=2 * self._timeout_seconds)
        self._lock = threading.Lock()  # guards _thread
        self._sending = threading.Lock()  # guards all else; held by the thread, or by `flush`
        self._forget_thread()

    def _forget_thread(self) -> None:
        self._thread: threading.Thread | None = None
        self._shared = _Shared()
        if self._dropped is not None:
            self._dropped.detach()

        self._dropped = finalize(self, self._shared.end)
        self._dropped.atexit = False

    def flush(self, timeout_seconds: float) -> bool:
        """Send all changes so far; return whether the daemon acknowledged them. Blocks for ``timeout_seconds`` at most."""
        if not self._sending.acquire(timeout=timeout_seconds):
            return False

        try:
            return self._flush(monotonic() + timeout_seconds)
        finally:
            self._sending.release()

    def _flush(self, deadline: float) -> bool:
        if not self._send(deadline):
            return False

        self._take_changes()
        return self._send(deadline)

    def close(self) -> None:
        """Send the remaining changes within `CLOSE_SECONDS`, and close the connection: this client's gauges disappear.

        The thread ends. The next change starts another one.
        """
        shared = self._shared
        shared.stopped = True
        shared.wake.set()
        if self._sending.acquire(timeout=CLOSE_SECONDS):
            try:
                if self.registry.changed or self._in_flight:
                    self._flush(monotonic() + CLOSE_SECONDS)

                self._disconnect()
            finally:
                self._sending.release()

        with self._lock:
            if self._shared is shared:
                self._forget_thread()
                self.registry.changed = False  # or the next change would wake no thread

        shared.end()

    def before_fork(self) -> None:
        """Prepare for `start_in_child`, in the parent."""
        self.registry.before_fork()

    def start_in_child(self) -> None:
        """Start from zero in the child of a fork."""
        self._disconnect()
        self._start()
        self.registry.reset()
        if self.registry.polls:
            # Polled values change without notice, so nothing else would start the thread.
            self.registry.mark_changed()

    def _wake_up(self) -> None:
        with self._lock:
            if self._thread is None:
                arguments = self._shared, ref(self)
                thread = threading.Thread(target=_run, args=arguments, name="sidecard-metrics", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is shutting down, or the process is at its thread limit
                    return

                self._thread = thread

        self._shared.sender = self
        self._shared.wake.set()

    def send_changes(self, shared: _Shared) -> bool:
        """Collect changes for a moment and send them, in the thread; return whether the thread goes on."""
        self._collect(shared, FLUSH_SECONDS)
        if shared.stopped:
            return False

        with self._sending:
            self._detect_end()
            self._take_changes()
            if not shared.stopped:
                self._send_all(monotonic() + self._timeout_seconds)

        if self._client() is None:
            self._end_thread()
            return False

        shared.wait_seconds = self._wait_seconds()
        return not shared.stopped

    def _end_thread(self) -> None:
        """End the thread of a dropped client. Its instruments may live on: their next change starts another one."""
        with self._sending:
            self._disconnect()

        with self._lock:
            self._thread = None
            self.registry.changed = False  # or the next change would wake no thread

    def _collect(self, shared: _Shared, seconds: float) -> None:
        """Wait, so that the changes of the next moments go into the same message."""
        end = monotonic() + seconds
        while not shared.stopped and (left := end - monotonic()) > 0:
            shared.wake.wait(left)

    def _wait_seconds(self) -> float | None:
        if self._in_flight:
            return FLUSH_SECONDS

        return POLL_SECONDS if self.registry.has_gauges else None

    def _take_changes(self) -> None:
        """Make batches of all changes, unless a batch is in flight: until it has arrived, the series keep growing."""
        if self._in_flight:
            return

        measurements, dropped = self.registry.take_changes()
        passed = self.registry.passed.take()
        for start in range(0, max(len(measurements), bool(dropped or passed)), MAX_BATCH):
            self._sequence += 1
            batch = tuple(measurements[start : start + MAX_BATCH])
            self._in_flight.append(
                _MetricsBatch(self._sequence, batch, 0 if start else dropped, () if start else passed)
            )

    def _send_all(self, deadline: float) -> None:
        if self._send(deadline) and self.registry.changed:
            # Changes during the transmission, and what a new daemon must receive: neither wakes the thread.
            self._take_changes()
            self._send(deadline)

    def _send(self, deadline: float) -> bool:
        """Send the batches in flight; return whether the daemon acknowledged all of them."""
        while self._in_flight:
            now = monotonic()
            if now > deadline or not self._availability.admit(now):
                return False

            batch = self._in_flight[0]
            try:
                reply = self._exchange(batch)
            except (ConnectionLost, ValueError):  # ValueError: the socket's path is invalid
                self._disconnect()
                self._availability.failed(monotonic())
                return False

            if isinstance(reply, Recorded):
                self._availability.succeeded()
            elif isinstance(reply, Error) and reply.code in {"bad_request", "too_large"}:
                # The daemon would reject it again, and everything after it would wait forever.
                self.registry.drop(len(batch.measurements))
            else:
                self._availability.failed(monotonic())
                return False

            self._in_flight.popleft()

        return True

    def _exchange(self, batch: _MetricsBatch) -> object:
        if self._shared.connection is None:
            self._shared.connection = self._connect()
            if self._sequence > 1:
                self.registry.resend()

        request = RecordMetrics(
            metrics=batch.measurements,
            acknowledge=True,
            session=self._session,
            sequence=batch.sequence,
            dropped=batch.dropped,
            passed=batch.passed,
        )
        return self._shared.connection.exchange(request)

    def _detect_end(self) -> None:
        # No request is open, so anything readable is the end of the connection.
        if self._shared.connection is not None and self._shared.connection.has_input():
            self._disconnect()
            self.registry.resend()

    def _disconnect(self) -> None:
        if self._shared.connection is not None:
            self._shared.connection.close()
            self._shared.connection = None


_senders: WeakSet[MetricsSender] = WeakSet()


@atexit.register
def _flush_at_exit() -> None:
    for sender in living(_senders):
        sender.close()
