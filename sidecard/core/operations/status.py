"""What people look at: `ping`, `stats`, `report`, `health`, `config`."""

from typing import Any, Literal

from msgspec import Struct, structs

from sidecard.core.accounts.billing import Billing
from sidecard.core.backends.registry import Backends
from sidecard.core.cache.memory import MemoryCache
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, EmitNote, Send
from sidecard.core.events import Peer
from sidecard.core.flights.calls import Calls
from sidecard.core.flights.lookups import Lookups
from sidecard.core.flights.streams import Streams
from sidecard.core.replies import for_operators
from sidecard_client.protocol import wire


class RunInfo(Struct, frozen=True):
    """What a daemon's run is known by."""

    boot_id: str
    version: str
    started_at: float
    shown_settings: dict[str, Any]
    shown_origins: dict[str, str]

    def showing(self, settings: dict[str, Any], origins: dict[str, str]) -> "RunInfo":
        """Return the same run with other settings."""
        return structs.replace(self, shown_settings=settings, shown_origins=origins)


class StatusOperations:
    """Tells how the daemon is doing."""

    def __init__(
        self,
        run: RunInfo,
        cache: MemoryCache,
        streams: Streams,
        calls: Calls,
        lookups: Lookups,
        backends: Backends,
        accounts: Billing,
        count: Counters,
    ) -> None:
        self.peers = 0
        self.run = run
        self._cache = cache
        self._streams = streams
        self._calls = calls
        self._lookups = lookups
        self._backends = backends
        self._accounts = accounts
        self._count = count

    def ping(self, peer: Peer, request: wire.Ping, now: float) -> list[Effect]:
        """Say that the daemon is there."""
        pong = wire.Pong(
            request.id, self.run.version, wire.PROTOCOL_VERSION, self.run.boot_id, now - self.run.started_at
        )
        return [Send(peer.id, pong)]

    def stats(self, peer: Peer, request: wire.GetStats, now: float) -> list[Effect]:
        """Tell counters and gauges."""
        told: list[Effect] = [EmitNote(note) for note in self._backends.advance(now)]
        stats = wire.Stats(
            request.id,
            version=self.run.version,
            boot_id=self.run.boot_id,
            uptime_seconds=now - self.run.started_at,
            draining=self._calls.draining,
            peers=self.peers,
            flights=len(self._calls.flights),
            leases=self._calls.flights.lease_count,
            waiters=self._calls.flights.waiter_count,
            queued=self._calls.flights.applicant_count,
            permits=sum(backend.permits for backend in self._backends.all().values()),
            breakers_opened=self._backends.opened,
            cache_entries=self._cache.count,
            cache_bytes=self._cache.bytes,
            cache_max_bytes=self._cache.max_bytes,
            cache_compressed_entries=self._cache.compressed_count,
            cache_compressed_bytes=self._cache.compressed_bytes,
            cache_uncompressed_bytes=self._cache.uncompressed_bytes,
            stream_bytes=self._streams.bytes,
            streams=len(self._streams),
            chunks_taken=self._streams.taken,
            chunks_sent=self._streams.sent,
            streams_broken=self._streams.broken,
            vectors=self._calls.similar.count,
            evicted=self._cache.evicted,
            evicted_by_limits=self._cache.evicted_within,
            expired_entries=self._cache.expired,
            breakers=self._backends.states(),
            store=self._lookups.state,
            claims=self._calls.flights.claim_count,
            awaited=self._lookups.awaited,
            **self._count.fields(),
            **structs.asdict(self._lookups.gauges),
        )
        return [*told, Send(peer.id, stats)]

    def report(self, peer: Peer, request: wire.GetReport, now: float) -> list[Effect]:
        """Tell rates, savings and spending."""
        accounts = self._accounts
        told: list[Effect] = [EmitNote(note) for note in self._backends.advance(now)]
        report = wire.Report(
            request.id,
            now - self.run.started_at,
            accounts.tasks.total(),
            accounts.tasks.tasks(),
            accounts.spending.backends(),
            accounts.spending.models(),
            {name: budget.state(now) for name, budget in accounts.budgets.by_name.items()},
            accounts.ledger_seconds(now),
            self._backends.states(),
        )
        return [*told, Send(peer.id, report)]

    def health(self, peer: Peer, request: wire.GetHealth, now: float) -> list[Effect]:
        """Tell what is not fine."""
        uptime_seconds = now - self.run.started_at
        reasons = ["The daemon is stopping: it grants no new leases."] if self._calls.draining else []
        reasons += [
            f"The table of {table} is full: calls are made without the daemon." for table in self._calls.full_tables()
        ]
        backends = self._backends.all()
        told: list[Effect] = [EmitNote(note) for note in self._backends.advance(now)]
        reasons += [
            f"The breaker of backend {name!r} is {backend.breaker.state.replace('_', ' ')}. {backend.cause(now)}"
            for name, backend in backends.items()
            if backend.breaker.state in {"open", "half_open", "forced_open"}
        ]
        reasons += [
            f"The budget {name!r} is spent: {budget.spent_dollars(now):.6g} of {budget.settings.dollars:g} dollars."
            for name, budget in self._accounts.budgets.by_name.items()
            if budget.spent_dollars(now) >= budget.settings.dollars
        ]
        reasons += self._lookups.complaints()
        breakers = self._backends.states()
        status: Literal["ok", "draining"] = "draining" if self._calls.draining else "ok"
        health = wire.Health(
            request.id,
            status,
            reasons,
            self.run.version,
            self.run.boot_id,
            uptime_seconds,
            breakers,
            self._lookups.state,
        )
        return [*told, Send(peer.id, health)]

    def config(self, peer: Peer, request: wire.GetConfig, now: float) -> list[Effect]:  # noqa: ARG002 - as its siblings
        """Tell the running settings, to operators."""
        if not peer.operator:
            return [for_operators(peer, request, "config")]

        return [Send(peer.id, wire.Settings(request.id, self.run.shown_settings, self.run.shown_origins))]
