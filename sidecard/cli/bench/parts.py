"""The parts of the bench, each with its own servers, so that one part cannot slow down the next."""

from collections.abc import Callable

from msgspec import Struct

from sidecard.cli.bench import crowd, metrics, single, stores
from sidecard.cli.bench.hosts import Hosts
from sidecard.cli.bench.rows import Effort, Row


class Part(Struct, frozen=True):
    """Measurements that share servers; with ``one_cpu``, all processes run on one processor (see `Hosts`)."""

    run: Callable[[Hosts, Effort], list[Row]]
    one_cpu: bool = False

    @property
    def name(self) -> str:
        """The part's name in words."""
        return self.run.__name__.replace("_", " ")

    def measure(self, effort: Effort) -> list[Row]:
        """Start the servers, measure, and stop the servers."""
        with Hosts(one_cpu=self.one_cpu) as hosts:
            return self.run(hosts, effort)


PARTS = (
    Part(single.hits_and_misses, one_cpu=True),
    Part(crowd.rates),
    Part(stores.stores, one_cpu=True),
    Part(metrics.metrics, one_cpu=True),
    Part(single.starts),
)
