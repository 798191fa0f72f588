"""Limits of the tables of flights, leases and waiters, and of all streams together."""

from msgspec import Struct

from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.effects import Effect, EmitNote
from sidecard.core.flights.flight import Flight
from sidecard.core.flights.table import Flights
from sidecard.core.notes import Table, TableFull
from sidecard.core.settings import LiveSettings
from sidecard.core.shares import in_spare


class TableLimits(Struct, frozen=True, eq=False):
    """Limits what each uid adds to the tables. A table is noted when it becomes full, not for each rejected begin."""

    settings: LiveSettings
    flights: Flights
    metrics: DaemonMetrics
    noted: set[Table] = set()
    """Tables noted as full that have had no room since."""

    def start_flight(self, scope: str, key: str, uid: int) -> Flight | None:
        """Start a flight for a caller of ``uid``; None if the table has no room."""
        flights, limit = self.flights, self.settings.now.max_flights
        busy = len(flights) >= limit or self.noted
        if busy and not self._admits("flights", len(flights), flights.flights_by_uid[uid], limit):
            return None

        return flights.start(scope, key, uid)

    def admits_lease(self, uid: int) -> bool:
        """Return whether ``uid`` may hold one more lease."""
        flights, limit = self.flights, self.settings.now.max_leases
        if flights.lease_count < limit and not self.noted:
            return True

        return self._admits("leases", flights.lease_count, flights.leases_by_uid[uid], limit)

    def admits_waiter(self, uid: int) -> bool:
        """Return whether one more caller of ``uid`` may wait."""
        waiters = self.flights.waiters_by_uid
        return self._admits("waiters", waiters.total, waiters.of(uid), self.settings.now.max_waiters)

    def note_full(self, table: Table, limit: int | None = None) -> list[Effect]:
        """Count a rejection by a full table, and note it once. ``limit`` is by default the table's setting."""
        self.count("streams" if table == "streams" else f"max_{table}")
        if table in self.noted:
            return []

        self.noted.add(table)
        return [EmitNote(TableFull(table, self._limits()[table] if limit is None else limit))]

    def count(self, limit: str) -> None:
        """Count one rejection by a limit, by its name in ``sidecard_limited_total``."""
        self.metrics.limited[limit] += 1

    def full_tables(self) -> list[str]:
        """Return the names of the tables that are at their limit."""
        flights = self.flights
        levels = {"flights": len(flights), "leases": flights.lease_count, "waiters": flights.waiter_count}
        return [table for table, limit in self._limits().items() if levels[table] >= limit]

    def _admits(self, table: Table, total: int, own: int, limit: int) -> bool:
        if total >= limit and not in_spare(own, total, limit, self.settings.now.spare_share):
            return False

        if self.noted:
            self.noted.discard(table)

        return True

    def _limits(self) -> dict[str, int]:
        settings = self.settings.now
        return {"flights": settings.max_flights, "leases": settings.max_leases, "waiters": settings.max_waiters}
