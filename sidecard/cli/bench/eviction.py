"""How good eviction is: hits, and dollars saved by the same bytes, beside libraries, papers and the bound.

Each policy sees each workload (`sidecard.cli.bench.eviction_traces`) at budgets that are shares of its footprint, the bytes of
all its different answers. With answers that are all alike, the measure is the share of calls that were hits, and its bound
is Belady's: of what is there, whoever is asked for again last leaves (or never enters). With their costs it is the
share of all dollars that was saved; no bound of that is known that could be computed.
"""

from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from statistics import mean
from typing import Literal

from msgspec import Struct

from sidecard.cli.bench.eviction_peers import OURS, PAPERS, Peer, libraries, ours
from sidecard.cli.bench.eviction_traces import Call, Workload
from sidecard.cli.tables import drawn, percent, table

BUDGETS = (0.001, 0.01, 0.05, 0.1)
"""Shares of the footprint."""

BOUND = "Belady's bound"
TOLERANCE = 0.01
"""How much of all calls ours may have fewer hits on than the best library, at any one budget. On a trace there is nearly
always one policy that suits it better than all others, and another one on the next trace."""

TINY = 0.005
TINY_TOLERANCE = 0.025
"""And of calls or dollars below the budget `TINY`: there a cache has some twenty answers, and what counts is to know which keys
were asked for long ago. W-TinyLFU's sketch remembers more of them than our ghosts."""

Measure = Literal["hits", "dollars"]


class Found(Struct, frozen=True):
    """What one policy came to: the share of calls that were hits, or of dollars that were saved."""

    workload: str
    measure: Measure
    budget_share: float
    policy: str
    share: float


def peers() -> dict[str, Peer]:
    """Return all policies by name, ours first. Raises `ImportError` where a library is not installed."""
    return {OURS: ours, **libraries(), **PAPERS}


def measure(
    workloads: Sequence[Workload],
    policies: dict[str, Peer],
    budgets: Sequence[float] = BUDGETS,
    say: Callable[[str], object] = lambda _: None,
) -> list[Found]:
    """Let each policy see each workload, in both forms and with each budget."""
    return [found for workload in workloads for found in _of_workload(workload, policies, budgets, say)]


def bound(calls: Sequence[Call], budget_bytes: int) -> int:
    """Return the hits of Belady's policy, which knows what comes. Of calls whose answers are alike: else it is no bound."""
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


def missed(found: Sequence[Found]) -> list[str]:
    """Say, one sentence each, where a library was better than ours by more than is tolerated."""
    sentences = []
    for workload, measured, budget, shares in _by_budget(found):
        name, best = max(
            ((policy, share) for policy, share in shares.items() if policy not in {OURS, BOUND, *PAPERS}),
            key=lambda pair: pair[1],
        )
        tolerated = TINY_TOLERANCE if budget < TINY else TOLERANCE if measured == "hits" else 0.0
        if shares[OURS] < best - tolerated:
            sentences.append(
                f"{workload}, {measured}, {percent(budget)} of the footprint: "
                f"{name} has {percent(best)}, ours {percent(shares[OURS])}"
            )

    return sentences


def draw(found: Sequence[Found]) -> str:
    """Return a table for each workload and measure; where a policy is best at a budget, that is marked."""
    parts = []
    for workload, measured in dict.fromkeys((one.workload, one.measure) for one in found):
        of = [one for one in found if (one.workload, one.measure) == (workload, measured)]
        budgets = list(dict.fromkeys(one.budget_share for one in of))
        shares = {(one.policy, one.budget_share): one.share for one in of}
        best = {
            budget: max(share for (policy, at), share in shares.items() if at == budget and policy != BOUND)
            for budget in budgets
        }
        rows = [
            (policy, *(_cell(shares[policy, budget], best[budget], policy) for budget in budgets))
            for policy in dict.fromkeys(one.policy for one in of)
        ]
        title = f"{workload}: {'hits, all alike' if measured == 'hits' else 'dollars saved'}"
        parts.append(table(title, ("cache, of the footprint", *map(percent, budgets)), rows))

    return drawn(*parts)


def _cell(share: float, best: float, policy: str) -> str:
    return percent(share) + (" *" if share == best and policy != BOUND else "  ")


def _by_budget(found: Sequence[Found]) -> Iterator[tuple[str, Measure, float, dict[str, float]]]:
    for place in dict.fromkeys((one.workload, one.measure, one.budget_share) for one in found):
        of = [one for one in found if (one.workload, one.measure, one.budget_share) == place]
        yield *place, {one.policy: one.share for one in of}


def _of_workload(
    workload: Workload, policies: dict[str, Peer], budgets: Sequence[float], say: Callable[[str], object]
) -> Iterator[Found]:
    forms: tuple[tuple[Measure, list[Call]], ...] = (("hits", workload.alike().calls), ("dollars", workload.calls))
    for measured, calls in forms:
        say(f"{workload.name}, {measured}")
        sizes = [call.bytes for call in {call.key: call for call in calls}.values()]
        total = sum(call.dollars for call in calls)
        for budget in budgets:
            budget_bytes = int(budget * sum(sizes))
            for name, peer in policies.items():
                ask = peer(budget_bytes, max(1, round(mean(sizes))))
                saved = sum(call.dollars for call in calls if ask(call))
                yield Found(workload.name, measured, budget, name, saved / total)

            if measured == "hits":
                yield Found(workload.name, measured, budget, BOUND, bound(calls, budget_bytes) / len(calls))
