"""Limits of the tables of flights, leases and waiters, of their memory, and of all streams together."""

from typing import Final

from msgspec import Struct

from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.accounts.memory import MemoryPool
from sidecard.core.effects import Effect, EmitNote
from sidecard.core.flights.flight import Flight
from sidecard.core.flights.table import Flights
from sidecard.core.notes import Table, TableFull
from sidecard.core.settings import LiveSettings
from sidecard.core.shares import Share

MUCH_ROOM: Final = 0.9
"""Level below which a full table's next filling is noted again: one that stays about full is noted once."""

_COUNTED: Final[dict[Table, str]] = {"streams": "streams", "memory": "max_memory_bytes"}
"""Names in ``sidecard_limited_total``; that of another table is its setting's."""


class TableLimits(Struct, frozen=True, eq=False):
    """Limits what each uid adds to the tables. A table is noted when it becomes full, not for each rejected begin."""

    settings: LiveSettings
    flights: Flights
    memory: MemoryPool
    """Of waiting and held requests."""
    metrics: DaemonMetrics
    noted: set[Table] = set()
    """Tables noted as full that have had much room at no time since."""

    def start_flight(self, scope: str, key: str, uid: int) -> Flight | None:
        """Start a flight for a caller of ``uid``; None if the table has no room."""
        flights, limit = self.flights, self.settings.now.max_flights
        busy = len(flights) >= limit or self.noted
        if busy and not self._admits("flights", flights.flights_by_uid, uid, limit):
            return None

        return flights.start(scope, key, uid)

    def admits_lease(self, uid: int) -> bool:
        """Return whether ``uid`` may hold one more lease."""
        flights, limit = self.flights, self.settings.now.max_leases
        if flights.lease_count < limit and not self.noted:
            return True

        return self._admits("leases", flights.leases_by_uid, uid, limit)

    def admits_waiter(self, uid: int) -> bool:
        """Return whether one more caller of ``uid`` may wait."""
        return self._admits("waiters", self.flights.waiters_by_uid, uid, self.settings.now.max_waiters)

    def full_for_waiter(self, uid: int, charge: int) -> Table | None:
        """Return what has no room for one more caller of ``uid``, whose request is charged ``charge`` bytes."""
        return "waiters" if not self.admits_waiter(uid) else self.full_memory(uid, charge)

    def full_memory(self, uid: int, charge: int) -> Table | None:
        """Return ``memory`` if ``uid`` may not be charged so many bytes for a request, and as many for its flight."""
        memory = self.memory
        if not memory.has_room(uid, 2 * charge):
            return "memory"

        if self.noted and memory.total < memory.common_bytes * MUCH_ROOM:
            self.noted.discard("memory")

        return None

    def note_full(self, table: Table, limit: int | None = None) -> list[Effect]:
        """Count a rejection by a full table, and note it once. ``limit`` is by default the table's setting."""
        self.count(_COUNTED.get(table) or f"max_{table}")
        if table in self.noted:
            return []

        self.noted.add(table)
        return [EmitNote(TableFull(table, self._limits()[table] if limit is None else limit))]

    def count(self, limit: str) -> None:
        """Count one rejection by a limit, by its name in ``sidecard_limited_total``."""
        self.metrics.limited[limit] += 1

    def full_tables(self) -> list[str]:
        """Return the names of the tables that are at their limit."""
        flights, limits = self.flights, self._limits()
        levels = {"flights": len(flights), "leases": flights.lease_count, "waiters": flights.waiter_count}
        full = [table for table, level in levels.items() if level >= limits[table]]
        return full if self.memory.total < self.memory.common_bytes * MUCH_ROOM else [*full, "memory"]

    def _admits(self, table: Table, share: Share, uid: int, limit: int) -> bool:
        if not share.has_room(uid, limit, self.settings.now.spare_share):
            return False

        if self.noted and share.total < limit * MUCH_ROOM:
            self.noted.discard(table)

        return True

    def _limits(self) -> dict[str, int]:
        settings = self.settings.now
        return {
            "flights": settings.max_flights,
            "leases": settings.max_leases,
            "waiters": settings.max_waiters,
            "memory": self.memory.limit_bytes,
        }
