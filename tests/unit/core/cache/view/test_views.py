"""How much memory views take, and which are dropped for others."""

import pytest

from sidecard.core.cache.view import views as module
from sidecard.core.cache.view.changes import ViewChanges
from sidecard.core.cache.view.publication import Publications
from sidecard.core.cache.view.views import DROP_SECONDS, IDLE_SECONDS, MAX_PRIVATE_VIEWS, NoViewError, Views
from sidecard.core.counters import Counters
from sidecard.core.effects import OpenView, RetireView
from sidecard.core.events import Peer
from sidecard.core.settings import EngineSettings, LiveSettings

MIB = 1024 * 1024


class Room:
    """Views under settings, and peers that ask for them."""

    def __init__(self, view_bytes: int = 32 * MIB, cache_max_bytes: int = 1024 * MIB) -> None:
        self.changes = ViewChanges()
        self.live = LiveSettings(EngineSettings(view_bytes=view_bytes, cache_max_bytes=cache_max_bytes))
        self.views = Views(self.live, Publications(Counters()), self.changes)
        self.peers = 0

    def asks(self, scope: str, now: float = 0.0, uid: int = 1000) -> Peer:
        """Let a new connection receive a view."""
        self.peers += 1
        peer = Peer(self.peers, uid, uid, 1, operator=False)
        self.views.open(scope, scope, peer, now)
        return peer

    def sizes(self) -> list[int]:
        """Return the sizes of the views, in the order in which they were opened."""
        return [view.size for view in self.views.by_scope.values()]


def test_each_view_gets_half_of_what_is_left() -> None:
    """In pages, and at least 256 KiB."""
    room = Room(2 * MIB)
    for number in range(4):
        room.asks(f"*:team-{number}")

    assert room.sizes() == [MIB, MIB // 2, MIB // 4, MIB // 4]
    assert room.views.file_bytes == 2 * MIB
    assert [type(effect) for effect in room.changes.drain()] == [OpenView] * 4
    with pytest.raises(NoViewError, match=r"cache\.view_bytes"):
        room.asks("*:another")


def test_a_second_connection_receives_the_same_view() -> None:
    """Nothing is opened for it."""
    room = Room()
    room.asks("1000:default")
    room.asks("1000:default")
    assert len(room.changes.drain()) == 1


@pytest.mark.parametrize(
    ("view_bytes", "cache_max_bytes"), [(0, 1024 * MIB), (100_000, 1024 * MIB), (32 * MIB, MIB // 2), (32 * MIB, 0)]
)
def test_there_is_no_view_below_the_least_size(view_bytes: int, cache_max_bytes: int) -> None:
    """Views take at most a quarter of the cache."""
    with pytest.raises(NoViewError, match="262144"):
        Room(view_bytes, cache_max_bytes).asks("1000:default")


def test_the_number_of_files_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retired ones that a process still has count."""
    monkeypatch.setattr(module, "MAX_FILES", 3)
    room = Room()
    for number in range(3):
        room.asks(f"*:team-{number}")

    room.views.retire(room.views.by_scope["*:team-0"])
    with pytest.raises(NoViewError, match="all 3 files"):
        room.asks("*:another")

    room.views.released(1)
    room.asks("*:another")


def test_a_uid_has_a_bounded_number_of_private_views() -> None:
    """Other uids, and shared namespaces, have room nevertheless."""
    room = Room()
    for number in range(MAX_PRIVATE_VIEWS):
        room.asks(f"1000:n{number}")

    with pytest.raises(NoViewError, match="uid 1000"):
        room.asks("1000:another")

    room.asks("1001:default", uid=1001)
    room.asks("*:team")


def test_an_unused_view_makes_room_once_its_file_is_released() -> None:
    """The one that no connection has and that was not used for longest. The client asks again."""
    room = Room()
    peers = [room.asks(f"1000:n{number}", float(number)) for number in range(MAX_PRIVATE_VIEWS)]
    for peer in peers[1:3]:
        room.views.peer_lost(peer)

    room.changes.drain()
    with pytest.raises(NoViewError):
        room.asks("1000:another", 10.0)

    assert room.changes.drain() == [RetireView(2)]
    with pytest.raises(NoViewError):
        room.asks("1000:another", 10.0 + DROP_SECONDS / 2)

    assert room.changes.drain() == [], "one at a time"
    room.views.released(2)
    room.asks("1000:another", 11.0)
    assert "1000:n1" not in room.views.by_scope


def test_a_view_in_use_is_not_dropped() -> None:
    """Not before a minute has passed since its last hit, or since the last connection has received it."""
    room = Room(MIB // 4)
    room.asks("1000:default")
    room.asks("1000:default", 5.0)
    with pytest.raises(NoViewError):
        room.asks("1001:default", 4.9 + IDLE_SECONDS, uid=1001)

    assert list(room.views.by_scope) == ["1000:default"]
    with pytest.raises(NoViewError):
        room.asks("1001:default", 5.0 + IDLE_SECONDS, uid=1001)

    room.views.released(1)
    room.asks("1001:default", 70.0, uid=1001)


def test_the_idle_view_that_was_used_least_recently_makes_room_once_a_minute() -> None:
    """If all views have connections. Its clients notice within a minute, so another one is not dropped before."""
    room = Room()
    for number in range(MAX_PRIVATE_VIEWS):
        room.asks(f"1000:n{number}")

    for number, used_at in enumerate((3.0, 1.0, 4.0, 2.0)):
        room.views.by_scope[f"1000:n{number}"].used_at = used_at

    room.asks("*:team", 0.0)
    room.changes.drain()
    dropped = []
    for now in (1.0 + IDLE_SECONDS, 20.0 + IDLE_SECONDS, 1.0 + 2 * IDLE_SECONDS):
        with pytest.raises(NoViewError, match="uid 1000"):
            room.asks("1000:another", now)

        dropped.append(room.changes.drain())

    assert dropped == [[RetireView(2)], [], [RetireView(4)]], "one of its own, never that of the team"


def test_a_connection_keeps_a_bounded_number_of_names_for_the_views_it_received() -> None:
    """Those of the views that it received last; none once it has ended."""
    room = Room()
    peer = room.asks("*:team-0")
    assert room.views.received(peer, "*:team-0") == 1
    assert room.views.received(peer, "*:another") == 0
    for number in range(1, 2 * module.MAX_FILES):
        (view,) = room.views.by_scope.values()
        room.views.retire(view)
        room.views.released(view.number)
        room.views.open(f"*:team-{number}", f"*:team-{number}", peer, 0.0)

    received = [room.views.received(peer, f"*:team-{number}") for number in range(2 * module.MAX_FILES)]
    assert received == [0] * module.MAX_FILES + list(range(module.MAX_FILES + 1, 2 * module.MAX_FILES + 1))
    room.views.peer_lost(peer)
    assert room.views.received(peer, f"*:team-{2 * module.MAX_FILES - 1}") == 0


def test_a_file_that_failed_takes_no_memory() -> None:
    """Its bytes leave the budget of views at once."""
    room = Room()
    room.asks("1000:default")
    assert room.views.failed(1, "no memory", 0.0)
    assert not room.views.failed(1, "no memory", 0.0)
    assert room.views.file_bytes == 0
    assert not room.views.by_scope
    with pytest.raises(NoViewError, match="no memory"):
        room.asks("1000:default", 59.0)

    room.asks("1000:default", 60.0)


def test_a_reason_is_new_once_whatever_its_numbers() -> None:
    """The memory that is free changes all the time. A reason that returns after another one is known, too."""
    views = Room().views
    reasons = ["1024 bytes of 1500 are too many", "no memory", "1024 bytes of 99 are too many", "no memory"]
    assert [views.failed(1, reason, 0.0) for reason in reasons] == [True, True, False, False]
