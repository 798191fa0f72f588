"""Status operations: `ping` and `stats`."""

from typing import Any

from msgspec import Struct, structs

from sidecard.core.accounts.memory import MemoryAccounts
from sidecard.core.backends.registry import Backends
from sidecard.core.cache.memory import MemoryCache
from sidecard.core.cache.similarity import SimilarAnswers
from sidecard.core.cache.view.publisher import Publisher
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, EmitNote, SendReply
from sidecard.core.events import Peer
from sidecard.core.flights.store.status import StoreStatus
from sidecard.core.flights.streams import Streams
from sidecard.core.flights.table import Flights
from sidecard_client.protocol import wire

SHOWN_UIDS = 16
"""Uids in ``memory_by_uid``."""


class RunInfo(Struct, frozen=True):
    """Identity and shown settings of one run of the daemon."""

    boot_id: str
    version: str
    started_at: float
    shown_settings: dict[str, Any]
    shown_origins: dict[str, str]

    def with_settings(self, settings: dict[str, Any], origins: dict[str, str]) -> "RunInfo":
        """Return the same run with other settings."""
        return structs.replace(self, shown_settings=settings, shown_origins=origins)


class StatusOperations(Struct, eq=False):
    """Report counters and gauges of all parts of the engine."""

    run: RunInfo
    cache: MemoryCache
    streams: Streams
    flights: Flights
    similar: SimilarAnswers
    store: StoreStatus
    backends: Backends
    count: Counters
    memory: MemoryAccounts
    publisher: Publisher
    peers: int = 0

    def ping(self, peer: Peer, request: wire.Ping, now: float) -> list[Effect]:
        """Reply that the daemon is up."""
        run = self.run
        pong = wire.Pong(request.id, run.version, wire.PROTOCOL_VERSION, run.boot_id, now - run.started_at)
        return [SendReply(peer.id, pong)]

    def stats(self, peer: Peer, request: wire.GetStats, now: float) -> list[Effect]:
        """Report counters and gauges."""
        by_uid = self.memory.by_uid()
        shown = list(by_uid)[:SHOWN_UIDS] if peer.operator else [peer.uid]
        memory_by_uid = {str(uid): by_uid.get(uid, 0) for uid in shown}
        return [*self.advance_breakers(now), SendReply(peer.id, self.snapshot(request.id, now, memory_by_uid))]

    def advance_breakers(self, now: float) -> list[Effect]:
        """Make the changes of breakers that depend on time alone, so that reports show their current states."""
        return [EmitNote(note) for note in self.backends.advance(now)]

    def snapshot(self, request_id: int, now: float, memory_by_uid: dict[str, int] | None = None) -> wire.Stats:
        """Return all counters and gauges. Call `advance_breakers` first."""
        flights, cache, streams = self.flights, self.cache, self.streams
        return wire.Stats(
            request_id,
            version=self.run.version,
            boot_id=self.run.boot_id,
            uptime_seconds=now - self.run.started_at,
            draining=self.flights.draining,
            peers=self.peers,
            flights=len(flights),
            leases=flights.lease_count,
            waiters=flights.waiter_count,
            queued=flights.applicant_count,
            permits=sum(backend.permits for backend in self.backends.all().values()),
            breakers_opened=self.backends.opened,
            cache_entries=cache.count,
            cache_bytes=cache.bytes,
            cache_max_bytes=cache.max_bytes,
            cache_compressed_entries=cache.compressed_count,
            cache_compressed_bytes=cache.compressed_bytes,
            cache_uncompressed_bytes=cache.uncompressed_bytes,
            stream_bytes=streams.memory.total,
            streams=len(streams),
            chunks_taken=streams.taken,
            chunks_sent=streams.sent,
            streams_broken=streams.broken,
            vectors=self.similar.count,
            similar_refused={**self.similar.refused},
            evicted=cache.evicted,
            evicted_by_limits=cache.evicted_within,
            memory_by_kind={kind: pool.total for kind, pool in self.memory.pools.items()},
            memory_by_uid=memory_by_uid or {},
            views=len(self.publisher.scopes),
            view_bytes=self.publisher.views.file_bytes,
            view_entries=self.publisher.publications.live,
            expired_entries=cache.expired,
            breakers=self.backends.states(),
            store=self.store.state,
            claims=flights.claim_count,
            awaited=flights.claimed_elsewhere_count,
            **self.count.fields(),
            **structs.asdict(self.store.gauges),
        )
