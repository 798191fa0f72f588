"""The acceptor alone: which connections are accepted, opened or closed in which iteration, and what errors lead to."""

import asyncio
import errno
import os
import socket
import struct
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from sidecard.config.schema import LimitSettings
from sidecard.core.events import Peer
from sidecard.server.acceptor import ACCEPT_SECONDS, BACK_OFF_SECONDS, MAX_OPENED, Acceptor
from sidecard.server.connections import MAX_DENIED, AdmissionDenied, ConnectionTable
from sidecard.server.scheduler import TURN_SECONDS, FairScheduler
from tests.unit.server.harness import FakeLoop

ACCEPT_COST, OPEN_COST = ACCEPT_SECONDS / 20, TURN_SECONDS / 4


class FakeSocket:
    """A connection as accept(2) returns it; its client may have left."""

    def __init__(self, uid: int, *, left: bool = False) -> None:
        self.uid = uid
        self.left = left
        self.closed = False

    def fileno(self) -> int:
        """Return a descriptor, which no test uses."""
        return -1

    def setblocking(self, flag: bool) -> None:
        """Accept the mode that is expected."""
        assert not flag

    def getsockopt(self, *_: int) -> bytes:
        """Return the peer's credentials."""
        return struct.pack("3I", 7, self.uid, self.uid)

    def recv(self, size: int, flags: int) -> bytes:
        """Return what can be peeked at."""
        assert (size, flags) == (1, socket.MSG_PEEK)
        if self.left:
            return b""

        raise BlockingIOError

    def close(self) -> None:
        """Close it."""
        self.closed = True


class FakeListener:
    """A listening socket: connections or errors in the order in which accept(2) returns them."""

    def __init__(self, host: "Host") -> None:
        self.host = host
        self.waiting: deque[FakeSocket | OSError] = deque()
        self.closed = False

    def accept(self) -> tuple[FakeSocket, str]:
        """Return the next one. Accepting takes time."""
        self.host.loop.now += ACCEPT_COST
        if self.host.descriptors_left <= 0 and self.host.acceptor._spare >= 0:
            raise OSError(errno.EMFILE, "Too many open files")

        if not self.waiting:
            raise BlockingIOError

        one = self.waiting.popleft()
        if isinstance(one, OSError):
            raise one

        return one, ""

    def close(self) -> None:
        """Close it."""
        self.closed = True


class FakeFuture:
    """A future that the loop sets in its next iteration."""

    def __init__(self, loop: "Loop") -> None:
        self._loop = loop

    def add_done_callback(self, callback: Callable[[object], None]) -> None:
        """Call back in the next iteration."""
        self._loop.call_soon(callback, self)

    def __await__(self) -> Generator[Any, Any, None]:
        yield self


class Loop(FakeLoop):
    """A loop that reports readable listening sockets in each iteration, and makes connections."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[FakeListener, Callable[[], None]] = {}
        self.opened: list[Peer | AdmissionDenied] = []
        self.fault: OSError | None = None

    def add_reader(self, listening: FakeListener, callback: Callable[..., None], *arguments: object) -> None:
        """Watch a socket."""
        self.readers[listening] = lambda: callback(*arguments)

    def remove_reader(self, listening: FakeListener) -> None:
        """Watch it no more."""
        self.readers.pop(listening, None)

    async def connect_accepted_socket(self, factory: Callable[[], Any], _: FakeSocket) -> None:
        """Make the protocol, after some time."""
        self.now += OPEN_COST
        if self.fault is not None:
            raise self.fault

        self.opened.append(factory())
        await FakeFuture(self)

    def iterate(self) -> None:
        """Run callbacks, then report what is readable, as an event loop does."""
        self.turn()
        for listening, callback in list(self.readers.items()):
            if listening.waiting:
                callback()


class Host:
    """An acceptor on a loop whose time only work moves."""

    def __init__(self, limits: LimitSettings | None = None) -> None:
        self.loop = Loop()
        loop: Any = self.loop
        self.scheduler = FairScheduler(loop, lambda: self.loop.now)
        self.denied: list[int] = []
        self.table = ConnectionTable(
            limits or LimitSettings(),
            lambda uid, _: uid == 0,
            on_denied=lambda uid, _: self.denied.append(uid),
            on_closed=lambda *_: None,
            limited=Counter(),
        )
        self.logged: list[tuple[str, str]] = []
        self.exhausted = 0
        self.descriptors_left = 1000
        make: Any = lambda admission, _: admission  # noqa: E731 - in place of a protocol
        self.acceptor = Acceptor(
            loop,
            self.scheduler,
            self.table,
            make,
            log=lambda level, event, **_: self.logged.append((level, event)),
            on_exhausted=self._count_exhausted,
        )
        self.listener = FakeListener(self)
        self.listen(self.listener)

    def _count_exhausted(self) -> None:
        self.exhausted += 1

    def listen(self, listening: Any) -> None:
        """Accept on one more socket."""
        self.acceptor.listen(listening)

    def connect(self, uid: int, count: int = 1, *, left: bool = False) -> list[FakeSocket]:
        """Let connections wait to be accepted."""
        sockets = [FakeSocket(uid, left=left) for _ in range(count)]
        self.listener.waiting.extend(sockets)
        return sockets

    def opened(self) -> list[int]:
        """Return the uids whose connections were opened, in order."""
        return [admission.uid for admission in self.loop.opened]

    def iterate(self, count: int = 1) -> None:
        """Let the loop iterate."""
        for _ in range(count):
            self.loop.iterate()


@pytest.fixture
def host() -> Iterator[Host]:
    """Return an acceptor with default limits."""
    one = Host()
    yield one
    one.acceptor.stop()


def test_a_connection_is_opened_in_the_iteration_that_accepts_it(host: Host) -> None:
    """On an idle daemon nothing waits for a turn."""
    host.connect(1)
    host.iterate()
    assert host.opened() == [1]
    assert len(host.table) == 1
    host.iterate(2)


def test_accepting_ends_with_its_time_and_continues_in_the_next_iteration(host: Host) -> None:
    """A crowd delays the requests of connected peers by no more than `ACCEPT_SECONDS` in each iteration."""
    host.connect(1, 1000, left=True)
    for _ in range(10):
        before = host.loop.now
        host.iterate()
        assert host.loop.now - before <= (ACCEPT_SECONDS + TURN_SECONDS) * 1.2

    assert 0 < len(host.listener.waiting) < 1000
    host.iterate(100)
    assert not host.listener.waiting


def test_a_newcomer_is_opened_before_the_crowd_of_another_uid_that_came_first(host: Host) -> None:
    """Accepting is in the kernel's order; opening is by uid."""
    crowd, (newcomer,) = host.connect(1, 30), host.connect(2)
    host.iterate(3)
    assert host.opened().index(2) < 15
    host.iterate(30)
    assert len(host.opened()) == len(crowd) + 1
    assert not newcomer.closed


def test_opening_takes_turns_with_waiting_work_of_other_uids(host: Host) -> None:
    """A crowd of newcomers does not starve connected peers."""
    host.connect(1, 30)
    host.iterate(2)
    served: list[int] = []

    class Work:
        def serve_turn(self) -> bool:
            served.append(len(host.loop.opened))
            host.loop.now += TURN_SECONDS
            return len(served) < 5

    before = len(host.loop.opened)
    host.scheduler.enqueue(Work(), 2)
    host.iterate(12)
    assert len(served) == 5
    assert served[-1] - before <= 5 * (TURN_SECONDS / OPEN_COST + 2)


def test_a_connection_whose_client_has_left_is_not_opened(host: Host) -> None:
    """It costs no protocol, and no share of its uid."""
    sockets = host.connect(1, 5, left=True)
    host.iterate(3)
    assert host.opened() == []
    assert all(one.closed for one in sockets)
    assert len(host.table) == 0


def test_connections_above_a_uids_limit_are_closed_at_once() -> None:
    """No protocol is made for them, except for a few to which the reason is sent."""
    host = Host(LimitSettings(max_peers_per_uid=3))
    sockets = host.connect(1, 10 + MAX_DENIED)
    host.iterate(20)
    assert [one.closed for one in sockets] == [False] * (3 + MAX_DENIED) + [True] * 7
    assert [type(admission) for admission in host.loop.opened] == [Peer] * 3 + [AdmissionDenied] * MAX_DENIED
    assert len(host.denied) == 7 + MAX_DENIED
    host.connect(2)
    host.iterate()
    assert host.opened()[-1] == 2


def test_a_connection_in_place_of_one_that_ends_is_admitted() -> None:
    """1. A client closes its connection. 2. It connects again. 3. The loop reports both; the new one first."""
    host = Host(LimitSettings(max_peers_per_uid=1))
    host.connect(1)
    host.iterate(2)
    (first,) = host.loop.opened
    host.connect(1)
    host.iterate()
    assert len(host.loop.opened) == 1
    host.table.withdraw(first)
    host.iterate()
    assert [type(admission) for admission in host.loop.opened] == [Peer, Peer]
    assert host.denied == []
    assert len(host.table) == 1


def test_waiting_connections_count_for_their_uids_limit() -> None:
    """Otherwise a crowd that waits for its turns would be accepted without a limit."""
    host = Host(LimitSettings(max_peers_per_uid=12))
    host.connect(1, 15)
    host.iterate()
    assert len(host.loop.opened) < 12
    assert len(host.table) == 12


def test_without_descriptors_connections_are_closed_at_once(host: Host) -> None:
    """Their clients make their own calls; they do not wait, and the loop does not spin on a queue that never empties."""
    host.descriptors_left = 0
    sockets = host.connect(1, 5)
    before = host.loop.now
    host.iterate()
    assert host.loop.now - before < ACCEPT_SECONDS
    assert all(one.closed for one in sockets)
    assert host.exhausted == 5
    host.descriptors_left = 10
    host.connect(1)
    host.iterate(2)
    assert host.opened() == [1]


def test_without_even_a_spare_descriptor_accepting_pauses(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may have taken it. The connections wait in the kernel's queue."""

    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    host.descriptors_left = 0
    host.connect(1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        host.iterate(3)
        assert host.loop.readers == {}
        assert host.exhausted == 1

    host.descriptors_left = 10
    host.loop.pass_time(BACK_OFF_SECONDS)
    host.iterate()
    assert host.opened() == [1]


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EINTR])
def test_an_error_of_one_connection_does_not_affect_the_next(host: Host, number: int) -> None:
    """Nothing is logged: a client has left."""
    host.listener.waiting.append(OSError(number, "of one connection"))
    host.connect(1)
    host.iterate()
    assert host.opened() == [1]
    assert host.logged == []


def test_an_error_that_recurs_is_logged_once_and_accepting_pauses(host: Host) -> None:
    """After each pause it is tried again; the next error after a success is logged again."""
    fault = OSError(errno.ENOMEM, "Cannot allocate memory")
    host.listener.waiting.extend([fault, fault])
    host.connect(1)
    for _ in range(2):
        host.iterate(3)
        assert host.loop.readers == {}
        assert host.opened() == []
        host.loop.pass_time(BACK_OFF_SECONDS)

    host.iterate()
    assert host.opened() == [1]
    host.listener.waiting.append(fault)
    host.iterate()
    assert host.logged == [("error", "accept failed")] * 2


def test_a_connection_that_cannot_be_opened_is_closed(host: Host) -> None:
    """The kernel may lack memory for one more registration. Its share is free again."""
    host.loop.fault = OSError(errno.ENOMEM, "Cannot allocate memory")
    (one,) = host.connect(1)
    host.iterate(2)
    assert one.closed
    assert len(host.table) == 0
    assert host.logged == [("warning", "connection not opened")]


def test_several_sockets_are_served_and_a_replaced_one_is_closed(host: Host) -> None:
    """As when the socket's file was removed and is created again."""
    other = FakeListener(host)
    host.listen(other)
    other.waiting.append(FakeSocket(2))
    host.connect(1)
    host.iterate()
    assert sorted(host.opened()) == [1, 2]
    before: Any = host.listener
    host.acceptor.close(before)
    assert host.listener.closed
    other.waiting.append(FakeSocket(3))
    host.iterate(3)
    assert host.opened()[-1] == 3


def test_a_stopped_acceptor_closes_what_waits(host: Host) -> None:
    """Nothing is opened after the end, not even after a pause."""
    host.connect(1, 15)
    host.iterate()
    opened = len(host.loop.opened)
    assert opened < 15
    host.acceptor.stop()
    host.iterate(10)
    assert len(host.loop.opened) == opened == len(host.table)
    assert host.listener.closed
    host.loop.pass_time(BACK_OFF_SECONDS)
    assert host.loop.readers == {}


def test_a_pause_that_ends_after_the_stop_accepts_nothing(host: Host) -> None:
    """The socket is closed."""
    host.listener.waiting.append(OSError(errno.ENOMEM, "Cannot allocate memory"))
    host.iterate()
    host.acceptor.stop()
    host.loop.pass_time(BACK_OFF_SECONDS)
    assert host.loop.readers == {}


def test_the_future_of_an_event_loop_is_awaited_as_a_task_would() -> None:
    """`Acceptor` continues the loop's coroutine itself."""
    loop = asyncio.new_event_loop()
    try:
        future = loop.create_future()

        async def waits() -> int:
            return int(await future)

        steps: list[str] = []
        running = waits()
        assert running.send(None) is future
        future.add_done_callback(lambda _: steps.append("done"))
        loop.call_soon(future.set_result, 5)
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
        assert steps == ["done"]
        with pytest.raises(StopIteration) as ended:
            running.send(None)

        assert ended.value.value == 5
    finally:
        loop.close()


def test_a_crowd_is_opened_a_few_in_each_iteration(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows for each, such as its first request, takes time that no turn of the acceptor counts."""
    monkeypatch.setattr("tests.unit.server.test_acceptor.OPEN_COST", 0.0)
    monkeypatch.setattr("tests.unit.server.test_acceptor.ACCEPT_COST", 0.0)
    host.connect(1, 10 * MAX_OPENED)
    before = 0
    for _ in range(30):
        host.iterate()
        now = len(host.loop.opened)
        assert now - before <= MAX_OPENED
        before = now

    assert before == 10 * MAX_OPENED
