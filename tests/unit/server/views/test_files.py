"""What becomes of the engine's view effects: files, and their descriptors for peers."""

import errno
import mmap
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sidecard.core.effects import OpenView, Publish, RetireView, SendView, Withdraw, WithdrawAll
from sidecard.core.events import ViewFailed, ViewReleased
from sidecard.server.scheduler import DAEMON_UID, FairScheduler
from sidecard.server.views import delivery
from sidecard.server.views.files import RELEASE_SECONDS, ViewFiles, new_view_memory, no_memory
from sidecard.server.views.memory import PIECE_BYTES, ViewMemory
from sidecard_client.protocol import view, wire
from tests.plain_view import PlainView
from tests.unit.server.harness import FakeLoop

SIZE = 4 * PIECE_BYTES
SLOTS = view.slots_for(SIZE)
GOLDEN = Path(__file__).parents[2] / "client/protocol/golden/view-layout-1.bin"


_made: list[ViewMemory] = []


@pytest.fixture(autouse=True)
def closing() -> Iterator[None]:
    """Close the files that a test has left open."""
    yield
    while _made:
        with suppress(OSError):
            _made.pop().close()


class FakeWriter:
    """Takes what a peer is sent. ``unread``: it has not read what came before."""

    def __init__(self) -> None:
        self.unread = False
        self.error: OSError | None = None
        self.passed: list[tuple[wire.AnyReply, int]] = []
        """Replies, and the inodes of their files."""
        self.replies: list[wire.AnyReply] = []
        self.flushed = 0

    def pass_descriptor(self, reply: wire.AnyReply, descriptor: int) -> bool:
        """Take a descriptor, unless the peer must read first."""
        if self.error is not None:
            raise self.error

        if not self.unread:
            self.passed.append((reply, os.fstat(descriptor).st_ino))

        return not self.unread

    def queue(self, reply: wire.AnyReply) -> None:
        """Take a reply."""
        self.replies.append(reply)

    def flush(self) -> None:
        """Count."""
        self.flushed += 1


class Shared:
    """`ViewFiles` with its neighbours: a loop and turns that the test advances, and peers."""

    def __init__(self, new_memory: Any = None) -> None:
        self.loop = FakeLoop()
        self.loop.cost = 0.0015
        self.scheduler = FairScheduler(self.loop, self.loop.clock)  # type: ignore[arg-type]  # the part of a loop that is used
        self.memories: list[ViewMemory] = []
        self.events: list[ViewFailed | ViewReleased] = []
        self.peers = {1: FakeWriter(), 2: FakeWriter()}
        self.counted = Counter[type]()
        self.views = ViewFiles(
            self.loop,  # type: ignore[arg-type]  # the part of a loop that is used
            self.loop.clock,
            new_memory=new_memory or self._new_memory,
            writers=self.peers.get,  # type: ignore[arg-type]  # the part of a writer that is used
            enqueue=lambda work: self.scheduler.enqueue(work, DAEMON_UID),
            handle=self.events.append,
            count=lambda reply: self.counted.update((reply,)),
        )

    def _new_memory(self, effect: OpenView) -> ViewMemory:
        self.memories.append(new_view_memory("0123456789abcdef", effect))
        _made.append(self.memories[-1])
        return self.memories[-1]

    @property
    def inode(self) -> int:
        """That of the first file."""
        return os.fstat(self.memories[0]._descriptor).st_ino

    def perform(self, *effects: Any) -> None:
        """Perform effects of one event."""
        for effect in effects:
            self.views.perform(effect)

    def work(self) -> int:
        """Do all work that waits for turns; return how many turns there were."""
        turns = 0
        while self.loop.turn():
            turns += 1

        return turns

    def read(self, key: str, now: float = 1000.0) -> Any:
        """Return the published value of a key, or why there is none."""
        with mmap.mmap(self.memories[-1]._descriptor, SIZE, prot=mmap.PROT_READ) as mapped:
            found = PlainView(mapped).read(key, now)
            return found if isinstance(found, str) else found["value"]


def reply_to(request_id: int, number: int = 1) -> wire.View:
    """Return the reply that announces a view."""
    return wire.View(request_id, view=number, layout=1, size=SIZE, now_seconds=1000.0)


def publish(key: str, value: Any, place: int = 0, generation: int = 1, offset: int = 1 << 20) -> Publish:
    """Publish at place 0 to 3 of the key's bucket."""
    digest = view.digest_of(key)
    record = view.encode_record(view.ViewRecord(1, 990.0, 1.0, 0.0, "b", "general", None, value))
    return Publish(1, view.bucket_of(digest, SLOTS) + place, digest, offset, 1100.0, generation, record)


OPEN = OpenView(1, SIZE, SLOTS)


def test_changes_before_the_memory_is_allocated_are_made_afterwards() -> None:
    """Allocation takes several turns, and the engine goes on meanwhile."""
    shared = Shared()
    published = publish("published", "value")
    gone = publish("gone", "value", offset=2 << 20)
    shared.perform(OPEN, published, gone, Withdraw(1, (gone.slot,)), SendView(1, reply_to(7), 1))
    shared.loop.turn()
    assert shared.peers[1].passed == []
    assert shared.work() >= 2
    assert shared.read("published") == "value"
    assert shared.read("gone") == "absent"
    shared.loop.pass_time(1.0)
    assert shared.peers[1].passed == [(reply_to(7), shared.inode)]


def test_published_entries_are_replaced_and_withdrawn() -> None:
    """One by one, or all at once by a new generation, in which a slot of an earlier one may be written over."""
    shared = Shared()
    shared.perform(OPEN)
    shared.work()
    first = publish("key", "first")
    shared.perform(first)
    assert shared.read("key") == "first"
    assert shared.read("key", 1100.0) == "expired"
    shared.perform(Withdraw(1, (first.slot,)))
    assert shared.read("key") == "absent"
    shared.perform(publish("key", "second"))
    assert shared.read("key") == "second"
    shared.perform(WithdrawAll(1, 2))
    assert shared.read("key") == "withdrawn"
    shared.perform(publish("key", "third", generation=2))
    assert shared.read("key") == "third"
    assert shared.memories[0].word(view.slot_offset(first.slot)) == 8, "never reused"


def test_a_retired_view_is_erased_in_turns_and_closed_once_nobody_has_it() -> None:
    """Readers find generation 0 at once. A peer that asks for it in the same event gets an error."""
    shared = Shared()
    shared.perform(OPEN)
    shared.work()
    shared.perform(publish("key", "value"))
    descriptor = shared.memories[0].open_reader()
    with mmap.mmap(descriptor, SIZE, prot=mmap.PROT_READ) as mapped:
        os.close(descriptor)
        shared.perform(RetireView(1))
        assert PlainView(mapped).read("key", 1000.0) == "withdrawn"
        assert any(mapped[view.HEADER_BYTES :])
        shared.perform(SendView(1, reply_to(7), 1), publish("key", "late"))
        assert shared.work() >= 2, "several turns"
        assert not any(mapped[view.HEADER_BYTES :])
        shared.loop.pass_time(10.0)
        assert shared.events == []

    shared.loop.pass_time(RELEASE_SECONDS)
    assert shared.events == [ViewReleased(1)]
    assert shared.loop.armed == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(shared.memories[0]._descriptor)

    assert isinstance(shared.peers[1].replies[0], wire.Error)


def test_a_view_that_is_retired_while_it_is_allocated_is_closed() -> None:
    """Nothing was sent, so nothing is erased."""
    shared = Shared()
    shared.perform(OPEN, SendView(1, reply_to(7), 1))
    shared.loop.turn()
    shared.perform(RetireView(1))
    shared.work()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(shared.memories[0]._descriptor)

    shared.loop.pass_time(1.0)
    assert [type(reply) for reply in shared.peers[1].replies] == [wire.Error]
    assert shared.events == [ViewReleased(1)]


def test_a_file_that_cannot_be_made_is_reported_after_the_event() -> None:
    """Its peers get errors, and its other effects are ignored."""

    def forbidden(_: OpenView) -> ViewMemory:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    shared = Shared(forbidden)
    shared.perform(OPEN, publish("key", "value"), SendView(1, reply_to(7), 1), Withdraw(1, (0,)), RetireView(1))
    assert shared.events == []
    shared.loop.turn()
    (failed,) = shared.events
    assert isinstance(failed, ViewFailed)
    assert failed.view == 1
    assert failed.reason.startswith("the memory file cannot be made: Operation not permitted: views need Linux 5.3")
    (error,) = shared.peers[1].replies
    assert isinstance(error, wire.Error)
    assert (error.id, error.code) == (7, "unavailable")
    assert error.message == f"no view: {delivery.NO_FILE}; its answers come over the socket"
    assert shared.counted == {wire.Error: 1}
    assert shared.peers[1].flushed


def test_memory_that_ends_while_it_is_allocated_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is closed, and the peers that waited for it get errors."""
    shared = Shared()
    shared.perform(OPEN, SendView(1, reply_to(7), 1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", _no_space)
        shared.work()

    assert shared.events == [
        ViewFailed(
            1,
            "the memory file cannot be made: No space left on device: "
            "lower cache.view_bytes, or raise the memory limit of the daemon",
        )
    ]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(shared.memories[0]._descriptor)

    shared.loop.pass_time(1.0)
    assert [type(reply) for reply in shared.peers[1].replies] == [wire.Error]


def _no_space(*_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def opened() -> Shared:
    """Return views of which the first is allocated."""
    shared = Shared()
    shared.loop.cost = 0.0
    shared.perform(OPEN)
    shared.work()
    return shared


def test_a_peer_that_has_read_everything_gets_its_view_at_once() -> None:
    """It is counted as a reply to `view`."""
    shared = opened()
    shared.perform(SendView(1, reply_to(7), 1))
    assert shared.peers[1].passed == [(reply_to(7), shared.inode)]
    assert shared.counted == {wire.View: 1}
    assert shared.loop.armed == []


def test_a_view_waits_until_its_peer_has_read_what_came_before() -> None:
    """Other peers do not wait for it."""
    shared = opened()
    shared.peers[1].unread = True
    shared.perform(SendView(1, reply_to(7), 1), SendView(1, reply_to(8), 1), SendView(2, reply_to(9), 1))
    assert shared.peers[1].passed == []
    assert [reply.id for reply, _ in shared.peers[2].passed] == [9]
    shared.loop.pass_time(0.001)
    shared.peers[1].unread = False
    shared.loop.pass_time(0.002)
    assert [reply.id for reply, _ in shared.peers[1].passed] == [7, 8]
    assert shared.loop.armed == []


def test_a_peer_that_never_reads_gets_errors_and_keeps_nothing_waiting() -> None:
    """A bounded number of its views waits, for a bounded time."""
    shared = opened()
    shared.peers[1].unread = True
    shared.perform(*(SendView(1, reply_to(number), 1) for number in range(10_000)))
    assert len(shared.peers[1].replies) == 10_000 - delivery.MAX_WAITING
    assert len(shared.loop.armed) == 1
    tried = 0
    while shared.loop.armed:
        shared.loop.pass_time(shared.loop.armed[0] - shared.loop.now)
        tried += 1

    assert shared.loop.now - 100.0 == pytest.approx(delivery.GIVE_UP_SECONDS, abs=delivery.MAX_WAIT_SECONDS)
    assert tried < 60
    assert len(shared.peers[1].replies) == 10_000
    assert shared.peers[1].passed == []


def test_a_peer_that_leaves_is_no_longer_waited_for() -> None:
    """Its number is not used again."""
    shared = opened()
    shared.peers[1].unread = True
    shared.perform(SendView(1, reply_to(7), 1))
    del shared.peers[1]
    shared.loop.pass_time(0.001)
    assert shared.loop.armed == []
    shared.perform(SendView(1, reply_to(8), 1))
    assert shared.loop.armed == []
    assert shared.counted == {}


def test_a_descriptor_that_the_kernel_refuses_ends_in_an_error() -> None:
    """Such as too many that are on their way."""
    shared = opened()
    shared.peers[1].error = OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
    shared.perform(SendView(1, reply_to(7), 1))
    (error,) = shared.peers[1].replies
    assert isinstance(error, wire.Error)
    assert "its descriptor cannot be sent: Too many references" in error.message


def test_a_server_without_memory_reports_that() -> None:
    """As one that is only simulated."""
    shared = Shared(no_memory)
    shared.perform(OPEN)
    shared.loop.turn()
    assert "this server shares no memory" in repr(shared.events[0])


def test_the_daemon_writes_the_golden_file() -> None:
    """Its publications, executed on real memory, leave the golden bytes of slots and records."""
    golden = GOLDEN.read_bytes()
    memory = new_view_memory("0123456789abcdef", OpenView(7, len(golden), 8))
    list(memory.allocate())
    memory.store(((view.GENERATION_AT, 2),))
    published = 0
    with mmap.mmap(memory._descriptor, 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[: view.HEADER_BYTES] == golden[: view.HEADER_BYTES]
        for slot in range(8):
            at = view.slot_offset(slot)
            _, digest, unit, length, expires_at, generation, _ = found = view.decode_slot(golden, at)
            start = unit * view.UNIT_BYTES
            record = golden[start : start + length]
            if found.sequence == 2 and found.checksum == view.checksum_of(golden[at : at + 60], record):
                published += 1
                memory.store(view.publish_stores(slot, 0, digest, start, expires_at, generation, record))
                assert mapped[at : at + 64] == golden[at : at + 64]
                assert mapped[start : start + length] == record

    memory.close()
    assert published == 4
