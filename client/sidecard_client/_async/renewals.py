"""The leases that a connection of the async client holds: when they are renewed, and when their watchers are notified."""

from msgspec import Struct

from sidecard_client.protocol.connection import Connection, LeaseWatcher, Renewal, renewal_of
from sidecard_client.protocol.wire import AnyReply, Lease, Ok, Renew


class Renewals(Struct, frozen=True, eq=False):
    """The held leases of a connection, whose messages ``protocol`` numbers."""

    protocol: Connection
    held: dict[str, Renewal] = {}
    _open: dict[int, str] = {}
    """The leases that have a watcher, by the id of their open `Renew`."""
    _early: set[str] = set()
    """Leases that others wait for, as of the last beat, and that no task had held by then."""

    def __len__(self) -> int:
        """Count the held leases."""
        return len(self.held)

    def hold(self, lease: Lease, watcher: LeaseWatcher | None, now: float) -> None:
        """Renew ``lease`` until `release`. ``watcher`` is notified of waiters and of its loss."""
        self.held[lease.lease] = renewal_of(lease, now, watcher)
        if watcher is not None and self.protocol.wanted:
            self.notify()  # 1. the lease and `Wanted` arrive together; 2. the task gets the lease, and holds it

    def release(self, lease: Lease) -> None:
        """Stop renewing ``lease``."""
        self.held.pop(lease.lease, None)

    def beat(self, until: float, now: float) -> list[bytes]:
        """Return the messages that renew the leases that are due before ``until``."""
        self.protocol.wanted -= self._early
        self._early.clear()
        self._early.update(self.protocol.wanted)
        due = [renewal for renewal in self.held.values() if renewal.renew_at <= until]
        return [self._renew(renewal, now) for renewal in due]

    def answered(self, request_id: int, reply: AnyReply) -> bool:
        """Notify the watcher of a renewed lease; False if no renewal of that id is open."""
        lease = self._open.pop(request_id, None)
        held = None if lease is None else self.held.get(lease)
        if held is not None and held.watcher is not None:
            if not isinstance(reply, Ok):
                held.watcher.lost()
            elif reply.waiters:
                held.watcher.wanted()

        return lease is not None

    def notify(self) -> None:
        """Notify the watchers of the leases that others wait for. Leases that are not held yet may be soon."""
        for lease in self.protocol.wanted & self.held.keys():
            self.protocol.wanted.discard(lease)
            watcher = self.held[lease].watcher
            if watcher is not None:
                watcher.wanted()

    def lose(self) -> None:
        """Notify all watchers that their connection has ended."""
        watchers = [renewal.watcher for renewal in self.held.values()]
        self.held.clear()
        for watcher in watchers:
            if watcher is not None:
                watcher.lost()

    def _renew(self, renewal: Renewal, now: float) -> bytes:
        renewal.renew_at = now + renewal.every_seconds
        request_id, data = self.protocol.send(Renew(lease=renewal.lease))
        if renewal.watcher is None:
            self.protocol.forget(request_id)
            return data

        for unanswered in [number for number, lease in self._open.items() if lease == renewal.lease]:
            del self._open[unanswered]
            self.protocol.forget(unanswered)

        self._open[request_id] = renewal.lease
        return data
