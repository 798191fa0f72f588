"""Compare eviction policies: hit rate, and share of dollars saved with the same bytes.

Each policy serves each workload (`tests.bench.eviction.traces`) at several budgets, given as shares of the workload's footprint
(the bytes of all distinct answers). With equal answers the measure is the hit rate, and Belady's policy is the upper bound: it
evicts the entry whose next request is furthest away, or never stores it. With costs the measure is the share of dollars
saved, for which no computable bound is known.
"""

from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from statistics import mean
from typing import Literal

from msgspec import Struct

from sidecard.cli.text.numbers import percent
from sidecard.cli.text.tables import render, table
from tests.bench.eviction.policies import OURS, PAPERS, Policy, libraries, ours
from tests.bench.eviction.traces import Call, Workload

BUDGETS = (0.001, 0.01, 0.05, 0.1)
"""Shares of the footprint."""

BOUND = "Belady's bound"
TOLERANCE = 0.01
"""Share of all calls by which our hit rate may be below the best library's at any one budget.

On nearly every trace one policy fits better than all others, and it is a different one on the next trace.
"""

TINY = 0.005
TINY_TOLERANCE = 0.025
"""The same for calls and dollars at budgets below `TINY`.

Such a cache holds about twenty answers, so remembering keys from long ago decides: W-TinyLFU's sketch remembers more of
them than our ghost queue.
"""

Measure = Literal["hits", "dollars"]


class Share(Struct, frozen=True):
    """One policy's result: the share of calls that were hits, or of dollars that were saved."""

    workload: str
    measure: Measure
    budget_share: float
    policy: str
    share: float


def all_policies() -> dict[str, Policy]:
    """Return all policies by name, ours first. Raises `ImportError` if a library is not installed."""
    return {OURS: ours, **libraries(), **PAPERS}


def measure(
    workloads: Sequence[Workload],
    policies: dict[str, Policy],
    budgets: Sequence[float] = BUDGETS,
    report_progress: Callable[[str], object] = lambda _: None,
) -> list[Share]:
    """Run each policy on each workload, in both forms and with each budget."""
    return [
        share for workload in workloads for share in _measure_workload(workload, policies, budgets, report_progress)
    ]


def bound(calls: Sequence[Call], budget_bytes: int) -> int:
    """Return the hits of Belady's policy, an upper bound if all answers have the same size."""
    never = len(calls)
    next_at = [never] * len(calls)
    last: dict[str, int] = {}
    for position in range(len(calls) - 1, -1, -1):
        key = calls[position].key
        next_at[position] = last.get(key, never)
        last[key] = position

    kept: dict[str, int] = {}
    heap: list[tuple[int, str]] = []
    hits, room = 0, budget_bytes // calls[0].bytes
    for position, call in enumerate(calls):
        hits += kept.pop(call.key, None) is not None
        if next_at[position] == never:
            continue

        kept[call.key] = next_at[position]
        heappush(heap, (-next_at[position], call.key))
        while len(kept) > room:
            due, key = heappop(heap)
            if kept.get(key) == -due:
                del kept[key]

    return hits


def missed(results: Sequence[Share]) -> list[str]:
    """Return one sentence for each budget at which a library beats ours by more than the tolerance."""
    sentences = []
    for workload, measured, budget, shares in _by_budget(results):
        name, best = max(
            ((policy, share) for policy, share in shares.items() if policy not in {OURS, BOUND, *PAPERS}),
            key=lambda pair: pair[1],
        )
        tolerance = TINY_TOLERANCE if budget < TINY else TOLERANCE if measured == "hits" else 0.0
        if shares[OURS] < best - tolerance:
            sentences.append(
                f"{workload}, {measured}, {percent(budget)} of the footprint: "
                f"{name} has {percent(best)}, ours {percent(shares[OURS])}"
            )

    return sentences


def draw(results: Sequence[Share]) -> str:
    """Return one table per workload and measure; an asterisk marks the best policy at each budget."""
    parts = []
    for workload, measured in dict.fromkeys((one.workload, one.measure) for one in results):
        shown = [one for one in results if (one.workload, one.measure) == (workload, measured)]
        budgets = list(dict.fromkeys(one.budget_share for one in shown))
        shares = {(one.policy, one.budget_share): one.share for one in shown}
        best = {
            budget: max(share for (policy, at), share in shares.items() if at == budget and policy != BOUND)
            for budget in budgets
        }
        rows = [
            (policy, *(_cell(shares[policy, budget], best[budget], policy) for budget in budgets))
            for policy in dict.fromkeys(one.policy for one in shown)
        ]
        title = f"{workload}: {'hits, equal answers' if measured == 'hits' else 'dollars saved'}"
        parts.append(table(title, ("cache / footprint", *map(percent, budgets)), rows))

    return render(*parts)


def _cell(share: float, best: float, policy: str) -> str:
    return percent(share) + (" *" if share == best and policy != BOUND else "  ")


def _by_budget(results: Sequence[Share]) -> Iterator[tuple[str, Measure, float, dict[str, float]]]:
    for place in dict.fromkeys((one.workload, one.measure, one.budget_share) for one in results):
        shown = [one for one in results if (one.workload, one.measure, one.budget_share) == place]
        yield *place, {one.policy: one.share for one in shown}


def _measure_workload(
    workload: Workload, policies: dict[str, Policy], budgets: Sequence[float], report_progress: Callable[[str], object]
) -> Iterator[Share]:
    forms: tuple[tuple[Measure, list[Call]], ...] = (
        ("hits", workload.with_equal_answers().calls),
        ("dollars", workload.calls),
    )
    for measured, calls in forms:
        report_progress(f"{workload.name}, {measured}")
        sizes = [call.bytes for call in {call.key: call for call in calls}.values()]
        total = sum(call.dollars for call in calls)
        for budget in budgets:
            budget_bytes = int(budget * sum(sizes))
            for name, policy in policies.items():
                look_up = policy(budget_bytes, max(1, round(mean(sizes))))
                saved = sum(call.dollars for call in calls if look_up(call))
                yield Share(workload.name, measured, budget, name, saved / total)

            if measured == "hits":
                yield Share(workload.name, measured, budget, BOUND, bound(calls, budget_bytes) / len(calls))
