"""The blocking client against a daemon that follows a script: every reply, and every way of having none."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

import sidecard_client
from sidecard_client import (
    CallFailed,
    CallRejected,
    CallTimeout,
    Client,
    DaemonUnavailable,
    Outcome,
    RequestRefused,
    SidecardWarning,
)
from sidecard_client.call import availability
from sidecard_client.call.availability import FIRST_BACK_OFF_SECONDS
from sidecard_client.protocol import wire
from tests.daemons import Daemon
from tests.scripted_daemon import (
    CLOSE,
    DIE,
    HANG,
    PENDING,
    After,
    Delayed,
    ScriptedDaemon,
    hit,
    lease,
    shared,
    short_path,
    wait_until,
)

PATIENCE_SECONDS = 0.3
"""The clients' ``daemon_timeout`` where a test lets the daemon hang."""

STALL_SECONDS = 2.0
"""How much longer than its patience a call may take on a busy machine."""


class Upstream:
    """A backend's function that counts its calls and can be held back."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.errors: list[BaseException] = []
        self.value: Any = None
        self.gate: threading.Event | None = None

    def generate(self, prompt: str) -> Any:
        """Answer, or raise the next error."""
        self.prompts.append(prompt)
        if self.gate is not None:
            assert self.gate.wait(10)

        if self.errors:
            raise self.errors.pop(0)

        return self.value if self.value is not None else f"answer to {prompt}"


@pytest.fixture
def upstream() -> Upstream:
    """A backend that answers."""
    return Upstream()


@pytest.fixture
def path() -> Iterator[str]:
    """A place for a socket."""
    with short_path() as path:
        yield path


@pytest.fixture
def daemon(path: str) -> Iterator[ScriptedDaemon]:
    """A daemon at `path`."""
    with ScriptedDaemon(path) as daemon:
        yield daemon


@pytest.fixture
def client(path: str) -> Iterator[Client]:
    """A client of whatever is at `path`."""
    with Client(path) as client:
        yield client


@pytest.fixture
def hasty(path: str) -> Iterator[Client]:
    """A client that soon loses its patience."""
    with Client(path, daemon_timeout=PATIENCE_SECONDS) as client:
        yield client


def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Start a call beside the test and return its future."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(function, *args, **kwargs)
    pool.shutdown(wait=False)
    return future


# Every answer to a begin


def test_lease_makes_the_call_and_completes(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """The value goes to its caller and to the daemon, with policy and price."""
    upstream.value = {"text": ["x", 1, None]}
    outcome = client.outcome(
        upstream.generate, "p", task="rag", ttl=60, tags=["t"], usage=lambda _value: {"cost_dollars": 0.5}
    )
    assert outcome.value == {"text": ["x", 1, None]}
    assert (outcome.source, outcome.backend, outcome.saved_seconds) == ("upstream", "default", 0.0)
    (begin,) = daemon.requests(wire.Begin)
    assert (begin.task, begin.ttl_seconds, begin.backends) == ("rag", 60.0, ())
    (complete,) = daemon.requests(wire.Complete)
    assert msgspec.msgpack.decode(complete.value) == upstream.value
    assert (complete.ttl_seconds, complete.tags, complete.usage) == (60.0, ("t",), wire.Usage(cost_dollars=0.5))


def test_hit_runs_nothing(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """The stored answer, with its age and what it saved."""
    daemon.script(wire.Begin, hit("v"), hit("old", stale=True))
    outcome = client.outcome(upstream.generate, "p")
    assert (outcome.value, outcome.source, outcome.age_seconds) == ("v", "cache", 3.0)
    assert (outcome.saved_seconds, outcome.saved_dollars) == (2.0, 0.25)
    assert client.outcome(upstream.generate, "p").source == "stale"
    assert upstream.prompts == []


def test_hit_larger_than_a_buffer(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """Answers come in as many pieces as the kernel likes."""
    value = "x" * 3_000_000
    daemon.script(wire.Begin, hit(value), hit("small"))
    assert client.call(upstream.generate, "p") == value
    assert client.call(upstream.generate, "p") == "small"


def test_pending_waits_for_another_callers_answer(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """It is given as soon as it is there."""
    ready = threading.Event()
    daemon.script(wire.Begin, [PENDING, After(ready, shared("v"))])
    future = in_thread(client.outcome, upstream.generate, "p")
    daemon.wait_for(wire.Begin)
    ready.set()
    outcome = future.result(10)
    assert (outcome.value, outcome.source) == ("v", "shared")
    assert upstream.prompts == []


def test_pending_outlives_the_daemon_timeout(daemon: ScriptedDaemon, hasty: Client, upstream: Upstream) -> None:
    """A daemon that answers pings may let wait as long as it likes."""
    daemon.script(wire.Begin, [PENDING, Delayed(5 * PATIENCE_SECONDS, shared("v"))], hit("next"))
    outcome = hasty.outcome(upstream.generate, "p")
    assert (outcome.value, outcome.source) == ("v", "shared")
    assert len(daemon.requests(wire.Ping)) >= 2
    assert hasty.call(upstream.generate, "p") == "next"


def test_pending_then_lease_leads(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """A waiter may be elected."""
    daemon.script(wire.Begin, [PENDING, lease(attempt=2)])
    assert client.outcome(upstream.generate, "p").source == "upstream"
    assert len(daemon.wait_for(wire.Complete)) == 1


def test_failed_is_raised(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """The holder's kind and message."""
    daemon.script(wire.Begin, [PENDING, wire.Failed(id=0, kind="fatal", message="bad prompt")])
    with pytest.raises(CallFailed, match="bad prompt") as caught:
        client.call(upstream.generate, "p")

    assert caught.value.kind == "fatal"
    assert upstream.prompts == []


def test_failed_ignored_makes_the_call(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """The holder's answer could not be shared, so each makes its own, where and when the daemon says."""
    daemon.script(wire.Begin, [PENDING, wire.Failed(id=0, kind="ignored", message="")])
    assert client.outcome(upstream.generate, "p").source == "upstream"
    assert upstream.prompts == ["p"]
    first, second = daemon.requests(wire.Begin)
    assert first.key is not None
    assert second.key is None


def test_timeout_is_raised(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """The caller's own ``wait``; it is a `TimeoutError` too."""
    daemon.script(wire.Begin, [PENDING, wire.Timeout(id=0, waited_seconds=0.1)])
    with pytest.raises(TimeoutError) as caught:
        client.call(upstream.generate, "p", wait=0.1)

    assert isinstance(caught.value, CallTimeout)
    assert daemon.requests(wire.Begin)[0].wait_seconds == 0.1


def test_timeout_that_the_daemon_forgets(
    daemon: ScriptedDaemon, hasty: Client, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every wait ends by its own deadline, whatever the daemon does."""
    monkeypatch.setattr("sidecard_client._sync.connector.LATE_SECONDS", 0.0)
    daemon.script(wire.Begin, PENDING)
    with pytest.raises(CallTimeout):
        hasty.call(upstream.generate, "p", wait=0.1)

    wait_until(lambda: daemon.ended == [0])  # its late answer finds no waiter


@pytest.mark.parametrize("reason", ["busy", "draining"])
def test_rejected_by_a_full_daemon_falls_back(
    daemon: ScriptedDaemon, client: Client, upstream: Upstream, reason: Any
) -> None:
    """The call is made as if there were no daemon; the daemon is asked again by the next."""
    daemon.script(wire.Begin, wire.Rejected(id=0, reason=reason), hit("v"))
    assert client.outcome(upstream.generate, "p").source == "fallback"
    assert client.outcome(upstream.generate, "p").source == "cache"


def test_rejected_by_policy_is_raised(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """Only if cached is only if cached."""
    daemon.script(wire.Begin, wire.Rejected(id=0, reason="not_cached"))
    with pytest.raises(CallRejected, match="not_cached"):
        client.call(upstream.generate, "p", mode="only_if_cached")

    assert daemon.requests(wire.Begin)[0].mode == "only_if_cached"
    assert upstream.prompts == []


def test_error_falls_back_and_says_so(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """A refusal is no reason to fail, but a reason to speak."""
    daemon.script(wire.Begin, wire.Error(id=0, code="denied", message="that namespace is not yours"))
    with pytest.warns(SidecardWarning, match="not yours"):
        assert client.outcome(upstream.generate, "p").source == "fallback"


NONSENSE: dict[str, Any] = {
    "bytes that are no frame": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a frame that is no message": b"\x00\x00\x00\x03abc",
    "half a frame": [b"\x00\x00\x01", CLOSE],
    "a huge frame": b"\xff\xff\xff\xff" + b"x" * 100,
    "a reply of another request": lambda request: (
        wire.pack(hit("not yours")) and _framed(hit("not yours"), request.id + 7)
    ),
    "a reply that answers no begin": wire.Ok(id=0),
    "pending and then nonsense": [PENDING, wire.Ok(id=0)],
    "pending twice": [PENDING, PENDING],
}


def _framed(reply: wire.Reply, request_id: int) -> bytes:
    body = wire.pack(msgspec.structs.replace(reply, id=request_id))
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize("step", NONSENSE.values(), ids=NONSENSE)
def test_invalid_bytes_fall_back(daemon: ScriptedDaemon, hasty: Client, upstream: Upstream, step: Any) -> None:
    """Never an error, never another's value, and the connection is not used again."""
    daemon.always(wire.Begin, step)
    outcome = hasty.outcome(upstream.generate, "p")
    assert (outcome.value, outcome.source) == ("answer to p", "fallback")
    wait_until(lambda: 0 in daemon.ended)


def test_a_late_answer_is_not_delivered(daemon: ScriptedDaemon, hasty: Client, upstream: Upstream) -> None:
    """1. no answer in time; 2. the call goes on without; 3. the answer comes; 4. the next call does not get it."""
    late = threading.Event()
    daemon.script(wire.Begin, After(late, hit("late")), hit("right"))
    assert hasty.outcome(upstream.generate, "p").source == "fallback"
    late.set()

    def recovered() -> bool:
        outcome = hasty.outcome(upstream.generate, "q")
        assert outcome.value in {"right", "answer to q"}
        return bool(outcome.value == "right")

    wait_until(recovered)


def test_an_error_of_the_whole_connection_is_raised(daemon: ScriptedDaemon, client: Client) -> None:
    """It has no request's id, and the connection is not used again."""
    daemon.script(wire.Get, [_framed(wire.Error(id=0, code="too_large", message="smaller"), 0), CLOSE])
    with pytest.raises(RequestRefused, match="smaller"):
        client.get("k")

    assert client.get("k") is None
    assert [taken.connection for taken in daemon.taken] == [0, 1]


# Failures of the call


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ValueError("bad"), "fatal"), (TimeoutError("slow"), "transient"), (KeyboardInterrupt(), "cancelled")],
)
def test_an_exception_reaches_its_caller_and_its_kind_the_daemon(
    daemon: ScriptedDaemon, client: Client, upstream: Upstream, error: BaseException, kind: str
) -> None:
    """The very same object; the connection is kept."""
    upstream.errors = [error]
    with pytest.raises(type(error)) as caught:
        client.call(upstream.generate, "p")

    assert caught.value is error
    (fail,) = daemon.wait_for(wire.Fail, 1)
    assert (fail.kind, fail.next) == (kind, False)
    client.call(upstream.generate, "q")
    assert {taken.connection for taken in daemon.taken} == {0}


def test_classify_decides(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """The user's hook."""
    upstream.errors = [ValueError("odd")]
    with pytest.raises(ValueError, match="odd"):
        client.call(upstream.generate, "p", classify=lambda _error: "transient")

    assert daemon.requests(wire.Fail)[0].kind == "transient"


def test_a_value_that_cannot_be_shared(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """Its caller gets it, the waiters make their own calls, and one warning is issued."""

    def unshareable(prompt: str) -> object:
        return (prompt,)

    with pytest.warns(SidecardWarning, match="unshareable.*tuple"):
        assert client.call(unshareable, "p") == ("p",)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert client.call(unshareable, "p") == ("p",)

    assert [fail.kind for fail in daemon.requests(wire.Fail)] == ["ignored", "ignored"]
    assert daemon.requests(wire.Complete) == []


def test_a_value_that_is_too_large(daemon: ScriptedDaemon, client: Client) -> None:
    """It is not sent: no frame holds it."""

    def enormous() -> bytes:
        return bytes(wire.MAX_FRAME_BYTES)

    with pytest.warns(SidecardWarning, match="too large"):
        assert len(client.call(enormous)) == wire.MAX_FRAME_BYTES

    (fail,) = daemon.requests(wire.Fail)
    assert fail.kind == "ignored"


def test_a_stale_lease_costs_nothing(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """The caller gets its value, even if another holder has taken over."""
    daemon.script(wire.Complete, wire.StaleLease(id=0))
    assert client.outcome(upstream.generate, "p").source == "upstream"
    client.call(upstream.generate, "q")
    assert {taken.connection for taken in daemon.taken} == {0}


@pytest.mark.parametrize("step", [HANG, CLOSE, b"garbage!", DIE, wire.Error(id=0, code="internal", message="")])
def test_a_daemon_that_fails_at_the_end_costs_nothing(
    daemon: ScriptedDaemon, hasty: Client, upstream: Upstream, step: Any
) -> None:
    """A report that fails never masks value or exception."""
    daemon.script(wire.Complete, step)
    assert hasty.outcome(upstream.generate, "p").value == "answer to p"


@pytest.mark.parametrize("step", [HANG, CLOSE, b"garbage!", DIE])
def test_a_daemon_that_fails_at_a_failure_masks_nothing(
    daemon: ScriptedDaemon, hasty: Client, upstream: Upstream, step: Any
) -> None:
    """As above, for exceptions."""
    daemon.script(wire.Fail, step)
    upstream.errors = [ValueError("mine")]
    with pytest.raises(ValueError, match="mine"):
        hasty.call(upstream.generate, "p")


# Several backends


def test_the_lease_chooses_the_backend(daemon: ScriptedDaemon, client: Client) -> None:
    """The daemon knows which one is up."""
    daemon.script(wire.Begin, lease("cloud"))
    outcome = client.outcome({"local": str.lower, "cloud": str.upper}, "aB", name="n")
    assert (outcome.value, outcome.backend) == ("AB", "cloud")
    assert daemon.requests(wire.Begin)[0].backends == ("local", "cloud")


def test_a_transient_failure_asks_for_the_next_backend(
    daemon: ScriptedDaemon, client: Client, upstream: Upstream
) -> None:
    """The flight goes on: waiters stay where they are."""
    upstream.errors = [ConnectionError("down")]
    second = lease("cloud")
    daemon.script(wire.Begin, lease("local"))
    daemon.script(wire.Fail, second)
    outcome = client.outcome({"local": upstream.generate, "cloud": str.upper}, "p", name="n")
    assert (outcome.value, outcome.backend, outcome.source) == ("P", "cloud", "upstream")
    assert daemon.requests(wire.Fail)[0].next
    assert daemon.requests(wire.Complete)[0].lease == second.lease


def test_the_last_backends_failure_is_raised(daemon: ScriptedDaemon, client: Client) -> None:
    """The second exception is reported without asking for another backend."""
    first, second = Upstream(), Upstream()
    first.errors, second.errors = [ConnectionError("1")], [TimeoutError("2")]
    daemon.script(wire.Begin, lease("local"))
    daemon.script(wire.Fail, lease("cloud"))
    with pytest.raises(TimeoutError, match="2"):
        client.call({"local": first.generate, "cloud": second.generate}, "p", name="n")

    assert [fail.next for fail in daemon.requests(wire.Fail)] == [True, False]


def test_a_daemon_without_another_backend_ends_the_call(daemon: ScriptedDaemon, client: Client) -> None:
    """``ok`` means: none is left, or none may be used."""
    first, second = Upstream(), Upstream()
    first.errors = [ConnectionError("1")]
    daemon.script(wire.Begin, lease("local"))
    with pytest.raises(ConnectionError):
        client.call({"local": first.generate, "cloud": second.generate}, "p", name="n")

    assert second.prompts == []


@pytest.mark.parametrize("step", [HANG, CLOSE, DIE, wire.StaleLease(id=0), lease("local")])
def test_the_next_backend_without_the_daemon(daemon: ScriptedDaemon, hasty: Client, step: Any) -> None:
    """A void lease or a lost daemon is no reason to give up what another backend can answer."""
    first, second = Upstream(), Upstream()
    first.errors = [ConnectionError("1")]
    daemon.script(wire.Begin, lease("local"))
    daemon.script(wire.Fail, step)
    outcome = hasty.outcome({"local": first.generate, "cloud": second.generate}, "p", name="n")
    assert (outcome.value, outcome.backend) == ("answer to p", "cloud")


def test_an_interruption_in_the_wait_after_a_failure_leaves_nothing(
    daemon: ScriptedDaemon, client: Client, upstream: Upstream
) -> None:
    """The connection is closed, and with it whatever the daemon would have granted."""
    upstream.errors = [ConnectionError("1")]
    daemon.script(wire.Fail, PENDING)

    def interrupt() -> None:
        daemon.wait_for(wire.Ping)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        client.call(upstream.generate, "p", retries=1)

    interrupter.join()
    wait_until(lambda: daemon.ended == [0])
    assert client._interpreter.flights._flights == {}


@pytest.mark.parametrize("error", [None, ValueError("bad")])
def test_an_interruption_before_the_report_is_sent_leaves_no_lease(
    daemon: ScriptedDaemon, client: Client, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """The connection is closed. If it were kept, the lease would be the daemon's until it expires."""
    upstream.errors = [error] if error else []

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client._connector, "exchange", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.call(upstream.generate, "p")

    wait_until(lambda: daemon.ended == [0])


def test_an_error_instead_of_another_lease_gives_the_first_one_back(
    daemon: ScriptedDaemon, client: Client, upstream: Upstream
) -> None:
    """Whether it has ended is unknown, so the connection is closed."""
    upstream.errors = [ConnectionError("1")]
    daemon.script(wire.Fail, wire.Error(id=0, code="internal", message=""))
    with pytest.raises(ConnectionError):
        client.call(upstream.generate, "p", retries=1)

    wait_until(lambda: daemon.ended == [0])


def test_an_unusable_lease_is_returned(daemon: ScriptedDaemon, client: Client) -> None:
    """A second lease on a backend that has failed already: the connection is closed, so the lease is lost immediately."""
    first = Upstream()
    first.errors = [ConnectionError("1")]
    daemon.script(wire.Begin, lease("local"))
    daemon.script(wire.Fail, lease("local"))
    assert client.call({"local": first.generate, "cloud": str.upper}, "p", name="n") == "P"
    wait_until(lambda: daemon.ended == [0])


# Without a daemon


def test_no_daemon_at_all(client: Client, upstream: Upstream) -> None:
    """Making the client did not fail, and neither does the call."""
    outcome = client.outcome(upstream.generate, "p")
    assert outcome == Outcome("answer to p", "fallback", waited_seconds=outcome.waited_seconds)
    assert "down" in repr(client)


def test_no_daemon_and_the_error_is_wanted(path: str, upstream: Upstream) -> None:
    """``on_unavailable="raise"``, for one call or for all."""
    with Client(path, on_unavailable="raise") as client:
        with pytest.raises(DaemonUnavailable, match=path):
            client.call(upstream.generate, "p")

        assert client.outcome(upstream.generate, "p", on_unavailable="fallback").source == "fallback"


def test_no_daemon_and_only_if_cached(client: Client, upstream: Upstream) -> None:
    """It never makes a call, so there is nothing to fall back to."""
    with pytest.raises(CallRejected, match="not_cached"):
        client.call(upstream.generate, "p", mode="only_if_cached")

    assert upstream.prompts == []


def test_no_daemon_and_several_backends(client: Client, upstream: Upstream) -> None:
    """They are tried in order; a fatal failure ends that."""
    upstream.errors = [ConnectionError(), ValueError("bad")]
    functions: dict[str, Callable[..., Any]] = {"local": upstream.generate, "cloud": str.upper}
    assert client.outcome(functions, "p", name="n").backend == "cloud"
    with pytest.raises(ValueError, match="bad"):
        client.call(functions, "p", name="n")


def test_no_daemon_and_no_key(client: Client, upstream: Upstream) -> None:
    """Nothing is shared, within the process neither."""
    upstream.gate = threading.Event()
    futures = [in_thread(client.call, upstream.generate, "p", key=None) for _ in range(3)]
    wait_until(lambda: len(upstream.prompts) == 3)
    upstream.gate.set()
    assert [future.result(10) for future in futures] == ["answer to p"] * 3


def test_threads_share_one_call_without_a_daemon(client: Client, upstream: Upstream) -> None:
    """Single-flight within the process; each has its own copy."""
    upstream.gate = threading.Event()
    upstream.value = ["x"]
    futures = [in_thread(client.outcome, upstream.generate, "p") for _ in range(20)]
    wait_until(lambda: waiting(client) == 19)
    upstream.gate.set()
    outcomes = [future.result(10) for future in futures]
    assert len(upstream.prompts) == 1
    assert {outcome.source for outcome in outcomes} == {"fallback"}
    assert len({id(outcome.value) for outcome in outcomes}) == 20


def waiting(client: Client) -> int:
    """Count the threads that wait for another thread's call."""
    flights = client._interpreter.flights
    return sum(len(flight.waiters) for flight in list(flights._flights.values()))


def test_threads_without_a_daemon_when_the_call_fails(client: Client, upstream: Upstream) -> None:
    """What may pass is tried by the next; what is fatal is everyone's."""
    upstream.gate = threading.Event()
    upstream.errors = [ConnectionError("1"), ValueError("2")]
    futures = [in_thread(client.call, upstream.generate, "p") for _ in range(4)]
    wait_until(lambda: waiting(client) == 3)
    upstream.gate.set()
    errors = sorted(type(future.exception(10)).__name__ for future in futures)
    assert errors == ["CallFailed", "CallFailed", "ConnectionError", "ValueError"]
    assert len(upstream.prompts) == 2


def test_threads_without_a_daemon_keep_their_own_deadlines(client: Client, upstream: Upstream) -> None:
    """``wait`` bounds the wait for another thread too."""
    upstream.gate = threading.Event()
    leader = in_thread(client.call, upstream.generate, "p")
    wait_until(lambda: upstream.prompts)
    with pytest.raises(CallTimeout):
        client.call(upstream.generate, "p", wait=0.05)

    assert waiting(client) == 0
    upstream.gate.set()
    assert leader.result(10) == "answer to p"


def test_threads_without_a_daemon_and_a_value_that_cannot_be_shared(client: Client, upstream: Upstream) -> None:
    """Each makes its own call."""
    upstream.gate = threading.Event()
    upstream.value = object()
    futures = [in_thread(client.call, upstream.generate, "p") for _ in range(3)]
    wait_until(lambda: waiting(client) == 2)
    upstream.gate.set()
    assert {future.result(10) for future in futures} == {upstream.value}
    assert len(upstream.prompts) == 3


def test_threads_join_the_running_lease_when_the_daemon_dies(
    daemon: ScriptedDaemon, client: Client, upstream: Upstream
) -> None:
    """The holder is in this process: no second call is made."""
    upstream.gate = threading.Event()
    daemon.script(wire.Begin, lease(), PENDING, PENDING)
    leader = in_thread(client.outcome, upstream.generate, "p")
    wait_until(lambda: upstream.prompts)
    others = [in_thread(client.outcome, upstream.generate, "p") for _ in range(2)]
    daemon.wait_for(wire.Begin, 3)
    daemon.die()
    wait_until(lambda: waiting(client) == 2)
    upstream.gate.set()
    assert leader.result(10).source == "upstream"
    assert {future.result(10).source for future in others} == {"fallback"}
    assert len(upstream.prompts) == 1


# A daemon that hangs, ends, comes back


def test_a_hanging_daemon_costs_one_timeout(
    daemon: ScriptedDaemon, path: str, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call waits for it, the next ones do not."""
    monkeypatch.setattr(availability, "FIRST_BACK_OFF_SECONDS", 60.0)
    daemon.freeze()
    with Client(path, daemon_timeout=PATIENCE_SECONDS) as client:
        began = time.monotonic()
        assert client.outcome(upstream.generate, "p").source == "fallback"
        assert PATIENCE_SECONDS <= time.monotonic() - began < PATIENCE_SECONDS + STALL_SECONDS
        assert client.outcome(upstream.generate, "p").source == "fallback"

    daemon.thaw()
    wait_until(lambda: len(daemon.ended) == len(daemon.connections))
    assert len(daemon.requests(wire.Begin)) == 1


def test_a_daemon_that_hangs_while_many_wait(daemon: ScriptedDaemon, upstream: Upstream, path: str) -> None:
    """125 waiting threads all learn of it together, and make one call together."""
    daemon.always(wire.Begin, PENDING)
    upstream.gate = threading.Event()
    with Client(path) as client, ThreadPoolExecutor(125) as pool:
        futures = [pool.submit(client.call, upstream.generate, "p") for _ in range(125)]
        daemon.wait_for(wire.Begin, 125)
        daemon.wait_for(wire.Ping)
        daemon.freeze()
        wait_until(lambda: waiting(client) == 124)  # one by one they take a minute
        upstream.gate.set()
        assert {future.result(10) for future in futures} == {"answer to p"}

    assert len(upstream.prompts) == 1


def test_a_restarted_daemon_is_used_immediately(path: str, client: Client, upstream: Upstream) -> None:
    """A kept connection that has ended is replaced, and the begin sent again, before anyone falls back."""
    for _ in range(2):
        with ScriptedDaemon(path) as daemon:
            daemon.script(wire.Begin, hit("v"))
            assert client.outcome(upstream.generate, "p").source == "cache"


def test_a_daemon_that_hangs_up_on_a_waiter_is_asked_again(
    daemon: ScriptedDaemon, client: Client, upstream: Upstream
) -> None:
    """The wait has ended with the connection, so asking again is safe, with what is left of ``wait``."""
    daemon.script(wire.Begin, [PENDING, CLOSE], [PENDING, hit("v")])
    assert client.outcome(upstream.generate, "p", wait=60).source == "cache"
    first, second = daemon.requests(wire.Begin)
    assert 0 < second.wait_seconds < first.wait_seconds


@pytest.mark.parametrize("step", [CLOSE, DIE, [PENDING, CLOSE], [PENDING, DIE]])
def test_a_daemon_that_always_hangs_up_is_given_up(
    daemon: ScriptedDaemon, client: Client, upstream: Upstream, step: Any
) -> None:
    """Asked twice at most."""
    daemon.always(wire.Begin, step)
    assert client.outcome(upstream.generate, "p").source == "fallback"
    assert len(daemon.requests(wire.Begin)) <= 2


def test_a_daemon_that_comes_back_is_used_without_being_told(
    path: str, client: Client, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    """The back-off ends by itself; one line is logged when the daemon goes, and one when it is back."""
    caplog.set_level("INFO", "sidecard_client")
    for _ in range(3):
        assert client.outcome(upstream.generate, "p").source == "fallback"

    with ScriptedDaemon(path) as daemon:
        daemon.always(wire.Begin, hit("v"))
        wait_until(lambda: client.outcome(upstream.generate, "p").source == "cache")
        assert "up" in repr(client)
        assert client.outcome(upstream.generate, "p").source == "cache"

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert not any("answer to" in record.getMessage() for record in caplog.records)


def test_while_the_daemon_is_away_one_prober_asks(daemon: ScriptedDaemon, hasty: Client, upstream: Upstream) -> None:
    """A hundred calls do not each wait for a daemon that hangs."""
    daemon.freeze()
    hasty.call(upstream.generate, "p")
    began = time.monotonic()
    for _ in range(100):
        hasty.call(upstream.generate, "p")

    assert time.monotonic() - began < 100 * PATIENCE_SECONDS / 2


# Heartbeats


def test_a_long_call_renews_its_lease(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """Every third of its life, over the holder's own connection; the answers do not disturb the end."""
    upstream.gate = threading.Event()
    granted = lease(expires_in_seconds=0.3)
    daemon.script(wire.Begin, granted)
    future = in_thread(client.outcome, upstream.generate, "p")
    renewals = daemon.wait_for(wire.Renew, 3)
    assert {renewal.lease for renewal in renewals} == {granted.lease}
    upstream.gate.set()
    assert future.result(10).source == "upstream"
    assert daemon.wait_for(wire.Complete)[0].lease == granted.lease
    client.call(upstream.generate, "q")
    assert {taken.connection for taken in daemon.taken} == {0}


def test_a_lease_that_was_lost_is_renewed_no_more(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """The call goes on, and its late answer is sent, for the daemon to refuse."""
    upstream.gate = threading.Event()
    daemon.script(wire.Begin, lease(expires_in_seconds=0.3), lease(expires_in_seconds=0.3))
    daemon.script(wire.Renew, wire.StaleLease(id=0))
    lost = in_thread(client.outcome, upstream.generate, "p")
    daemon.wait_for(wire.Renew, 1)
    kept = in_thread(client.outcome, upstream.generate, "q")
    renewals = daemon.wait_for(wire.Renew, 5)
    assert [renewal.lease for renewal in renewals].count(renewals[0].lease) == 1
    upstream.gate.set()
    assert lost.result(10).source == kept.result(10).source == "upstream"
    daemon.wait_for(wire.Complete, 2)


@pytest.mark.parametrize("error", [None, ValueError("bad"), KeyboardInterrupt()])
def test_a_finished_call_renews_nothing(
    daemon: ScriptedDaemon, client: Client, upstream: Upstream, error: BaseException | None
) -> None:
    """A lease without a running call must expire, whatever ended the call; leases of other calls are kept."""
    daemon.always(wire.Begin, lambda _request: lease(expires_in_seconds=0.3))
    upstream.gate = threading.Event()
    running = in_thread(client.call, upstream.generate, "p")
    wait_until(lambda: upstream.prompts)
    finished = Upstream()
    finished.errors = [] if error is None else [error]
    with contextlib.suppress(ValueError, KeyboardInterrupt):
        client.call(finished.generate, "q")

    assert len({renewal.lease for renewal in daemon.wait_for(wire.Renew, 4)}) == 1
    upstream.gate.set()
    running.result(10)


def test_a_renewal_that_hangs_does_not_hold_up_the_answer(
    daemon: ScriptedDaemon, hasty: Client, upstream: Upstream
) -> None:
    """The heartbeat never blocks; the end of the call waits once for a daemon that is stopped."""
    upstream.gate = threading.Event()
    daemon.script(wire.Begin, lease(expires_in_seconds=0.3))
    future = in_thread(hasty.outcome, upstream.generate, "p")
    daemon.wait_for(wire.Renew)
    daemon.freeze()
    time.sleep(0.3)  # renewals go unanswered meanwhile: this is what is tested, and nothing else marks it
    began = time.monotonic()
    upstream.gate.set()
    assert future.result(10).value == "answer to p"
    assert time.monotonic() - began < PATIENCE_SECONDS + STALL_SECONDS


# Forks


def in_fork(child: Callable[[], bool]) -> bool:
    """Run ``child`` in a fork and return whether it said True."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of threads; they are what is tested
        pid = os.fork()

    if pid == 0:
        signal.alarm(20)
        verdict = 1
        try:
            verdict = 0 if child() else 1
        finally:
            os._exit(verdict)

    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_parent_and_child_both_go_on(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """A prefork parent that has used its client: each has its own connections afterwards."""
    daemon.always(wire.Begin, lambda request: hit(str(request.task)))
    assert client.call(upstream.generate, "p", task="before") == "before"
    assert in_fork(lambda: client.call(upstream.generate, "p", task="child") == "child")
    assert client.call(upstream.generate, "p", task="parent") == "parent"
    assert [taken.connection for taken in daemon.taken] == [0, 1, 0]


def test_a_childs_exit_does_not_lose_the_parents_lease(
    daemon: ScriptedDaemon, client: Client, upstream: Upstream
) -> None:
    """A call that forks (a subprocess, a worker) keeps its connection, and is alone on it."""

    def forking(prompt: str) -> str:
        assert in_fork(lambda: client.ping().boot_id == "scripted")
        return prompt

    assert client.outcome(forking, "p", name="forking").source == "upstream"
    wait_until(lambda: 1 in daemon.ended)
    daemon.wait_for(wire.Complete)
    assert 0 not in daemon.ended


def test_a_child_keeps_no_copy_of_the_parents_connections(
    daemon: ScriptedDaemon, path: str, upstream: Upstream
) -> None:
    """If it did, the daemon would not see the parent's death while the child lives."""
    client = Client(path)
    client.call(upstream.generate, "p")
    release, hold = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()

    if pid == 0:
        os.close(hold)
        os.read(release, 1)
        os._exit(0)

    os.close(release)
    client.close()  # as the parent's death would
    wait_until(lambda: daemon.ended == [0])
    os.close(hold)
    os.waitpid(pid, 0)


def test_a_fork_while_others_wait_and_hold(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """The child has neither the threads nor their locks nor their flights."""
    upstream.gate = threading.Event()
    ready = threading.Event()
    daemon.script(wire.Begin, lease(), [PENDING, After(ready, shared("v"))])
    leader = in_thread(client.outcome, upstream.generate, "p")
    wait_until(lambda: upstream.prompts)
    waiter = in_thread(client.outcome, upstream.generate, "p")
    daemon.wait_for(wire.Begin, 2)

    def child() -> bool:
        upstream.gate = None
        return client.outcome(upstream.generate, "p").source == "upstream"

    assert in_fork(child)
    upstream.gate.set()
    ready.set()
    assert leader.result(10).source == "upstream"
    assert waiter.result(10).source == "shared"


# Threads and connections


def test_threads_have_connections_of_their_own(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """As many as there are concurrent calls, and these are kept."""
    upstream.gate = threading.Event()
    futures = [in_thread(client.call, upstream.generate, f"p{number}") for number in range(8)]
    wait_until(lambda: len(upstream.prompts) == 8)
    upstream.gate.set()
    assert sorted(future.result(10) for future in futures) == [f"answer to p{number}" for number in range(8)]
    for _ in range(8):
        client.call(upstream.generate, "q")

    assert len(daemon.connections) == 8


def test_many_threads_never_get_anothers_answer(daemon: ScriptedDaemon, client: Client) -> None:
    """Eight threads, a thousand answers, each to its own question."""
    daemon.always(wire.Begin, lambda request: hit(request.key))

    def ask(number: int) -> bool:
        return client.call(str.upper, "p", key=f"k{number}") == f"k{number}"

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(1000)))


def test_close_ends_idle_connections_now_and_busy_ones_later(
    daemon: ScriptedDaemon, path: str, upstream: Upstream
) -> None:
    """A call in progress is not cut off; a later one is the program's mistake."""
    client = Client(path)
    client.call(upstream.generate, "p")
    upstream.gate = threading.Event()
    running = in_thread(client.call, upstream.generate, "p")
    wait_until(lambda: len(upstream.prompts) == 2)
    client.close()
    upstream.gate.set()
    assert running.result(10) == "answer to p"
    daemon.wait_for(wire.Complete, 2)
    wait_until(lambda: daemon.ended == [0])
    with pytest.raises(RuntimeError, match="closed"):
        client.call(upstream.generate, "p")


def test_a_client_is_collected(daemon: ScriptedDaemon, path: str, upstream: Upstream) -> None:
    """A closed client leaves no thread and no reference behind."""
    client = Client(path)
    client.call(upstream.generate, "p")
    client.close()
    heartbeat = client._connector.heartbeat
    wait_until(lambda: heartbeat._thread is None)
    trace = weakref.ref(client)
    del client
    gc.collect()
    assert trace() is None


# Decorator, proxy, entries, and the daemon's words


def test_cached_and_wrap_ask_the_daemon(daemon: ScriptedDaemon, client: Client, upstream: Upstream) -> None:
    """With their policy, and with all keywords left to the function."""

    @client.cached(task="rag", ttl=600)
    def answer(question: str, *, task: str = "") -> str:
        return question + task

    assert answer("q", task="t") == "qt"
    assert client.wrap(upstream, task="general").generate("p") == "answer to p"
    first, second = daemon.requests(wire.Begin)
    assert (first.task, first.ttl_seconds, second.task) == ("rag", 600.0, "general")


def test_entries(daemon: ScriptedDaemon, client: Client) -> None:
    """Read, written, removed, in the client's namespace or another."""
    daemon.script(wire.Get, hit({"a": 1}), wire.Miss(id=0))
    assert client.get("k") == {"a": 1}
    assert client.get("k", 3, namespace="other") == 3
    assert client.put("k", [1], ttl=5, tags=["t"])
    assert client.delete("k") == 1
    assert client.purge(tag="t") == 2
    requests = daemon.requests()
    assert [request.namespace for request in requests] == ["default", "other", "default", "default", None]
    assert requests[2] == wire.Put(id=3, key="k", value=msgspec.Raw(b"\x91\x01"), ttl_seconds=5.0, tags=("t",))


def test_entries_without_a_daemon(client: Client, path: str) -> None:
    """Reading and writing fall back; removing does not pretend."""
    assert client.get("k", 3) == 3
    assert client.put("k", 1) is False
    for removal in (lambda: client.delete("k"), client.purge, client.stats, client.report, client.health, client.ping):
        with pytest.raises(DaemonUnavailable):
            removal()

    with Client(path, on_unavailable="raise") as strict:
        for wish in (lambda: strict.get("k"), lambda: strict.put("k", 1)):
            with pytest.raises(DaemonUnavailable):
                wish()


def test_refused_and_garbled_requests(daemon: ScriptedDaemon, client: Client) -> None:
    """The daemon's reason, or that it made no sense."""
    daemon.script(wire.Purge, wire.Error(id=0, code="denied", message="operators only"), wire.Ok(id=0))
    with pytest.raises(RequestRefused, match="operators only"):
        client.purge()

    with pytest.raises(DaemonUnavailable, match="answered Purge with Ok"):
        client.purge()

    time.sleep(FIRST_BACK_OFF_SECONDS)  # a daemon that makes no sense counts as away for as long
    assert client.health().status == "ok"


def test_importing_the_client_imports_no_more_than_it_needs() -> None:
    """Without anyio only the asynchronous client is missing, and asking for it says what to install."""
    program = """
import sys
sys.modules["anyio"] = None
import sidecard_client
sidecard_client.Client("/nowhere")
assert "logging" not in sys.modules and "asyncio" not in sys.modules
try:
    sidecard_client.AsyncClient
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "AsyncClient needs anyio: pip install 'sidecard-client[async]'\n"


def test_an_impossible_path_in_the_environment_falls_back(monkeypatch: pytest.MonkeyPatch, upstream: Upstream) -> None:
    """An operator's mistake does not fail an app."""
    monkeypatch.setenv("SIDECARD_SOCKET", "/" + "x" * 200)
    with Client() as client:
        assert client.outcome(upstream.generate, "p").source == "fallback"


# A real daemon


@pytest.fixture
def real(path: str) -> Iterator[Daemon]:
    """``sidecard serve`` at `path`."""
    daemon = Daemon(path)
    yield daemon
    daemon.close()


def test_a_real_daemon_shares_between_threads_and_forks(real: Daemon, client: Client, upstream: Upstream) -> None:
    """One upstream call for 20 threads, and none for a child of theirs."""
    upstream.gate = threading.Event()
    futures = [in_thread(client.outcome, upstream.generate, "p", task="rag") for _ in range(20)]
    wait_until(lambda: client.stats().waiters == 19)
    upstream.gate.set()
    outcomes = [future.result(10) for future in futures]
    assert {outcome.value for outcome in outcomes} == {"answer to p"}
    assert sorted(outcome.source for outcome in outcomes) == ["shared"] * 19 + ["upstream"]
    assert in_fork(lambda: client.outcome(upstream.generate, "p", task="rag").source == "cache")
    assert upstream.prompts == ["p"]
    ledger = client.report().tasks["rag"]
    assert (ledger.calls, ledger.shared, ledger.hits, ledger.upstream_calls) == (21, 19, 1, 1)


def test_a_real_daemon_passes_the_lease_on(real: Daemon, client: Client, upstream: Upstream) -> None:
    """What may pass is tried again by the next, in the order of their coming; what is fatal is everyone's."""
    upstream.gate = threading.Event()
    upstream.errors = [ConnectionError("1"), ValueError("2")]
    futures = []
    for number in range(4):
        futures.append(in_thread(client.call, upstream.generate, "p"))
        wait_until(lambda number=number: client.stats().begins == number + 1)  # type: ignore[misc]  # a lambda's default

    upstream.gate.set()
    assert [type(future.exception(10)).__name__ for future in futures] == [
        "ConnectionError",
        "ValueError",
        "CallFailed",
        "CallFailed",
    ]


def test_a_real_daemon_keeps_entries(real: Daemon, client: Client) -> None:
    """Whatever msgpack carries, under a key of the user's own."""
    value = {"text": "x", "numbers": [1, 2.5, None, True], "bytes": b"\x00"}
    assert client.put("k", value, tags=["t"])
    assert client.get("k") == value
    assert client.call(dict, key="k") == value
    assert client.purge(tag="t") == 1
    assert client.get("k", "gone") == "gone"
    assert client.health().status == "ok"
    assert client.ping().version == sidecard_client.__version__


def test_a_real_daemon_forgets_a_dead_childs_lease(real: Daemon, client: Client, upstream: Upstream) -> None:
    """The waiter replaces a killed holder immediately."""
    ready, signal_end = os.pipe()

    def hold(prompt: str) -> str:
        os.write(signal_end, b"x")
        time.sleep(60)
        return prompt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()

    if pid == 0:
        client.call(hold, "p", key="k")

    os.read(ready, 1)
    waiter = in_thread(client.outcome, upstream.generate, "p", key="k")
    wait_until(lambda: client.stats().waiters == 1)
    os.kill(pid, signal.SIGKILL)
    assert waiter.result(5).source == "upstream"
    os.waitpid(pid, 0)
    os.close(ready)
    os.close(signal_end)
