"""What both clients do with backends: retries, waits after a failure, sovereignty, and the daemon's words about breakers.

Every test runs with the blocking client and with the asynchronous one on each event loop, whose calls a portal makes.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sidecard_client import CallRejected, CallTimeout, RequestRefused
from sidecard_client.protocol import wire
from tests.callers import KINDS, Caller, connecting
from tests.daemons import Daemon
from tests.scripted_daemon import CLOSE, DIE, HANG, PENDING, After, ScriptedDaemon, lease, shared, wait_until

SECOND = 1.0
"""In which a daemon that hangs or dies must be noticed (design 4.5)."""

FREEZE = "freeze"


@pytest.fixture(params=KINDS)
def connect(request: pytest.FixtureRequest, socket_path: str) -> Iterator[Callable[..., Caller]]:
    """Make clients of one kind: ``connect(**arguments)``."""
    with connecting(request.param, socket_path) as make:
        yield make


@pytest.fixture
def client(connect: Callable[..., Caller]) -> Caller:
    """A client of whatever is at ``socket_path``."""
    return connect()


@pytest.fixture
def scripted(socket_path: str) -> Iterator[ScriptedDaemon]:
    """A daemon that grants every lease unless scripted otherwise."""
    with ScriptedDaemon(socket_path) as daemon:
        yield daemon


class Upstream:
    """A backend's function that fails a given number of times, and then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.count = 0

    def generate(self, prompt: str) -> str:
        """Answer, or raise the next error."""
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)

        return f"about {prompt}"


def down(times: int) -> list[Exception]:
    """Build failures that may pass."""
    return [ConnectionError(f"down {number}") for number in range(1, times + 1)]


# What is asked for -----------------------------------------------------------------------------------------------------


def test_a_begin_names_the_functions_backend_and_the_route(scripted: ScriptedDaemon, client: Caller) -> None:
    """A single function's, and those of a dict."""
    upstream = Upstream()
    client.outcome(upstream.generate, "a", backend="cloud")
    client.outcome({"local": upstream.generate, "cloud": upstream.generate}, "b", route="fastest")
    client.outcome(upstream.generate, "c")
    begins = [(begin.backends, begin.route) for begin in scripted.requests(wire.Begin)]
    assert begins == [(("cloud",), None), (("local", "cloud"), "fastest"), ((), None)]


def test_an_outcome_counts_its_leases(scripted: ScriptedDaemon, client: Caller) -> None:
    """What was passed over, and how many there were; neither where the answer was another's."""
    scripted.script(wire.Begin, [PENDING, lease("cloud", passed_over={"local": "saturated"})], shared("v"))
    functions = {"local": Upstream().generate, "cloud": Upstream().generate}
    outcome = client.outcome(functions, "p")
    assert (outcome.backend, outcome.passed_over, outcome.attempts) == ("cloud", {"local": "saturated"}, 1)
    outcome = client.outcome(functions, "p")
    assert (outcome.source, outcome.passed_over, outcome.attempts) == ("shared", {}, 0)


def test_a_begin_that_queued_may_be_refused(scripted: ScriptedDaemon, client: Caller) -> None:
    """The breaker opened meanwhile; the error says so of each backend."""
    refusal = wire.Rejected(0, "breaker_open", 7.0, {"local": "saturated", "cloud": "breaker_open"})
    scripted.script(wire.Begin, [PENDING, refusal])
    with pytest.raises(CallRejected, match=r"breaker_open.*local: saturated.*try again in 7 s") as caught:
        client.outcome(Upstream().generate, "p")

    assert caught.value.backends == {"local": "saturated", "cloud": "breaker_open"}


def test_a_callers_own_timeout_is_reported_as_one(scripted: ScriptedDaemon, client: Caller) -> None:
    """Other failures are not."""
    for error in (TimeoutError("slow"), ConnectionError("down")):
        with pytest.raises(type(error)):
            client.outcome(Upstream(error).generate, "p")

    assert [fail.timeout for fail in scripted.wait_for(wire.Fail, 2)] == [True, False]


# Retries ---------------------------------------------------------------------------------------------------------------


def test_a_retry_waits_for_its_lease(scripted: ScriptedDaemon, client: Caller) -> None:
    """The daemon backs off; the lease on the very same backend is taken, and its answer completes it."""
    again = lease("cloud", attempt=2)
    scripted.script(wire.Begin, lease("cloud"))
    scripted.script(wire.Fail, [PENDING, again])
    upstream = Upstream(*down(1))
    outcome = client.outcome(upstream.generate, "p", backend="cloud", retries=1)
    assert (outcome.value, outcome.attempts, outcome.source) == ("about p", 2, "upstream")
    assert [(fail.next, fail.retry) for fail in scripted.requests(wire.Fail)] == [(True, True)]
    assert scripted.requests(wire.Complete)[0].lease == again.lease


def test_retries_end(scripted: ScriptedDaemon, client: Caller) -> None:
    """The last failure is raised, and reported without asking for another backend."""
    scripted.always(wire.Fail, lambda fail: [PENDING, lease()] if fail.next else wire.Ok(0))
    upstream = Upstream(*down(5))
    with pytest.raises(ConnectionError, match="down 3"):
        client.outcome(upstream.generate, "p", retries=2)

    asked = [(fail.next, fail.retry) for fail in scripted.wait_for(wire.Fail, 3)]
    assert asked == [(True, True), (True, True), (False, False)]
    assert upstream.count == 3


@pytest.mark.parametrize(("error", "retries"), [(ConnectionError("mine"), 0), (ValueError("mine"), 3)])
def test_no_retry_unless_asked_for_and_of_use(
    scripted: ScriptedDaemon, client: Caller, error: Exception, retries: int
) -> None:
    """SDKs retry by themselves; and what is fatal stays so."""
    scripted.always(wire.Fail, lease())
    upstream = Upstream(error)
    with pytest.raises(type(error), match="mine"):
        client.outcome(upstream.generate, "p", retries=retries)

    assert [(fail.next, fail.retry) for fail in scripted.wait_for(wire.Fail)] == [(False, False)]
    assert upstream.count == 1


def test_retries_go_over_all_backends(scripted: ScriptedDaemon, client: Caller) -> None:
    """The next one first, then all again."""
    scripted.script(wire.Begin, lease("local"))
    scripted.script(wire.Fail, lease("cloud"), [PENDING, lease("local")], lease("cloud"))
    local, cloud = Upstream(*down(2)), Upstream(*down(1))
    functions = {"local": local.generate, "cloud": cloud.generate}
    outcome = client.outcome(functions, "p", retries=1)
    assert (outcome.backend, outcome.attempts, local.count, cloud.count) == ("cloud", 4, 2, 2)
    asked = [(fail.next, fail.retry) for fail in scripted.requests(wire.Fail)]
    assert asked == [(True, True), (True, True), (True, False)]


NO_LEASE = {
    "ok": wire.Ok(0),
    "rejected": wire.Rejected(0, "breaker_open"),
    "pending, rejected": [PENDING, wire.Rejected(0, "draining")],
    "pending, timeout": [PENDING, wire.Timeout(0, 1.0)],
    "pending, failed": [PENDING, wire.Failed(0, "transient", "another's")],
    "pending, shared": [PENDING, shared("another's")],
}


@pytest.mark.parametrize("step", NO_LEASE.values(), ids=NO_LEASE)
def test_a_failure_stands_where_no_lease_follows(scripted: ScriptedDaemon, client: Caller, step: Any) -> None:
    """The function's own exception is raised, no other backend is called, and the connection is as good as before."""
    scripted.script(wire.Begin, lease("local"))
    scripted.script(wire.Fail, step)
    mine, other = ConnectionError("mine"), Upstream()
    with pytest.raises(ConnectionError) as caught:
        client.outcome({"local": Upstream(mine).generate, "cloud": other.generate}, "p", retries=1)

    assert caught.value is mine
    assert other.count == 0
    client.ask("ping")
    assert {taken.connection for taken in scripted.taken} == {0}


LOST = {
    "a daemon that freezes": FREEZE,
    "a daemon that ends": DIE,
    "a closed connection": CLOSE,
    "nonsense": wire.Ok(0),
}


@pytest.mark.parametrize(
    ("end", "untried"),
    [*((end, True) for end in LOST.values()), (CLOSE, False)],
    ids=[*LOST, "a closed connection, none untried"],
)
def test_a_daemon_lost_during_the_wait_after_a_failure(
    scripted: ScriptedDaemon, client: Caller, end: Any, untried: bool
) -> None:
    """It is noticed within a second; an untried backend is called, and else the function's own exception raised."""
    now = threading.Event()
    scripted.script(wire.Begin, lease("local"))
    scripted.script(wire.Fail, [PENDING, After(now, HANG if end is FREEZE else end)])
    failing, other = Upstream(*down(1)), Upstream()
    functions = {"local": failing.generate} | ({"cloud": other.generate} if untried else {})
    future = client.begin(functions, "p", retries=1)
    scripted.wait_for(wire.Fail)
    scripted.wait_for(wire.Ping)  # the wait is watched
    if end is FREEZE:
        scripted.freeze()

    now.set()
    began = time.monotonic()
    if untried:
        outcome = future.result(10)
        assert (outcome.value, outcome.backend, outcome.attempts) == ("about p", "cloud", 1)
        assert (outcome.source, outcome.passed_over) == ("upstream", {})
    else:
        with pytest.raises(ConnectionError, match="down 1"):
            future.result(10)

    assert time.monotonic() - began < SECOND
    assert (failing.count, other.count) == (1, int(untried))


def test_a_backend_that_has_failed_is_not_called_again_without_the_daemon(
    scripted: ScriptedDaemon, client: Caller
) -> None:
    """1. both fail; 2. the retry on the first fails; 3. the daemon ends: no daemon allows a retry on the second."""
    scripted.script(wire.Begin, lease("local"))
    scripted.script(wire.Fail, lease("cloud"), [PENDING, lease("local")], DIE)
    local, cloud = Upstream(*down(2)), Upstream(*down(1))
    with pytest.raises(ConnectionError, match="down 2"):
        client.outcome({"local": local.generate, "cloud": cloud.generate}, "p", retries=1)

    assert (local.count, cloud.count) == (2, 1)


def test_a_long_wait_after_a_failure_is_no_fault(scripted: ScriptedDaemon, connect: Callable[..., Caller]) -> None:
    """A daemon that answers pings may back off for longer than ``daemon_timeout``."""
    pings = 4
    client = connect(daemon_timeout=0.1)
    ready = threading.Event()
    scripted.script(wire.Begin, lease())
    scripted.script(wire.Fail, [PENDING, After(ready, lease())])
    future = client.begin(Upstream(*down(1)).generate, "p", retries=1)
    scripted.wait_for(wire.Ping, pings)
    ready.set()
    assert future.result(10).attempts == 2


def test_no_retries_without_a_daemon(client: Caller) -> None:
    """The budget is the host's, and only the daemon keeps it."""
    upstream = Upstream(*down(1))
    with pytest.raises(ConnectionError):
        client.outcome(upstream.generate, "p", retries=5)

    assert upstream.count == 1


# Patience --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hasty(connect: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch) -> Caller:
    """A client that gives the daemon no extra time to end a wait."""
    monkeypatch.setattr("sidecard_client._sync.connector.LATE_SECONDS", 0.0)
    monkeypatch.setattr("sidecard_client._async.connection.LATE_SECONDS", 0.0)
    return connect(daemon_timeout=0.2)


def taken_back(scripted: ScriptedDaemon) -> bool:
    """Return whether the daemon learned that no caller waits any more: by a cancel of the begin, or by the connection's end."""
    begin = scripted.requests(wire.Begin)[0].id
    return scripted.ended == [0] or [cancel.target for cancel in scripted.requests(wire.Cancel)] == [begin]


def test_a_begin_that_the_daemon_forgets_ends_by_its_own_deadline(scripted: ScriptedDaemon, hasty: Caller) -> None:
    """Though it answers every ping."""
    scripted.script(wire.Begin, PENDING)
    with pytest.raises(CallTimeout) as caught:
        hasty.outcome(Upstream().generate, "p", wait=0.1)

    assert 0.3 <= caught.value.waited_seconds < 0.3 + SECOND
    wait_until(lambda: taken_back(scripted))


def test_a_begin_asked_again_ends_by_its_own_deadline(scripted: ScriptedDaemon, hasty: Caller) -> None:
    """The second time on a new connection, with what is left."""
    scripted.script(wire.Begin, [PENDING, CLOSE], PENDING)
    with pytest.raises(CallTimeout):
        hasty.outcome(Upstream().generate, "p", wait=0.1)


def test_a_wait_after_a_failure_that_the_daemon_forgets_ends_by_its_own_deadline(
    scripted: ScriptedDaemon, hasty: Caller
) -> None:
    """``wait`` bounds each wait for the daemon, this one too; then the failure stands."""
    scripted.script(wire.Begin, lease("local"))
    scripted.script(wire.Fail, PENDING)
    other = Upstream()
    functions = {"local": Upstream(*down(1)).generate, "cloud": other.generate}
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="down 1"):
        hasty.outcome(functions, "p", retries=1, wait=0.1)

    assert 0.3 <= time.monotonic() - began < 0.3 + SECOND
    assert other.count == 0
    wait_until(lambda: taken_back(scripted))


def test_a_wait_that_ends_in_time_leaves_no_deadline_behind(scripted: ScriptedDaemon, hasty: Caller) -> None:
    """The call may then take as long as it likes."""
    scripted.script(wire.Begin, [PENDING, lease(expires_in_seconds=0.3)])

    def slow(prompt: str) -> str:
        scripted.wait_for(wire.Renew, 6)
        return prompt

    assert hasty.outcome(slow, "p", name="slow", wait=0.05).value == "p"
    assert scripted.requests(wire.Cancel) == []


# Sovereignty -----------------------------------------------------------------------------------------------------------


def test_without_a_daemon_a_sovereign_client_stays_local(connect: Callable[..., Caller]) -> None:
    """Backends that may be remote are left out, also after a failure; where none is left, nothing is called."""
    client = connect(sovereign=True)
    assert client.sidecard.sovereign
    cloud, local = Upstream(), Upstream()
    outcome = client.outcome({"cloud": cloud.generate, "local": local.generate}, "p")
    assert (outcome.backend, outcome.source) == ("local", "fallback")
    with pytest.raises(CallRejected) as caught:
        client.outcome({"cloud": cloud.generate, "far": cloud.generate}, "p")

    assert (caught.value.reason, caught.value.backends) == ("sovereign", {"cloud": "sovereign", "far": "sovereign"})
    with pytest.raises(ConnectionError):
        client.outcome({"local": Upstream(*down(1)).generate, "cloud": cloud.generate}, "q")

    assert client.outcome(local.generate, "r").backend == "default"
    assert cloud.count == 0


@pytest.mark.parametrize(
    "step", [wire.Rejected(0, "busy"), [PENDING, wire.Failed(0, "ignored", "")]], ids=["fallback", "own account"]
)
def test_where_the_daemon_does_not_decide_a_sovereign_client_does(
    scripted: ScriptedDaemon, connect: Callable[..., Caller], step: Any
) -> None:
    """A daemon that is full, or an answer that could not be shared."""
    scripted.always(wire.Begin, step)
    client, cloud, local = connect(sovereign=True), Upstream(), Upstream()
    assert client.outcome({"cloud": cloud.generate, "local": local.generate}, "p").backend == "local"
    with pytest.raises(CallRejected, match="sovereign"):
        client.outcome(cloud.generate, "p", backend="cloud")

    assert cloud.count == 0


def test_with_a_daemon_the_daemon_decides(scripted: ScriptedDaemon, connect: Callable[..., Caller]) -> None:
    """It knows which names are local. Lost after a failure, it has not said so of the next one."""
    scripted.script(wire.Begin, lease("cloud"), lease("local"))
    scripted.script(wire.Fail, CLOSE)
    client, cloud = connect(sovereign=True), Upstream()
    assert client.outcome({"local": Upstream().generate, "cloud": cloud.generate}, "p").backend == "cloud"
    with pytest.raises(ConnectionError):
        client.outcome({"local": Upstream(*down(1)).generate, "cloud": cloud.generate}, "q")

    assert cloud.count == 1


def test_the_environment_makes_a_client_sovereign_once(
    connect: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read when the client is made; its argument wins."""
    monkeypatch.setenv("SOVEREIGN_MODE", "true")
    client, other = connect(), connect(sovereign=False)
    monkeypatch.setenv("SOVEREIGN_MODE", "false")
    assert (client.sidecard.sovereign, other.sidecard.sovereign) == (True, False)
    with pytest.raises(CallRejected):
        client.outcome(Upstream().generate, "p", backend="cloud")

    assert other.outcome(Upstream().generate, "p", backend="cloud").source == "fallback"


# The daemon's words ----------------------------------------------------------------------------------------------------


def test_breakers_and_config_are_the_daemons(scripted: ScriptedDaemon, client: Caller) -> None:
    """As they come; a refusal is raised with the daemon's own sentence."""
    scripted.script(wire.SetBreaker, wire.Ok(0), wire.Error(0, "denied", "operators only"))
    assert client.ask("breakers").backends == {}
    assert client.ask("config").settings == {"cache.ttl_seconds": 300.0}
    assert client.ask("breaker", "cloud", "open") is None
    with pytest.raises(RequestRefused, match="operators only"):
        client.ask("breaker", "cloud", "close")

    sent = [(request.backend, request.action) for request in scripted.requests(wire.SetBreaker)]
    assert sent == [("cloud", "open"), ("cloud", "close")]


# The real daemon -------------------------------------------------------------------------------------------------------


def test_the_real_daemon_grants_retries(daemon: Callable[..., Daemon], client: Caller) -> None:
    """After its back-off, on the backend that has failed."""
    daemon(SIDECARD_RETRIES_BACKOFF_SECONDS="0.05")
    upstream = Upstream(*down(2))
    outcome = client.outcome(upstream.generate, "p", backend="cloud", retries=3)
    assert (outcome.value, outcome.backend, outcome.attempts, upstream.count) == ("about p", "cloud", 3, 3)
    stats = client.ask("stats")
    assert (stats.retries, stats.leases, stats.permits) == (2, 0, 0)


def test_the_real_daemon_lets_callers_wait_for_a_permit(daemon: Callable[..., Daemon], client: Caller) -> None:
    """One at a time where the limit says so, and each gets its turn by itself."""
    daemon(SIDECARD_BACKENDS=json.dumps({"local": {"max_concurrent": 1}}))
    go_on = threading.Event()
    running: list[str] = []

    def held(prompt: str) -> str:
        running.append(prompt)
        assert go_on.wait(10)
        return prompt

    futures = [client.begin(held, prompt, name="held", backend="local") for prompt in "abc"]
    wait_until(lambda: running and client.ask("stats").queued == 2)
    assert len(running) == 1
    go_on.set()
    outcomes = [future.result(10) for future in futures]
    assert [outcome.value for outcome in outcomes] == ["a", "b", "c"]
    assert {outcome.attempts for outcome in outcomes} == {1}
    assert client.ask("breakers").backends["local"].permits == 0


def test_the_real_daemons_operator_opens_a_breaker(daemon: Callable[..., Daemon], client: Caller) -> None:
    """Calls use another backend and report that; without one they are rejected, queued ones too."""
    daemon(SIDECARD_BACKENDS=json.dumps({"cloud": {"max_concurrent": 1}}))
    upstream, go_on = Upstream(), threading.Event()

    def held(prompt: str) -> str:
        assert go_on.wait(10)
        return prompt

    holder = client.begin(held, "p", name="held", backend="cloud")
    wait_until(lambda: client.ask("stats").permits == 1)
    queued = client.begin(upstream.generate, "q", backend="cloud")
    wait_until(lambda: client.ask("stats").queued == 1)
    client.ask("breaker", "cloud", "open")
    with pytest.raises(CallRejected, match=r"breaker_open.*cloud: breaker_open"):
        queued.result(10)

    functions = {"cloud": upstream.generate, "local": upstream.generate}
    outcome = client.outcome(functions, "p")
    assert (outcome.backend, outcome.passed_over) == ("local", {"cloud": "breaker_open"})
    assert client.ask("breakers").backends["cloud"].state == "forced_open"
    go_on.set()
    assert holder.result(10).value == "p"
    client.ask("breaker", "cloud", "close")
    assert client.outcome(functions, "q").backend == "cloud"


def test_the_real_daemon_is_sovereign(daemon: Callable[..., Daemon], client: Caller) -> None:
    """No lease on what may be remote, with the reason."""
    daemon(SIDECARD_SOVEREIGN_ENABLED="true")
    cloud, local = Upstream(), Upstream()
    outcome = client.outcome({"cloud": cloud.generate, "local": local.generate}, "p")
    assert (outcome.backend, outcome.passed_over) == ("local", {"cloud": "sovereign"})
    with pytest.raises(CallRejected) as caught:
        client.outcome(cloud.generate, "q", backend="cloud")

    assert (caught.value.reason, caught.value.backends, cloud.count) == ("sovereign", {"cloud": "sovereign"}, 0)
    assert client.ask("config").settings["sovereign.enabled"] is True
