"""What ``sidecard top`` shows, as lines of text. Pure: two looks at the daemon in, lines out."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from sidecard.cli.charts import Marks, bar, curve
from sidecard.cli.tables import count, dollars, percent, plain, seconds, size
from sidecard_client.protocol.wire import BackendState, Breakers, Report, Stats

if TYPE_CHECKING:
    from rich.text import Text

BAR_CHARACTERS = 20
NAME_CHARACTERS = 18

MAX_BACKENDS = 8
"""Those beyond make room for tasks; `sidecard breakers` has all."""

_STYLES = {"closed": "green", "half_open": "yellow", "open": "red", "forced_open": "red", "disabled": "yellow"}


class Look(Struct, frozen=True):
    """What the daemon said at one moment; ``at_seconds`` is monotonic."""

    at_seconds: float
    stats: Stats
    report: Report
    breakers: Breakers


class Rates(Struct, frozen=True):
    """Ends of calls per second, between two looks."""

    calls: float = 0.0
    hits: float = 0.0
    shared: float = 0.0
    upstream: float = 0.0


def rates_of(before: Look | None, now: Look) -> Rates:
    """Return what happened per second; nothing where there is no earlier look, or only one at an earlier daemon."""
    if before is None or before.stats.boot_id != now.stats.boot_id:
        return Rates()

    passed_seconds = max(now.at_seconds - before.at_seconds, 1e-3)

    def rate(name: str) -> float:
        return float((getattr(now.stats, name) - getattr(before.stats, name)) / passed_seconds)

    # Who is asked for a vector begins the same call once more.
    calls = rate("begins") - rate("vectors_wanted")
    return Rates(calls, rate("hits"), rate("shared"), rate("leases_first"))


def lines(
    now: Look, rates: Rates, trail: Sequence[float], width: int, height: int, marks: Marks, silence: str = ""
) -> "list[Text]":
    """Return at most ``height`` lines of ``width`` characters.

    ``trail`` has the calls per second of each look, the newest last; ``silence`` says that the daemon does not answer any more.
    """
    told = [*_head(now, rates, trail, width, marks, silence), *_backends(now), *_budgets(now, marks), *_tasks(now)][
        :height
    ]
    for line in told:
        line.truncate(width)

    return told


def _head(now: Look, rates: Rates, trail: Sequence[float], width: int, marks: Marks, silence: str) -> "Iterator[Text]":
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
        f"hits {rates.hits:,.1f}/s",
        f"shared {rates.shared:,.1f}/s",
        f"upstream {rates.upstream:,.1f}/s",
    )
    spared = total.hit_rate + total.deduplication_rate
    yield _line(
        f"spared {bar([total.hit_rate, total.deduplication_rate], BAR_CHARACTERS, marks)} {percent(spared)}",
        f"of {count(total.calls)} calls: {percent(total.hit_rate)} cache, {percent(total.deduplication_rate)} shared",
    )
    saved_dollars = total.saved_by_cache_dollars + total.saved_by_sharing_dollars
    saved_seconds = total.saved_by_cache_seconds + total.saved_by_sharing_seconds
    yield _line(
        f"saved  {dollars(saved_dollars)} of {dollars(total.served_dollars)}",
        f"{seconds(saved_seconds)} of {seconds(total.served_seconds)}",
    )
    full = stats.cache_bytes / stats.cache_max_bytes if stats.cache_max_bytes else 0.0
    yield _line(
        f"cache  {bar([full], BAR_CHARACTERS, marks)} {size(stats.cache_bytes)} of {size(stats.cache_max_bytes)}",
        f"{count(stats.cache_entries)} entries",
        f"store {stats.store.replace('_', ' ')}",
    )
    if len(trail) > 1:
        highest = f" at most {max(trail):,.1f}/s"
        yield _line("calls  " + curve(trail, max(0, min(len(trail), width - 7 - len(highest))), marks) + highest)


def _backends(now: Look) -> "Iterator[Text]":
    backends = now.breakers.backends
    if not backends:
        return

    yield _line()
    yield _cells("backend", "state", "in progress", "latency", "calls", "failed", "queued", "slow", style="bold")
    # What is not fine first.
    ordered = sorted(backends.items(), key=lambda pair: (pair[1].state == "closed", -pair[1].calls, pair[0]))
    for name, state in ordered[:MAX_BACKENDS]:
        yield _cells(name, *_backend(state), style=_STYLES[state.state])

    if len(ordered) > MAX_BACKENDS:
        yield _line(f"and {count(len(ordered) - MAX_BACKENDS)} more")


def _backend(state: BackendState) -> Iterator[str]:
    yield state.state.replace("_", " ")
    yield count(state.permits) if state.limit is None else f"{state.permits:,} of {state.limit:,}"
    yield "-" if state.latency_seconds is None else seconds(state.latency_seconds)
    yield count(state.calls)
    yield count(state.failures)
    yield count(state.queued)
    yield count(state.slow)


def _budgets(now: Look, marks: Marks) -> "Iterator[Text]":
    if not now.report.budgets:
        return

    yield _line()
    for name, budget in now.report.budgets.items():
        spent = budget.spent_dollars / budget.dollars if budget.dollars else 1.0
        yield _line(
            f"budget {plain(name)[:NAME_CHARACTERS]:<{NAME_CHARACTERS}} {bar([min(spent, 1.0)], BAR_CHARACTERS, marks)}",
            f"{dollars(budget.spent_dollars)} of {dollars(budget.dollars)}",
            f"anew in {seconds(budget.resets_in_seconds)}",
            style="red" if spent >= 1 else "",
        )


def _tasks(now: Look) -> "Iterator[Text]":
    tasks = sorted(now.report.tasks.items(), key=lambda pair: (-pair[1].calls, pair[0]))
    if not tasks:
        yield _line()
        yield _line("no calls yet: they appear here as soon as an app makes one")
        return

    yield _line()
    yield _cells("task", "calls", "hit rate", "shared", "upstream", "saved", style="bold")
    for name, ledger in tasks:
        saved = ledger.saved_by_cache_dollars + ledger.saved_by_sharing_dollars
        yield _cells(
            name,
            count(ledger.calls),
            percent(ledger.hit_rate),
            percent(ledger.deduplication_rate),
            count(ledger.upstream_calls),
            dollars(saved),
        )


def _line(*parts: str, style: str = "") -> "Text":
    from rich.text import Text  # noqa: PLC0415 - as in `tables`

    return Text("   ".join(parts), style=style, no_wrap=True)


def _cells(name: str, *cells: str, style: str = "") -> "Text":
    return _line(
        f"{plain(name)[:NAME_CHARACTERS]:<{NAME_CHARACTERS}}" + "".join(f"{cell:>12}" for cell in cells), style=style
    )
