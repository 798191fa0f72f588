"""What views hold, as effects write them: what a reader finds at each step, who may read it, and how much memory it takes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

from msgspec import Raw

from sidecard.core.effects import OpenView, Publish, RetireView, SendView, ViewEffect, Withdraw, WithdrawAll
from sidecard.core.events import Peer
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import view as layout
from sidecard_client.protocol import wire
from tests.laws.records import own_scope_of

MAX_FILES = 16
CACHE_SHARE = 0.25
LATE_SECONDS = 1.0
"""For so long after its withdrawal, hits on a publication are counted."""


@dataclass(eq=False)
class Published:
    """One publication."""

    view: "ViewModel"
    effect: Publish
    record: layout.ViewRecord
    value: Raw
    withdrawn_at: float = inf

    def overlaps(self, other: Publish) -> bool:
        """Return whether another record would take some of its bytes."""
        mine, begin = self.effect.offset, other.offset
        return mine < begin + len(other.record) and begin < mine + len(self.effect.record)


@dataclass(eq=False)
class ViewModel:
    """One view's file."""

    number: int
    size: int
    slot_count: int
    scope: str | None = None
    namespace: str = ""
    generation: int = 1
    slots: dict[int, Published] = field(default_factory=dict)
    """What the file has, of earlier generations too."""
    peers: set[int] = field(default_factory=set)
    """Connections that have received it and have not ended."""

    def find(self, digest: bytes, now: float) -> Published | None:
        """Return what a reader finds: it looks at the first slot with the digest alone."""
        bucket = layout.bucket_of(digest, self.slot_count)
        for slot in range(bucket, bucket + layout.BUCKET_SLOTS):
            published = self.slots.get(slot)
            if published is not None and published.effect.digest == digest:
                effect = published.effect
                return published if effect.generation == self.generation and now < effect.expires_at else None

        return None


class ViewChecker:
    """Performs the view effects of one engine as a server does."""

    def __init__(self) -> None:
        self.views: dict[int, ViewModel] = {}
        """Those that may be read."""
        self.by_publication: dict[int, Published] = {}
        self.retired: dict[int, ViewModel] = {}
        """By number, those whose files have not been released."""
        self.received: dict[tuple[int, str], ViewModel] = {}
        """By connection and namespace, as it was asked for: the view that was received last."""
        self._last_publication = 0

    def readable(self, now: float) -> Iterator[tuple[str, Published]]:
        """Return all that readers find, with its scope."""
        for view in self.views.values():
            for published in view.slots.values():
                effect = published.effect
                if effect.generation == view.generation and now < effect.expires_at:
                    assert view.find(effect.digest, now) is published, "an older slot is in the way of a publication"
                    assert view.scope is not None
                    yield view.scope, published

    @property
    def file_bytes(self) -> int:
        """Size of all files, including retired ones that a process may still have."""
        return sum(view.size for view in (*self.views.values(), *self.retired.values()))

    def views_of(self, peer: Peer) -> list[ViewModel]:
        """Return the views that a connection has received, and may read."""
        return [view for view in self.views.values() if peer.id in view.peers]

    def perform(
        self, effect: ViewEffect, asker: Peer | None, request: wire.Request | None, settings: EngineSettings, now: float
    ) -> None:
        """Perform an effect of a request, or of another event."""
        match effect:
            case OpenView():
                self._open(ViewModel(effect.view, effect.size, effect.slot_count), settings)
            case SendView(peer_id, reply, number):
                assert asker is not None, "a view is sent to a peer that asked for none"
                assert isinstance(request, wire.GetView), "a view is the reply to another request"
                assert (asker.id, number, request.id) == (peer_id, reply.view, reply.id)
                self._send(self.views[number], asker, request, settings)
            case Publish():
                self._publish(self.views[effect.view], effect, now)
            case Withdraw(number, slots):
                for slot in slots:
                    published = self.views[number].slots.pop(slot)
                    published.withdrawn_at = min(published.withdrawn_at, now)
            case WithdrawAll(number, generation):
                view = self.views[number]
                assert generation > view.generation, "a generation is used again"
                self._end_all(view, now)
                view.generation = generation
            case RetireView(number):
                view = self.retired[number] = self.views.pop(number)
                self._end_all(view, now)

    def peer_lost(self, peer_id: int) -> None:
        """A connection has ended."""
        self.received = {place: view for place, view in self.received.items() if place[0] != peer_id}
        for view in self.views.values():
            view.peers.discard(peer_id)

    def released(self, number: int) -> None:
        """No process has a retired view's file any more."""
        del self.retired[number]

    def check_access(self, peers: dict[int, Peer], settings: EngineSettings) -> None:
        """Check that each connection with a view may read its scope, under the name by which it has received it."""
        for view in self.views.values():
            for peer_id in view.peers:
                assert own_scope_of(settings, peers[peer_id], view.namespace) == view.scope, (
                    f"a peer of another namespace reads the view of {view.scope}"
                )

    def _open(self, view: ViewModel, settings: EngineSettings) -> None:
        assert view.slot_count == layout.slots_for(view.size)
        self.views[view.number] = view
        assert len(self.views) + len(self.retired) <= MAX_FILES, "too many files"
        budget = min(settings.view_bytes, settings.cache_max_bytes * CACHE_SHARE)
        assert self.file_bytes <= budget, "files take too much memory"

    def _send(self, view: ViewModel, asker: Peer, request: wire.GetView, settings: EngineSettings) -> None:
        scope = own_scope_of(settings, asker, request.namespace)
        assert scope is not None, "a peer receives the view of a namespace that is not its own"
        assert view.scope in {None, scope}, "a peer receives the view of another namespace"
        view.scope, view.namespace = scope, request.namespace.rpartition(":")[2]
        view.peers.add(asker.id)
        self.received[asker.id, request.namespace] = view

    def _publish(self, view: ViewModel, effect: Publish, now: float) -> None:
        record = layout.decode_record(effect.record)
        bucket = layout.bucket_of(effect.digest, view.slot_count)
        assert bucket <= effect.slot < bucket + layout.BUCKET_SLOTS, "a slot outside of the digest's bucket"
        assert effect.offset % layout.UNIT_BYTES == 0
        assert layout.slot_offset(view.slot_count) <= effect.offset <= view.size - len(effect.record), (
            "out of the arena"
        )
        assert effect.generation == view.generation
        assert effect.expires_at > now, "something expired is published"
        assert record.publication > self._last_publication, "a number of a publication is used again"
        self._last_publication = record.publication
        for slot, other in view.slots.items():
            if other.effect.generation == view.generation:
                assert slot != effect.slot, "a slot is used that was not withdrawn"
                assert not other.overlaps(effect), "space is used that was not withdrawn"
                assert other.effect.digest != effect.digest, "a key is published twice"

        view.slots[effect.slot] = published = Published(view, effect, record, Raw(wire.pack(record.value)))
        self.by_publication[record.publication] = published
        assert view.find(effect.digest, now) is published, "an older slot is in the way of a publication"

    def _end_all(self, view: ViewModel, now: float) -> None:
        for published in view.slots.values():
            published.withdrawn_at = min(published.withdrawn_at, now)
