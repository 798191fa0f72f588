"""What ``stats``, ``report`` and ``config show`` say to people, as text."""

from collections.abc import Iterator, Mapping
from typing import Any

from sidecard.cli import tables
from sidecard.cli.tables import count, dollars, percent, seconds, size
from sidecard_client.wire import Ledger, Report, Stats

TOTAL = "all tasks"

_COUNTERS = {
    "Ends of calls": (
        ("begins", "asked whether they must be made"),
        ("hits", "answered from the cache"),
        ("shared", "answered by another caller's call"),
        ("leases_first", "made by their caller"),
        ("failed", "failed with the call that they waited for"),
        ("rejected", "rejected"),
        ("rejected_busy", "  because a table was full"),
        ("rejected_draining", "  because the daemon was stopping"),
        ("rejected_not_cached", "  because only a stored answer was wanted"),
        ("timeouts", "waited in vain"),
        ("left", "left while they waited"),
    ),
    "Leases": (
        ("leases_granted", "granted"),
        ("reelections", "  to a waiter, because the holder was gone"),
        ("completed", "completed"),
        ("failed_transient", "failed, in a way that may pass"),
        ("failed_fatal", "failed, for everyone"),
        ("failed_ignored", "ended without an answer to share"),
        ("failed_cancelled", "given up"),
        ("lost", "lost with their holder's connection"),
        ("expired", "expired, their holder being silent"),
        ("stale_leases", "late messages refused"),
    ),
    "Entries": (
        ("misses", "looked for in vain"),
        ("stored", "made"),
        ("refused_too_large", "refused, being too large"),
        ("evicted", "evicted to make room"),
        ("expired_entries", "expired"),
        ("deleted", "deleted"),
    ),
}
"""Each counter of `Stats` and how it reads below its title; a counter that is indented is part of the one above."""


def of_stats(stats: Stats) -> str:
    """Return gauges and counters, as tables."""
    full = stats.cache_bytes / stats.cache_max_bytes if stats.cache_max_bytes else 0.0
    now = [
        ("version", stats.version),
        ("run", stats.boot_id),
        ("up for", seconds(stats.uptime_seconds)),
        ("state", "draining" if stats.draining else "serving"),
        ("peers", count(stats.peers)),
        ("flights", count(stats.flights)),
        ("leases", count(stats.leases)),
        ("waiters", count(stats.waiters)),
        ("entries", count(stats.cache_entries)),
        ("cache", f"{size(stats.cache_bytes)} of {size(stats.cache_max_bytes)} ({percent(full)})"),
    ]
    counters = [
        tables.table(title, (), [(name, count(getattr(stats, name)), words) for name, words in rows], align="lrl")
        for title, rows in _COUNTERS.items()
    ]
    return tables.drawn(tables.table("Now", (), now, align="ll"), *counters)


def of_report(report: Report) -> str:
    """Return rates, savings and spending, as tables with a row per task; without calls, a sentence."""
    since = seconds(report.uptime_seconds)
    if not report.total.calls:
        return f"no calls yet, in {since}"

    tasks = [*sorted(report.tasks.items()), (TOTAL, report.total)]
    parts = [
        tables.table(
            f"Calls, in {since}",
            ("task", "calls", "hits", "shared", "upstream", "hit rate", "de-duplicated", "latency reduced by"),
            [(task, *_rates(ledger)) for task, ledger in tasks],
        ),
        tables.table(
            "Time: served = billed + saved by both + waited",
            ("task", "served", "billed", "saved by cache", "saved by sharing", "waited", "saved per call"),
            [(task, *_times(ledger)) for task, ledger in tasks],
        ),
    ]
    if report.total.served_dollars:
        parts.append(
            tables.table(
                "Cost: served = billed + saved by both",
                ("task", "served", "billed", "saved by cache", "saved by sharing"),
                [(task, *_costs(ledger)) for task, ledger in tasks],
            )
        )
        return tables.drawn(*parts)

    return tables.drawn(*parts, "No cost was reported: usage= of the client says what a call cost.")


def of_settings(settings: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """Return every setting with its value and where it came from, as a table."""
    rows = [(name, _value(value), origins.get(name, "")) for name, value in settings.items()]
    return tables.drawn(tables.table("", ("setting", "value", "from"), rows, align="lll"))


def _rates(ledger: Ledger) -> Iterator[str]:
    yield count(ledger.calls)
    yield count(ledger.hits)
    yield count(ledger.shared)
    yield count(ledger.upstream_calls)
    yield percent(ledger.hit_rate)
    yield percent(ledger.deduplication_rate)
    yield percent(ledger.average_latency_reduction)


def _times(ledger: Ledger) -> Iterator[str]:
    yield seconds(ledger.served_seconds)
    yield seconds(ledger.billed_seconds)
    yield seconds(ledger.saved_by_cache_seconds)
    yield seconds(ledger.saved_by_sharing_seconds)
    yield seconds(ledger.waited_seconds)
    yield seconds(ledger.average_saved_seconds)


def _costs(ledger: Ledger) -> Iterator[str]:
    yield dollars(ledger.served_dollars)
    yield dollars(ledger.billed_dollars)
    yield dollars(ledger.saved_by_cache_dollars)
    yield dollars(ledger.saved_by_sharing_dollars)


def _value(value: Any) -> str:
    return "-" if value in (None, "", []) else str(value)
