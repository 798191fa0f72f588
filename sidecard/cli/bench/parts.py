"""The parts of the bench, each with its own servers, so that one part cannot slow down the next."""

from collections.abc import Callable

from msgspec import Struct

from sidecard.cli.bench import crowd, hits, limited, metrics, single, stores
from sidecard.cli.bench.hosts import Hosts, Placement
from sidecard.cli.bench.rows import Effort, Row


class Part(Struct, frozen=True):
    """Measurements that share servers, placed on processors as `Hosts` describes."""

    run: Callable[[Hosts, Effort], list[Row]]
    placement: Placement = "anywhere"

    @property
    def name(self) -> str:
        """The part's name in words."""
        return self.run.__name__.replace("_", " ")

    def measure(self, effort: Effort) -> list[Row]:
        """Start the servers, measure, and stop the servers."""
        with Hosts(self.placement) as hosts:
            return self.run(hosts, effort)


PARTS = (
    Part(hits.hits_on_one_core, "one cpu"),
    Part(hits.hits_on_own_cores, "apart"),
    Part(single.misses, "one cpu"),
    Part(crowd.rates),
    Part(limited.half_a_core),
    Part(stores.stores, "one cpu"),
    Part(metrics.metrics, "one cpu"),
    Part(single.starts),
)
