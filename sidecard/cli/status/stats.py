"""``sidecard stats``: the daemon's gauges and counters."""

import argparse

from sidecard.cli.arguments import Commands, add_command
from sidecard.cli.exit_codes import OK
from sidecard.cli.output import write_reply
from sidecard.cli.query import query, socket_of
from sidecard.cli.text.numbers import count, percent, plural, ratio, seconds, size
from sidecard.cli.text.tables import render, table
from sidecard_client.protocol.wire import GetStats, Stats

STORE = "Store"

_COUNTERS = {
    "Calls, by outcome": (
        ("begins", "requests to begin a call"),
        ("hits", "answered from the cache"),
        ("stale_hits", "  with a stale answer"),
        ("similar_hits", "  with the answer to a similar request"),
        ("view_hits", "  read from a view"),
        ("shared", "answered by another caller's call"),
        ("leases_first", "made by their caller"),
        ("failed", "failed with the call they waited for"),
        ("failed_again", "  with an earlier, remembered failure"),
        ("rejected", "rejected"),
        ("rejected_busy", "  because a table was full"),
        ("rejected_draining", "  because the daemon was stopping"),
        ("rejected_not_cached", "  because only a stored answer was accepted"),
        ("rejected_breaker_open", "  because the backends' breakers were open"),
        ("rejected_saturated", "  because the backends' queues were full"),
        ("rejected_budget", "  because a budget was spent"),
        ("rejected_sovereign", "  because they would have left the host"),
        ("timeouts", "timed out while waiting"),
        ("vectors_wanted", "asked to begin again with the vector of their text"),
        ("prefixes_wanted", "asked to begin again with the prefixes of their prompt"),
        ("left", "canceled or disconnected while waiting"),
    ),
    "Leases": (
        ("leases_granted", "granted"),
        ("reelections", "  to a waiter, after the holder was lost"),
        ("next_backends", "  for another backend"),
        ("retries", "  to retry a backend"),
        ("early_refreshes", "  to refresh an answer before it is stale"),
        ("stale_given", "accompanied by a stale answer, including rejections"),
        ("retries_refused", "retries rejected by the host's retry budget"),
        ("breakers_opened", "breakers opened"),
        ("completed", "completed"),
        ("failed_transient", "failed with a transient error"),
        ("failed_fatal", "failed with a fatal error"),
        ("failed_ignored", "ended without an answer to share"),
        ("failed_cancelled", "cancelled by their holder"),
        ("lost", "lost with their holder's connection"),
        ("expired", "expired without a renewal"),
        ("stale_leases", "late messages rejected"),
    ),
    "Streams": (
        ("chunks_taken", "chunks received from holders"),
        ("chunks_sent", "chunks sent to followers"),
        ("streams_broken", "followers whose stream broke after its first chunk"),
    ),
    "Entries": (
        ("misses", "lookups without a result"),
        ("stored", "stored"),
        ("refused_too_large", "not stored because too large"),
        ("evicted", "evicted to make room"),
        ("evicted_by_limits", "  because of a namespace's limit"),
        ("expired_entries", "expired"),
        ("deleted", "deleted"),
    ),
    "Views": (
        ("view_publications", "entries published"),
        ("view_withdrawals", "entries withdrawn: changed, removed, or replaced by others"),
    ),
    STORE: (
        ("store_reads", "keys read"),
        ("store_hits", "  and found"),
        ("store_unanswered", "reads without an answer"),
        ("store_entries", "entries on disk"),
        ("store_bytes", "  their size in bytes"),
        ("store_pending", "pending writes"),
        ("store_pending_bytes", "  their size in bytes"),
        ("store_written", "written"),
        ("store_refused", "writes refused: another host has the claim or an entry"),
        ("store_dropped", "writes dropped: too many pending"),
        ("store_evicted", "evicted from disk to make room"),
        ("store_faults", "failures"),
        ("claims", "keys computed here for all hosts"),
        ("awaited", "keys awaited from another host"),
    ),
}
"""Counters of `Stats` by section, with their descriptions; an indented counter is part of the one above."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    add_command(commands, "stats", _run, "show the daemon's gauges and counters")


def _run(arguments: argparse.Namespace) -> int:
    stats = query(socket_of(arguments), GetStats(id=1), Stats)
    write_reply(stats, lambda: stats_text(stats), as_json=arguments.json)
    return OK


def stats_text(stats: Stats) -> str:
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
        ("queued", f"{count(stats.queued)} for a permit"),
        ("permits", count(stats.permits)),
        ("breakers", _tripped(stats)),
        ("entries", count(stats.cache_entries)),
        ("vectors", f"{count(stats.vectors)} of them, for similar requests"),
        ("store", stats.store.replace("_", " ")),
        ("streams", f"{count(stats.streams)} being read, {size(stats.stream_bytes)}"),
        ("cache", f"{size(stats.cache_bytes)} of {size(stats.cache_max_bytes)} ({percent(full)})"),
        ("views", _views(stats)),
    ]
    if stats.similar_refused:
        reasons = ", ".join(f"{reason} {count(number)}" for reason, number in sorted(stats.similar_refused.items()))
        now.append(("refused", f"answers to similar requests, by difference of the texts: {reasons}"))

    held = {kind: held for kind, held in stats.memory_by_kind.items() if held}
    if held:
        text = ", ".join(f"{size(held)} {kind.replace('_', ' ')}" for kind, held in held.items())
        now.append(("memory", text))

    if len(stats.memory_by_uid) > 1:
        now.append(("  by uid", ", ".join(f"{uid}: {size(held)}" for uid, held in stats.memory_by_uid.items())))

    if stats.cache_compressed_entries:
        now.append(("compressed", _compressed(stats)))

    counters = [
        table(title, (), [(name, count(getattr(stats, name)), words) for name, words in rows], align="lrl")
        for title, rows in _COUNTERS.items()
        if title != STORE or stats.store != "none"
    ]
    return render(table("Now", (), now, align="ll"), *counters)


def _compressed(stats: Stats) -> str:
    stored, expanded = stats.cache_compressed_bytes, stats.cache_uncompressed_bytes
    entries = count(stats.cache_compressed_entries)
    return f"{entries} entries, {size(stored)} instead of {size(expanded)} ({ratio(expanded / stored)} smaller)"


def _views(stats: Stats) -> str:
    if not stats.view_bytes:
        return "none"

    entries = plural(stats.view_entries, "published entry", "published entries")
    return (
        f"{entries} of {plural(stats.views, 'namespace', 'namespaces')}, in {size(stats.view_bytes)} of shared memory"
    )


def _tripped(stats: Stats) -> str:
    tripped = [f"{name} {state.replace('_', ' ')}" for name, state in stats.breakers.items() if state != "closed"]
    return ", ".join(tripped) or "none tripped"
