"""The results of the bench as a table, and which targets they meet. Pure."""

from collections.abc import Iterator, Sequence
from statistics import mean

from msgspec import Struct

from sidecard.cli.text.numbers import count, percent, ratio, seconds
from sidecard.cli.text.tables import render, table
from tests.bench.prefixes.harness import Run
from tests.bench.prefixes.ways import AFFINITY, ARRIVAL, DEFAULT_LIMIT, SLOTS
from tests.bench.prefixes.workloads import Workload

NEAR_BEST = 1.10
FASTER_THAN_ARRIVAL = 1.5
SHARE_OF_TOKENS = 0.53
NO_SLOWER = 1.05


class Best(Struct, frozen=True):
    """A workload in one way: the least time of its runs, as other work on the machine only adds time, and the mean of the tokens."""

    workload: str
    way: str
    seconds: float
    median_seconds: float
    processed_tokens: int
    cached_tokens: int
    runs: int

    @property
    def cached_share(self) -> float:
        """Share of the prompt tokens that came from the server's cache."""
        return self.cached_tokens / (self.cached_tokens + self.processed_tokens)


class Target(Struct, frozen=True):
    """A target, and what was measured."""

    what: str
    measured: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it is met."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


def best_of(runs: Sequence[Run]) -> list[Best]:
    """Return the result of each workload in each way."""
    found = []
    for pair in dict.fromkeys((run.workload, run.way) for run in runs):
        same = [run for run in runs if (run.workload, run.way) == pair]
        found.append(
            Best(
                *pair,
                min(run.seconds for run in same),
                min(run.median_seconds for run in same),
                round(mean(run.processed_tokens for run in same)),
                round(mean(run.cached_tokens for run in same)),
                len(same),
            )
        )

    return found


def targets(best: Sequence[Best], workloads: Sequence[Workload]) -> Iterator[Target]:
    """Yield the targets of prefix affinity for which everything was measured."""
    found = {(one.workload, one.way): one for one in best}
    for workload in workloads:
        ours = found.get((workload.name, AFFINITY.name))
        static = {limit: found.get((workload.name, way.name)) for limit, way in ARRIVAL.items()}
        if ours is None:
            continue

        fastest = min((one.seconds for one in static.values() if one is not None), default=None)
        if fastest is not None and workload.shares:
            yield Target(f"{workload.name}: time, against the best static limit", ours.seconds / fastest, NEAR_BEST)

        same, wide = static[DEFAULT_LIMIT], static[SLOTS]
        if same is not None and not workload.shares:
            yield Target(
                f"{workload.name}: time, against arrival at the same limit", ours.seconds / same.seconds, NO_SLOWER
            )

        if wide is not None and workload.long and workload is workloads[0]:
            faster = wide.seconds / ours.seconds
            what = f"{workload.name}: arrival, {SLOTS} at a time, against ours"
            yield Target(what, faster, FASTER_THAN_ARRIVAL, at_least=True)
            tokens = ours.processed_tokens / wide.processed_tokens
            yield Target(
                f"{workload.name}: prompt tokens processed, against arrival, {SLOTS} at a time", tokens, SHARE_OF_TOKENS
            )


def draw(best: Sequence[Best], workloads: Sequence[Workload]) -> str:
    """Return the results as a table, followed by what the workloads are."""
    rows = []
    for workload in workloads:
        of_workload = [one for one in best if one.workload == workload.name]
        fastest = min((one.seconds for one in of_workload), default=0.0)
        rows += [
            (
                workload.name if place == 0 else "",
                one.way,
                f"{one.seconds:.1f} s",
                ratio(one.seconds / fastest),
                count(one.processed_tokens),
                percent(one.cached_share),
                seconds(one.median_seconds),
                str(one.runs),
            )
            for place, one in enumerate(of_workload)
        ]

    heads = ("workload", "way", "time", "/ fastest", "tokens processed", "cached", "median call", "runs")
    measured = {one.workload for one in best}
    lines = [f"{workload.name}: {workload.about}" for workload in workloads if workload.name in measured]
    return render(table("", heads, rows, align="llrrrrrr"), "\n".join(lines))


def draw_targets(goals: Sequence[Target]) -> str:
    """Return targets as a table."""
    rows = [
        (
            goal.what,
            ratio(goal.measured),
            f"{'>=' if goal.at_least else '<='} {ratio(goal.limit)}",
            "met" if goal.met else "missed",
        )
        for goal in goals
    ]
    return render(table("", ("target", "measured", "limit", ""), rows, align="lrrl"))
