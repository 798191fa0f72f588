"""``sidecard report``: rates, savings and spending, per task."""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sidecard.cli.arguments import Commands, add_command
from sidecard.cli.exit_codes import OK
from sidecard.cli.output import write_reply
from sidecard.cli.query import query, socket_of
from sidecard.cli.text.charts import bar, symbols_for
from sidecard.cli.text.numbers import count, dollars, percent, seconds
from sidecard.cli.text.tables import render, table
from sidecard_client.protocol.wire import BackendSpending, GetReport, Ledger, Report

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

TOTAL = "all tasks"
BAR_CHARACTERS = 40
_RATES = ("hit rate", "de-duplicated", "latency reduced by")
_UNSHARED = ("passed", "not_stored")
"""Sums that have a column only if they are not 0."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    add_command(commands, "report", _run, "show rates, savings and spending")


def _run(arguments: argparse.Namespace) -> int:
    report = query(socket_of(arguments), GetReport(id=1), Report)
    write_reply(report, lambda: report_text(report), as_json=arguments.json)
    return OK


def report_text(report: Report) -> str:
    """Return rates, savings and spending as tables with one row per task, or a sentence if there were no calls."""
    total = report.total
    if not (total.calls or total.rejected or total.timeouts or total.passed):
        nothing = f"no calls yet, in {_ledger_time(report)}"
        return "\n".join([nothing, *_problems(report)])

    tasks = {**dict(sorted(report.tasks.items())), TOTAL: report.total}
    unshared = [name for name in _UNSHARED if getattr(total, name)]
    parts: list[RenderableType] = [
        table(
            f"Calls, in {_ledger_time(report)}",
            (
                "task",
                *("calls", "hits", "shared", "upstream", "failed", "rejected"),
                *_RATES,
                *(name.replace("_", " ") for name in unshared),
            ),
            [
                (task, *_rates(ledger), *(count(getattr(ledger, name)) for name in unshared))
                for task, ledger in tasks.items()
            ],
        ),
        _bars(
            "Sources of answers",
            ("cache", "shared", "upstream"),
            {task: (ledger.hit_rate, ledger.deduplication_rate) for task, ledger in tasks.items()},
        ),
        table(
            "Time: served = billed + saved by both + waited",
            ("task", "served", "billed", "saved by cache", "saved by sharing", "waited", "saved per call"),
            [(task, *_times(ledger)) for task, ledger in tasks.items()],
        ),
    ]
    if total.view_hits:
        parts.append(f"{count(total.view_hits)} of {count(total.hits)} hits were read from a view.")

    if report.total.similar_hits:
        parts.append(
            table(
                "Hits with answers to similar requests",
                ("task", "hits", "time saved", "dollars saved"),
                [(task, *_similar(ledger)) for task, ledger in tasks.items() if ledger.similar_hits],
            )
        )

    if total.saved_by_prefix_tokens:
        parts.append(
            table(
                "Prompt tokens from the backends' own caches",
                ("task", "tokens", "dollars saved, in no other sum"),
                [(task, *_prefix(ledger)) for task, ledger in tasks.items() if ledger.saved_by_prefix_tokens],
            )
        )

    if not total.served_dollars:
        no_cost = "No cost was reported: pass usage= to the client to report the cost of a call."
        return render(
            *parts, *_unanswered(tasks), *_unshared(report, tasks), *_budgets(report), no_cost, *_problems(report)
        )

    return render(
        *parts,
        *_unanswered(tasks),
        *_unshared(report, tasks),
        *_costs(report, tasks),
        *_budgets(report),
        *_problems(report),
    )


def _unshared(report: Report, tasks: Mapping[str, Ledger]) -> list["RenderableType"]:
    """Return why requests were passed unshared, and why answers were not stored."""
    parts: list[RenderableType] = []
    rows = [
        (task, name.replace("_", " "), count(getattr(ledger, name)), _reasons(getattr(ledger, f"{name}_by_reason")))
        for task, ledger in tasks.items()
        for name in _UNSHARED
        if getattr(ledger, name)
    ]
    if rows:
        title = "Not shared, or not stored: see sidecard docs sdks"
        parts.append(table(title, ("task", "what", "number", "because"), rows, align="llrl"))

    if report.passed:
        families = [(family or "unknown", _reasons(reasons)) for family, reasons in report.passed.items()]
        title = "Passed by API"
        parts.append(table(title, ("API", "since the daemon started"), families, align="ll"))

    return parts


def _reasons(numbers: Mapping[Any, int]) -> str:
    return ", ".join(f"{reason.replace('_', ' ')} {count(number)}" for reason, number in numbers.items())


def _unanswered(tasks: Mapping[str, Ledger]) -> list["Table"]:
    rows = [
        (
            task,
            *map(count, (ledger.failed, ledger.timeouts, ledger.rejected)),
            _reasons(ledger.rejected_by_reason),
        )
        for task, ledger in tasks.items()
        if ledger.failed or ledger.timeouts or ledger.rejected
    ]
    heads = ("task", "failed", "timed out", "rejected", "because")
    return [table("Calls without an answer", heads, rows, align="lrrrl")] if rows else []


def _problems(report: Report) -> list[str]:
    lines = [f"- {reason}" for reason in report.reasons]
    return ["\n".join(["Problems:", *lines])] if lines else []


def _rates(ledger: Ledger) -> tuple[str, ...]:
    counts = (ledger.calls, ledger.hits, ledger.shared, ledger.upstream_calls, ledger.failed, ledger.rejected)
    rates = (ledger.hit_rate, ledger.deduplication_rate, ledger.average_latency_reduction)
    return (*map(count, counts), *map(percent, rates))


def _times(ledger: Ledger) -> Iterable[str]:
    return map(
        seconds,
        (
            ledger.served_seconds,
            ledger.billed_seconds,
            ledger.saved_by_cache_seconds,
            ledger.saved_by_sharing_seconds,
            ledger.waited_seconds,
            ledger.average_saved_seconds,
        ),
    )


def _similar(ledger: Ledger) -> tuple[str, str, str]:
    saved = dollars(ledger.saved_by_similar_dollars) if ledger.served_dollars else "-"
    return count(ledger.similar_hits), seconds(ledger.saved_by_similar_seconds), saved


def _prefix(ledger: Ledger) -> tuple[str, str]:
    saved = dollars(ledger.saved_by_prefix_dollars) if ledger.served_dollars else "-"
    return count(ledger.saved_by_prefix_tokens), saved


def _costs(report: Report, tasks: Mapping[str, Ledger]) -> list["Table"]:
    amounts = {
        task: (
            ledger.served_dollars,
            ledger.billed_dollars,
            ledger.saved_by_cache_dollars,
            ledger.saved_by_sharing_dollars,
        )
        for task, ledger in tasks.items()
    }
    shares = {
        task: (by_cache / served, by_sharing / served) if served else (0.0, 0.0)
        for task, (served, _, by_cache, by_sharing) in amounts.items()
    }
    return [
        table(
            "Cost: served = billed + saved by both",
            ("task", "served", "billed", "saved by cache", "saved by sharing"),
            [(task, *map(dollars, of_task)) for task, of_task in amounts.items()],
        ),
        _bars("Shares of cost", ("saved by cache", "saved by sharing", "billed"), shares),
        *(
            _spendings(kind, spendings)
            for kind, spendings in (("backend", report.backends), ("model", report.models))
            if spendings
        ),
    ]


def _spendings(kind: str, spendings: Mapping[str, BackendSpending]) -> "Table":
    """Return a table; it has the share of cached prompt tokens if there are any."""
    cached = ("cached",) if any(spending.cached_prompt_tokens for spending in spendings.values()) else ()
    heads = (kind, "calls", "time", "prompt tokens", *cached, "completion tokens", "billed", "saved")
    rows = [(name, *_spending(spending, with_cached=bool(cached))) for name, spending in spendings.items()]
    return table(f"By {kind}", heads, rows)


def _spending(spending: BackendSpending, *, with_cached: bool) -> tuple[str, ...]:
    reported = spending.cached_prompt_tokens + spending.processed_prompt_tokens
    share = percent(spending.cached_prompt_tokens / reported) if reported else "-"
    return (
        count(spending.calls),
        seconds(spending.seconds),
        count(spending.prompt_tokens),
        *((share,) if with_cached else ()),
        count(spending.completion_tokens),
        dollars(spending.dollars),
        dollars(spending.saved_dollars),
    )


def _bars(title: str, names: Sequence[str], shares: Mapping[str, Sequence[float]]) -> "Table":
    """Return one bar per task, and a legend."""
    symbols = symbols_for(sys.stdout.encoding)
    legend = "  ".join(f"{symbol} {name}" for symbol, name in zip(symbols.segments, names, strict=True))
    rows = [(task, bar(of_task, BAR_CHARACTERS, symbols)) for task, of_task in shares.items()]
    return table(title, (), [*rows, ("", legend)], align="ll")


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
            count(budget.rejected),
            seconds(budget.resets_in_seconds),
        )
        for name, budget in report.budgets.items()
    ]
    heads = ("budget", "kind", "dollars", "spent", "in progress", "rejected", "resets in")
    return [table("Budgets", heads, rows, align="llrrrrr")]


def _ledger_time(report: Report) -> str:
    # A difference of more than a second means that the ledger continues an earlier run's.
    continued = report.ledger_seconds > report.uptime_seconds + 1
    return seconds(report.ledger_seconds if continued else report.uptime_seconds)
