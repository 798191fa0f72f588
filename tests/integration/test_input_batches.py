"""`call_each` of both clients against a real daemon: order, sharing between callers, failures, and the loss of the daemon."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from sidecard_client import AsyncClient, CallFailed, Client, DaemonUnavailable, WrongAnswers
from tests.callers import KINDS, Caller, connecting
from tests.daemons import Daemon, ask, poll


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Run tests with each kind of client."""
    kind: str = request.param
    return kind


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Start one daemon for all tests that do not end it: each has names of its own."""
    running = Daemon(str(tmp_path_factory.mktemp("d") / "s.sock"))
    yield running
    running.close()


@pytest.fixture
def connect(kind: str, running: Daemon) -> Iterator[Callable[..., Caller]]:
    """Make clients."""
    with connecting(kind, running.socket) as make:
        yield make


class Backend:
    """A function of many inputs that records them. Its name is the test's, so that no two tests share."""

    def __init__(self, test: pytest.FixtureRequest) -> None:
        self.name = test.node.name
        self.calls: list[list[str]] = []
        self.error: Exception | None = None
        self.gate: threading.Event | None = None

    def shout(self, inputs: list[str]) -> list[str]:
        """Answer each."""
        self.calls.append(inputs)
        if self.gate is not None:
            assert self.gate.wait(10)

        if self.error is not None:
            raise self.error

        return [one.upper() for one in inputs]


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    """A backend that answers."""
    return Backend(request)


def test_known_inputs_are_not_asked_again(connect: Callable[..., Caller], backend: Backend) -> None:
    """Answers are in order, duplicates are asked once, and the ledger counts the calls and not the inputs."""
    caller, task = connect(), backend.name[:60]
    policy = {"name": backend.name, "task": task, "usage": lambda _: {"prompt_tokens": 30, "cost_dollars": 0.3}}
    assert caller.ask("call_each", backend.shout, ["a", "b", "a"], **policy) == ["A", "B", "A"]
    outcomes = caller.ask("outcome_each", backend.shout, iter(["c", "b"]), **policy)

    assert [(outcome.value, outcome.source) for outcome in outcomes] == [("C", "upstream"), ("B", "cache")]
    assert outcomes[1].saved_dollars == pytest.approx(0.15)
    assert backend.calls == [["a", "b"], ["c"]]
    ledger = caller.ask("report").tasks[task]
    assert (ledger.upstream_calls, ledger.hits) == (2, 1)
    assert ledger.billed_dollars == pytest.approx(0.6)
    assert caller.ask("call_each", backend.shout, [], **policy) == []


def test_a_single_call_shares_under_a_common_name(connect: Callable[..., Caller], backend: Backend) -> None:
    """``call(one, input, name=...)`` gets what ``call_each(many, inputs, name=...)`` has stored."""
    caller = connect()
    caller.ask("call_each", backend.shout, ["a"], name=backend.name)
    assert caller.outcome(str.upper, "a", name=backend.name).source == "cache"


def test_callers_with_overlapping_inputs_share(connect: Callable[..., Caller], backend: Backend) -> None:
    """The second caller calls for its own input while the first call runs, and then gets the first caller's answers."""
    backend.gate = threading.Event()
    one, other = connect(), connect()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(one.ask, "outcome_each", backend.shout, ["x", "y"], name=backend.name)
        poll(lambda: len(backend.calls) == 1, "the first call does not start")
        second = pool.submit(other.ask, "outcome_each", backend.shout, ["y", "z", "x"], name=backend.name)
        poll(lambda: len(backend.calls) == 2, "the second call does not start")
        backend.gate.set()
        first.result(10)
        outcomes = second.result(10)

    assert [(outcome.value, outcome.source) for outcome in outcomes] == [
        ("Y", "shared"),
        ("Z", "upstream"),
        ("X", "shared"),
    ]
    assert backend.calls == [["x", "y"], ["z"]]


def test_a_failure_is_the_caller_s_own(
    connect: Callable[..., Caller], backend: Backend, request: pytest.FixtureRequest
) -> None:
    """A caller that waits for one of the inputs makes its own call."""
    backend.gate = threading.Event()
    one, other = connect(), connect()
    failing = Backend(request)
    failing.gate, failing.error = backend.gate, ValueError("bad text")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(one.ask, "call_each", failing.shout, ["good", "bad"], name=backend.name)
        poll(lambda: len(failing.calls) == 1, "the first call does not start")
        second = pool.submit(other.ask, "call_each", backend.shout, ["good", "own"], name=backend.name)
        poll(lambda: len(backend.calls) == 1, "the second call does not start")
        backend.gate.set()
        with pytest.raises(ValueError, match="bad text"):
            first.result(10)

        assert second.result(10) == ["GOOD", "OWN"]

    assert sorted(backend.calls) == [["good"], ["own"]]
    assert one.ask("stats").leases == 0


def test_wrong_answers_are_named(connect: Callable[..., Caller], backend: Backend) -> None:
    """The message has the function, what it returned and what it must return."""
    caller = connect()

    def first_only(inputs: list[str]) -> list[str]:
        return inputs[:1]

    with pytest.raises(
        WrongAnswers, match=r"first_only\(\) returned a list of 1 for 2 inputs: return one answer for each"
    ):
        caller.ask("call_each", first_only, ["a", "b"], name=backend.name)

    assert caller.ask("stats").leases == 0


def test_several_thousand_inputs(connect: Callable[..., Caller], backend: Backend) -> None:
    """A long list is answered by calls of ``max_batch`` inputs."""
    inputs = [f"text {number}" for number in range(3000)]
    caller = connect()
    assert caller.ask("call_each", backend.shout, inputs, name=backend.name) == [one.upper() for one in inputs]
    caller.ask("call_each", backend.shout, [*inputs, *"abcde"], name=backend.name, max_batch=2)
    assert [len(call) for call in backend.calls] == [1000, 1000, 1000, 2, 2, 1]


def test_long_calls_keep_their_leases(
    kind: str, daemon: Callable[..., Daemon], backend: Backend, request: pytest.FixtureRequest
) -> None:
    """All leases of a call are renewed while it runs, and replies that arrive meanwhile are not lost."""
    # Renewed often, so that a busy machine does not end a lease; without renewals, it ends within the wait below.
    running = daemon(SIDECARD_FLIGHTS_LEASE_SECONDS="1", SIDECARD_FLIGHTS_RENEW_SECONDS="0.1")
    backend.gate = threading.Event()
    with connecting(kind, running.socket) as make, ThreadPoolExecutor() as pool:
        one, other = make(), make()
        short = pool.submit(other.ask, "call_each", backend.shout, ["x"], name="n")
        poll(lambda: len(backend.calls) == 1, "the first call does not start")
        slow, slow_gate = Backend(request), threading.Event()
        slow.gate = slow_gate
        long = pool.submit(one.ask, "call_each", slow.shout, ["a", "b", "c", "x"], name="n")
        poll(lambda: len(slow.calls) == 1, "the second call does not start")
        backend.gate.set()
        short.result(10)
        threading.Event().wait(1.2)  # longer than a lease that is not renewed, or only at first
        assert one.ask("stats").leases == 3
        slow_gate.set()
        assert long.result(10) == ["A", "B", "C", "X"]
        assert slow.calls == [["a", "b", "c"]]
        assert one.ask("stats").cache_entries == 4


def test_the_daemon_dies_while_the_call_runs(kind: str, daemon: Callable[..., Daemon], backend: Backend) -> None:
    """The answers reach the caller, and later calls are made without it."""
    running = daemon()
    backend.gate = threading.Event()
    with connecting(kind, running.socket) as make, ThreadPoolExecutor() as pool:
        caller = make()
        call = pool.submit(caller.ask, "call_each", backend.shout, ["a", "b"], name="n")
        poll(lambda: len(backend.calls) == 1, "the call does not start")
        running.kill()
        backend.gate.set()
        assert call.result(10) == ["A", "B"]
        outcomes = caller.ask("outcome_each", backend.shout, ["a", "c", "a"], name="n")
        assert [outcome.source for outcome in outcomes] == ["fallback"] * 3
        assert backend.calls[1:] == [["a", "c"]]
        with pytest.raises(DaemonUnavailable):
            caller.ask("call_each", backend.shout, ["a"], name="n", on_unavailable="raise")


def test_without_a_daemon_a_process_shares(kind: str, socket_path: str, backend: Backend) -> None:
    """The second caller waits for the first one's inputs, and calls for its own."""
    backend.gate = threading.Event()
    with connecting(kind, socket_path) as make, ThreadPoolExecutor() as pool:
        caller = make()
        first = pool.submit(caller.ask, "call_each", backend.shout, ["a", "b"], name="n")
        poll(lambda: len(backend.calls) == 1, "the first call does not start")
        second = pool.submit(caller.ask, "call_each", backend.shout, ["b", "c"], name="n")
        poll(lambda: len(backend.calls) == 2, "the second call does not start")
        backend.gate.set()
        assert (first.result(10), second.result(10)) == (["A", "B"], ["B", "C"])
        assert backend.calls == [["a", "b"], ["c"]]


@pytest.mark.anyio
async def test_a_canceled_batch_gives_everything_back(running: Daemon, backend: Backend) -> None:
    """The inputs of a canceled batch get another holder, and its pending begins are withdrawn."""
    started = anyio.Event()

    async def hang(inputs: list[str]) -> list[str]:
        started.set()
        await anyio.sleep_forever()
        return inputs

    async with AsyncClient(running.socket) as one, AsyncClient(running.socket) as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: one.call_each(hang, ["a", "b"], name=backend.name))
            await started.wait()
            with anyio.move_on_after(0.2):
                await other.call_each(backend.shout, ["b"], name=backend.name)

            tasks.cancel_scope.cancel()

        assert await other.call_each(backend.shout, ["a", "b"], name=backend.name) == ["A", "B"]
        stats = await other.stats()
        assert (stats.leases, stats.waiters, stats.flights) == (0, 0, 0)


def test_an_interrupted_batch_gives_everything_back(running: Daemon, backend: Backend) -> None:
    """After Ctrl-C in the function, the next caller gets the leases of the inputs."""

    def interrupted(inputs: list[str]) -> list[str]:
        raise KeyboardInterrupt

    with Client(running.socket) as sidecard:
        with pytest.raises(KeyboardInterrupt):
            sidecard.call_each(interrupted, ["a", "b"], name=backend.name)

        assert sidecard.call_each(backend.shout, ["b", "a"], name=backend.name) == ["B", "A"]
        assert sidecard.stats().leases == 0


def test_values_are_typed_one_by_one(connect: Callable[..., Caller], backend: Backend) -> None:
    """``returns=``, or the annotation's item, is the type of one answer."""
    caller = connect()

    def pairs(inputs: list[str]) -> list[tuple[str, int]]:
        backend.calls.append(inputs)
        return [(one, len(one)) for one in inputs]

    for _ in range(2):
        assert caller.ask("call_each", pairs, ["a", "bb"], name=backend.name) == [("a", 1), ("bb", 2)]

    assert backend.calls == [["a", "bb"]]


def test_duplicates_are_copies(connect: Callable[..., Caller], backend: Backend) -> None:
    """A caller that changes one answer does not change another one."""
    caller = connect()

    def vectors(inputs: list[str]) -> list[Any]:
        return [[1.0] for _ in inputs]

    one, other = caller.ask("call_each", vectors, ["a", "a"], name=backend.name)
    one.append(2.0)
    assert other == [1.0]


@pytest.mark.parametrize(("context", "calls"), [("one", 1), ("other", 2)])
def test_fatal_failure_of_an_input_is_shared_between_equal_contexts(
    context: str, calls: int, connect: Callable[..., Caller], running: Daemon, backend: Backend
) -> None:
    """What is outside the key may be the reason of the failure: a waiter that differs in it makes its own call."""
    backend.gate, backend.error = threading.Event(), ValueError("bad")
    keys, policy = [backend.name], {"task": backend.name[:60]}

    def fail_with(context: str) -> Exception:
        with pytest.raises((ValueError, CallFailed)) as failed:
            connect().ask("outcome_keyed", backend.shout, ["a"], keys, policy, context)

        return failed.value

    with ThreadPoolExecutor() as threads:
        first = threads.submit(fail_with, "one")
        poll(lambda: len(backend.calls) == 1, "the first call was not made")
        second = threads.submit(fail_with, context)
        poll(lambda: ask(running.socket, {"op": "stats"})["waiters"] == 1, "the second caller does not wait")
        backend.gate.set()
        assert type(first.result()) is ValueError
        assert type(second.result()) is (CallFailed if calls == 1 else ValueError)

    assert len(backend.calls) == calls
