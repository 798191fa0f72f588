"""The order in which callers with prompts are served: fair between uids, bounded for each caller, and without an end for none.

The reference knows only the order of turns, and why callers may be held: they share a prefix with a call in progress. Which of those
gain by waiting is not its concern (`tests/unit/core/test_engine_slots.py`): it observes who is held, and since when.
"""

from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecard.core.backends.affinity import Affinity
from sidecard.core.backends.prefix_policy import PrefixPolicy
from sidecard.core.backends.prompt_caches.cache import PromptUse
from sidecard.core.backends.queue import FairQueue
from sidecard_client.protocol.wire import Begin, PrefixAffinity
from tests.backends import PARTS
from tests.laws.worlds import prompt_of
from tests.thoroughness import cases

SLOTS = 3
HOLD_SECONDS = 6.0
PASS_SECONDS = 4.0
FLOWS = [(1, 1), (1, 2), (1, 2), (2, 3)]
PROMPTS: list[tuple[str, ...]] = [(), ("a",), ("a", "ac"), ("a", "ad"), ("b",), ("b", "bc")]

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("comes"), st.integers(0, len(FLOWS) * len(PROMPTS) - 1)),
        st.tuples(st.just("comes"), st.integers(0, len(FLOWS) * len(PROMPTS) - 1)),
        st.tuples(st.sampled_from(["leaves", "starts", "fails"]), st.integers(0, 20)),
        st.tuples(st.just("ends"), st.integers(0, 20)),
        st.tuples(st.just("passes"), st.integers(1, 12)),
    ),
    min_size=20,
    max_size=80,
)


@dataclass(eq=False)
class Item:
    """A caller in the queue."""

    flow: tuple[int, int]
    request: Begin
    deadline: float
    scope: str = "all"
    patient: bool = True
    held_since: float | None = None
    """As the engine sees it."""
    seen_held_since: float | None = None

    def mark_held(self, since: float) -> None:
        """Record what the engine says."""
        self.held_since = since

    passed_since: float | None = None


@dataclass(eq=False)
class Backend:
    """One backend with room for a few calls, its queue, and the reference."""

    affinity: Affinity[Item]
    now: float = 100.0
    queue: FairQueue[Item] = field(default_factory=lambda: FairQueue(itemgetter(0)))
    calls: list[tuple[Item, PromptUse]] = field(default_factory=list)
    turns: list[tuple[int, list[tuple[tuple[int, int], list[Item]]]]] = field(default_factory=list)
    """Uids in turn, for each its flows in turn, for each its callers."""

    def comes(self, place: int) -> None:
        """A caller queues."""
        flow, names = FLOWS[place % len(FLOWS)], PROMPTS[place // len(FLOWS)]
        item = Item(flow, Begin(None, **prompt_of(names)), self.now + 100.0)
        self.queue.push(flow, item)
        self.affinity.join(item)
        flows = next((flows for uid, flows in self.turns if uid == flow[0]), None)
        if flows is None:
            flows = []
            self.turns.append((flow[0], flows))

        items = next((items for other, items in flows if other == flow), None)
        if items is None:
            items = []
            flows.append((flow, items))

        items.append(item)

    def leaves(self, item: Item, *, served: bool = False) -> None:
        """A caller leaves the queue; if it is served, its flow and its uid have had their turn."""
        if served:
            self.affinity.serve(self.queue, item, self.now)

        self.affinity.leave(item, self.now)
        (self.queue.serve if served else self.queue.remove)(item.flow, item)
        (of_uid,) = (turn for turn in self.turns if turn[0] == item.flow[0])
        (of_flow,) = (turn for turn in of_uid[1] if turn[0] == item.flow)
        of_flow[1].remove(item)
        for turns, turn, left in ((of_uid[1], of_flow, of_flow[1]), (self.turns, of_uid, of_uid[1])):
            if served or not left:
                turns.remove(turn)  # type: ignore[arg-type]  # each is of its own list

            if served and left:
                turns.append(turn)  # type: ignore[arg-type]  # each is of its own list

    def in_turn(self, uid: int) -> list[Item]:
        """Return the callers of a uid in the order in which they are due."""
        flows = [items for other, flows in self.turns if other == uid for _, items in flows]
        longest = max(map(len, flows))
        return [items[place] for place in range(longest) for items in flows if place < len(items)]

    def is_held(self, item: Item) -> bool:
        """Return whether a caller is held, and check that there is a reason and that it is not held for too long."""
        caller = self.affinity._callers.get(item)
        if caller is None or caller.wanted is None:
            return False

        processing = {
            digest
            for other, use in self.calls
            if self.affinity.policy.affinity == "slots" or use.output_at is None
            for digest in other.request.prefix
        }
        assert processing.intersection(item.request.prefix), "a caller is held for no call"
        if item.seen_held_since is None:
            item.seen_held_since = self.now

        assert self.now - item.seen_held_since < HOLD_SECONDS, "held for too long"
        return True

    def serve(self) -> None:
        """Serve callers while there is room, and check each choice."""
        while len(self.calls) < SLOTS and len(self.queue):
            chosen = self.affinity.choose(self.queue, self.now)
            waiting = [item for uid, _ in self.turns for item in self.in_turn(uid)]
            held = set(filter(self.is_held, waiting))
            if chosen is None:
                assert len(held) == len(waiting), "a caller waits for nothing although there is room"
                return

            for item in waiting[: waiting.index(chosen)]:
                if item not in held:
                    assert item.flow[0] == chosen.flow[0], "another uid was due"
                    since = item.passed_since
                    assert since is None or self.now - since < PASS_SECONDS, "passed over for too long"
                    item.passed_since = self.now if since is None else since

            self.leaves(chosen, served=True)
            self.calls.append((chosen, self.affinity.begin(chosen.scope, chosen.request, 1, self.now)))

    def ends(self, place: int, *, processed: bool) -> None:
        """A call ends."""
        _, use = self.calls.pop(place % len(self.calls))
        self.affinity.ended(use, self.now, processed=processed)

    def step(self, what: str, which: int) -> None:
        """Make one step of a schedule."""
        match what:
            case "comes":
                self.comes(which)
            case "leaves" if len(self.queue):
                waiting = list(self.queue)
                self.leaves(waiting[which % len(waiting)])
            case "starts" if self.calls:
                self.affinity.first_output(self.calls[which % len(self.calls)][1], self.now)
            case "fails" | "ends" if self.calls:
                self.ends(which, processed=what == "ends")
            case "passes":
                end = self.now + which / 2
                while (due := self.affinity.next_end_of_hold()) <= end:
                    self.now = max(self.now, due)
                    self.affinity.take_freed(self.now)
                    self.serve()
                    assert self.affinity.next_end_of_hold() > self.now

                self.now = end
            case _:
                pass

        self.serve()


@pytest.mark.parametrize("mode", ["slots", "provider"])
@settings(max_examples=cases(80), deadline=None)
@given(steps=STEPS)
def test_callers_with_prompts_are_served_in_a_bounded_order(mode: PrefixAffinity, steps: list[tuple[str, Any]]) -> None:
    """No uid is overtaken, no caller is passed over or held for longer than its bounds, and all are served at last."""
    policy = PrefixPolicy(mode, 1, 20.0, HOLD_SECONDS, PASS_SECONDS, SLOTS)
    held: list[float] = []
    backend = Backend(Affinity(policy, PARTS.memory, held.append))
    for what, which in steps:
        backend.step(what, which)

    for _ in range(len(backend.queue) + SLOTS):
        if backend.calls:
            backend.ends(0, processed=True)
            backend.serve()

    assert not len(backend.queue)
    assert not backend.affinity._callers
    assert backend.affinity.held == 0
    assert all(seconds <= HOLD_SECONDS for seconds in held)
    backend.affinity.close(backend.now)
