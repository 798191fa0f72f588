"""One thread per client that renews leases and detects a hung daemon.

It starts when a call holds a lease or waits, and ends `LINGER_SECONDS` after the last such call. It never blocks, except to wait:
it sends, and the calls' own threads receive.

- It renews a lease every third of its lifetime over the holder's own connection, which the holder's thread does not use
  while its function runs.
- It receives on the connections of held streams, so that a stream's `StreamWatcher` hears at once that another caller waits.
- While calls wait, it pings over one of their connections every `PING_SECONDS`; the pong wakes the thread that waits on
  that connection, which records it. If neither the pong nor any other reply arrives within ``timeout_seconds``, the daemon
  is unreachable: every waiting connection is abandoned, which wakes its thread immediately.

So 125 waiting threads cost five small messages per second. All of them detect a stopped daemon together, at most
`QUIET_SECONDS` + `PING_SECONDS` + ``timeout_seconds`` (0.8 s) after its last reply.
"""

import math
import threading
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from sidecard_client._sync.connection import BlockingConnection
from sidecard_client.doorbell import Doorbell
from sidecard_client.protocol.connection import LeaseWatcher, Renewal, renewal_of
from sidecard_client.protocol.wire import Lease

PING_SECONDS = 0.2
QUIET_SECONDS = 0.1
"""A daemon that replied this recently is not pinged."""

LINGER_SECONDS = 10.0
"""How long the thread outlives its last work: starting one costs more than a miss."""


class StreamWatcher(LeaseWatcher, Protocol):
    """A stream whose lease is held."""

    def look(self, now: float) -> float:
        """Act on what has happened since the last time; return when to look again without a cause. Called without a lock."""


class Heartbeat:
    """The thread. It starts when a call holds a lease or waits, and ends `LINGER_SECONDS` after the last one.

    ``unresponsive`` is called from the thread, before the waiting connections are abandoned.
    ``heard_at`` is the monotonic instant of the daemon's last reply; each receiver sets it.
    """

    def __init__(self, timeout_seconds: float, unresponsive: Callable[[], object]) -> None:
        self.heard_at = 0.0
        self._timeout_seconds = timeout_seconds
        self._unresponsive = unresponsive
        self._lock = threading.Lock()  # guards everything below, and the connections in _held and _waiting
        self._thread: threading.Thread | None = None
        self._bell: Doorbell | None = None  # there is one from the first start of the thread on
        self._wakes_at = math.inf
        self._held: dict[BlockingConnection, list[Renewal]] = {}
        self._watchers: dict[
            BlockingConnection, StreamWatcher
        ] = {}  # of connections that are held, or were until their loss
        self._waiting: dict[BlockingConnection, None] = {}  # ordered, so that the longest-waiting one is pinged
        self._pinged: BlockingConnection | None = None
        self._pinged_at = 0.0
        self._ping_id = 0
        self._ends_at = 0.0
        self._shortest_seconds = math.inf
        self._closed = False

    def hold(self, connection: BlockingConnection, *leases: Lease, watcher: StreamWatcher | None = None) -> None:
        """Renew ``leases`` until `release`. ``watcher`` hears what happens to the only one of them meanwhile."""
        now = monotonic()
        renewals = [renewal_of(lease, now) for lease in leases]
        renew_at = min(renewal.renew_at for renewal in renewals)
        with self._lock:
            self._shortest_seconds = min(self._shortest_seconds, renew_at - now)
            self._held[connection] = renewals
            if watcher is not None:
                # Its connection is to be received on from now on.
                self._watchers[connection] = watcher
                self._wake_by(now)
            elif self._thread is None or renew_at < self._wakes_at:
                self._wake_by(renew_at)

    def release(self, connection: BlockingConnection) -> None:
        """Stop renewing. The thread does not use the connection after this. Does nothing if it holds no lease."""
        with self._lock:
            self._held.pop(connection, None)
            if self._watchers.pop(connection, None) is not None:
                connection.protocol.wanted.clear()

    def watch(self, connection: BlockingConnection) -> bool:
        """Count ``connection`` as waiting until `unwatch`. Returns False if no thread could be started."""
        with self._lock:
            self._waiting[connection] = None
            self._wake_by(monotonic() + PING_SECONDS)
            return self._thread is not None

    def unwatch(self, connection: BlockingConnection) -> None:
        """Stop watching. The thread does not use the connection after this."""
        with self._lock:
            self._waiting.pop(connection, None)

    def close(self) -> None:
        """End the thread once nothing is held and nothing waits."""
        self._closed = True
        self.poke()

    def abandon(self) -> None:
        """End the thread, since its client is gone."""
        self.close()

    def poke(self) -> bool:
        """Let the thread look at everything; False if there is no thread. Takes no lock: the garbage collector calls this."""
        bell = self._bell
        if self._thread is None or bell is None:
            return False

        bell.ring()
        return True

    def _wake_by(self, instant: float) -> None:
        """Start the thread, or wake it if it sleeps beyond ``instant``."""
        if self._thread is None:
            try:
                self._bell = bell = self._bell or Doorbell()
                self._thread = threading.Thread(target=self._run, args=(bell,), name="sidecard-heartbeat", daemon=True)
                self._thread.start()
            except (RuntimeError, OSError):
                # The interpreter is shutting down, or the process may start no more threads or open no more files.
                self._thread = None  # a call that is shorter than a lease needs no heartbeat
        elif instant < self._wakes_at:
            self._wakes_at = instant
            self.poke()

    def _run(self, bell: Doorbell) -> None:
        self._ends_at = monotonic() + LINGER_SECONDS
        readable: set[int] = set()
        while True:
            with self._lock:
                now = monotonic()
                # If this thread was scheduled late, extend the daemon's time by as much.
                self._pinged_at += max(0.0, now - self._wakes_at)
                self._receive(readable)
                self._wakes_at = self._beat(now)
                if self._wakes_at <= now:
                    self._thread = None
                    return

                watchers = list(self._watchers.values())

            # Without the lock, because a stream starts a thread, and its own lock is held by threads that wait for this one.
            looks_at = min((watcher.look(now) for watcher in watchers), default=math.inf)
            with self._lock:
                self._wakes_at = min(self._wakes_at, looks_at)
                seconds = self._wakes_at - monotonic()
                held = [one.socket.fileno() for one in self._watchers if one in self._held]

            del watchers  # a stream without references is to be freed
            try:
                readable = bell.wait(seconds, [descriptor for descriptor in held if descriptor >= 0])
            except OSError:  # the app has closed descriptors that it does not know
                with self._lock:
                    self._thread = self._bell = None

                return

    def _receive(self, readable: set[int]) -> None:
        """Receive on the connections of held streams that have something to read."""
        for connection, watcher in self._watchers.items():
            renewals = self._held.get(connection)
            if renewals is None:
                continue

            lease = renewals[0].lease
            if connection.socket.fileno() in readable and not connection.drain(lease):
                del self._held[connection]
                watcher.lost()

            if lease in connection.protocol.wanted:
                connection.protocol.wanted.clear()
                watcher.wanted()

    def _beat(self, now: float) -> float:
        """Send due renewals and pings; return when to wake next, or ``now`` if the thread may end."""
        wakes_at = min(self._renew(now), self._ping(now))
        if wakes_at == math.inf and self._watchers:
            wakes_at = now + LINGER_SECONDS  # of lost leases: their streams may become unreferenced

        if wakes_at < math.inf:
            self._ends_at = now + LINGER_SECONDS
            return wakes_at

        if self._closed or now >= self._ends_at:
            return now

        # Not longer than until the next lease's first renewal, or each short call would have to wake the thread.
        return min(self._ends_at, now + self._shortest_seconds)

    def _renew(self, now: float) -> float:
        earliest = math.inf
        for connection, renewals in list(self._held.items()):
            if not all(_renewed(connection, held, now) for held in renewals):
                del self._held[connection]  # lost: the holder goes on, and its late answer changes nothing
                if connection in self._watchers:
                    self._watchers[connection].lost()

                continue

            earliest = min(earliest, *(held.renew_at for held in renewals))

        return earliest

    def _ping(self, now: float) -> float:
        """Send a ping, or check the last one; return when to wake next. ``_pinged`` is None if no ping is open."""
        if not self._waiting:
            self._pinged = None
            return math.inf

        if self._pinged is not None:
            answered = self._pinged.last_beat_answered >= self._ping_id or self.heard_at >= self._pinged_at
            if answered or self._pinged not in self._waiting:
                self._pinged = None
            elif now < self._pinged_at + self._timeout_seconds:
                return min(now + PING_SECONDS, self._pinged_at + self._timeout_seconds)
            elif self._pinged.has_input():
                self._pinged = None  # the reply has arrived, and its thread was not scheduled yet
            else:
                self._give_up()
                return math.inf

        if now - self.heard_at < QUIET_SECONDS:
            return now + PING_SECONDS

        connection = next(iter(self._waiting))
        ping_id = connection.ping()
        if ping_id is not None:  # else its thread is about to see the end of the connection
            self._pinged, self._pinged_at, self._ping_id = connection, now, ping_id

        return now + min(PING_SECONDS, self._timeout_seconds)

    def _give_up(self) -> None:
        self._pinged = None
        self._unresponsive()
        for connection in list(self._waiting):
            connection.abandon()

        self._waiting.clear()


def _renewed(connection: BlockingConnection, held: Renewal, now: float) -> bool:
    """Renew a lease if it is due. Return False if renewing again is useless."""
    if held.renew_at > now:
        return True

    held.renew_at = now + held.every_seconds
    return connection.renew(held.lease)
