"""When a client asks for a view, and what it does with one that ends: its thread, and connections that a test answers."""

import math
import os
import select
import socket
import threading
import warnings
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from sidecard_client.call.call import Call, prepare
from sidecard_client.call.options import Options
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import NotConnected
from sidecard_client.view import keeper as keepers
from sidecard_client.view.reader import boot_clock
from sidecard_client.view.views import ClientViews
from tests.daemons import poll
from tests.view_connections import PairedConnection, announced, memory_file
from tests.written_view import KEY, WrittenView, record_of

CALL = prepare(Options(key=KEY), str.upper, ("x",), {})


class ViewDaemon:
    """Answers requests for views, each on a connection of its own."""

    def __init__(self) -> None:
        self.connections: list[PairedConnection] = []
        self.written: list[WrittenView] = []
        self.refusal: wire.Error | None = None
        self.away = False
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.views = ClientViews(self.connect)
        self._serving: list[threading.Thread] = []
        self._announced: dict[str, Any] = {}

    def connect(self) -> PairedConnection:
        """Connect the client."""
        if self.away:
            raise NotConnected("away")

        self.connections.append(PairedConnection())
        thread = threading.Thread(target=self._serve, args=(self.connections[-1],))
        self._serving.append(thread)
        thread.start()
        return self.connections[-1]

    def _serve(self, connection: PairedConnection) -> None:
        asked = connection.receive()
        self.may_answer.wait(10.0)
        assert isinstance(asked, wire.GetView)
        if self.refusal is not None:
            connection.reply(self.refusal, [])
            return

        descriptor, written = memory_file()
        now = boot_clock()
        written.publish(KEY, record_of(5, "X", stored_at=now - 1.0), expires_at=now + 1000.0)
        self.written.append(written)
        connection.reply(announced(**self._announced), [descriptor])
        os.close(descriptor)

    def announce(self, **fields: Any) -> None:
        """Announce views with these fields."""
        self._announced = fields

    def attach(self) -> PairedConnection:
        """Report hits over the socket until the client has a view; return its connection."""
        count = len(self.written)

        def is_attached() -> bool:
            self.views.saw_hit("default")
            return "default" in self.views.attached

        poll(is_attached, "no view is attached")
        assert len(self.written) == count + 1
        return self.connections[-1]

    def close(self) -> None:
        """End all."""
        for thread in self._serving:
            thread.join()

        for connection in self.connections:
            connection.daemon.close()  # or the client would wait for a sign

        self.views.close()

    def reported(self) -> list[int]:
        """Return the publications and counts of the next report on the last connection."""
        report = self.connections[-1].receive()
        assert isinstance(report, wire.RecordHits)
        return [count for _, count, _, _ in report.hits]


@pytest.fixture
def daemon() -> Iterator[ViewDaemon]:
    """Play a daemon."""
    played = ViewDaemon()
    yield played
    played.close()


def settled(daemon: ViewDaemon) -> None:
    """Wait until the client's thread has decided about a request for a view."""
    poll(lambda: daemon.views.ask_at["default"] < math.inf or "default" in daemon.views.attached, "it does not decide")


def full(daemon: ViewDaemon) -> tuple[PairedConnection, int]:
    """Attach a view, and read from it until the connection takes no more reports; return also how many hits there were."""
    daemon.announce(report_seconds=0.05, report_hits=1)
    connection = daemon.attach()
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    made = 0

    def is_full() -> bool:
        nonlocal made
        for _ in range(10):
            assert daemon.views.hit(CALL) is not None
            made += 1

        return bool(daemon.views.attached["default"]._unsent)

    poll(is_full, "the socket takes all")
    return connection, made


def test_second_hit_asks_for_a_view(daemon: ViewDaemon) -> None:
    """The first hit asks for none, nor do later ones while a view is attached or asked for."""
    daemon.views.saw_hit("default")
    assert not daemon.views.in_use
    for _ in range(20):
        daemon.views.saw_hit("default")

    settled(daemon)
    for _ in range(20):
        daemon.views.saw_hit("default")

    assert len(daemon.connections) == 1
    hit = daemon.views.hit(CALL)
    assert hit is not None
    assert hit.value == "X"


@pytest.mark.parametrize("cause", ["refused", "away", "frozen"])
def test_client_that_got_no_view_asks_again_later(daemon: ViewDaemon, cause: str) -> None:
    """It asks half a minute later, not with the next hit."""
    if cause == "refused":
        daemon.refusal = wire.Error(id=1, code="unavailable", message="no view: off")
    elif cause == "away":
        daemon.away = True
    else:
        daemon.announce(now_seconds=0.0)

    for _ in range(2):
        daemon.views.saw_hit("default")

    settled(daemon)
    assert 29.0 < daemon.views.ask_at["default"] - monotonic() <= 30.0
    asked = len(daemon.connections)
    for _ in range(5):
        daemon.views.saw_hit("default")

    assert len(daemon.connections) == asked
    daemon.refusal, daemon.away = None, False
    daemon.announce()
    daemon.views.ask_at["default"] = monotonic()
    daemon.attach()


@pytest.mark.parametrize("cause", ["end", "retired"])
def test_view_that_ended_is_replaced_after_the_next_hit(daemon: ViewDaemon, cause: str) -> None:
    """The end of the connection is noticed without a read, a retired view by the next read. Its connection is closed."""
    connection = daemon.attach()
    if cause == "end":
        connection.daemon.close()
    else:
        daemon.written[-1].retire()
        assert daemon.views.hit(CALL) is None

    poll(lambda: not daemon.views.attached, "the view stays attached")
    assert connection.socket.fileno() == -1
    assert daemon.views.hit(CALL) is None
    assert daemon.attach() is not connection
    assert daemon.views.hit(CALL) is not None


def test_retired_view_ends_once_its_last_hits_are_booked(daemon: ViewDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like `close`, its connection waits for a sign that the daemon has booked them."""
    monkeypatch.setattr(keepers, "CLOSE_SECONDS", 10.0)
    connection = daemon.attach()
    assert daemon.views.hit(CALL) is not None
    daemon.written[-1].retire()
    assert daemon.views.hit(CALL) is None
    assert daemon.reported() == [1]
    ping = connection.receive()
    assert isinstance(ping, wire.Ping)
    assert "default" in daemon.views.attached, "a fork meanwhile would leave it to the child"
    connection.reply(wire.Pong(ping.id, "0", wire.PROTOCOL_VERSION, "boot", 1.0), [])
    poll(lambda: not daemon.views.attached, "it is kept")
    assert connection.socket.fileno() == -1


def test_view_that_ends_while_another_thread_reports_loses_no_hit(daemon: ViewDaemon) -> None:
    """Its end waits until the other thread has reported, and reports the rest."""
    daemon.announce(report_seconds=1000.0)
    daemon.attach()
    view = daemon.views.attached["default"]
    assert daemon.views.hit(CALL) is not None
    with view._lock:
        daemon.written[-1].retire()
        assert daemon.views.hit(CALL) is None
        poll(lambda: view.ended, "the view goes on")

    assert daemon.reported() == [1]


@pytest.mark.parametrize("cause", ["retired", "shut down"])
def test_view_that_ends_while_the_daemon_does_not_read_loses_no_hit(
    daemon: ViewDaemon, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon has retired it, or stops: it has ended its side, and still reads. Then the client waits for no sign."""
    monkeypatch.setattr(keepers, "CLOSE_SECONDS", 60.0)  # beyond the time limit of the daemon's part
    connection, made = full(daemon)
    view = daemon.views.attached["default"]
    if cause == "retired":
        daemon.written[-1].retire()
        assert daemon.views.hit(CALL) is None
    else:
        connection.daemon.shutdown(socket.SHUT_WR)

    poll(lambda: view.ended, "the view goes on")
    reported = 0
    while reported < made:
        reported += sum(daemon.reported())

    assert reported == made
    if cause == "retired":
        assert isinstance(connection.receive(), wire.Ping)
        connection.daemon.shutdown(socket.SHUT_WR)

    assert connection.receive() is None


def test_client_whose_report_is_refused_waits_before_it_asks_again(daemon: ViewDaemon) -> None:
    """Without a pause, client and daemon would repeat the refusal for ever."""
    connection = daemon.attach()
    connection.reply(wire.Error(id=2, code="bad_request", message="hits: no"), [])
    poll(lambda: not daemon.views.attached, "the view stays attached")
    assert daemon.views.ask_at["default"] > monotonic() + 29.0


def test_hits_are_reported_in_time(daemon: ViewDaemon) -> None:
    """By the thread once the time is over, counted from the first one; by the reading thread once there are enough."""
    daemon.announce(report_seconds=0.1, report_hits=1000)
    daemon.attach()
    for _ in range(3):
        assert daemon.views.hit(CALL) is not None

    started = monotonic()
    assert daemon.reported() == [3]
    assert monotonic() - started < 5.0
    poll(lambda: not daemon.views.attached["default"].armed, "the thread goes on without a cause")
    assert daemon.views.hit(CALL) is not None
    assert daemon.reported() == [1]


def test_no_hit_is_reported_early(daemon: ViewDaemon) -> None:
    """Hits of the same time go into one message, however often the thread wakes."""
    daemon.announce(report_seconds=1000.0, report_hits=1000)
    connection = daemon.attach()
    assert daemon.views.hit(CALL) is not None
    daemon.views._keeper.ring()
    connection.daemon.settimeout(0.05)
    with pytest.raises(TimeoutError):
        connection.receive()


def test_hits_are_reported_before_a_fork(daemon: ViewDaemon) -> None:
    """The child may be all that is left of the process."""
    daemon.announce(report_seconds=1000.0, report_hits=1000)
    daemon.attach()
    assert daemon.views.hit(CALL) is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of threads
        pid = os.fork()

    if pid == 0:
        os._exit(0)

    assert daemon.reported() == [1]
    assert os.waitpid(pid, 0)[1] == 0


def test_fork_waits_while_a_view_is_attached(daemon: ViewDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child must not inherit a connection that nobody closes; but a daemon that hangs does not hold a fork for long."""
    monkeypatch.setattr("sidecard_client.view.views.CLOSE_SECONDS", 0.05)
    daemon.may_answer.clear()
    for _ in range(2):
        daemon.views.saw_hit("default")

    poll(daemon.views._keeper.quiet.locked, "no view is asked for")
    assert daemon.views.before_fork() is None
    daemon.may_answer.set()
    settled(daemon)
    poll(lambda: not daemon.views._keeper.quiet.locked(), "the lock is kept")
    release = daemon.views.before_fork()
    assert release is not None
    assert daemon.views._keeper.quiet.locked()
    release()
    assert not daemon.views._keeper.quiet.locked()


def test_signal_handler_that_forks_within_a_read_gets_no_hit_in_the_child(daemon: ViewDaemon) -> None:
    """The child has closed the memory, so it asks its daemon. The parent reads on."""
    daemon.attach()
    view, pids = daemon.views.attached["default"], []

    def fork_meanwhile() -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of threads
            pids.append(os.fork())

        if not pids[0]:
            daemon.views.leave_to_parent()  # as the client does

        return boot_clock()

    view.reader._clock = fork_meanwhile
    code = 1
    try:
        hit = daemon.views.hit(CALL)
        code = 0 if hit is None else 2
    finally:
        if not pids[0]:
            os._exit(code)

    assert hit is not None
    assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0


def test_fault_within_a_read_reaches_its_caller(daemon: ViewDaemon) -> None:
    """As a signal handler may raise it: only the closed memory of a child's view is no fault."""
    daemon.attach()

    def fail() -> float:
        raise ValueError("of a signal handler")

    daemon.views.attached["default"].reader._clock = fail
    with pytest.raises(ValueError, match="of a signal handler"):
        daemon.views.hit(CALL)


def test_answer_whose_hit_cannot_be_reported_is_asked_for(daemon: ViewDaemon) -> None:
    """Interleaving: 1. a thread has begun to read; 2. the view ends, with its last report; 3. the thread has read an answer."""
    connection = daemon.attach()
    view = daemon.views.attached["default"]
    assert daemon.views.hit(CALL) is not None

    def end_meanwhile() -> float:
        daemon.views.stop().join(10.0)  # only the keeper's thread may end a view
        assert view.ended
        return boot_clock()

    view.reader._clock = end_meanwhile
    assert daemon.views.hit(CALL) is None
    assert not view.reports.calls
    report = connection.receive()
    assert [count for _, count, _, _ in report.hits] == [1], "the hit before"
    assert isinstance(connection.receive(), wire.Ping), "it asks for a sign"
    assert connection.receive() is None


def test_report_that_could_not_be_sent_is_sent_later(daemon: ViewDaemon) -> None:
    """The thread sends it once the daemon reads again, without another hit."""
    _, made = full(daemon)
    reported = 0
    while reported < made:
        reported += sum(daemon.reported())

    assert reported == made


@pytest.mark.parametrize("report_hits", [1, 1000], ids=["enough hits", "the time is over"])
def test_hits_are_reported_as_soon_as_another_thread_has_reported(daemon: ViewDaemon, report_hits: int) -> None:
    """Both by the keeper's thread: a reading thread that has enough of them does not wait."""
    daemon.announce(report_seconds=1000.0, report_hits=report_hits)
    daemon.attach()
    view = daemon.views.attached["default"]
    with view._lock:  # of the other thread
        assert daemon.views.hit(CALL) is not None
        view.due = min(view.due, monotonic()) if report_hits > 1 else view.due
        daemon.views._keeper.ring()
        poll(lambda: not view.armed, "the thread does not report")

    assert daemon.reported() == [1]


def test_thread_does_not_spin_while_the_daemon_does_not_read(daemon: ViewDaemon) -> None:
    """After a report that the connection does not take, the thread waits as long as for a new hit."""
    full(daemon)
    view = daemon.views.attached["default"]
    view._report_seconds = 1000.0
    daemon.views._keeper.report(view)
    poll(lambda: view.due > monotonic() + 500.0, "the thread repeats the report at once")
    assert view.armed


def test_very_many_hits_are_reported_at_once(daemon: ViewDaemon) -> None:
    """The reading thread reports them once there are `report_hits`."""
    daemon.announce(report_seconds=1000.0, report_hits=10)
    daemon.attach()
    for _ in range(25):
        assert daemon.views.hit(CALL) is not None

    assert [daemon.reported(), daemon.reported()] == [[10], [10]]
    closing = threading.Thread(target=daemon.views.close)
    closing.start()
    assert daemon.reported() == [5]
    assert isinstance(daemon.connections[-1].receive(), wire.Ping), "it asks for a sign"
    daemon.connections[-1].daemon.close()
    closing.join()


@pytest.mark.parametrize(
    ("changes", "reads"),
    [
        pytest.param({}, True, id="plain"),
        pytest.param({"options": Options(key=KEY, mode="only_if_cached")}, True, id="only if cached"),
        pytest.param({"options": Options(key=KEY, mode="refresh")}, False, id="refresh"),
        pytest.param({"options": Options(key=KEY, task="rag")}, False, id="another task"),
        pytest.param({"options": Options(key=KEY, namespace="team")}, False, id="another namespace"),
        pytest.param({"options": Options(key=KEY, ttl_seconds=0.5)}, False, id="too old for ttl"),
        pytest.param({"options": Options(key=KEY, max_age_seconds=0.5)}, False, id="too old for max_age"),
        pytest.param({"options": Options(key=KEY, ttl_seconds=100.0, max_age_seconds=100.0)}, True, id="young enough"),
        pytest.param({"key": None}, False, id="without a key"),
        pytest.param({"stream": True}, True, id="stream"),
        pytest.param({"trace": "00-1-2-01"}, True, id="traced"),
    ],
)
def test_calls_that_a_view_answers(daemon: ViewDaemon, changes: dict[str, Any], reads: bool) -> None:
    """Those to which the daemon would reply with this answer, and for which it would do nothing else."""
    daemon.attach()
    assert (daemon.views.hit(changed(changes)) is not None) == reads


def changed(changes: dict[str, Any]) -> Call:
    """Return the call with other fields."""
    fields = {name: getattr(CALL, name) for name in Call.__struct_fields__}
    return Call(**fields | changes)


def test_traced_calls_ask_a_daemon_that_logs_calls(daemon: ViewDaemon) -> None:
    """The row of a call that is read from a view would lack the span."""
    daemon.announce(logs_calls=True)
    daemon.attach()
    assert daemon.views.hit(changed({"trace": "00-1-2-01"})) is None
    assert daemon.views.hit(CALL) is not None


def test_gets_are_bounded_by_age_and_by_no_task(daemon: ViewDaemon) -> None:
    """The reader applies ``max_age`` as the daemon does, and ignores the entry's task."""
    daemon.attach()
    assert daemon.views.entry(wire.Get(key=KEY)) is not None
    assert daemon.views.entry(wire.Get(key=KEY, max_age_seconds=1000.0)) is not None
    assert daemon.views.entry(wire.Get(key=KEY, max_age_seconds=0.5)) is None
    assert daemon.views.entry(wire.Get(key=KEY, namespace="team")) is None
    assert daemon.views.entry(wire.Get(key="another")) is None


@pytest.mark.parametrize("obstacle", ["poll", "threads"])
def test_process_that_cannot_have_views_does_without(
    daemon: ViewDaemon, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patched like gevent does, each poll would switch greenlets; and a process may be at its limit of threads."""

    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    if obstacle == "poll":
        monkeypatch.setattr(select, "poll", lambda: None)
    else:
        monkeypatch.setattr(threading.Thread, "start", no_thread)

    for _ in range(5):
        daemon.views.saw_hit("default")

    assert not daemon.views.in_use
    assert daemon.views.ask_at["default"] > monotonic() + 29.0


def test_failure_of_the_thread_ends_all_views(daemon: ViewDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """No view is read whose hits no thread reports; half a minute later another thread is started."""
    failures: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    daemon.attach()

    def fail(_: set[int]) -> float:
        raise MemoryError

    keeper = daemon.views._keeper
    monkeypatch.setattr(keeper, "turn", fail)
    keeper.ring()
    poll(lambda: not daemon.views.in_use, "the thread goes on")
    assert len(failures) == 1
    assert daemon.views.hit(CALL) is None
    assert daemon.views.ask_at["default"] > monotonic() + 29.0
    monkeypatch.undo()
    daemon.views.ask_at["default"] = monotonic()
    daemon.attach()


def test_thread_that_fails_at_once_is_started_again_later(daemon: ViewDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interleaving: 1. a thread starts another one; 2. that one fails; 3. the first one goes on."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    start = threading.Thread.start

    def start_and_wait(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "sidecard-view":
            thread.join(0.1)

    def fail(*_: object) -> float:
        raise MemoryError

    monkeypatch.setattr(threading.Thread, "start", start_and_wait)
    monkeypatch.setattr(keepers.ViewKeeper, "turn", fail)
    for _ in range(2):
        daemon.views.saw_hit("default")

    poll(lambda: not daemon.views.in_use, "the thread is kept")
    assert 29.0 < daemon.views.ask_at["default"] - monotonic() <= 30.0
    monkeypatch.undo()
    daemon.views.ask_at["default"] = monotonic()
    daemon.attach()


def test_namespaces_are_bounded(daemon: ViewDaemon) -> None:
    """A client that uses very many keeps no list of all of them."""
    for number in range(2 * keepers.MAX_NAMESPACES):
        daemon.views.saw_hit(f"n{number}")

    assert len(daemon.views.ask_at) == keepers.MAX_NAMESPACES


def test_closed_client_may_start_again(daemon: ViewDaemon) -> None:
    """An asynchronous one does."""
    connection = daemon.attach()
    daemon.views.close()
    assert not daemon.views.attached
    assert "sidecard-view" not in [thread.name for thread in threading.enumerate()]
    assert connection.socket.fileno() == -1
    assert daemon.attach() is not connection
