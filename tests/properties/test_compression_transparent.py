"""Two hosts that differ in compression alone: their peers receive the same bytes, whatever they do."""

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec import structs

from sidecard.core.effects import StoreRead, StoreWrite
from sidecard.core.events import Absent, Found
from sidecard.core.records import Record
from sidecard_client.protocol import wire
from tests.host import Host, packed
from tests.thoroughness import cases

KEYS = st.sampled_from(["a", "b", "c"])
PEERS = st.integers(0, 2)

_chance = random.Random(5)
VALUES = st.sampled_from(
    [
        "short",
        "The capital of France is Paris. " * 50,
        "A parcel that is not there after ten days is sent once more. " * 30,
        [_chance.gauss(0.0, 1.0) for _ in range(100)],
        {"calls": [{"name": "search", "arguments": {"query": f"question {number}"}} for number in range(30)]},
    ]
)

COUNTED_OTHERWISE = {
    "cache_bytes",
    "cache_compressed_entries",
    "cache_compressed_bytes",
    "cache_uncompressed_bytes",
}


class TwinHosts(RuleBasedStateMachine):
    """The same events to both, in a cache that has room for all: evictions may differ."""

    @initialize(
        min_bytes=st.sampled_from([1, 100, 1000]),
        stale_seconds=st.sampled_from([0.0, 20.0]),
        window_seconds=st.sampled_from([0.0, 5.0]),
        store=st.sampled_from(["none", "own", "shared"]),
    )
    def start(self, min_bytes: int, stale_seconds: float, window_seconds: float, store: str) -> None:
        """Start both with three peers."""
        self.common: dict[str, Any] = {
            "ttl_seconds": 10.0,
            "stale_seconds": stale_seconds,
            "sharing_window_seconds": window_seconds,
            "store": store,
        }
        self.plain = Host(**self.common)
        self.small = Host(compress_min_bytes=min_bytes, **self.common)
        self.peers = [[host.peer() for _ in range(3)] for host in (self.plain, self.small)]
        self.leases: list[tuple[int, str, bool]] = []
        self.kept: dict[str, tuple[Record, Record]] = {}
        """What the two stores have."""
        self.asked = 0
        self.streams: dict[int, bool] = {}
        """By begin, whether it is for a stream."""

    @rule(
        peer=PEERS,
        key=KEYS,
        stream=st.booleans(),
        mode=st.sampled_from(["use", "use", "use", "refresh", "only_if_cached"]),
    )
    def begin(self, peer: int, key: str, stream: bool, mode: Any) -> None:
        """Ask."""
        number = self._number()
        self.streams[number] = stream
        self._ask(peer, wire.Begin(key, id=number, stream=stream, mode=mode))

    @rule(which=st.integers(0, 5), value=VALUES, ttl_seconds=st.sampled_from([None, 0.0, 3.0]), store=st.booleans())
    def complete(self, which: int, value: Any, ttl_seconds: float | None, store: bool) -> None:
        """Bring an answer, in two pieces where it is a stream's."""
        if not self.leases:
            return

        peer, lease, stream = self.leases.pop(which % len(self.leases))
        if stream:
            self._ask(peer, wire.Append(lease, packed(value), id=self._number()))
            self._ask(peer, wire.Append(lease, packed("end"), id=self._number()))

        brought = {} if stream else {"value": packed(value)}
        self._ask(peer, wire.Complete(lease, id=self._number(), ttl_seconds=ttl_seconds, store=store, **brought))

    @rule(which=st.integers(0, 5))
    def fail(self, which: int) -> None:
        """Fail."""
        if self.leases:
            peer, lease, _ = self.leases.pop(which % len(self.leases))
            self._ask(peer, wire.Fail(lease, "transient", id=self._number()))

    @rule(peer=PEERS, key=KEYS, value=VALUES)
    def put(self, peer: int, key: str, value: Any) -> None:
        """Store."""
        self._ask(peer, wire.Put(key, packed(value), id=self._number()))

    @rule(peer=PEERS, key=KEYS)
    def get(self, peer: int, key: str) -> None:
        """Read."""
        self._ask(peer, wire.Get(key, id=self._number()))

    @rule(peer=PEERS, key=KEYS)
    def delete(self, peer: int, key: str) -> None:
        """Remove."""
        self._ask(peer, wire.Delete(key, id=self._number()))
        self.kept.pop(key, None)

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        """Memory loses an entry that the store may have."""
        for host in (self.plain, self.small):
            host.engine._policy.cache.delete("1000:default", key, host.now)

    @rule(swapped=st.booleans(), min_bytes=st.sampled_from([0, 1, 1000]))
    def reload(self, swapped: bool, min_bytes: int) -> None:
        """Other settings; also the stores may change hands."""
        self.small.reads(compress_min_bytes=min_bytes, **self.common)
        if swapped:
            self.kept = {key: (small, plain) for key, (plain, small) in self.kept.items()}

        self._settle()

    @rule(seconds=st.sampled_from([0.01, 1.0, 4.0, 11.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        for host in (self.plain, self.small):
            host.passes(seconds)

        self._settle()

    @invariant()
    def they_count_the_same(self) -> None:
        """All but bytes."""
        plain, small = (structs.asdict(host.stats()) for host in (self.plain, self.small))
        assert {name: value for name, value in plain.items() if name not in COUNTED_OTHERWISE} == {
            name: value for name, value in small.items() if name not in COUNTED_OTHERWISE
        }
        assert small["cache_bytes"] <= plain["cache_bytes"]
        assert plain["cache_bytes"] - small["cache_bytes"] >= (
            small["cache_uncompressed_bytes"] - small["cache_compressed_bytes"]
        )

    def _number(self) -> int:
        self.asked += 1
        return self.asked

    def _ask(self, peer: int, request: wire.AnyRequest) -> None:
        for peers in self.peers:
            peers[peer].asks(request)

        self._settle()

    def _settle(self) -> None:
        """Let the stores work, and check that both sides receive the same."""
        while wanted := list(zip(self.plain.wants(), self.small.wants(), strict=True)):
            for plain, small in wanted:
                assert type(plain) is type(small)
                if isinstance(plain, StoreWrite) and isinstance(small, StoreWrite):
                    assert not plain.record.compressed
                    self.kept[plain.key] = plain.record, small.record
                elif isinstance(plain, StoreRead):
                    kept = self.kept.get(plain.key) if plain.read_entry else None
                    for number, host in enumerate((self.plain, self.small)):
                        host.answers(plain.ticket, Absent() if kept is None else Found(kept[number]))

        for number, pair in enumerate(zip(*self.peers, strict=True)):
            plain_heard, small_heard = ([wire.pack(reply) for reply in actor.inbox] for actor in pair)
            assert plain_heard == small_heard
            pair[1].receives()
            self.leases += [
                (number, reply.lease, self.streams[reply.id])
                for reply in pair[0].receives()
                if isinstance(reply, wire.Lease)
            ]


TestTwinHosts = pytest.mark.timeout(600)(TwinHosts.TestCase)
TestTwinHosts.settings = settings(max_examples=cases(10), stateful_step_count=40, deadline=None, database=None)
