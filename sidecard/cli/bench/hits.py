"""One client's hits: from a view, and over the socket, next to other caches that do the same work.

The same work: take a prompt of 160 bytes, make its key, and return the answer of 1 KiB that is stored under it.
"""

from collections.abc import Mapping, Sequence
from statistics import median

from msgspec import Struct
from msgspec.structs import replace

from sidecard.cli.bench.hosts import WORKER, Hosts
from sidecard.cli.bench.load import PERCENTILES, Order
from sidecard.cli.bench.rows import Effort, Row, compare

SIDES = ("sidecard", "socket", "redis", "echo", "memory", "disk")

CALLS = 10
"""Calls per call of `Effort`, for the thousandth part of the times."""

NAMES = {
    "sidecard": "view",
    "socket": "socket",
    "redis": "redis-py",
    "echo": "echo",
    "memory": "cachetools",
    "disk": "diskcache",
}
"""What the sides are called in figures and pictures."""


class _Times(Struct, frozen=True):
    """The quantiles of each side, one per round, and what went wrong."""

    rounds: Mapping[str, Sequence[Mapping[str, float]]]
    faults: Mapping[str, str]
    missing: Mapping[str, str]

    def median_of(self, side: str, quantile: str) -> float:
        return median(one[quantile] for one in self.rounds[side])

    def curves(self) -> dict[str, dict[str, float]]:
        return {NAMES[side]: {name: self.median_of(side, name) for name in PERCENTILES} for side in self.rounds}

    def row(self, what: str, target: float, side: str, other: str) -> Row:
        """Return the row for the ratio of the medians of two sides."""
        fault = self.faults.get(side, "")
        for absent in (side, other):
            if absent not in self.rounds:
                return Row(what, target, missing=self.missing[absent], fault=fault)

        first, second = ([one["p50"] for one in self.rounds[name]] for name in (side, other))
        row = compare(what, target, first, second, (NAMES[side], NAMES[other]), fault)
        return replace(row, figures={**row.figures, **self._tails(side), **self._tails(other)})

    def _tails(self, side: str) -> dict[str, float]:
        return {f"{NAMES[side]}_{name}_seconds": self.median_of(side, name) for name in ("p99", "p99.9")}


def hits_on_one_core(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare hits of one client that shares a processor with all servers."""
    times = _measure(hosts, effort, SIDES)
    first = times.row("hit from a view, one core, against redis-py", 0.25, "sidecard", "redis")
    return [
        replace(first, curves=times.curves()),
        times.row("hit over the socket, one core, against redis-py", 0.65, "socket", "redis"),
        times.row("hit over the socket, one core, against a bare echo", 2.0, "socket", "echo"),
        times.row("hit from a view, against cachetools.TTLCache with the same key", 3.0, "sidecard", "memory"),
        times.row("hit from a view, one core, against diskcache", 1.0, "sidecard", "disk"),
    ]


def hits_on_own_cores(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare hits of one client that has a processor to itself, as the servers have another."""
    what = "hit from a view, each on its own core, against redis-py"
    if hosts.cpus < 2:  # noqa: PLR2004 - one of the client, one of the servers
        return [Row(what, 0.12, missing="a second processor")]

    times = _measure(hosts, effort, ("sidecard", "socket", "redis", "echo"))
    return [
        replace(times.row(what, 0.12, "sidecard", "redis"), curves=times.curves()),
        times.row("hit over the socket, each on its own core, against redis-py", 0.8, "socket", "redis"),
    ]


def _measure(hosts: Hosts, effort: Effort, sides: Sequence[str]) -> _Times:
    present = [side for side in sides if side in hosts.sockets]
    (worker,) = hosts.workers(1, WORKER, *present)
    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in present}
    upstream_calls = dict.fromkeys(present, 0)
    hits = 0
    before = hosts.view_hits()
    for _ in range(effort.rounds):
        for side in present:
            result = worker.perform(Order("single", side, CALLS * effort.calls))
            rounds[side].append(result.quantiles)
            upstream_calls[side] += result.upstream_calls
            hits += result.count * (side == "sidecard")

    faults = {side: f"{count} calls were a miss" for side, count in upstream_calls.items() if count}
    faults.setdefault("sidecard", hosts.fault_of_views(before, hits))
    return _Times(rounds, faults, hosts.missing)
