"""The decisions of a call: each scenario as a script of replies, and a cancellation thrown in at every yield."""

import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any
from warnings import catch_warnings

import pytest

from sidecard_client import CallFailed, CallRejected, CallTimeout, DaemonUnavailable
from sidecard_client.call import commands
from sidecard_client.call.call import prepare
from sidecard_client.call.commands import Raised, Returned
from sidecard_client.call.conversation import converse, finished
from sidecard_client.call.failures import packed_detail
from sidecard_client.call.local_flights import Answered, Elected, LocalFailure, LocalFlight, LocalFlights, LocalWaiter
from sidecard_client.call.options import Options
from sidecard_client.call.outcome import Outcome
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionEnded, ConnectionLost, DaemonUnresponsive, NotConnected
from sidecard_client.protocol.errors import SidecardWarning

KEY = ("default", "k")
DOWN = ConnectionError("down")
GONE = ConnectionEnded("gone")
SILENT = DaemonUnresponsive("the daemon does not answer")
STORED = wire.Stored(id=0, stored=True)
OK = wire.Ok(id=0)


class Interruption(BaseException):
    """A cancellation, or Ctrl-C."""


def lease(backend: str = "default", **fields: Any) -> wire.Lease:
    """Build a lease."""
    return wire.Lease(id=1, lease=f"l.{backend}", backend=backend, expires_in_seconds=15, attempt=1, **fields)


def answer(prompt: str) -> str:
    """Be the function."""
    return prompt


class Daemon:
    """Executes commands with the results of a script, and counts the leases that it may still hold."""

    def __init__(self, first: Any, *results: Any) -> None:
        self.results = list(results)
        self.commands: list[commands.Command] = []
        self.held = int(isinstance(first, wire.Lease))

    @property
    def names(self) -> list[str]:
        """The names of the commands so far."""
        return [type(command).__name__ for command in self.commands]

    def execute(self, command: commands.Command) -> Any:
        """Execute a command."""
        self.commands.append(command)
        if isinstance(command, commands.Abandon):
            self.held = 0
            return None

        if isinstance(command, commands.Send):
            self._give_back()
            return True

        result = self.results.pop(0)
        result = result() if callable(result) else result
        if isinstance(result, wire.Lease):
            self.held = 1
        elif isinstance(command, commands.Ask) and not isinstance(result, ConnectionLost | wire.Error):
            self._give_back()

        return result

    def interrupt(self, command: commands.Command) -> None:
        """Leave what an interrupted command leaves: a last report was sent whole, or its connection is closed."""
        self.commands.append(command)
        match command:
            case commands.Ask(wire.Fail(next=True)) | commands.Run():
                pass
            case commands.Ask() | commands.Send():
                self._give_back()
            case _:
                self.held = 0  # a begin is canceled by the client itself

    def _give_back(self) -> None:
        self.held -= 1
        assert self.held >= 0, "a lease was given back twice"


Script = tuple[str, dict[str, Any], Any, tuple[Any, ...]]

NEVER = {"nothing"}.__contains__
STORED_X = wire.Hit(1, "x", 0.0, False, 1.0, 0.5, "default", {})
INVALID = wire.Shared(1, "x", 0.0, False, 1.0, 0.5, "default", {})

BACKENDS: dict[str, Any] = {"local": answer, "cloud": answer}

SCRIPTS: list[Script] = [
    ("a lease whose function returns", {}, lease(), (Returned("v"), STORED)),
    ("a lease whose complete is lost", {}, lease(), (Returned("v"), GONE)),
    ("a lease whose complete is answered by an error", {}, lease(), (Returned("v"), wire.Error(0, "internal", ""))),
    ("a value that cannot be shared", {}, lease(), (Returned(object()), OK)),
    ("a function that fails", {}, lease(), (Raised(DOWN), OK)),
    ("a function that is cancelled", {}, lease(), (Raised(Interruption()),)),
    ("a fail that is lost", {}, lease(), (Raised(DOWN), SILENT)),
    ("a retry", {"retries": 1}, lease(), (Raised(DOWN), lease(), Returned("v"), STORED)),
    ("another backend", {"backends": True}, lease("local"), (Raised(DOWN), lease("cloud"), Returned("v"), STORED)),
    ("another backend without a lease", {"backends": True}, lease("local"), (Raised(DOWN), GONE, Returned("v"))),
    (
        "a lease that was not asked for",
        {"backends": True},
        lease("local"),
        (Raised(DOWN), lease("local"), Returned("v")),
    ),
    ("a stale value", {}, lease(stale_value="old", stale_age_seconds=9.0), (Raised(DOWN), OK)),
    ("a shared answer that was not", {}, wire.Failed(1, "ignored", ""), (lease(), Returned("v"), STORED)),
    ("an own call without permission", {"key": None}, wire.Failed(1, "ignored", ""), (Returned("v"),)),
    ("a daemon that restarts", {}, GONE, (lease(), Returned("v"), STORED)),
    ("a daemon that restarts twice", {}, GONE, (GONE, Returned("v"))),
    ("no daemon", {}, NotConnected("no"), (Returned("v"),)),
    ("no daemon, and a function that fails", {}, NotConnected("no"), (Raised(DOWN),)),
    ("no daemon, and another backend", {"backends": True}, SILENT, (Raised(DOWN), Returned("v"))),
    ("a value that its caller rejects", {"valid": NEVER}, lease(), (Returned("v"), OK)),
    ("a rejected value whose report is lost", {"valid": NEVER}, lease(), (Returned("v"), GONE)),
    ("a stored answer that is invalid", {"valid": {"v"}.__contains__}, STORED_X, (lease(), Returned("v"), STORED)),
    (
        "a stored answer that is invalid, of a daemon that knows no limits",
        {"valid": {"v"}.__contains__},
        STORED_X,
        (STORED_X, STORED_X, lease(), Returned("v"), STORED),
    ),
    (
        "answers of other callers that are all invalid",
        {"valid": {"v"}.__contains__},
        INVALID,
        (INVALID, INVALID, lease(), Returned("v"), STORED),
    ),
    ("a daemon that is full", {}, wire.Rejected(1, "busy"), (Returned("v"),)),
    ("a daemon that asks for prefixes", {"prefix": "x"}, wire.PrefixWanted(1), (lease(), Returned("v"), STORED)),
]

IDS = [script[0] for script in SCRIPTS]


def begin(policy: dict[str, Any], reply: Any, flights: LocalFlights) -> Any:
    """Start the conversation of a script."""
    policy = dict(policy)
    functions = BACKENDS if policy.pop("backends", False) else answer
    call = prepare(Options(), functions, ("p",), {"key": KEY[1], **policy})
    return converse(call, flights, lambda: "/s", 0.0, reply)


def drive(conversation: Any, daemon: Daemon, throw_at: int = -1) -> Outcome[Any]:
    """Execute commands to the end. At the yield number ``throw_at``, throw an interruption in instead of a result."""
    resume, result, count = conversation.send, None, 0
    while True:
        try:
            command = resume(result)
        except StopIteration as end:
            outcome: Outcome[Any] = finished(end.value)
            return outcome

        if count == throw_at:
            daemon.interrupt(command)
            resume, result = conversation.throw, Interruption()
        else:
            resume, result = conversation.send, daemon.execute(command)

        count += 1


def played(script: Script) -> Daemon:
    """Play a script to its end."""
    _, policy, reply, results = script
    daemon = Daemon(reply, *results)
    with suppress(ConnectionError, Interruption), catch_warnings(action="ignore"):
        outcome = drive(begin(policy, reply, LocalFlights(threading.Event)), daemon)
        assert outcome.value in {"v", "old"} or type(outcome.value) is object
        return daemon

    assert isinstance(results[-1], Raised) or isinstance(results[-2], Raised)
    return daemon


INTERRUPTIONS = [
    pytest.param(script, index, id=f"{script[0]}, yield {index}")
    for script in SCRIPTS
    for index in range(len(played(script).commands))
]


@pytest.mark.parametrize("script", SCRIPTS, ids=IDS)
def test_a_conversation_that_ends_leaves_nothing_held(script: Script) -> None:
    """Every lease was reported or given back, and every command of the script was needed."""
    daemon = played(script)
    assert (daemon.results, daemon.held) == ([], 0)


def test_the_scripts_reach_every_command() -> None:
    """Of a plain call that joins no other: each is interrupted below."""
    reached = {name for script in SCRIPTS for name in played(script).names}
    assert reached == {"BeginCall", "Ask", "Send", "Run", "Abandon"}


@pytest.mark.parametrize(("script", "index"), INTERRUPTIONS)
def test_an_interruption_at_any_yield_leaves_nothing_held(script: Script, index: int) -> None:
    """The lease is given back once, another caller of the process leads next, and the interruption is raised."""
    _, policy, reply, results = script
    flights = LocalFlights(threading.Event)
    waiters: list[LocalWaiter] = []

    class Joined(Daemon):
        """Lets another caller of this process join the running call."""

        def execute(self, command: commands.Command) -> Any:
            self.join()
            return super().execute(command)

        def interrupt(self, command: commands.Command) -> None:
            self.join()
            super().interrupt(command)

        def join(self) -> None:
            if not waiters and flights._flights:
                waiters.append(flights.enter(KEY))  # type: ignore[arg-type]  # there is one to wait for

    daemon = Joined(reply, *results)
    with pytest.raises(Interruption), catch_warnings(action="ignore"):
        drive(begin(policy, reply, flights), daemon, throw_at=index)

    assert daemon.held == 0
    assert all(waiter.end is not None and waiter.event.is_set() for waiter in waiters)


# Joining a call of the same process --------------------------------------------------------------------------------------


def fall_back(flights: LocalFlights, **policy: Any) -> Any:
    """Start a call without a daemon."""
    return begin(policy, NotConnected("no"), flights)


def led(flights: LocalFlights) -> LocalFlight:
    """Let another caller lead."""
    flight = flights.enter(KEY)
    assert isinstance(flight, LocalFlight)
    return flight


ENDS: list[tuple[str, Callable[[LocalFlights, LocalFlight], object], Any]] = [
    ("answered", lambda flights, flight: flights.succeed(flight, "theirs"), "theirs"),
    ("elected", lambda flights, flight: flights.fail(flight, "transient", "m"), "v"),
    ("released", lambda flights, flight: flights.fail(flight, "ignored", "m"), "v"),
    ("failed", lambda flights, flight: flights.fail(flight, "fatal", "m"), CallFailed),
    ("rejected", lambda flights, flight: flights.reject(flight), "v"),
    ("too late", lambda *_: None, CallTimeout),
]


@pytest.mark.parametrize(("end", "expected"), [end[1:] for end in ENDS], ids=[end[0] for end in ENDS])
def test_a_caller_without_a_daemon_joins_the_running_call(
    end: Callable[[LocalFlights, LocalFlight], object], expected: Any
) -> None:
    """It takes that call's end for its own."""
    flights = LocalFlights(threading.Event)
    flight = led(flights)
    daemon = Daemon(None, lambda: end(flights, flight), Returned("v"))
    if isinstance(expected, str):
        outcome = drive(fall_back(flights), daemon)
        assert (outcome.value, outcome.source) == (expected, "fallback")
    else:
        with pytest.raises(expected):
            drive(fall_back(flights), daemon)

    assert not flight.waiters


def test_a_leased_call_that_fails_tells_the_callers_that_joined_it() -> None:
    """1. a call has a lease; 2. another caller of its process loses the daemon and joins it; 3. the call fails for good."""
    flights = LocalFlights(threading.Event)
    joined: list[LocalWaiter] = []

    def fails() -> Raised:
        waiter = flights.enter(KEY)
        assert isinstance(waiter, LocalWaiter)
        joined.append(waiter)
        return Raised(ValueError("bad request"))

    conversation = begin({"classify": lambda _: "fatal"}, lease(), flights)
    with pytest.raises(ValueError, match="bad request"):
        drive(conversation, Daemon(lease(), fails, OK))

    assert [waiter.end for waiter in joined] == [LocalFailure("fatal", "ValueError: bad request")]


def test_a_caller_that_joined_a_call_gets_the_detail_of_its_failure() -> None:
    """A waiter of the same process gets a copy of the detail, as from the daemon."""

    class Refused(Exception):
        kind = "fatal"
        detail = [400]  # noqa: RUF012 - as an instance's

    flights = LocalFlights(threading.Event)
    flight = led(flights)
    error = Refused("no")
    daemon = Daemon(None, lambda: flights.fail(flight, "fatal", "m", bytes(packed_detail(error))))
    with pytest.raises(CallFailed) as failed:
        drive(fall_back(flights), daemon)

    assert failed.value.detail == [400]
    assert failed.value.detail is not Refused.detail


def test_a_waiter_of_a_canceled_call_leads_the_next() -> None:
    """1. more callers in a row are canceled than elections allow; 2. the last waiter must not fail for it."""
    flights = LocalFlights(threading.Event)
    flight = led(flights)
    flight.elections = 99
    daemon = Daemon(None, lambda: flights.fail(flight, "cancelled", "m"), Returned("v"))
    assert drive(fall_back(flights), daemon).value == "v"
    assert daemon.names == ["WaitLocal", "Run"]


@pytest.mark.parametrize("elected", [False, True])
def test_an_interrupted_wait_affects_no_other_caller(elected: bool) -> None:
    """An elected waiter that leaves passes its turn on; otherwise no caller would lead."""
    flights = LocalFlights(threading.Event)
    flight = led(flights)
    conversation = fall_back(flights)
    assert isinstance(conversation.send(None), commands.WaitLocal)
    other = flights.enter(KEY)
    assert isinstance(other, LocalWaiter)
    if elected:
        flights.fail(flight, "transient", "m")

    with pytest.raises(Interruption):
        conversation.throw(Interruption())

    assert other.end == (Elected() if elected else None)
    flights.succeed(flight, "v")
    assert isinstance(other.end, Elected | Answered)
    assert not isinstance(other.end, LocalFailure)


# What no lease is needed for ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "policy", "error"),
    [
        (wire.Failed(1, "fatal", "bad"), {}, CallFailed),
        (wire.Rejected(1, "breaker_open"), {}, CallRejected),
        (wire.Timeout(1, 2.0), {}, CallTimeout),
        (NotConnected("no"), {"on_unavailable": "raise"}, DaemonUnavailable),
        (NotConnected("no"), {"mode": "only_if_cached"}, CallRejected),
        (NotConnected("no"), {"sovereign": True, "backend": "cloud"}, CallRejected),
    ],
)
def test_a_call_without_an_answer_raises(reply: Any, policy: dict[str, Any], error: type[Exception]) -> None:
    """Nothing runs, and nothing is sent."""
    daemon = Daemon(reply)
    with pytest.raises(error):
        drive(begin(policy, reply, LocalFlights(threading.Event)), daemon)

    assert daemon.commands == []


def test_a_function_may_raise_stop_iteration() -> None:
    """A generator cannot, so its result carries the exception."""
    error = StopIteration("x")
    daemon = Daemon(lease(), Raised(error), OK)
    with pytest.raises(StopIteration) as caught:
        drive(begin({}, lease(), LocalFlights(threading.Event)), daemon)

    assert caught.value is error


def test_a_lost_begin_is_sent_again_only_if_the_connection_had_ended() -> None:
    """A hanging daemon may still hold the first begin."""
    for lost, names in ((GONE, ["BeginCall", "Run"]), (SILENT, ["Run"]), (NotConnected("no"), ["Run"])):
        results: list[Any] = [SILENT] if isinstance(lost, ConnectionEnded) else []
        daemon = Daemon(lost, *results, Returned("v"))
        assert isinstance(lost, ConnectionLost)
        assert drive(begin({}, lost, LocalFlights(threading.Event)), daemon).source == "fallback"
        assert daemon.names == names


@pytest.mark.parametrize(
    ("reply", "policy", "results"),
    [
        (lease(), {}, (Returned("v"), STORED)),
        (NotConnected("no"), {}, (Returned("v"),)),
        (NotConnected("no"), {"key": None}, (Returned("v"),)),
    ],
    ids=["lease", "fallback", "fallback without a key"],
)
def test_waited_seconds_are_the_time_from_the_begin_to_the_own_call(
    reply: Any, policy: dict[str, Any], results: tuple[Any, ...]
) -> None:
    """A caller that makes the call itself has waited since its begin was sent."""
    call = prepare(Options(), answer, ("p",), {"key": KEY[1], **policy})
    conversation = converse(call, LocalFlights(threading.Event), lambda: "/s", monotonic() - 5.0, reply)

    assert drive(conversation, Daemon(reply, *results)).waited_seconds == pytest.approx(5.0, abs=2.0)


def test_a_local_waiter_has_waited_since_its_begin() -> None:
    """The time that it waited for the daemon's reply counts too."""
    flights = LocalFlights(threading.Event)
    leader = flights.enter(KEY)
    assert isinstance(leader, LocalFlight)
    call = prepare(Options(), answer, ("p",), {"key": KEY[1]})
    waiting = converse(call, flights, lambda: "/s", monotonic() - 5.0, NotConnected("no"))
    assert isinstance(waiting.send(None), commands.WaitLocal)
    flights.succeed(leader, "v")
    with pytest.raises(StopIteration) as end:
        waiting.send(None)

    assert finished(end.value.value).waited_seconds == pytest.approx(5.0, abs=2.0)


def test_a_value_that_cannot_be_shared_is_warned_of() -> None:
    """The caller gets its value, and a warning that names the function."""
    with pytest.warns(SidecardWarning, match="unshareable_answer"):
        outcome = drive(
            converse(
                prepare(Options(), unshareable_answer, (), {"key": KEY[1]}),
                LocalFlights(threading.Event), lambda: "/s", 0.0, lease(),
            ),
            Daemon(lease(), Returned(object()), OK),
        )  # fmt: skip

    assert outcome.source == "upstream"


def unshareable_answer() -> object:
    """Be a function that no other test warns of: a function is warned of once."""
    return object()


# Answers that a caller rejects ----------------------------------------------------------------------------------------------


def test_a_rejected_value_goes_to_its_caller_and_to_no_one_else() -> None:
    """The daemon gets the usage of the rejected answer; the next waiter of the process is elected."""
    flights = LocalFlights(threading.Event)
    waiters: list[Any] = []

    def join() -> Returned:
        waiters.append(flights.enter(KEY))
        return Returned("bad")

    daemon = Daemon(lease(), join, OK)
    policy = {"valid": NEVER, "usage": lambda _: {"cost_dollars": 0.5}}
    outcome = drive(begin(policy, lease(), flights), daemon)
    assert (outcome.value, outcome.source) == ("bad", "upstream")
    ask = daemon.commands[-1]
    assert isinstance(ask, commands.Ask)
    assert isinstance(ask.message, wire.Fail)
    assert (ask.message.kind, ask.message.answered, ask.message.invalid) == ("ignored", True, True)
    assert ask.message.usage is not None
    assert ask.message.usage.cost_dollars == 0.5
    assert isinstance(waiters[0].end, Elected)


def test_an_invalid_answer_of_the_process_is_asked_for_again() -> None:
    """The caller begins again at most twice; then it makes its own call, which it does not share."""
    flights, joined = LocalFlights(threading.Event), 0

    def answer_badly(flight: LocalFlight) -> None:
        nonlocal joined
        joined += 1
        flights.succeed(flight, "bad")
        if joined < 3:
            ends.append(led(flights))

    ends = [led(flights)]
    results = [lambda: answer_badly(ends[-1])] * 3
    daemon = Daemon(None, *results, Returned("v"))
    outcome = drive(fall_back(flights, valid=NEVER), daemon)
    assert (outcome.value, joined, daemon.names) == ("v", 3, ["WaitLocal"] * 3 + ["Run"])


def test_waiting_for_answers_that_are_none_ends_with_the_callers_patience() -> None:
    """Each further begin waits for what is left of ``wait=``."""
    daemon = Daemon(None, wire.Timeout(1, 0.0))
    conversation = converse(
        prepare(Options(), answer, ("p",), {"key": "k", "wait": 5, "valid": NEVER}),
        LocalFlights(threading.Event),
        lambda: "/s",
        monotonic() - 4.0,
        INVALID,
    )
    with pytest.raises(CallTimeout):
        drive(conversation, daemon)

    (again,) = daemon.commands
    assert isinstance(again, commands.BeginCall)
    assert again.wait_seconds == pytest.approx(1.0, abs=0.5)
    assert again.call.options.mode == "use"
    assert again.call.options.max_age_seconds == pytest.approx(0.0, abs=0.5)
