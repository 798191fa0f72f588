"""Metrics operations: `record`, and `metrics`, the families of all metrics. Their names are a contract with dashboards.

Counters cover one run: they start at 0 with the daemon and only grow.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from msgspec import Struct

from sidecard.core.accounts.app_metric import RESERVED_PREFIX
from sidecard.core.accounts.app_metrics import AppMetrics, FamilySource, merged
from sidecard.core.accounts.billing import Billing
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.accounts.histogram import Buckets
from sidecard.core.accounts.ledger import NOT_STORED, PASSED
from sidecard.core.backends.registry import Backends
from sidecard.core.effects import Effect, SendMetrics, SendReply, ServeAgain
from sidecard.core.events import Peer
from sidecard.core.flights.streams import Streams
from sidecard.core.operations.status import StatusOperations
from sidecard.core.sums import saturated
from sidecard_client.keys.guard.comparison import Difference
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import BreakerState, Family, MetricKind, RejectionReason, Sample, Stats, tag_of

INLINE_BYTES = 64 * 1024
"""A larger reply to `metrics` is built in turns: this one takes 2 ms."""

_NAME_BYTES = 2048
"""Size of all samples of a task, or of a backend."""

_UNCOUNTED_REPLIES = frozenset({wire.Pending, wire.Chunk, wire.Note})
"""Replies that are no outcome: one follows later, or there is none."""

DROPPED = (
    "series",
    "metric_bytes",
    "metrics",
    "invalid",
    "client",
    "push_samples",
    "calls",
    "log_lines",
    "store",
    "view_hits",
)
"""Kinds of items that may be dropped. All are exposed from the start, so that the first drop shows as an increase."""

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
    "max_memory_bytes",
    "max_queue",
    "streams",
)
"""Reasons to reject a begin, or to deny or close a connection. All are exposed from the start.

Settings of ``[limits]``, ``flights.max_waiters``, and the ``max_queue`` of backends; ``max_leases`` and ``streams``, which are
derived from settings; and ``unmapped``, a uid that ``socket.admit_unmapped`` does not admit."""

DAEMON_GAUGES = {
    "buffered_bytes": "Unread replies and incomplete messages of peers that hold much.",
    "spool_bytes": "Metrics on disk that wait for the target of push.",
    "calls_pending": "Rows that wait to be written to the call log.",
    "hung_calls": "Calls without progress whose lease has expired, and whose holder has not reported since.",
}
"""Gauges of parts of the daemon, with their descriptions."""

PROBLEMS = ("state", "ledger", "store", "calls", "push", "network", "rejections", "failures")
"""Parts of the daemon that may have a problem (see `sidecard.core.accounts.daemon_metrics.DaemonMetrics.problems_of`): files that
are not kept or written, targets that do not answer, and recent calls without an answer."""

Values = Iterable[tuple[dict[str, str], float]]
"""Values by label set."""


class MetricsOperations(Struct, frozen=True, eq=False):
    """Record the apps' metrics, and report all. ``enabled`` is whether the daemon exposes metrics of its own."""

    status: StatusOperations
    streams: Streams
    backends: Backends
    billing: Billing
    daemon: DaemonMetrics
    apps: AppMetrics
    enabled: bool

    def record(self, peer: Peer, request: wire.RecordMetrics, now: float) -> list[Effect]:
        """Record measurements of an app, in parts."""
        part = self.apps.record_part(peer, request, now)
        if part.new:
            for passed in request.passed:
                self.billing.tasks.of(passed.task, peer.uid, now).count_passed(passed.reason, passed.count)
                self.daemon.count_passed(passed.family, passed.reason, passed.count)

        if part.dropped is None:
            return [ServeAgain()]

        reply = wire.Recorded(request.id, part.dropped, self.apps.problem)
        return [SendReply(peer.id, reply)] if request.acknowledge else []

    def metrics(self, peer: Peer, request: wire.GetMetrics, now: float) -> list[Effect]:
        """Report the daemon's and the apps' metrics; of labeled ones, only the label sets that have occurred."""
        names = len(self.billing.tasks.items()) + len(self.backends.all())
        if self.apps.exposed_bytes + _NAME_BYTES * names > INLINE_BYTES:
            return [SendMetrics(peer.id, peer.uid, request.id)]

        effects = self.status.advance_breakers(now)
        return [*effects, SendReply(peer.id, wire.Metrics(request.id, list(merged(self.sources(now)))))]

    def sources(self, now: float) -> Iterator[FamilySource]:
        """Yield all families, of labeled ones only the label sets that have occurred. The engine may handle events meanwhile."""
        if self.enabled:
            for family in self._own(now):
                yield FamilySource(family.name, 0, iter((family,)))

        yield from self.apps.sources()

    def _own(self, now: float) -> Iterator[Family]:
        stats = self.status.snapshot(0, now)
        yield from self._of_calls(stats)
        yield from self._of_limits(stats)
        yield from self._of_savings()
        yield from self._of_state(stats)
        yield from self._of_backends(now)
        yield from self._of_budgets(now)
        yield from self._of_times()

    def _of_calls(self, stats: Stats) -> Iterator[Family]:
        sums = [(task, ledger.sums_of_this_run()) for task, ledger in self.billing.tasks.items()]
        # A stream's hit is counted at its end, as a shared stream is.
        hits = Counter({(wire.Begin, wire.Hit): stats.hits - self.streams.hits})
        yield _counter(
            "requests",
            "Requests by op and type of their reply.",
            (
                ({"op": tag_of(request), "outcome": tag_of(reply)}, number)
                for (request, reply), number in (self.daemon.requests | hits).items()
                if reply not in _UNCOUNTED_REPLIES
            ),
        )
        yield _counter(
            "cache_hits",
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
        yield _counter(
            "view_hits",
            "Of `sidecard_cache_hits_total`, those that clients read from a view.",
            stats.view_hits,
        )
        yield _counter("view_publications", "Entries published in a view.", stats.view_publications)
        yield _counter("view_withdrawals", "Published entries that were withdrawn.", stats.view_withdrawals)
        for name, text, field in (
            ("cache_misses", "Begins that found no stored answer.", "misses"),
            ("shared", "Begins ended by another caller's answer.", "shared"),
        ):
            yield _counter(name, text, _by("task", {task: of[field] for task, of in sums}))

        yield _counter(
            "passed",
            "Requests that intercepting clients passed to the upstream without asking the daemon.",
            _by("reason", {reason: sum(of[PASSED[reason]] for _, of in sums) for reason in PASSED}),
        )
        yield _counter(
            "not_stored",
            "Answers that were not stored, of calls with a key and of those whose holder gave a reason.",
            (
                ({"task": task, "reason": reason}, of[name])
                for task, of in sums
                for reason, name in NOT_STORED.items()
                if of[name]
            ),
        )
        yield _counter(
            "leases",
            "Ended leases by outcome.",
            (({"backend": name, "outcome": outcome}, number) for (name, outcome), number in self.daemon.leases.items()),
        )
        yield _counter(
            "chunks",
            "Chunks of streams: taken from holders, and sent to followers.",
            _by("way", {"taken": stats.chunks_taken, "sent": stats.chunks_sent}),
        )
        yield _counter("streams_broken", "Followers whose stream failed after its first chunk.", stats.streams_broken)
        yield _counter("reelections", "Leases that passed to a waiter.", stats.reelections)
        rejected = {reason: getattr(stats, f"rejected_{reason}") for reason in get_args(RejectionReason)}
        yield _counter("rejected", "Begins ended by a rejection.", _by("reason", rejected))
        refused = dict.fromkeys(get_args(Difference), 0) | stats.similar_refused
        yield _counter(
            "similar_refused",
            "Answers to similar requests that were not served, by the difference of the texts.",
            _by("reason", refused),
        )

    def _of_limits(self, stats: Stats) -> Iterator[Family]:
        yield _counter(
            "evicted",
            "Entries that left the cache: live ones to make room, in all or in their namespace; expired ones; deleted ones.",
            _by(
                "reason",
                {
                    "room": stats.evicted - stats.evicted_by_limits,
                    "namespace": stats.evicted_by_limits,
                    "expired": stats.expired_entries,
                    "deleted": stats.deleted,
                },
            ),
        )
        yield _counter(
            "refused_too_large",
            "Answers that were not stored because they exceed the largest entry size.",
            stats.refused_too_large,
        )
        yield _counter(
            "dropped",
            "Items that were dropped because there was no room or they could not be decoded.",
            _by("what", {what: self._dropped(what, stats) for what in DROPPED}),
        )
        yield _counter(
            "limited",
            "Connections denied or closed, and begins rejected, by limit.",
            _by("limit", {limit: self.daemon.limited[limit] for limit in LIMITS}),
        )
        yield _counter(
            "series_overflow",
            "Measurements of apps beyond the bound of label sets, by metric.",
            _by("metric", dict(self.apps.overflows())),
        )

    def _dropped(self, what: str, stats: Stats) -> int:
        counted = self.daemon.dropped_by.get(what)
        by_store = stats.store_dropped if what == "store" else 0
        return self.daemon.dropped[what] + by_store + (counted() if counted is not None else 0)

    def _of_savings(self) -> Iterator[Family]:
        sums = [(task, ledger.sums_of_this_run()) for task, ledger in self.billing.tasks.items()]
        for unit in ("seconds", "dollars"):
            yield _counter(
                f"saved_{unit}",
                f"{unit.capitalize()} saved by the cache and by sharing.",
                (
                    ({"task": task, "by": by}, of[f"saved_by_{by}_{unit}"])
                    for task, of in sums
                    for by in ("cache", "sharing")
                ),
            )

        yield _counter(
            "spent_dollars",
            "Dollars that backends billed.",
            (({"backend": name, "model": model}, dollars) for (name, model), dollars in self.daemon.spent.items()),
        )

    def _of_state(self, stats: Stats) -> Iterator[Family]:
        build = {"version": stats.version, "boot_id": stats.boot_id}
        yield _gauge("build_info", "Version and boot id of the daemon.", [(build, 1)])
        for name, text in (
            ("uptime_seconds", "Time since the daemon started."),
            ("draining", "Whether the daemon is stopping."),
            ("peers", "Connections."),
            ("flights", "Keys that are being computed."),
            ("waiters", "Begins that wait for an answer or a permit."),
            ("cache_entries", "Entries in memory."),
            ("cache_bytes", "Bytes of entries: keys, values and the fixed cost of each."),
            ("cache_max_bytes", "Limit of `sidecard_cache_bytes`."),
            ("vectors", "Entries that may be served to similar requests."),
            ("cache_compressed_entries", "Entries whose answers are kept compressed."),
            ("cache_compressed_bytes", "Bytes of compressed answers, as kept."),
            ("cache_uncompressed_bytes", "Bytes of compressed answers, uncompressed."),
            ("streams", "Begins that are being sent a stream."),
            ("stream_bytes", "Bytes of streams in flight or still being read."),
            ("views", "Views: memory files in which clients read published entries."),
            ("view_bytes", "Bytes of the files of all views, and of retired ones that clients still have."),
            ("view_entries", "Entries that are published in a view."),
        ):
            yield _gauge(name, text, getattr(stats, name))

        yield _gauge(
            "memory_bytes", "Bytes that peers make the daemon hold besides entries.", _by("kind", stats.memory_by_kind)
        )
        if stats.store != "none":
            yield _gauge("store_up", "Whether the store answers.", stats.store in {"up", "read_only"})
            yield _gauge("store_pending", "Pending writes and removals.", stats.store_pending)

        problems = {what: bool(of()) for what, of in self.daemon.problems_of.items()}
        problems["store"] = stats.store in {"down", "read_only"}
        values = _by("what", {what: problems.get(what, False) for what in PROBLEMS})
        yield _gauge("problem", "Whether health lists a problem of this part of the daemon.", values)
        for name, value in sorted(self.daemon.gauges.items()):
            yield _gauge(name, DAEMON_GAUGES[name], value())

    def _of_backends(self, now: float) -> Iterator[Family]:
        backends = self.backends.all().items()
        states = get_args(BreakerState)
        yield _gauge(
            "breaker_state",
            "1 for the current state of the backend's breaker, 0 for the others.",
            [
                ({"backend": name, "state": state}, of.breaker.state == state)
                for name, of in backends
                for state in states
            ],
        )
        yield _gauge("permits", "Calls in progress.", _by("backend", {name: of.permits for name, of in backends}))
        queued = {name: len(of.queue) for name, of in backends}
        yield _gauge("queued", "Callers that wait for a permit.", _by("backend", queued))
        warm = {name: of.affinity.warm_count(now) for name, of in backends if of.affinity is not None}
        yield _gauge(
            "prefix_warm", "Prefixes of prompts that the backend has processed and keeps.", _by("backend", warm)
        )
        holds = {name: sum(histogram.counts) for name, histogram in self.daemon.holds.items()}
        yield _counter("prefix_holds", "Callers that were held for a prefix of their prompt.", _by("backend", holds))
        yield _counter(
            "prompt_tokens",
            "Prompt tokens of answers: `cached` if the backend reported that it read them from its own cache, else `processed`.",
            (({"backend": name, "kind": kind}, number) for (name, kind), number in self.daemon.prompt_tokens.items()),
        )

    def _of_budgets(self, now: float) -> Iterator[Family]:
        budgets = self.billing.budgets.by_name.items()
        limits = {name: budget.settings.dollars for name, budget in budgets}
        yield _gauge("budget_dollars", "Limit of a period's spending.", _by("budget", limits))
        spent = {name: budget.spent_dollars(now) for name, budget in budgets}
        yield _gauge("budget_spent_dollars", "Spending in the current period.", _by("budget", spent))
        rejected = {name: budget.rejected for name, budget in budgets}
        yield _counter("budget_rejected", "Calls that the budget rejected.", _by("budget", rejected))
        rejecting = {name: budget.is_rejecting(now) for name, budget in budgets}
        yield _gauge("budget_rejecting", "Whether the budget rejects calls now.", _by("budget", rejecting))

    def _of_times(self) -> Iterator[Family]:
        upstream, handled = self.daemon.upstream, self.daemon.handled
        yield _histogram(
            "upstream_seconds",
            "Time from a lease to its answer.",
            [({"backend": name}, histogram) for name, histogram in upstream.items()],
        )
        yield _histogram(
            "prefix_hold_seconds",
            "Time that callers were held for a prefix of their prompt.",
            [({"backend": name}, histogram) for name, histogram in self.daemon.holds.items()],
        )
        yield _histogram(
            "wait_seconds",
            "Time that callers waited for an answer or a permit.",
            [({"task": task}, ledger.waits) for task, ledger in self.billing.tasks.items()],
        )
        yield _histogram(
            "handle_seconds",
            "Time that the daemon took to handle a request; of begins, a sample.",
            [({"op": tag_of(request)}, histogram) for request, histogram in handled.items()],
        )


def _by(label: str, values: Mapping[str, float]) -> Values:
    return [({label: name}, value) for name, value in values.items()]


def _counter(name: str, text: str, values: Values | float) -> Family:
    return _family(name, "counter", text, values, "_total")


def _gauge(name: str, text: str, values: Values | float) -> Family:
    return _family(name, "gauge", text, values)


def _family(name: str, kind: MetricKind, text: str, values: Values | float, suffix: str = "") -> Family:
    full = RESERVED_PREFIX + name
    if isinstance(values, int | float):
        values = [({}, values)]

    return Family(
        full, kind, text, [Sample(full + suffix, float(saturated(value)), labels) for labels, value in values]
    )


def _histogram(name: str, text: str, histograms: list[tuple[dict[str, str], Buckets]]) -> Family:
    full = RESERVED_PREFIX + name
    samples = [sample for labels, histogram in histograms for sample in histogram.samples(full, labels)]
    return Family(full, "histogram", text, samples)
