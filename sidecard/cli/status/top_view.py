"""The lines of ``sidecard top``, computed from two snapshots of the daemon. Pure."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from sidecard.cli.status.breakers import cached_prompts, caches_prompts, in_progress, latency
from sidecard.cli.text.charts import Symbols, bar, curve
from sidecard.cli.text.numbers import count, dollars, percent, seconds, size
from sidecard.printable import printable
from sidecard_client.protocol.wire import Breakers, Report, Stats

if TYPE_CHECKING:
    from rich.text import Text

BAR_CHARACTERS = 20
NAME_CHARACTERS = 18

MAX_BACKENDS = 8
"""Further backends are only counted, to leave room for tasks; `sidecard breakers` shows all."""

MAX_REASONS = 3
"""Problems shown; `sidecard health` shows all."""

_STYLES = {"closed": "green", "half_open": "yellow", "open": "red", "forced_open": "red", "disabled": "yellow"}


class Snapshot(Struct, frozen=True):
    """The daemon's state at the monotonic instant ``at_seconds``."""

    at_seconds: float
    stats: Stats
    report: Report
    breakers: Breakers


class Rates(Struct, frozen=True):
    """Calls per second between two snapshots, by outcome."""

    calls: float = 0.0
    hits: float = 0.0
    shared: float = 0.0
    upstream: float = 0.0
    view_hits: float = 0.0
    """Of ``hits``, those that callers read from a view; at most a quarter of a second late."""


def rates_between(before: Snapshot | None, now: Snapshot) -> Rates:
    """Return the rates; zero without an earlier snapshot of the same run of the daemon."""
    if before is None or before.stats.boot_id != now.stats.boot_id:
        return Rates()

    passed_seconds = max(now.at_seconds - before.at_seconds, 1e-3)

    def rate(name: str) -> float:
        return float((getattr(now.stats, name) - getattr(before.stats, name)) / passed_seconds)

    # A caller that is asked for a vector begins the same call twice.
    calls = rate("begins") - rate("vectors_wanted") - rate("prefixes_wanted")
    return Rates(calls, rate("hits"), rate("shared"), rate("leases_first"), rate("view_hits"))


def lines(
    now: Snapshot, rates: Rates, history: Sequence[float], width: int, height: int, symbols: Symbols, silence: str = ""
) -> "list[Text]":
    """Return at most ``height`` lines of ``width`` characters.

    ``history`` has the calls per second of each snapshot, newest last. ``silence`` is set if the daemon stopped answering.
    """
    shown = [
        *_head(now, rates, history, width, symbols, silence),
        *_backends(now),
        *_budgets(now, symbols),
        *_tasks(now),
    ][:height]
    for line in shown:
        line.truncate(width)

    return shown


def _head(
    now: Snapshot, rates: Rates, history: Sequence[float], width: int, symbols: Symbols, silence: str
) -> "Iterator[Text]":
    stats, total = now.stats, now.report.total
    state = silence or ("draining" if stats.draining else "serving")
    yield _line(
        f"sidecard {stats.version}",
        f"up {seconds(stats.uptime_seconds)}",
        state,
        f"peers {count(stats.peers)}, flights {count(stats.flights)}, waiters {count(stats.waiters)}",
        style="bold red" if silence else "bold",
    )
    yield _line(
        f"calls {rates.calls:,.1f}/s",
        f"hits {rates.hits:,.1f}/s" + (f" ({rates.view_hits:,.1f}/s from views)" if stats.view_bytes else ""),
        f"shared {rates.shared:,.1f}/s",
        f"upstream {rates.upstream:,.1f}/s",
    )
    avoided = total.hit_rate + total.deduplication_rate
    yield _line(
        f"avoided {bar([total.hit_rate, total.deduplication_rate], BAR_CHARACTERS, symbols)} {percent(avoided)}",
        f"of {count(total.calls)} calls: {percent(total.hit_rate)} cache, {percent(total.deduplication_rate)} shared",
    )
    if total.failed or total.rejected or total.timeouts:
        yield _line(
            f"without answer: {count(total.rejected)} rejected",
            f"{count(total.failed)} failed",
            f"{count(total.timeouts)} timed out",
        )

    yield from (_line(f"! {printable(reason)}", style="red") for reason in now.report.reasons[:MAX_REASONS])
    saved_dollars = total.saved_by_cache_dollars + total.saved_by_sharing_dollars
    saved_seconds = total.saved_by_cache_seconds + total.saved_by_sharing_seconds
    yield _line(
        f"saved   {dollars(saved_dollars)} of {dollars(total.served_dollars)}",
        f"{seconds(saved_seconds)} of {seconds(total.served_seconds)}",
    )
    full = stats.cache_bytes / stats.cache_max_bytes if stats.cache_max_bytes else 0.0
    yield _line(
        f"cache   {bar([full], BAR_CHARACTERS, symbols)} {size(stats.cache_bytes)} of {size(stats.cache_max_bytes)}",
        f"{count(stats.cache_entries)} entries"
        + (f", {count(stats.view_entries)} published" if stats.view_bytes else ""),
        f"store {stats.store.replace('_', ' ')}",
    )
    if len(history) > 1:
        highest = f" at most {max(history):,.1f}/s"
        yield _line("calls   " + curve(history, max(0, min(len(history), width - 8 - len(highest))), symbols) + highest)


def _backends(now: Snapshot) -> "Iterator[Text]":
    backends = now.breakers.backends
    if not backends:
        return

    yield _line()
    yield _cells("backend", "state", "in progress", "latency", "calls", "failed", "queued", "slow", style="bold")
    # Problems first.
    ordered = sorted(backends.items(), key=lambda pair: (pair[1].state == "closed", -pair[1].calls, pair[0]))
    for name, state in ordered[:MAX_BACKENDS]:
        counts = map(count, (state.calls, state.failures, state.queued, state.slow))
        cells = (state.state.replace("_", " "), in_progress(state), latency(state), *counts)
        yield _cells(name, *cells, style=_STYLES[state.state])

    if len(ordered) > MAX_BACKENDS:
        yield _line(f"and {count(len(ordered) - MAX_BACKENDS)} more")

    for name, state in ordered[:MAX_BACKENDS]:
        if caches_prompts(state):
            yield _line(
                f"prompts {_name(name)} {cached_prompts(state)} of tokens cached",
                f"{count(state.warm_prefixes)} prefixes warm",
                f"{count(state.held)} callers held",
            )


def _budgets(now: Snapshot, symbols: Symbols) -> "Iterator[Text]":
    if not now.report.budgets:
        return

    yield _line()
    for name, budget in now.report.budgets.items():
        spent = budget.spent_dollars / budget.dollars if budget.dollars else 1.0
        yield _line(
            f"budget {_name(name)} {bar([min(spent, 1.0)], BAR_CHARACTERS, symbols)}",
            f"{dollars(budget.spent_dollars)} of {dollars(budget.dollars)}",
            f"resets in {seconds(budget.resets_in_seconds)}",
            style="red" if spent >= 1 or budget.rejecting else "",
        )


def _tasks(now: Snapshot) -> "Iterator[Text]":
    tasks = sorted(now.report.tasks.items(), key=lambda pair: (-pair[1].calls, pair[0]))
    yield _line()
    if not tasks:
        yield _line("no calls yet: tasks appear with the first call of an app")
        return

    yield _cells("task", "calls", "hit rate", "shared", "upstream", "failed", "rejected", "saved", style="bold")
    for name, ledger in tasks:
        yield _cells(
            name,
            count(ledger.calls),
            percent(ledger.hit_rate),
            percent(ledger.deduplication_rate),
            count(ledger.upstream_calls),
            count(ledger.failed),
            count(ledger.rejected),
            dollars(ledger.saved_by_cache_dollars + ledger.saved_by_sharing_dollars),
        )


def _line(*parts: str, style: str = "") -> "Text":
    from rich.text import Text  # noqa: PLC0415 - as in `tables`

    return Text("   ".join(parts), style=style, no_wrap=True)


def _cells(name: str, *cells: str, style: str = "") -> "Text":
    return _line(_name(name) + "".join(f"{cell:>12}" for cell in cells), style=style)


def _name(name: str) -> str:
    return f"{printable(name)[:NAME_CHARACTERS]:<{NAME_CHARACTERS}}"
