"""Fair queueing: round robin among groups, within a group round robin among flows, within a flow first in, first out.

Each process is a flow and each uid a group. A process that requests a thousand permits in a burst delays another's first
request by one turn, not by a thousand, and neither does a uid with a thousand processes delay another uid any more.
Precedent: the fair queueing of nginx's and Kubernetes' request queues.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from sidecard_client.protocol.wire import Begin

T = TypeVar("T", bound=Hashable)


class Queued(Hashable, Protocol):
    """A caller in a queue, as `sidecard.core.backends.affinity` sees it."""

    @property
    def flow(self) -> Hashable:
        """Its process."""

    @property
    def scope(self) -> str:
        """Whose namespace its prefixes belong to."""

    @property
    def request(self) -> Begin:
        """Its begin."""

    @property
    def deadline(self) -> float:
        """Until when it waits."""

    @property
    def patient(self) -> bool:
        """Whether it may still be held."""

    @property
    def held_since(self) -> float | None:
        """When it was held for the first time, at any backend."""

    def mark_held(self, since: float) -> None:
        """Record when it was held for the first time."""


class FairQueue(Generic[T]):
    """Items by group and flow, each item at most once. Without ``group_of`` all flows are in one group.

    Items that name the same place count as one: they are served together.
    """

    def __init__(self, group_of: Callable[[Any], Hashable] = lambda _: None) -> None:
        self._group_of = group_of
        self._groups: OrderedDict[Hashable, OrderedDict[Hashable, OrderedDict[T, Hashable]]] = OrderedDict()
        self._count = 0
        self.items = 0
        """Items, whose number differs from the length where items share a place."""
        self._places: dict[Hashable, int] = {}
        """Named places, with the number of their items."""
        self._counts: dict[Hashable, int] = {}
        """Places by group."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return iter([item for flows in self._groups.values() for items in flows.values() for item in items])

    def turns(self) -> Iterator[Iterator[T]]:
        """Yield, for each group in its turn, its items in the order in which they are due."""
        for flows in self._groups.values():
            yield _in_turn(flows.values())

    def of_flow(self, flow: Hashable) -> Iterable[T]:
        """Return the items of a flow that has any, the first one first."""
        return self._groups[self._group_of(flow)][flow]

    def push(self, flow: Hashable, item: T, place: Hashable = None) -> None:
        """Append an item to a flow. A place belongs to one flow."""
        group = self._group_of(flow)
        flows = self._groups.setdefault(group, OrderedDict())
        flows.setdefault(flow, OrderedDict())[item] = place
        self.items += 1
        if place is None or place not in self._places:
            self._count += 1
            self._counts[group] = self._counts.get(group, 0) + 1

        if place is not None:
            self._places[place] = self._places.get(place, 0) + 1

    def has_place(self, place: Hashable) -> bool:
        """Return whether an item has this place already."""
        return place in self._places

    def of_group(self, flow: Hashable) -> int:
        """Return the number of places in all flows of the flow's group."""
        return self._counts.get(self._group_of(flow), 0)

    def first(self) -> T:
        """Return the next item. Raises `StopIteration` if the queue is empty."""
        return next(iter(next(iter(next(iter(self._groups.values())).values()))))

    def remove(self, flow: Hashable, item: T) -> None:
        """Remove an item from any position; its flow keeps its turn."""
        group = self._group_of(flow)
        flows = self._groups[group]
        place = flows[flow].pop(item)
        self.items -= 1
        if place is not None:
            self._places[place] -= 1
            if not self._places[place]:
                del self._places[place]

        if place not in self._places:
            self._count -= 1
            self._counts[group] -= 1
            if not self._counts[group]:
                del self._counts[group]

        if not flows[flow]:
            del flows[flow]

        if not flows:
            del self._groups[group]

    def serve(self, flow: Hashable, item: T) -> None:
        """Remove an item that was served; its flow and its group move to the end of their rounds."""
        self.remove(flow, item)
        group = self._group_of(flow)
        flows = self._groups.get(group)
        if flows is None:
            return

        self._groups.move_to_end(group)
        if flow in flows:
            flows.move_to_end(flow)


def _in_turn(flows: Iterable[Iterable[T]]) -> Iterator[T]:
    """Yield the items of flows round by round: one of each flow."""
    waiting = [iter(flow) for flow in flows]
    while waiting:
        left = []
        for flow in waiting:
            for item in flow:
                yield item
                left.append(flow)
                break

        waiting = left
