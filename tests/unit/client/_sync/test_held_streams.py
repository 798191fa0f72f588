"""Who drives a stream's function: its caller, or a thread. The daemon is a script; the threads are real."""

import gc
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import inf
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from sidecard_client import CallFailed
from sidecard_client._sync import held_streams
from sidecard_client._sync.held_streams import RETRY_SECONDS, HeldStream
from sidecard_client._sync.streams import StreamExecution
from sidecard_client.call import commands
from sidecard_client.call.call import prepare
from sidecard_client.call.options import Options
from sidecard_client.call.streams import END, ENOUGH, Leading, Provenance
from sidecard_client.protocol import wire
from tests.daemons import poll

SECONDS = 10.0
IDLE_SECONDS = 300.0


class Function:
    """A function whose pieces a test lets out, and that notes the threads which run and close it."""

    def __init__(self, *pieces: Any) -> None:
        self.pieces = pieces
        self.permits = threading.Semaphore(0)
        self.threads: list[threading.Thread] = []
        self.closed_by: list[threading.Thread] = []
        self.runs = False
        self.before: Callable[[], object] = list
        """What happens while the function runs, before its first piece."""

    def __call__(self) -> Iterator[Any]:
        """Generate the pieces."""
        self.before()
        try:
            for piece in self.pieces:
                self.runs = True
                assert self.permits.acquire(timeout=SECONDS)
                self.runs = False
                self.threads.append(threading.current_thread())
                yield piece

            self.runs = True
            assert self.permits.acquire(timeout=SECONDS)
        finally:
            self.runs = False
            self.closed_by.append(threading.current_thread())

    def lets(self, count: int) -> None:
        """Let so many pieces out."""
        self.permits.release(count)


class Execution(StreamExecution):
    """An execution whose daemon replies as it is told, and which notes the messages."""

    def __init__(self) -> None:
        super().__init__(SimpleNamespace())  # type: ignore[arg-type]  # it is not used
        self.messages: list[Any] = []
        self.waiters = 0
        self.held = False
        self.poked = 0
        self.idle_seconds = IDLE_SECONDS

    def note(self, command: Any) -> Any:
        """Execute a command of the conversation."""
        if isinstance(command, commands.Ask | commands.Send):
            self.messages.append(command.message)
            if isinstance(command.message, wire.Renew):
                return wire.Ok(0, self.waiters)

            return isinstance(command, commands.Send) or wire.Stored(0, stored=True)

        self.held = isinstance(command, commands.Hold)
        return None

    def watch(self, watcher: Any, _: commands.Open) -> None:
        """Hold the lease."""
        self._watcher, self.held = watcher, True

    def others_wait(self, _: wire.Lease) -> bool:
        """Reply as the daemon does."""
        return self.waiters > 0

    def release(self, _: object = None) -> None:
        """Stop renewing."""
        self.held = False

    def abandon(self, _: object = None) -> None:
        """Void everything."""
        self.held, self._watcher = False, None

    def give_back(self) -> None:
        """Return no connection."""

    def poke(self) -> bool:
        """Count."""
        self.poked += 1
        return self._watcher is not None

    handlers = dict.fromkeys((commands.Ask, commands.Send, commands.Hold, commands.Release, commands.Abandon), note)

    @property
    def report(self) -> Any:
        """The last report of the lease."""
        return next((one for one in reversed(self.messages) if isinstance(one, wire.Complete | wire.Fail)), None)


class Bench:
    """A held stream with its function and its execution."""

    def __init__(self, *pieces: Any, waiters: int = 0) -> None:
        self.function = Function(*pieces)
        self.execution = Execution()
        call = prepare(Options(), self.function, (), {"key": "k"}, stream=True)
        lease = wire.Lease(1, "l", "default", 15.0, 1, waiters=waiters, idle_seconds=IDLE_SECONDS)
        self.held = HeldStream(self.execution, Leading(call, lease), Provenance())

    def first(self) -> Any:
        """Take the first piece."""
        self.function.lets(1)
        return self.held.first()

    def runs_ahead(self) -> None:
        """Let another caller wait, and a thread run ahead."""
        self.held.wanted()
        assert self.held.look(monotonic()) == inf
        poll(lambda: self.function.runs, "the function does not run")

    def ended(self) -> None:
        """Wait until the stream is over and its function closed; nothing is held then."""
        poll(lambda: len(self.function.closed_by) == 1, "the function was not closed")
        poll(lambda: self.held._driver == "over", "the stream is not over")
        assert not self.execution.held


def this_thread() -> threading.Thread:
    """Return the thread of the test."""
    return threading.current_thread()


def test_the_caller_drives_while_no_other_caller_waits() -> None:
    """No thread is started for a stream that is not shared."""
    bench = Bench("a", "b")
    assert bench.first() == "a"
    assert bench.held.look(monotonic()) > monotonic()
    bench.function.lets(2)
    assert [bench.held.take(), bench.held.take()] == ["b", END]
    bench.ended()
    assert set(bench.function.threads) == {this_thread()}
    assert isinstance(bench.execution.report, wire.Complete)


def test_a_thread_drives_once_another_caller_waits() -> None:
    """The caller takes its pieces, in order, from what the thread keeps."""
    bench = Bench("a", "b", "c")
    assert bench.first() == "a"
    bench.runs_ahead()
    bench.function.lets(3)
    bench.ended()
    assert [bench.held.take() for _ in range(3)] == ["b", "c", END]
    assert this_thread() not in bench.function.threads[1:]


@pytest.mark.parametrize("waiters", [0, 1])
def test_a_caller_that_drives_starts_the_thread_when_it_has_its_piece(waiters: int) -> None:
    """Others began to wait while the function ran, or before the lease was granted."""
    bench = Bench("a", "b", waiters=waiters)
    if not waiters:
        bench.function.before = bench.held.wanted

    bench.function.lets(3)
    assert bench.held.first() == "a"
    bench.ended()
    assert [bench.held.take(), bench.held.take()] == ["b", END]
    assert this_thread() not in bench.function.threads[1:]


def test_the_heartbeat_waits_for_no_lock() -> None:
    """It looks again soon."""
    bench = Bench("a", "b")
    bench.first()
    bench.held.wanted()
    with bench.held._lock:
        assert bench.held.look(5.0) == 5.0 + RETRY_SECONDS


def test_the_caller_goes_on_if_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heartbeat tries again."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    bench = Bench("a", "b", waiters=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert bench.first() == "a"
        assert bench.held.look(5.0) == 6.0
        bench.function.lets(1)
        assert bench.held.take() == "b"

    assert bench.held.look(5.0) == inf
    bench.function.lets(1)
    bench.ended()


def test_two_threads_do_not_take_a_piece_at_the_same_time() -> None:
    """The second one gets an error that names the cause, and the first one its piece."""
    bench = Bench("a", "b")
    bench.first()
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(bench.held.take()))
    thread.start()
    poll(lambda: bench.function.runs, "the function does not run")
    with pytest.raises(RuntimeError, match="one thread at a time"):
        bench.held.take()

    bench.function.lets(1)
    thread.join(SECONDS)
    assert got == ["b"]


@pytest.mark.parametrize(
    ("pieces", "waiters", "report"),
    [
        (("a", "b", "c"), 0, "cancelled"),
        (("a", ENOUGH, "b", "c"), 0, "complete"),
        (("a", ENOUGH, "b", "c"), 1, "complete"),
    ],
)
def test_a_stream_that_is_closed_while_its_function_runs_is_reported_at_once(
    pieces: tuple[Any, ...], waiters: int, report: str
) -> None:
    """The thread that runs the function closes it, and no other thread does."""
    bench = Bench(*pieces)
    bench.execution.waiters = waiters
    assert bench.first() == "a"
    bench.runs_ahead()
    bench.function.lets(len(pieces) - 2)
    assert bench.held.take() == "b"
    poll(lambda: bench.function.runs, "the function does not run")
    bench.held.leave()
    assert getattr(bench.execution.report, "kind", "complete") == report
    assert not bench.execution.held
    assert bench.function.closed_by == []
    bench.function.lets(1)
    bench.ended()
    assert bench.function.closed_by == [bench.function.threads[-1]] != [this_thread()]


def test_a_stream_that_is_closed_before_its_thread_begins_ends() -> None:
    """The thread does not run the function once more."""
    bench = Bench("a", "b")
    bench.first()
    bench.held.wanted()
    began = threading.Event()

    def run(run: Callable[[object], None], result: object) -> None:
        began.wait(SECONDS)
        run(result)

    bench.held._context = SimpleNamespace(run=run)  # type: ignore[assignment]  # a thread that begins late
    assert bench.held.look(monotonic()) == inf
    bench.held.leave()
    began.set()
    bench.ended()
    assert bench.execution.report.kind == "cancelled"
    assert len(bench.function.threads) == 1


def test_a_stream_that_is_closed_just_before_its_caller_drives_goes_on_for_others() -> None:
    """1. the caller asks for a piece; 2. another thread closes the stream; 3. the caller resumes the conversation."""
    bench = Bench("a", "b")
    bench.execution.waiters = 1
    bench.first()
    bench.held._driver = "caller"
    bench.held.leave()
    assert bench.held._drive("more") is END
    bench.function.lets(2)
    bench.ended()
    assert isinstance(bench.execution.report, wire.Complete)
    assert this_thread() not in bench.function.closed_by


@pytest.mark.parametrize("ahead", [False, True])
def test_a_reader_of_a_stream_that_another_thread_closes_sees_its_end(ahead: bool) -> None:
    """Whether it waits for the thread that runs ahead, or comes while the other thread still asks the daemon."""
    bench = Bench("a", "b")
    bench.execution.waiters = 1
    bench.first()
    if not ahead:
        bench.held._driver, bench.held._left = "caller", True  # in the middle of `leave`
        assert bench.held.take() is END
        return

    bench.runs_ahead()
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.append(bench.held.take()))
    reader.start()
    bench.held.leave()
    reader.join(SECONDS)
    assert got == [END]
    bench.function.lets(2)
    bench.ended()


def test_a_stream_that_is_closed_while_others_wait_goes_on() -> None:
    """Whether its caller drove it or a thread."""
    for ahead in (False, True):
        bench = Bench("a", "b", "c")
        bench.execution.waiters = 1
        assert bench.first() == "a"
        if ahead:
            bench.runs_ahead()

        bench.held.leave()
        bench.function.lets(3)
        bench.ended()
        assert isinstance(bench.execution.report, wire.Complete)


def test_a_stream_without_references_is_closed_by_a_thread() -> None:
    """The garbage collector only rings the heartbeat."""
    bench = Bench("a", "b")
    bench.first()
    assert bench.held.orphan()
    assert (bench.execution.poked, bench.function.closed_by) == (1, [])
    assert bench.held.look(monotonic()) == inf
    bench.ended()
    assert bench.execution.report.kind == "cancelled"
    assert this_thread() not in bench.function.closed_by


def test_a_thread_that_waits_for_its_caller_sees_that_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the lease is lost it makes no piece ahead, and looks whether its caller is still there."""
    monkeypatch.setattr(held_streams, "ORPHAN_SECONDS", 0.01)
    bench = Bench("a", "b", "c", "d")
    bench.first()
    bench.runs_ahead()
    bench.held.lost()
    bench.function.lets(4)
    poll(lambda: len(bench.function.threads) == 2, "no second piece")
    assert bench.held.take() == "b"
    poll(lambda: len(bench.function.threads) == 3, "no third piece")
    assert bench.held.orphan()
    bench.ended()
    assert len(bench.function.threads) == 3


@pytest.mark.parametrize(("waiters", "report"), [(0, "cancelled"), (1, "complete")])
def test_a_stream_that_is_not_read_ends_unless_others_wait(waiters: int, report: str) -> None:
    """A later read raises; no stream just stops."""
    bench = Bench("a", "b")
    bench.first()
    bench.execution.waiters = waiters
    unread_at = bench.held.look(monotonic())
    assert unread_at == pytest.approx(monotonic() + IDLE_SECONDS, abs=5)
    assert bench.held.look(unread_at) == inf
    bench.function.lets(2)
    bench.ended()
    assert getattr(bench.execution.report, "kind", "complete") == report
    if waiters:
        assert [bench.held.take(), bench.held.take()] == ["b", END]
    else:
        with pytest.raises(CallFailed, match="did not read the stream"):
            bench.held.take()


def test_the_child_of_a_fork_does_not_wait_for_a_thread() -> None:
    """It gets the pieces that the thread had kept, and then an error."""
    bench = Bench("a", "b", "c")
    bench.first()
    bench.runs_ahead()
    bench.function.lets(1)
    poll(lambda: len(bench.function.threads) == 2, "no second piece")
    bench.held.leave_to_parent()  # as in the child, where the thread does not exist
    assert bench.held.take() == "b"
    with pytest.raises(CallFailed, match="forked"):
        bench.held.take()

    bench.function.lets(2)
    poll(lambda: len(bench.function.closed_by) == 1, "the function was not closed")


def steps_of(bench: Bench, chance: random.Random) -> list[Callable[[], object]]:
    """Return what the heartbeat may do at any time."""
    held, execution = bench.held, bench.execution
    return [
        held.wanted,
        held.lost,
        lambda: held.look(monotonic()),
        lambda: held.look(monotonic() + 2 * IDLE_SECONDS) if chance.random() < 0.1 else None,
        lambda: setattr(execution, "waiters", chance.randrange(2)),
        lambda: bench.function.lets(1),
        held.orphan if chance.random() < 0.1 else held.wanted,
    ]


@pytest.mark.parametrize("seed", range(40))
def test_no_thread_touches_a_function_that_another_one_runs(seed: int) -> None:
    """Callers, closers and the heartbeat at random: the function is closed once, the lease is reported once, nothing is raised."""
    chance = random.Random(seed)
    bench = Bench(*"abcdef"[: chance.randrange(1, 7)], waiters=chance.randrange(2))
    problems: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            piece = bench.held.first()
            while piece is not END and chance.random() < 0.8:
                piece = bench.held.take()
        except CallFailed:
            pass
        except BaseException as error:  # noqa: BLE001 - what the test looks for
            problems.append(error)

        try:
            bench.held.leave()
        except BaseException as error:  # noqa: BLE001 - as above
            problems.append(error)

        done.set()

    def close() -> None:
        done.wait(chance.random() / 50)
        with suppress(RuntimeError):
            bench.held.leave()

    threads = [threading.Thread(target=target) for target in (read, close)]
    for thread in threads:
        thread.start()

    steps = steps_of(bench, chance)
    while not done.is_set():
        chance.choice(steps)()

    bench.function.lets(20)
    for thread in threads:
        thread.join(SECONDS)

    bench.ended()
    reports = [one for one in bench.execution.messages if isinstance(one, wire.Complete | wire.Fail)]
    assert (problems, len(reports)) == ([], 1)
    gc.collect()
