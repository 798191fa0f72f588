"""Streams whose holder reads slowly, stops reading or leaves, while others wait for them, or no one does."""

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sidecard_client import CallFailed, Client
from sidecard_client.call import unread_pieces
from sidecard_client.call.option_checks import MAX_SECONDS
from sidecard_client.call.streams import ENOUGH, ForOthers, ForOwnCaller
from tests.callers import Caller, connecting
from tests.daemons import Daemon, ask, poll
from tests.integration.test_streams import Model, Reader, pieces, stats, waits

KINDS = ["sync", "asyncio", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("uvloop", "trio"))]


class Holder:
    """The stream of a client of any kind, read by blocking."""

    def __init__(self, caller: Caller, function: Callable[..., Any], *args: Any, **policy: Any) -> None:
        self._portal = caller.portal
        self.stream: Any = caller.sidecard.stream(function, *args, **policy)

    def take(self) -> Any:
        """Return the next piece. Raises `StopIteration` or `StopAsyncIteration` at the end."""
        return next(self.stream) if self._portal is None else self._portal.call(self.stream.__anext__)

    def rest(self) -> list[Any]:
        """Return all further pieces."""
        got: list[Any] = []
        while True:
            try:
                got.append(self.take())
            except (StopIteration, StopAsyncIteration):
                return got

    def close(self) -> None:
        """Close the stream."""
        if self._portal is None:
            self.stream.close()
        else:
            self._portal.call(self.stream.aclose)

    def drop(self) -> None:
        """Drop the only reference to the stream."""
        self.stream = None


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which client holds the stream."""
    return str(request.param)


@pytest.fixture
def model() -> Model:
    """A model without any calls yet."""
    return Model()


@pytest.fixture(scope="module")
def shared_daemon(module_daemon: Callable[..., Daemon]) -> Daemon:
    """Start a daemon for all tests."""
    return module_daemon()


@pytest.fixture
def running(shared_daemon: Daemon) -> Daemon:
    """Empty the daemon."""
    shared_daemon.purge()
    return shared_daemon


@pytest.fixture
def follower(running: Daemon) -> Iterator[Client]:
    """A client that follows."""
    with Client(running.socket) as client:
        yield client


@pytest.fixture
def caller(kind: str, running: Daemon) -> Iterator[Caller]:
    """The client that holds."""
    with connecting(kind, running.socket) as make:
        yield make()


def function_of(model: Model, caller: Caller) -> Any:
    """Return the model's function for a kind of client."""
    return model.stream if caller.portal is None else model.astream


def is_stored(running: Daemon) -> bool:
    """Return whether the answer is stored."""
    return ask(running.socket, {"op": "get", "key": "k"})["type"] == "hit"


def returned(running: Daemon) -> None:
    """Wait until no lease is held."""
    poll(lambda: stats(running)["leases"] == 0, "the lease is kept")


def test_a_holder_that_does_not_read_delays_no_follower(
    running: Daemon, caller: Caller, follower: Client, model: Model
) -> None:
    """The holder's process runs the function; the holder gets every piece later, and the answer is stored before."""
    holder = Holder(caller, function_of(model, caller), "p", 50, key="k")
    model.lets(1)
    assert holder.take() == "p 1.0"
    reader = Reader(follower.stream(model.stream, "p", 50, key="k"))
    reader.has(1)
    model.free = True
    model.lets(1)
    began = time.monotonic()
    assert reader.ends() == pieces("p", 1, 50)
    assert time.monotonic() - began < 4  # a renewal, which would report the waiter too, comes every 5 seconds
    assert list(follower.stream(model.stream, "p", 50, key="k")) == pieces("p", 1, 50)
    assert holder.rest() == pieces("p", 1, 50)[1:]
    assert model.asked == model.closed == 1


def test_a_waiter_of_the_same_process_counts_as_well(caller: Caller, model: Model) -> None:
    """The daemon counts callers, not processes."""
    holder = Holder(caller, function_of(model, caller), "p", key="k")
    model.free = True
    assert holder.take() == "p 1.0"
    assert Holder(caller, function_of(model, caller), "p", key="k").rest() == pieces("p")
    assert holder.rest() == pieces("p")[1:]
    assert model.asked == 1


def test_a_slow_holder_gets_its_pieces_at_its_own_pace(
    running: Daemon, caller: Caller, follower: Client, model: Model
) -> None:
    """A holder reads slowly while the function is far ahead of it."""
    holder = Holder(caller, function_of(model, caller), "p", 20, key="k")
    model.free = True
    got = [holder.take()]
    reader = Reader(follower.stream(model.stream, "p", 20, key="k"))
    for _ in range(5):
        got.append(holder.take())
        reader.has(6)

    assert reader.ends() == got + holder.rest() == pieces("p", 1, 20)


@pytest.mark.parametrize("leave", [Holder.close, Holder.drop])
def test_a_holder_that_leaves_is_finished_for_its_followers(
    leave: Callable[[Holder], None], running: Daemon, caller: Caller, follower: Client, model: Model
) -> None:
    """A stream that its holder closes or drops goes on for its followers."""
    holder = Holder(caller, function_of(model, caller), "p", key="k")
    model.lets(1)
    assert holder.take() == "p 1.0"
    reader = Reader(follower.stream(model.stream, "p", key="k"))
    reader.has(1)
    leave(holder)
    model.lets(3)
    assert reader.ends() == pieces("p")
    returned(running)
    assert is_stored(running)
    poll(lambda: model.closed == 1, "the function was not closed")
    assert model.asked == 1


@pytest.mark.parametrize("leave", [Holder.close, Holder.drop])
def test_a_holder_that_leaves_alone_ends_the_call(
    leave: Callable[[Holder], None], running: Daemon, caller: Caller, model: Model
) -> None:
    """The function is closed and the lease returned before any garbage collection."""
    gc.disable()
    try:
        holder = Holder(caller, function_of(model, caller), "p", key="k")
        model.lets(1)
        assert holder.take() == "p 1.0"
        leave(holder)
        returned(running)
        poll(lambda: model.closed == 1, "the function was not closed")
    finally:
        gc.enable()

    assert not is_stored(running)


def test_a_holder_that_leaves_after_its_last_follower_ends_the_call(
    running: Daemon, caller: Caller, follower: Client, model: Model
) -> None:
    """The call ends at once while the function blocks; its thread closes the function later."""
    holder = Holder(caller, function_of(model, caller), "p", key="k")
    model.lets(1)
    assert holder.take() == "p 1.0"
    leaver = follower.stream(model.stream, "p", key="k")
    assert next(leaver) == "p 1.0"
    leaver.close()
    waits(running, 0)
    holder.close()
    returned(running)
    model.lets(1)
    poll(lambda: model.closed == 1, "the function was not closed")
    assert not is_stored(running)


def test_a_stream_that_is_not_read_and_not_waited_for_ends(
    kind: str, daemon: Callable[..., Daemon], model: Model
) -> None:
    """The stream ends after ``flights.idle_seconds``, and a later read raises."""
    running = daemon(SIDECARD_FLIGHTS_IDLE_SECONDS="0.3")
    with connecting(kind, running.socket) as make:
        caller = make()
        model.free = True
        holder = Holder(caller, function_of(model, caller), "p", 1_000, key="k")
        got = [holder.take()]
        poll(lambda: model.closed == 1, "the function was not closed")
        returned(running)
        with pytest.raises(CallFailed, match="did not read"):
            got.extend(iter(holder.take, None))

        assert len(got) < 1_000
        assert not is_stored(running)


def test_a_stream_that_is_read_in_time_does_not_end(kind: str, daemon: Callable[..., Daemon], model: Model) -> None:
    """The limit is for each piece, not for the whole."""
    idle_seconds, pause_seconds, count = 0.9, 0.05, 20
    running = daemon(SIDECARD_FLIGHTS_IDLE_SECONDS=str(idle_seconds))
    with connecting(kind, running.socket) as make:
        caller = make()
        model.free = True
        holder = Holder(caller, function_of(model, caller), "p", count, key="k")
        got = []
        for _ in range(count):
            got.append(holder.take())
            time.sleep(pause_seconds)

        assert count * pause_seconds > idle_seconds
        assert got == pieces("p", 1, count)
        assert holder.rest() == []
        assert is_stored(running)


def test_a_holder_that_is_too_far_behind_shares_no_more(
    running: Daemon, caller: Caller, follower: Client, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Followers with a piece fail; the holder has all pieces, the rest of them at its own pace."""
    monkeypatch.setattr(unread_pieces, "MAX_UNREAD_BYTES", 2_000)
    holder = Holder(caller, function_of(model, caller), "p", 200, key="k")
    model.lets(1)
    got = [holder.take()]
    reader = Reader(follower.stream(model.stream, "p", 200, key="k"))
    reader.has(1)
    model.free = True
    model.lets(1)
    with pytest.raises(CallFailed, match="reads too slowly") as failed:
        reader.ends()

    assert failed.value.kind == "ignored"
    assert model.closed == 0
    assert got + holder.rest() == pieces("p", 1, 200)
    assert not is_stored(running)


# Pieces for the caller, and for others ------------------------------------------------------------------------------------


def test_pieces_go_to_the_caller_or_to_others(caller: Caller, follower: Client) -> None:
    """`ForOwnCaller` and `ForOthers` divide pieces, with a daemon and without one."""

    def generate() -> Iterator[Any]:
        yield ForOwnCaller({"not": object})
        yield "both"
        yield ForOthers("others")

    holder = Holder(caller, generate, key="k")
    assert holder.rest() == [{"not": object}, "both"]
    assert list(follower.stream(generate, key="k")) == ["both", "others"]


def test_pieces_for_others_are_dropped_without_a_daemon(kind: str, socket_path: str) -> None:
    """The caller gets its own."""

    def generate() -> Iterator[Any]:
        yield ForOthers("others")
        yield ForOwnCaller("own")

    with connecting(kind, socket_path) as make:
        assert Holder(make(), generate, key="k").rest() == ["own"]


@pytest.mark.parametrize("leave", [Holder.close, Holder.drop])
def test_a_complete_answer_is_stored_although_its_function_goes_on(
    leave: Callable[[Holder], None], running: Daemon, caller: Caller, follower: Client
) -> None:
    """A caller that leaves at the terminal event has its answer stored while the server keeps the connection."""
    blocked = threading.Event()

    def generate() -> Iterator[Any]:
        yield "a"
        yield ENOUGH
        yield "[DONE]"
        blocked.wait(20)

    try:
        holder = Holder(caller, generate, key="k")
        assert [holder.take(), holder.take()] == ["a", "[DONE]"]
        began = time.monotonic()
        leave(holder)
        poll(lambda: is_stored(running), "the answer was not stored")
        assert time.monotonic() - began < 5
        assert list(follower.stream(generate, key="k")) == ["a", "[DONE]"]
    finally:
        blocked.set()


def test_a_complete_answer_that_others_wait_for_is_stored_when_its_caller_leaves(
    running: Daemon, caller: Caller, follower: Client
) -> None:
    """The thread or task that runs ahead is in the function then."""
    blocked = threading.Event()

    def generate() -> Iterator[Any]:
        yield "a"
        yield ENOUGH
        yield "[DONE]"
        blocked.wait(20)

    try:
        holder = Holder(caller, generate, key="k")
        assert holder.take() == "a"
        reader = Reader(follower.stream(generate, key="k"))
        reader.has(2)
        assert holder.take() == "[DONE]"
        holder.close()
        began = time.monotonic()
        assert reader.ends() == ["a", "[DONE]"]
        assert time.monotonic() - began < 10
    finally:
        blocked.set()


# Failures, limits, forks --------------------------------------------------------------------------------------------------


class Refused(Exception):
    """A failure with a detail."""

    kind = "fatal"
    detail = {"status": 400, "body": b"no"}  # noqa: RUF012 - as a transport's exception has it


def test_waiters_get_the_detail_of_a_failure(running: Daemon, caller: Caller, follower: Client) -> None:
    """The detail of the holder's exception arrives in the waiters' `CallFailed`."""
    waiting = threading.Event()

    def refuse() -> Iterator[str]:
        assert waiting.wait(20)
        raise Refused("no")
        yield ""

    reader = Reader(follower.stream(refuse, key="k"))
    poll(lambda: stats(running)["leases"] == 1, "no lease")
    failed: list[BaseException] = []

    def read() -> None:
        try:
            Holder(caller, refuse, key="k").rest()
        except CallFailed as error:
            failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    waits(running, 1)
    waiting.set()
    thread.join(20)
    with pytest.raises(Refused):
        reader.ends()

    assert [error.detail for error in failed if isinstance(error, CallFailed)] == [Refused.detail]


def test_the_longest_wait_is_none_of_the_daemons(kind: str, daemon: Callable[..., Daemon], model: Model) -> None:
    """A caller without a limit of its own outlasts the daemon's default."""
    running = daemon(SIDECARD_FLIGHTS_WAIT_SECONDS="0.2")
    with Client(running.socket) as client, connecting(kind, running.socket) as make:
        reader = Reader(client.stream(model.stream, "p", key="k"))
        poll(lambda: model.asked == 1, "the model was never asked")
        waiting = Reader(client.stream(model.stream, "p", key="k", wait=MAX_SECONDS))
        waits(running, 1)
        short = Holder(make(), model.stream, "p", key="k")
        with pytest.raises(TimeoutError):
            short.take()

        model.lets(4)
        assert reader.ends() == waiting.ends() == pieces("p")


def test_a_forked_child_does_not_wait_for_a_thread_of_its_parent(
    running: Daemon, follower: Client, model: Model
) -> None:
    """The thread that runs ahead exists in the parent only; a stream without one goes on in the child, unshared."""
    with Client(running.socket) as client:
        ahead, own = client.stream(model.stream, "ahead"), client.stream(model.stream, "own")
        model.lets(2)
        assert (next(ahead), next(own)) == ("ahead 1.0", "own 2.0")
        reader = Reader(follower.stream(model.stream, "ahead"))
        reader.has(1)
        poll(lambda: _names().count("sidecard-stream") == 1, "no thread runs ahead")
        model.lets(3)
        pid = os.fork()
        if pid == 0:  # pragma: no cover - in the child
            code = 1
            try:
                next(own)
                list(ahead)
            except CallFailed as error:
                code = 0 if "forked" in str(error) else 2
            finally:
                os._exit(code)

        assert os.waitpid(pid, 0)[1] == 0
        model.free = True
        model.lets(1)
        assert reader.ends() == pieces("ahead")
        assert list(ahead) == pieces("ahead")[1:]


def _names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_the_backlog_of_a_dropped_follower_is_withdrawn(running: Daemon, caller: Caller, model: Model) -> None:
    """A follower without references does not fill its process's memory to the end of the stream."""
    with Client(running.socket) as client:
        holder = Reader(client.stream(model.stream, "p", key="k"))
        poll(lambda: model.asked == 1, "the model was never asked")
        model.lets(1)
        dropped = Holder(caller, function_of(model, caller), "p", key="k")
        assert dropped.take() == "p 1.0"
        waits(running, 1)
        gc.disable()  # no reference cycle is to be collected
        try:
            dropped.drop()
            waits(running, 0)
        finally:
            gc.enable()

        model.lets(3)
        assert holder.ends() == pieces("p")
        assert ask(running.socket, {"op": "stats"})["leases"] == 0
