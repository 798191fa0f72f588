"""Bound the memory of all connections together: unread replies, and messages that are incomplete.

Each connection has bounds of its own, which a peer with thousands of connections multiplies. Above `BufferBudget.max_bytes`,
the connections that hold most are closed, first those of the uid that holds most, until the rest fits. Precedent: Redis'
``maxmemory-clients``. A client whose connection is closed makes its calls without the daemon.

A large value with many waiters is one object that all their frames refer to (`sidecard.server.replies.large`). It counts once.
"""

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from sidecard.core.accounts.memory import MemoryPool

COUNTED_BYTES: Final = 4 * 1024
"""Smaller amounts of one connection are not counted, since accounting for them would slow down every hit: 16 MiB of 4,096
connections."""

T = TypeVar("T", bound=Hashable)


class _SharedValue:
    """A value that unsent frames of ``users`` connections refer to."""

    __slots__ = ("users", "value")

    def __init__(self, value: memoryview) -> None:
        self.value = value
        self.users = 0


class BufferBudget(Generic[T]):
    """The bytes that connections hold. Amounts up to `COUNTED_BYTES` of one connection are ignored."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        """May be changed at any time."""
        self.memory = MemoryPool(max_bytes)
        """What each uid's connections hold, without shared values. May be replaced before the first use."""
        self.bytes = 0
        self._held: dict[T, tuple[int, int]] = {}
        """Uid and bytes of each connection, without shared values; the last changed at the end."""
        self._values: dict[int, _SharedValue] = {}
        """By the identity of the object that holds the bytes, which lives at least as long as its item."""
        self._used: dict[T, list[int]] = {}

    def update(self, connection: T, uid: int, count: int) -> list[T]:
        """Set what a connection holds now. Return the connections to close because the sum is above the bound."""
        if count <= COUNTED_BYTES and connection not in self._held and self.bytes <= self.max_bytes:
            # The common case: the connection held nothing that counts, and still does not.
            return []

        count -= self._shared_bytes(connection)
        self._set(connection, uid, count if count > COUNTED_BYTES else 0)
        return [] if self.bytes <= self.max_bytes else self._release_largest()

    def share(self, connection: T, value: memoryview) -> None:
        """Count a value that an unsent frame of the connection refers to."""
        identity = id(value.obj)
        shared = self._values.get(identity)
        if shared is None:
            shared = self._values[identity] = _SharedValue(value)
            self.bytes += len(value)

        shared.users += 1
        self._used.setdefault(connection, []).append(identity)

    def unshare(self, connection: T) -> None:
        """Forget the connection's shared values: all its frames have been sent."""
        for identity in self._used.pop(connection, ()):
            shared = self._values[identity]
            shared.users -= 1
            if not shared.users:
                self.bytes -= len(shared.value)
                del self._values[identity]

    def release(self, connection: T) -> None:
        """Forget a connection, which holds nothing any more."""
        self.unshare(connection)
        if connection in self._held:
            self._set(connection, self._held[connection][0], 0)

    def _set(self, connection: T, uid: int, count: int) -> None:
        _, before = self._held.pop(connection, (uid, 0))
        if before:
            self.memory.release(uid, before)

        if count:
            self._held[connection] = uid, count
            self.memory.charge(uid, count)

        self.bytes += count - before

    def _shared_bytes(self, connection: T) -> int:
        return sum(len(self._values[identity].value) for identity in self._used.get(connection, ()))

    def _release_largest(self) -> list[T]:
        """Release connections until the rest fits: always the largest of the uid that holds most. Return them.

        Of connections that hold the same, the one that has not changed for longest: a peer that reads stays.
        """
        victims: list[T] = []
        per_uid = self.memory.by_uid()
        # Sorted once: there may be thousands of connections, and hundreds of them to release.
        of_uid: dict[int, list[T]] = {uid: [] for uid in per_uid}
        for connection, (uid, _) in sorted(self._held.items(), key=lambda item: -item[1][1]):
            of_uid[uid].append(connection)

        for connections in of_uid.values():
            connections.reverse()

        while self.bytes > self.max_bytes:
            if per_uid:
                victim = of_uid[max(per_uid, key=per_uid.__getitem__)].pop()
            else:
                # Only shared values are left: the connection that refers to most of them.
                victim = max(self._used, key=self._shared_bytes)

            self.release(victim)
            victims.append(victim)

        return victims
