"""The workloads with a modeled llama.cpp server in virtual time: what prefix affinity does on machines that are not at hand."""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from msgspec import Struct

from sidecard.cli.text.numbers import count, ratio
from sidecard.cli.text.tables import render, table
from sidecard.core.settings import BackendSettings, local_limit
from tests.bench.prefixes.server_model import ACCELERATOR, TWO_PROCESSORS
from tests.bench.prefixes.virtual_server import Modeled, serve
from tests.bench.prefixes.ways import SLOTS
from tests.bench.prefixes.workloads import Workload, random_workload

LIMITS = (1, 2, SLOTS)

MACHINES = {"two processors": TWO_PROCESSORS, "accelerator": ACCELERATOR}


class Compared(Struct, frozen=True):
    """One workload on one machine, by the limit of calls at a time."""

    machine: str
    workload: str
    arrival: dict[int, Modeled]
    affinity: dict[int, Modeled]


def compare(workload: Workload, name: str) -> Compared:
    """Serve a workload in arrival order and with prefix affinity, at each limit."""

    def at_each_limit(**settings: Any) -> dict[int, Modeled]:
        return {
            limit: serve(workload, BackendSettings(max_concurrent=limit, **settings), MACHINES[name], SLOTS)
            for limit in LIMITS
        }

    return Compared(name, workload.name, at_each_limit(), at_each_limit(prefix_affinity="slots"))


class Ratio(Struct, frozen=True):
    """Affinity at a machine's default limit, with a random workload: its time against the best static limit, and that limit itself."""

    machine: str
    workload: str
    against_best: float
    against_same: float


def survey(seeds: Sequence[int]) -> Iterator[Ratio]:
    """Serve random workloads at the default limit of each machine, and at all static limits."""
    for name, limit in (("two processors", local_limit(2)), ("accelerator", SLOTS)):
        for seed in seeds:
            workload = random_workload(seed)
            static = {one: _seconds(workload, name, one) for one in LIMITS}
            ours = _seconds(workload, name, limit, prefix_affinity="slots")
            yield Ratio(name, workload.about, ours / min(static.values()), ours / static[limit])


def draw_survey(found: Sequence[Ratio]) -> str:
    """Return the median and the worst for each machine."""
    rows = []
    for name in dict.fromkeys(one.machine for one in found):
        of_machine = [one for one in found if one.machine == name]
        worst = max(of_machine, key=lambda one: one.against_best)
        rows.append(
            (
                name,
                str(len(of_machine)),
                *(ratio(kind(one.against_best for one in of_machine)) for kind in (median, max)),
                *(ratio(kind(one.against_same for one in of_machine)) for kind in (median, max)),
                worst.workload,
            )
        )

    heads = ("machine", "workloads", "/ best limit: median", "most", "/ same limit: median", "most", "worst workload")
    title = "Modeled server, random workloads: time with prefix affinity at the default limit, against arrival order"
    return render(table(title, heads, rows, align="lrrrrrl"))


def _seconds(workload: Workload, name: str, limit: int, **settings: Any) -> float:
    return serve(workload, BackendSettings(max_concurrent=limit, **settings), MACHINES[name], SLOTS).seconds


def draw(results: Sequence[Compared]) -> str:
    """Return the results as a table."""
    rows = [
        (
            result.machine,
            result.workload,
            *(_cell(way[limit]) for way in (result.arrival, result.affinity) for limit in LIMITS),
        )
        for result in results
    ]
    heads = [f"{way}, {limit}" for way in ("arrival", "affinity") for limit in LIMITS]
    title = f"Modeled server with {SLOTS} slots: seconds, and prompt tokens processed, by calls at a time"
    return render(table(title, ("machine", "workload", *heads), rows, align="ll" + "r" * len(heads)))


def _cell(result: Modeled) -> str:
    return f"{result.seconds:.1f}; {count(result.processed_tokens)}"
