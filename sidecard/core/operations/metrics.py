"""All metrics, the daemon's own and the apps', as families of samples. Their names are a contract: dashboards hang on them.

Counters count this run: they begin at 0 with the daemon and never go back while it runs.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import get_args

from sidecard.core.accounts.app_metrics import RESERVED_PREFIX, AppMetrics
from sidecard.core.accounts.billing import Billing
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.backends.registry import Backends
from sidecard.core.cache.memory import MemoryCache
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, EmitNote, Send, SetLogLevel
from sidecard.core.events import Peer
from sidecard.core.flights.calls import Calls
from sidecard.core.flights.lookups import Lookups
from sidecard.core.flights.streams import Streams
from sidecard.core.operations.status import StatusOperations
from sidecard.core.replies import for_operators
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import BreakerState, Family, MetricKind, RejectionReason, Sample, tag_of

_UNCOUNTED_REPLIES = frozenset({wire.Pending, wire.Chunk, wire.Note})
"""No outcomes: theirs follow, or there is none."""

DROPPED = ("series", "invalid", "client", "push_samples", "calls", "log_lines", "store")
"""What may be thrown away. All of them are told from the beginning, so that the first one shows as a growth."""

LIMITS = (
    "max_peers",
    "max_peers_per_uid",
    "unmapped",
    "stall_seconds",
    "message_seconds",
    "max_outbox_bytes",
    "max_buffered_bytes",
    "max_flights",
    "max_leases",
    "max_waiters",
    "max_queue",
    "streams",
)
"""What may refuse something or have a peer closed: settings of ``[limits]``, and what depends on others. All told from the start."""

Values = Iterable[tuple[dict[str, str], float]]
"""For each label set, the value."""


class MetricsOperations:
    """Takes what apps tell, and tells everything. ``enabled`` is whether the daemon measures itself."""

    def __init__(
        self,
        *,
        overview: StatusOperations,
        cache: MemoryCache,
        streams: Streams,
        calls: Calls,
        lookups: Lookups,
        backends: Backends,
        accounts: Billing,
        count: Counters,
        meters: DaemonMetrics,
        apps: AppMetrics,
        enabled: bool,
    ) -> None:
        self.apps = apps
        self._overview = overview
        self._cache = cache
        self._streams = streams
        self._calls = calls
        self._lookups = lookups
        self._backends = backends
        self._accounts = accounts
        self._count = count
        self._meters = meters
        self._enabled = enabled

    def record(self, peer: Peer, request: wire.RecordMetrics, now: float) -> list[Effect]:  # noqa: ARG002 - as its siblings
        """Take measurements of an app."""
        dropped = self.apps.record(peer, request)
        return [Send(peer.id, wire.Recorded(request.id, dropped))] if request.acknowledge else []

    def metrics(self, peer: Peer, request: wire.GetMetrics, now: float) -> list[Effect]:
        """Tell everything there is to expose."""
        told: list[Effect] = [EmitNote(note) for note in self._backends.advance(now)]
        families = [*self.families(now), *self.apps.families()]
        return [*told, Send(peer.id, wire.Metrics(request.id, families))]

    def set_log(self, peer: Peer, request: wire.SetLog, now: float) -> list[Effect]:  # noqa: ARG002 - as its siblings
        """Let the log say more or less."""
        if not peer.operator:
            return [for_operators(peer, request, "log")]

        return [Send(peer.id, wire.Ok(request.id)), SetLogLevel(request.level)]

    def families(self, now: float) -> Iterator[Family]:
        """Return the daemon's own metrics; of those that have labels, the ones that something has happened to."""
        if not self._enabled:
            return

        yield from self._of_calls()
        yield from self._of_bounds()
        yield from self._of_savings()
        yield from self._of_state(now)
        yield from self._of_backends()
        yield from self._of_budgets(now)
        yield from self._of_times()

    def _of_calls(self) -> Iterator[Family]:
        count, meters = self._count, self._meters
        books = self._accounts.tasks.books()
        sums = [(task, book.sums_of_this_run()) for task, book in books]
        # Of streams it is their end that counts, as of those that are shared.
        requests = meters.requests | Counter({(wire.Begin, wire.Hit): count.hits - self._streams.hits})
        yield _family(
            "requests",
            "counter",
            "Requests by their op and the type of their answer.",
            (
                ({"op": tag_of(asked), "outcome": tag_of(reply)}, number)
                for (asked, reply), number in requests.items()
                if reply not in _UNCOUNTED_REPLIES
            ),
        )
        yield _family(
            "cache_hits",
            "counter",
            "Begins ended by a stored answer.",
            (
                ({"task": task, "freshness": freshness}, hits)
                for task, of in sums
                for freshness, hits in (
                    ("fresh", of["hits"] - of["stale_hits"] - of["similar_hits"]),
                    ("stale", of["stale_hits"]),
                    ("similar", of["similar_hits"]),
                )
            ),
        )
        yield _family(
            "cache_misses",
            "counter",
            "Begins that found no stored answer.",
            (({"task": task}, of["misses"]) for task, of in sums),
        )
        yield _family(
            "shared",
            "counter",
            "Begins ended by an answer that another caller fetched.",
            (({"task": task}, of["shared"]) for task, of in sums),
        )
        yield _family(
            "leases",
            "counter",
            "Leases by how they ended.",
            (({"backend": backend, "outcome": how}, number) for (backend, how), number in meters.leases.items()),
        )
        yield _family(
            "chunks",
            "counter",
            "Pieces of streams: those that holders brought, and those that readers were sent.",
            [({"way": "taken"}, self._streams.taken), ({"way": "sent"}, self._streams.sent)],
        )
        yield _family(
            "streams_broken",
            "counter",
            "Readers whose stream failed after its first piece.",
            [({}, self._streams.broken)],
        )
        yield _family("reelections", "counter", "Leases that passed to a waiter.", [({}, count.reelections)])
        yield _family(
            "rejected",
            "counter",
            "Begins ended in a rejection.",
            (({"reason": reason}, getattr(count, f"rejected_{reason}")) for reason in get_args(RejectionReason)),
        )

    def _of_bounds(self) -> Iterator[Family]:
        count, meters = self._count, self._meters
        yield _family(
            "evicted",
            "counter",
            "Entries that left the cache: live ones to make room, in all or in their namespace, those whose time had passed, "
            "those deleted.",
            [
                ({"reason": "room"}, self._cache.evicted - self._cache.evicted_within),
                ({"reason": "namespace"}, self._cache.evicted_within),
                ({"reason": "expired"}, self._cache.expired),
                ({"reason": "deleted"}, count.deleted),
            ],
        )
        yield _family(
            "refused_too_large",
            "counter",
            "Answers that were not stored, being larger than an entry may be.",
            [({}, count.refused_too_large)],
        )
        yield _family(
            "dropped",
            "counter",
            "What was thrown away because there was no room for it or it could not be understood.",
            (({"what": what}, self._dropped(what)) for what in DROPPED),
        )
        yield _family(
            "limited",
            "counter",
            "Connections refused or closed, and begins refused, by the limit that did it.",
            (({"limit": limit}, meters.limited[limit]) for limit in LIMITS),
        )
        yield _family(
            "series_overflow",
            "counter",
            "Measurements of apps whose label sets were too many, by metric.",
            (({"metric": name}, number) for name, number in self.apps.overflows()),
        )

    def _dropped(self, what: str) -> int:
        counted = self._meters.dropped_by.get(what)
        of_store = self._lookups.gauges.store_dropped if what == "store" else 0
        return self._meters.dropped[what] + of_store + (counted() if counted is not None else 0)

    def _of_savings(self) -> Iterator[Family]:
        sums = [(task, book.sums_of_this_run()) for task, book in self._accounts.tasks.books()]
        for unit in ("seconds", "dollars"):
            yield _family(
                f"saved_{unit}",
                "counter",
                f"{unit.capitalize()} that calls did not take, because of the cache or of sharing.",
                (
                    ({"task": task, "by": by}, of[f"saved_by_{by}_{unit}"])
                    for task, of in sums
                    for by in ("cache", "sharing")
                ),
            )

        yield _family(
            "spent_dollars",
            "counter",
            "What backends billed.",
            (
                ({"backend": backend, "model": model}, dollars)
                for (backend, model), dollars in self._meters.spent.items()
            ),
        )

    def _of_state(self, now: float) -> Iterator[Family]:
        run, flights, cache, streams = self._overview.run, self._calls.flights, self._cache, self._streams
        build = {"version": run.version, "boot_id": run.boot_id}
        yield _family("build_info", "gauge", "Which daemon this is.", [(build, 1)])
        for name, text, value in (
            ("uptime_seconds", "Since the daemon began.", now - run.started_at),
            ("draining", "Whether the daemon is stopping.", self._calls.draining),
            ("peers", "Connections.", self._overview.peers),
            ("flights", "Keys that are being computed.", len(flights)),
            ("waiters", "Begins that wait, for an answer or for a permit.", flights.waiter_count),
            ("cache_entries", "Entries in memory.", cache.count),
            ("cache_bytes", "Keys, values and the fixed cost of the entries.", cache.bytes),
            ("cache_max_bytes", "What they may be.", cache.max_bytes),
            ("vectors", "Entries that may be served to similar requests.", self._calls.similar.count),
            ("cache_compressed_entries", "Entries whose answers are kept compressed.", cache.compressed_count),
            ("cache_compressed_bytes", "Those answers, as they are kept.", cache.compressed_bytes),
            ("cache_uncompressed_bytes", "The same answers, as they are served.", cache.uncompressed_bytes),
            ("streams", "Begins that are being sent an answer in pieces.", len(streams)),
            ("stream_bytes", "What streams in flight, or still being read, hold.", streams.bytes),
        ):
            yield _family(name, "gauge", text, [({}, value)])

        if self._lookups.state != "none":
            yield _family("store_up", "gauge", "Whether the store answers.", [({}, self._lookups.answers)])
            pending = self._lookups.gauges.store_pending
            yield _family("store_pending", "gauge", "Entries and removals to be written.", [({}, pending)])

        for name, ask in sorted(self._meters.gauges.items()):
            yield _family(name, "gauge", _GAUGES[name], [({}, ask())])

    def _of_backends(self) -> Iterator[Family]:
        backends = self._backends.all()
        yield _family(
            "breaker_state",
            "gauge",
            "1 for the state that the backend's breaker is in.",
            (
                ({"backend": name, "state": state}, backend.breaker.state == state)
                for name, backend in backends.items()
                for state in get_args(BreakerState)
            ),
        )
        yield _family(
            "permits",
            "gauge",
            "Calls in progress.",
            (({"backend": name}, backend.permits) for name, backend in backends.items()),
        )
        yield _family(
            "queued",
            "gauge",
            "Callers that wait for a permit.",
            (({"backend": name}, len(backend.queue)) for name, backend in backends.items()),
        )

    def _of_budgets(self, now: float) -> Iterator[Family]:
        budgets = self._accounts.budgets.by_name
        yield _family(
            "budget_dollars",
            "gauge",
            "What may be spent in a period.",
            (({"budget": name}, budget.settings.dollars) for name, budget in budgets.items()),
        )
        yield _family(
            "budget_spent_dollars",
            "gauge",
            "What was spent in the current period.",
            (({"budget": name}, budget.spent_dollars(now)) for name, budget in budgets.items()),
        )

    def _of_times(self) -> Iterator[Family]:
        upstream, handled = self._meters.upstream, self._meters.handled
        waits = [({"task": task}, book.waits) for task, book in self._accounts.tasks.books()]
        for name, text, histograms in (
            ("upstream_seconds", "From a lease to its answer.", [({"backend": of}, it) for of, it in upstream.items()]),
            ("wait_seconds", "How long callers waited for an answer or for a permit.", waits),
            (
                "handle_seconds",
                "How long the daemon took; of begins, some are timed.",
                [({"op": tag_of(of)}, it) for of, it in handled.items()],
            ),
        ):
            full = RESERVED_PREFIX + name
            samples = [sample for labels, histogram in histograms for sample in histogram.samples(full, labels)]
            yield Family(full, "histogram", text, samples)


_GAUGES = {
    "buffered_bytes": "Replies that peers have not read and messages that have come in part, of those who hold much.",
    "spool_bytes": "Metrics that wait on disk for the target of push.",
    "calls_pending": "Rows that are to be written to the call log.",
}
"""Of the shell's parts."""


def _family(name: str, kind: MetricKind, text: str, values: Values) -> Family:
    full = RESERVED_PREFIX + name
    sample = f"{full}_total" if kind == "counter" else full
    return Family(full, kind, text, [Sample(sample, float(value), labels) for labels, value in values])
