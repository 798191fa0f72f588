"""What ``stats``, ``report``, ``breakers`` and ``config show`` say to people, as text."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sidecard.cli import tables
from sidecard.cli.charts import bar, marks_of
from sidecard.cli.tables import count, dollars, percent, ratio, seconds, size
from sidecard_client.protocol.wire import BackendSpending, BackendState, Breakers, Ledger, Report, Stats

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

TOTAL = "all tasks"

BAR_CHARACTERS = 40

STORE = "Store"

_COUNTERS = {
    "Ends of calls": (
        ("begins", "asked whether they must be made"),
        ("hits", "answered from the cache"),
        ("stale_hits", "  by an answer beyond its time"),
        ("similar_hits", "  by the answer to a similar request"),
        ("shared", "answered by another caller's call"),
        ("leases_first", "made by their caller"),
        ("failed", "failed with the call that they waited for"),
        ("failed_again", "  with an earlier one, which is remembered"),
        ("rejected", "rejected"),
        ("rejected_busy", "  because a table was full"),
        ("rejected_draining", "  because the daemon was stopping"),
        ("rejected_not_cached", "  because only a stored answer was wanted"),
        ("rejected_breaker_open", "  because the backends' breakers were open"),
        ("rejected_saturated", "  because the backends' queues were full"),
        ("rejected_budget", "  because a budget was spent"),
        ("rejected_sovereign", "  because they would have left the host"),
        ("timeouts", "waited in vain"),
        ("vectors_wanted", "asked for the vector of their text, to be asked again"),
        ("left", "left while they waited"),
    ),
    "Leases": (
        ("leases_granted", "granted"),
        ("reelections", "  to a waiter, because the holder was gone"),
        ("next_backends", "  to go on with another backend"),
        ("retries", "  to try a backend again"),
        ("early_refreshes", "  to fetch anew what is still in its time"),
        ("stale_given", "with an answer beyond its time, rejections included"),
        ("retries_refused", "retries that the host's budget did not allow"),
        ("breakers_opened", "times that a breaker opened"),
        ("completed", "completed"),
        ("failed_transient", "failed, in a way that may pass"),
        ("failed_fatal", "failed, for everyone"),
        ("failed_ignored", "ended without an answer to share"),
        ("failed_cancelled", "given up"),
        ("lost", "lost with their holder's connection"),
        ("expired", "expired, their holder being silent"),
        ("stale_leases", "late messages refused"),
    ),
    "Streams": (
        ("chunks_taken", "pieces that holders have brought"),
        ("chunks_sent", "pieces that readers were sent"),
        ("streams_broken", "readers whose stream broke after its first piece"),
    ),
    "Entries": (
        ("misses", "looked for in vain"),
        ("stored", "made"),
        ("refused_too_large", "refused, being too large"),
        ("evicted", "evicted to make room"),
        ("evicted_by_limits", "  of these, in a namespace with a limit"),
        ("expired_entries", "expired"),
        ("deleted", "deleted"),
    ),
    STORE: (
        ("store_reads", "keys asked for"),
        ("store_hits", "  and found"),
        ("store_unanswered", "questions that it did not answer"),
        ("store_entries", "entries on disk"),
        ("store_bytes", "  their bytes"),
        ("store_pending", "waiting to be written"),
        ("store_pending_bytes", "  their bytes"),
        ("store_written", "written"),
        ("store_refused", "refused, another host having the claim or an entry"),
        ("store_dropped", "given up, too many waiting"),
        ("store_evicted", "evicted from disk to make room"),
        ("store_faults", "failures"),
        ("claims", "keys computed here for all hosts"),
        ("awaited", "keys awaited from another host"),
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
        ("queued", f"{count(stats.queued)} for a permit"),
        ("permits", count(stats.permits)),
        ("breakers", _tripped(stats)),
        ("entries", count(stats.cache_entries)),
        ("vectors", f"{count(stats.vectors)} of them, for similar requests"),
        ("store", stats.store.replace("_", " ")),
        ("streams", f"{count(stats.streams)} being read, {size(stats.stream_bytes)}"),
        ("cache", f"{size(stats.cache_bytes)} of {size(stats.cache_max_bytes)} ({percent(full)})"),
    ]
    if stats.cache_compressed_entries:
        now.append(("compressed", _compressed(stats)))

    counters = [
        tables.table(title, (), [(name, count(getattr(stats, name)), words) for name, words in rows], align="lrl")
        for title, rows in _COUNTERS.items()
        if title != STORE or stats.store != "none"
    ]
    return tables.drawn(tables.table("Now", (), now, align="ll"), *counters)


def of_report(report: Report) -> str:
    """Return rates, savings and spending, as tables with a row per task; without calls, a sentence."""
    if not report.total.calls:
        return f"no calls yet, in {_ledger_time(report)}"

    tasks = [*sorted(report.tasks.items()), (TOTAL, report.total)]
    parts: list[RenderableType] = [
        tables.table(
            f"Calls, in {_ledger_time(report)}",
            ("task", "calls", "hits", "shared", "upstream", "hit rate", "de-duplicated", "latency reduced by"),
            [(task, *_rates(ledger)) for task, ledger in tasks],
        ),
        _bars(
            "Where answers came from",
            ("cache", "shared", "upstream"),
            {task: (ledger.hit_rate, ledger.deduplication_rate) for task, ledger in tasks},
        ),
        tables.table(
            "Time: served = billed + saved by both + waited",
            ("task", "served", "billed", "saved by cache", "saved by sharing", "waited", "saved per call"),
            [(task, *_times(ledger)) for task, ledger in tasks],
        ),
    ]
    if report.total.similar_hits:
        parts.append(
            tables.table(
                "Of the hits, by answers to similar requests: saved is what their calls took",
                ("task", "hits", "time saved", "dollars saved"),
                [(task, *_similar(ledger)) for task, ledger in tasks if ledger.similar_hits],
            )
        )

    if report.total.served_dollars:
        parts.append(
            tables.table(
                "Cost: served = billed + saved by both",
                ("task", "served", "billed", "saved by cache", "saved by sharing"),
                [(task, *_costs(ledger)) for task, ledger in tasks],
            )
        )
        parts.append(
            _bars(
                "Where dollars went",
                ("saved by cache", "saved by sharing", "billed"),
                {task: _saved_shares(ledger) for task, ledger in tasks},
            )
        )
        parts += [
            tables.table(
                f"By {kind}",
                (kind, "calls", "time", "prompt tokens", "completion tokens", "billed", "saved"),
                [(name, *_spending(spending)) for name, spending in spendings.items()],
            )
            for kind, spendings in (("backend", report.backends), ("model", report.models))
            if spendings
        ]
        return tables.drawn(*parts, *_budgets(report))

    return tables.drawn(*parts, *_budgets(report), "No cost was reported: usage= of the client says what a call cost.")


def of_breakers(breakers: Breakers) -> str:
    """Return every backend as it stands, as a table, and why breakers are not closed, as sentences."""
    if not breakers.backends:
        return "no backends yet: each appears with its first call, or with [backends.NAME] in the config"

    grid = tables.table(
        "",
        (
            "backend",
            "state",
            "where",
            "calls",
            "failed",
            "slow",
            "in progress",
            "queued",
            "latency",
            "per call",
            "opened",
        ),
        [(name, *_backend(state)) for name, state in breakers.backends.items()],
        align="lll" + "r" * 8,
    )
    causes = [f"{tables.plain(name)}: {state.cause}" for name, state in breakers.backends.items() if state.cause]
    return tables.drawn(grid, *(["\n".join(causes)] if causes else []))


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


def _similar(ledger: Ledger) -> Iterator[str]:
    yield count(ledger.similar_hits)
    yield seconds(ledger.saved_by_similar_seconds)
    yield dollars(ledger.saved_by_similar_dollars) if ledger.served_dollars else "-"


def _bars(title: str, names: Sequence[str], shares: Mapping[str, Sequence[float]]) -> "Table":
    """Return a bar for each task; the last line says which mark is what."""
    marks = marks_of(sys.stdout.encoding)
    legend = "  ".join(f"{mark} {name}" for mark, name in zip(marks.parts, names, strict=True))
    rows = [(task, bar(of_task, BAR_CHARACTERS, marks)) for task, of_task in shares.items()]
    return tables.table(title, (), [*rows, ("", legend)], align="ll")


def _saved_shares(ledger: Ledger) -> tuple[float, ...]:
    served = ledger.served_dollars
    saved = (ledger.saved_by_cache_dollars, ledger.saved_by_sharing_dollars)
    return tuple(dollars_saved / served for dollars_saved in saved) if served else (0.0, 0.0)


def _ledger_time(report: Report) -> str:
    # Beyond a second, part of the ledger is an earlier run's.
    kept = report.ledger_seconds > report.uptime_seconds + 1
    return seconds(report.ledger_seconds if kept else report.uptime_seconds)


def _compressed(stats: Stats) -> str:
    kept, served = stats.cache_compressed_bytes, stats.cache_uncompressed_bytes
    entries = count(stats.cache_compressed_entries)
    return f"{entries} entries, {size(kept)} instead of {size(served)} ({ratio(served / kept)} smaller)"


def _tripped(stats: Stats) -> str:
    tripped = [f"{name} {state.replace('_', ' ')}" for name, state in stats.breakers.items() if state != "closed"]
    return ", ".join(tripped) or "none tripped"


def _spending(spending: BackendSpending) -> Iterator[str]:
    yield count(spending.calls)
    yield seconds(spending.seconds)
    yield count(spending.prompt_tokens)
    yield count(spending.completion_tokens)
    yield dollars(spending.dollars)
    yield dollars(spending.saved_dollars)


def _budgets(report: Report) -> list["Table"]:
    if not report.budgets:
        return []

    rows = [
        (
            name,
            "hard" if budget.hard else "soft",
            dollars(budget.dollars),
            dollars(budget.spent_dollars),
            dollars(budget.reserved_dollars),
            seconds(budget.resets_in_seconds),
        )
        for name, budget in report.budgets.items()
    ]
    heads = ("budget", "kind", "dollars", "spent", "in progress", "begins anew in")
    return [tables.table("Budgets", heads, rows, align="llrrrr")]


def _backend(state: BackendState) -> Iterator[str]:
    yield state.state.replace("_", " ")
    yield state.locality
    yield count(state.calls)
    yield count(state.failures)
    yield count(state.slow)
    yield count(state.permits) if state.limit is None else f"{state.permits:,} of {state.limit:,}"
    yield f"{state.queued:,} of {state.max_queue:,}" if state.limit is not None or state.queued else "-"
    yield "-" if state.latency_seconds is None else seconds(state.latency_seconds)
    yield "-" if state.dollars_per_call is None else dollars(state.dollars_per_call)
    yield count(state.opened)


def _value(value: Any) -> str:
    # As TOML has it.
    return "-" if value in (None, "", []) else str(value).lower() if isinstance(value, bool) else str(value)
