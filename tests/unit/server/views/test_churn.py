"""Hours of a host with views, on a clock that only the test moves: files, descriptors, publications and memory stay bounded."""

import gc
import mmap
import os
import random
import tracemalloc
from functools import partial
from typing import Any

import pytest
from msgspec import Raw

from sidecard.core.cache.view.views import MAX_FILES
from sidecard.core.effects import SendReply, SendView, ServeAgain, ViewEffect
from sidecard.core.engine import Engine
from sidecard.core.events import Event, Peer, PeerJoined, PeerLost, RequestReceived, SettingsRead, Tick, WorkContinued
from sidecard.core.settings import EngineSettings, SharedWith
from sidecard.server.views.files import new_view_memory
from sidecard_client.protocol import wire
from tests.unit.server.views.test_files import FakeWriter, Shared

STEP_SECONDS = 20.0
UIDS = 12
SETTINGS = EngineSettings(
    cache_max_bytes=16 << 20,
    view_bytes=4 << 20,
    ttl_seconds=600.0,
    shared_namespaces={"team": SharedWith(everyone=True)},
)
OTHER_SETTINGS = EngineSettings(cache_max_bytes=16 << 20, view_bytes=4 << 20, ttl_seconds=500.0)
"""With which every namespace is private: all views end."""

MAX_GROWTH_BYTES = 200_000
"""After the first quarter. Entries and their publications come and go, so it varies."""

MAX_WITHDRAWN = 150
"""Publications that are kept for late hits."""

CONNECTIONS = 20


class _Host:
    """An engine, its files, and the connections of apps that hold what they received."""

    def __init__(self) -> None:
        self.now = 0.0
        self.chance = random.Random(1)
        self.engine = Engine(
            SETTINGS,
            boot_id="0123456789abcdef",
            version="0",
            now=0.0,
            shown_settings={},
            shown_origins={},
            jitter=lambda: 0.5,
        )
        self.shared = Shared(partial(new_view_memory, "0123456789abcdef"))
        self.shared.loop.cost = 1e-6
        self.shared.peers.clear()
        self.peers: dict[Peer, list[mmap.mmap]] = {}
        self._joined = 0
        self.received = 0

    def happens(self, event: Event) -> list[wire.AnyReply]:
        """Let the engine and the files have an event; return the replies."""
        effects = self.engine.handle(event, self.now)
        while effects and isinstance(effects[-1], ServeAgain):
            effects[-1:] = self.engine.handle(event, self.now)

        for effect in effects:
            if isinstance(effect, ViewEffect):
                self.shared.views.perform(effect)
                if isinstance(effect, SendView):
                    self._receive(effect)

        return [effect.reply for effect in effects if isinstance(effect, SendReply)]

    def asks(self, peer: Peer, request: wire.AnyRequest) -> list[wire.AnyReply]:
        """Let a peer ask."""
        return self.happens(RequestReceived(peer, request))

    def _receive(self, effect: SendView) -> None:
        """Map the file that a peer has received, as its process does."""
        self.shared.work()
        self.shared.loop.pass_time(0.002)
        (peer,) = [peer for peer in self.peers if peer.id == effect.peer_id]
        memory = self.shared.views._files[effect.view]._memory
        self.peers[peer].append(mmap.mmap(memory._descriptor, effect.reply.size, prot=mmap.PROT_READ))
        self.received += 1

    def joins(self) -> Peer:
        """Accept a connection."""
        self._joined += 1
        uid = 1000 + self.chance.randrange(UIDS)
        peer = Peer(self._joined, uid, uid, self._joined, operator=False)
        self.peers[peer] = []
        self.shared.peers[peer.id] = FakeWriter()
        self.happens(PeerJoined(peer))
        return peer

    def leaves(self, peer: Peer) -> None:
        """End a connection; its process unmaps later."""
        del self.shared.peers[peer.id]
        self.happens(PeerLost(peer))
        for memory in self.peers.pop(peer):
            memory.close()

    def lives(self, seconds: float) -> None:
        """Let apps come and go, and use their views."""
        until = self.now + seconds
        while self.now < until:
            self.now += STEP_SECONDS
            self.shared.loop.pass_time(STEP_SECONDS)
            for event in self.shared.events[:]:
                self.happens(event)

            self.shared.events.clear()
            self.happens(Tick())
            while self.engine.has_work:
                self.happens(WorkContinued())

            if len(self.peers) > CONNECTIONS:
                self.leaves(self.chance.choice(list(self.peers)))

            peer = self.joins()
            namespace = self.chance.choice(["default", "default", "team", f"other-{self.chance.randrange(6)}"])
            self.asks(peer, wire.GetView(namespace))
            for key in (f"key-{self.chance.randrange(60)}", f"once-{self._joined}"):
                value: Any = Raw(wire.pack("x" * self.chance.randrange(6000)))
                self.asks(peer, wire.Put(key, value, namespace))
                for _ in range(3):
                    self.asks(peer, wire.Get(key, namespace))

            last = self.engine._publisher.publications.last_number
            self.asks(peer, wire.RecordHits(namespace, ((max(1, last), 5, self.now - 1, self.now),)))
            self.shared.work()
            draw = self.chance.random()
            if draw < 0.05:
                self.asks(Peer(0, 0, 0, 1, operator=True), wire.Purge(self.chance.choice([None, "default"])))
            elif draw < 0.06:
                self.happens(SettingsRead(self.chance.choice([SETTINGS, OTHER_SETTINGS])))

    def measured(self) -> tuple[int, int, int, int, int]:
        """Return the numbers of files, of their bytes, of descriptors, of withdrawn publications, and of bytes beside entries."""
        publisher = self.engine._publisher
        gc.collect()
        views = self.shared.views
        return (
            len(views._files) + len(views._erased),
            publisher.views.file_bytes,
            len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - pathlib would intern the names
            len(publisher.publications) - publisher.publications.live,
            _allocated_bytes() - self.engine._policy.cache.bytes,
        )


def _allocated_bytes() -> int:
    """Return what the product has allocated: Python's own table of names grows with other tests."""
    own = [
        tracemalloc.Filter(inclusive=True, filename_pattern=name) for name in ("*/sidecard/*", "*/sidecard_client/*")
    ]
    return sum(one.size for one in tracemalloc.take_snapshot().filter_traces(own).statistics("filename"))


@pytest.mark.parametrize(
    "seconds", [3600.0, pytest.param(86_400.0, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_hours_of_churn_leave_memory_flat(seconds: float) -> None:
    """Connections, views, entries and reloads come and go, thousands of times in a day."""
    host = _Host()
    tracemalloc.start()
    try:
        host.lives(max(seconds / 4, 2 * SETTINGS.ttl_seconds))
        _, _, descriptors, _, memory = host.measured()
        for _ in range(3):
            host.lives(seconds / 4)
            files, file_bytes, descriptors_now, withdrawn, memory_now = host.measured()
            assert files <= MAX_FILES
            assert file_bytes <= SETTINGS.view_bytes
            assert descriptors_now <= descriptors + MAX_FILES + CONNECTIONS
            assert withdrawn <= MAX_WITHDRAWN
            assert memory_now <= memory + MAX_GROWTH_BYTES

        assert host.received > seconds / STEP_SECONDS / 4, "hardly any view was used"
    finally:
        tracemalloc.stop()
        for file in [*host.shared.views._files.values(), *host.shared.views._erased.values()]:
            file._memory.close()
