"""Memory that peers make the daemon hold besides the cache, charged to their uids.

`MemoryAccounts` has one `MemoryPool` for each kind of memory, so that one kind never takes the room of another. All pools but that
of the connections' buffers have ``limits.max_memory_bytes`` together. Charges are sizes in memory: measured costs of the objects
plus their texts and bytes.

A pool is shared fairly, like the tables (`sidecard.core.shares`), but never exceeds its limit:

=================================  ==========================================  ==================
bytes in use, with the new charge  the uid uses, with the new charge           is it admitted?
=================================  ==========================================  ==================
up to `COMMON_SHARE` of the limit  any number: one active uid may use all      yes
above                              at most `LITTLE_SHARE` of the limit         yes, up to the limit
above                              more                                        no
=================================  ==========================================  ==================

What is rejected is the caller's to do without: a begin is ``busy``, a stream is not shared, a sample is dropped.
"""

from collections.abc import Mapping
from operator import itemgetter
from typing import Final, Literal

MemoryKind = Literal["requests", "streams", "app_metrics", "buffers"]

POOL_SHARES: Final[Mapping[MemoryKind, float]] = {"requests": 1 / 2, "streams": 3 / 8, "app_metrics": 1 / 8}
"""Share of ``limits.max_memory_bytes`` for waiting and held requests with their flights, for chunks of streams, and for the
apps' metrics. Connections' buffers are charged too, but bounded by ``limits.max_buffered_bytes`` (`sidecard.server.buffers`)."""

COMMON_SHARE: Final = 3 / 4
"""Share of a pool that a single uid may use."""

LITTLE_SHARE: Final = 1 / 16
"""Share of a pool up to which a uid finds room in the rest: so four more uids can use it at the same time."""


class MemoryPool:
    """Bytes of one kind, by uid."""

    __slots__ = ("_of_uid", "common_bytes", "limit_bytes", "total")

    def __init__(self, limit_bytes: int) -> None:
        self._of_uid: dict[int, int] = {}
        self.total = 0
        self.resize(limit_bytes)

    def resize(self, limit_bytes: int) -> None:
        """Set the maximum of all charges together. Charges above it stay until they are released."""
        self.limit_bytes = limit_bytes
        self.common_bytes = int(limit_bytes * COMMON_SHARE)

    def of(self, uid: int) -> int:
        """Return what is charged to a uid."""
        return self._of_uid.get(uid, 0)

    def by_uid(self) -> Mapping[int, int]:
        """Return the charges of all uids that have any."""
        return self._of_uid

    def has_room(self, uid: int, size: int) -> bool:
        """Return whether a uid may be charged ``size`` more bytes."""
        total = self.total + size
        if total <= self.common_bytes:
            return True

        return total <= self.limit_bytes and self.of(uid) + size <= self.limit_bytes * LITTLE_SHARE

    def try_charge(self, uid: int, size: int) -> bool:
        """Charge a uid, if it has room; return whether it had."""
        if not self.has_room(uid, size):
            return False

        self.charge(uid, size)
        return True

    def charge(self, uid: int, size: int) -> None:
        """Charge a uid, which `has_room` or moves a charge that it already has."""
        self.total += size
        self._of_uid[uid] = self._of_uid.get(uid, 0) + size

    def release(self, uid: int, size: int) -> None:
        """Take back a charge of exactly that size."""
        self.total -= size
        left = self._of_uid[uid] - size
        if left:
            self._of_uid[uid] = left
        else:
            del self._of_uid[uid]


class MemoryAccounts:
    """The pools of all kinds, which together have ``max_bytes``, besides the connections' buffers."""

    def __init__(self, max_bytes: int) -> None:
        self.pools: dict[MemoryKind, MemoryPool] = {
            kind: MemoryPool(int(max_bytes * share)) for kind, share in POOL_SHARES.items()
        }
        self.requests = self.pools["requests"]
        self.streams = self.pools["streams"]
        self.app_metrics = self.pools["app_metrics"]
        self.buffers = self.pools["buffers"] = MemoryPool(0)

    def resize(self, max_bytes: int) -> None:
        """Set the bytes of all pools together."""
        for kind, share in POOL_SHARES.items():
            self.pools[kind].resize(int(max_bytes * share))

    def by_uid(self) -> dict[int, int]:
        """Return the bytes of each uid that holds any, the largest first."""
        sums: dict[int, int] = {}
        for pool in self.pools.values():
            for uid, size in pool.by_uid().items():
                sums[uid] = sums.get(uid, 0) + size

        return dict(sorted(sums.items(), key=itemgetter(1), reverse=True))
