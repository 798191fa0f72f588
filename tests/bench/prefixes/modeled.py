"""The workloads with a modeled llama.cpp server in virtual time: what prefix affinity does on machines that are not at hand."""

from collections.abc import Sequence

from msgspec import Struct

from sidecard.cli.text.numbers import count
from sidecard.cli.text.tables import render, table
from sidecard.core.settings import BackendSettings
from tests.bench.prefixes.server_model import ACCELERATOR, TWO_PROCESSORS, Machine
from tests.bench.prefixes.virtual_server import Modeled, serve
from tests.bench.prefixes.ways import SLOTS
from tests.bench.prefixes.workloads import Workload

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
    machine: Machine = MACHINES[name]

    def at_each_limit(**settings: str) -> dict[int, Modeled]:
        return {
            limit: serve(workload, BackendSettings(max_concurrent=limit, **settings), machine, SLOTS)  # type: ignore[arg-type]
            for limit in LIMITS
        }

    return Compared(name, workload.name, at_each_limit(), at_each_limit(prefix_affinity="slots"))


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
