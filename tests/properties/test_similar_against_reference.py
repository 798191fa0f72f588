"""Answers to similar requests against a list of all that is stored: the nearest that may be served, and never another's.

Each answer says whose it is, so whatever is served is seen to be of the same scope, task, group and kind, alive, in its time,
and the nearest that is. Vectors are angles, so the nearest one is known without an index.
"""

import math
import struct
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sidecard.adapters.vectors import NearestVectors
from sidecard.core.cache.similarity import NEAREST, IndexFactory
from sidecard.core.settings import TaskSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Hit, Lease
from tests.host import Actor, Host, packed, unpacked
from tests.reference_index import ReferenceIndex
from tests.thoroughness import cases

THRESHOLD = 0.9
TTL_SECONDS = 50.0
STALE_SECONDS = 20.0
SIMILAR = TaskSettings(similar=True, similar_threshold=THRESHOLD, similar_max_entries=NEAREST)
UNSURE = 1e-5
"""Cosines that differ by less may be ordered differently in float 32."""


class Kind(NamedTuple):
    """What must be equal of two requests."""

    uid: int
    namespace: str
    task: str
    group: str
    stream: bool


class Kept(NamedTuple):
    """What the list knows of an answer."""

    kind: Kind
    key: str
    degrees: int
    value: str
    stored_at: float
    tags: tuple[str, ...]


KINDS = st.builds(
    Kind,
    st.sampled_from([1000, 1001]),
    st.sampled_from(["default", "team"]),
    st.sampled_from(["faq", "rag", "off"]),
    st.sampled_from(["g", "h"]),
    st.booleans(),
)
KEYS = st.sampled_from("abcdef")
DEGREES = st.integers(0, 60)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), KINDS, KEYS, DEGREES, st.sampled_from([(), ("t",)])),
        st.tuples(st.just("call"), KINDS, KEYS, DEGREES, st.just(())),
        st.tuples(st.just("refresh"), KINDS, KEYS, DEGREES),
        st.tuples(st.just("delete"), KINDS, KEYS),
        st.tuples(st.just("purge"), st.sampled_from(["", "t"])),
        st.tuples(st.just("pass"), st.floats(1.0, 40.0)),
    ),
    max_size=60,
)


class World:
    """A host, and the list of what it has stored."""

    def __init__(self, new_index: IndexFactory) -> None:
        self.host = Host(
            new_index=new_index,
            ttl_seconds=TTL_SECONDS,
            stale_seconds=STALE_SECONDS,
            sharing_window_seconds=0.0,
            tasks={"faq": SIMILAR, "rag": SIMILAR},
        )
        self.peers = {uid: self.host.peer(uid) for uid in (1000, 1001)}
        self.operator = self.host.peer(operator=True)
        self.kept: list[Kept] = []
        self.vectorless: set[str] = set()
        """Values that are not found by a vector: the group had its full number when younger ones came."""
        self.numbers = iter(range(10_000))

    def place(self, kept: Kept) -> tuple[int, str, str]:
        """Return where an entry is."""
        return kept.kind.uid, kept.kind.namespace, kept.key

    def age(self, kept: Kept) -> float:
        """Return its age in seconds."""
        return self.host.now - kept.stored_at

    def drop(self, *doomed: Kept) -> None:
        """Take entries off the list."""
        self.kept = [kept for kept in self.kept if kept not in doomed]

    def nearest(self, kind: Kind, degrees: int) -> list[tuple[float, Kept]]:
        """Return the answers that are found for a vector, the nearest first, whether they may be served or not."""
        found = [
            (math.cos(math.radians(degrees - kept.degrees)), kept)
            for kept in self.kept
            if kept.kind == kind and kept.value not in self.vectorless
        ]
        return sorted(found, key=lambda one: one[0], reverse=True)

    def store(self, kind: Kind, key: str, degrees: int, value: str, tags: tuple[str, ...]) -> None:
        """Note an answer; of a group that is full, the oldest is found no more."""
        self.kept.append(Kept(kind, key, degrees, value, self.host.now, tags))
        of_kind = [kept.value for kept in self.kept if kept.kind == kind and kept.value not in self.vectorless]
        self.vectorless.update(of_kind[:-NEAREST])

    def calls(self, kind: Kind, key: str, degrees: int, tags: tuple[str, ...], mode: wire.Mode = "use") -> None:
        """Make a call, and judge what comes of it."""
        peer, vector = self.peers[kind.uid], struct.pack("<2f", *cosine_and_sine(degrees))
        own = next((kept for kept in self.kept if self.place(kept) == (kind.uid, kind.namespace, key)), None)
        peer.asks(
            Begin(key, kind.namespace, kind.task, id=1, mode=mode, stream=kind.stream, vector=vector, group=kind.group)
        )
        value, similarity, lease = served(peer)
        if own is not None and mode == "use" and self.age(own) < TTL_SECONDS:
            assert (value, similarity) == (own.value, None)
            return

        servable = []
        if own is None and mode == "use" and kind.task != "off":
            servable = [(near, kept) for near, kept in self.nearest(kind, degrees) if self.age(kept) < TTL_SECONDS]
            servable = [(near, kept) for near, kept in servable if near >= THRESHOLD - UNSURE]

        if value is not None:
            best = servable[0][0]
            assert value in {kept.value for near, kept in servable if near >= best - UNSURE}
            assert similarity == pytest.approx(best, abs=UNSURE)
            return

        assert lease is not None
        assert not servable or servable[0][0] < THRESHOLD + UNSURE
        answer = f"{next(self.numbers)}"
        if kind.stream:
            peer.appends(lease.lease, answer)
            peer.asks(wire.Complete(lease.lease, id=2, tags=tags))
        else:
            peer.asks(wire.Complete(lease.lease, packed([answer]), id=2, tags=tags))

        peer.receives()
        if own is not None:
            self.drop(own)

        self.store(kind, key, degrees, answer, tags)

    def step(self, what: str, *arguments: Any) -> None:
        """Let one thing happen."""
        match what, arguments:
            case "call", (kind, key, degrees, tags):
                self.calls(kind, key, degrees, tags)
            case "refresh", (kind, key, degrees):
                self.calls(kind, key, degrees, (), "refresh")
            case "delete", (kind, key):
                self.peers[kind.uid].asks(wire.Delete(key, kind.namespace, id=3))
                self.peers[kind.uid].receives()
                self.drop(*(kept for kept in self.kept if self.place(kept) == (kind.uid, kind.namespace, key)))
            case "purge", (tag,):
                self.operator.asks(wire.Purge(tag=tag or None, id=3))
                self.operator.receives()
                self.drop(*(kept for kept in self.kept if not tag or tag in kept.tags))
            case "pass", (seconds,):
                self.host.passes(seconds)

        self.drop(*(kept for kept in self.kept if self.age(kept) >= TTL_SECONDS + STALE_SECONDS))
        # The second in which entries expire may not be over.
        found = sum(kept.value not in self.vectorless and kept.kind.task != "off" for kept in self.kept)
        gone = self.host.stats().cache_entries - len(self.kept)
        assert found <= self.host.stats().vectors <= found + gone


def cosine_and_sine(degrees: float) -> tuple[float, float]:
    """Return a vector of length 1."""
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def served(peer: Actor) -> tuple[str | None, float | None, Lease | None]:
    """Return the answer that a peer was served, how similar it is, and the lease that it got instead."""
    replies = peer.receives()
    first = replies[0]
    if isinstance(first, wire.Chunk):
        return unpacked_chunk(first), first.similarity, None

    if isinstance(first, Hit):
        (value,) = unpacked(first)
        return value, first.similarity, None

    assert isinstance(first, Lease), replies
    return None, None, first


def unpacked_chunk(chunk: wire.Chunk) -> Any:
    """Return a piece."""
    return unpacked(Hit(0, chunk.chunk, 0.0, False, 0.0, 0.0, "", None))


FAQ = Kind(1000, "default", "faq", "g", stream=False)


@pytest.mark.parametrize("new_index", [ReferenceIndex, NearestVectors], ids=["naive", "real"])
@settings(max_examples=cases(50), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
@example(
    steps=[("call", FAQ, "a", 0, ()), ("call", FAQ, "b", 10, ()), ("delete", FAQ, "a"), ("call", FAQ, "c", 10, ())]
)
@example(steps=[("call", FAQ, "a", 0, ()), ("pass", 55.0), ("call", FAQ, "b", 10, ()), ("call", FAQ, "a", 0, ())])
def test_similar_request_is_served_the_nearest_live_answer_of_its_kind(
    new_index: IndexFactory, steps: list[tuple[Any, ...]]
) -> None:
    """A similar request is served the nearest answer that is alive and of its kind, whatever was stored and removed before."""
    world = World(new_index)
    for step in steps:
        world.step(*step)
