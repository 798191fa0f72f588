"""Which answers a caller accepts: the bound of their age, and ``valid=``."""

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sidecard_client import CallFailed, CallRejected, SidecardWarning
from sidecard_client.call.acceptance import accepts_age, renewed
from sidecard_client.call.attempts import Attempts
from sidecard_client.call.call import prepare
from sidecard_client.call.local_flights import Elected, LocalFlight, LocalFlights, LocalWaiter, Released
from sidecard_client.call.options import Options
from sidecard_client.call.outcome import MAX_REFRESHES, NextStep, Outcome, hit_outcome, renewable, resolve
from sidecard_client.protocol import wire
from sidecard_client.protocol.values import bound_of

WAITED = 0.25


def ask(prompt: str) -> str:
    """Be the function."""
    return prompt


def call(**policy: Any) -> Any:
    """Prepare a call with a policy."""
    return prepare(Options(), ask, ("p",), policy)


class Clock:
    """Seconds, moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        """Return the current instant."""
        return self.now


def hit(age_seconds: float, *, value: Any = "v", stale: bool = False) -> wire.Hit:
    """Build a stored answer."""
    return wire.Hit(1, value, age_seconds, stale, 2.0, 0.5, "b", {})


def shared(age_seconds: float, value: Any = "v") -> wire.Shared:
    """Build another caller's answer."""
    return wire.Shared(1, value, age_seconds, False, 2.0, 0.5, "b", {})


@pytest.mark.parametrize(
    ("policy", "bound"),
    [({}, None), ({"ttl": 5}, 5.0), ({"max_age": 3}, 3.0), ({"ttl": 5, "max_age": 3}, 3.0), ({"ttl": 0}, 0.0)],
)
def test_lesser_limit_is_the_bound(policy: dict[str, Any], bound: float | None) -> None:
    """Both keywords limit the age of what a caller gets."""
    assert bound_of(call(**policy).options) == bound


@pytest.mark.parametrize("reply", [hit, shared])
@pytest.mark.parametrize("policy", [{"ttl": 2}, {"max_age": 2}, {"ttl": 2, "stale": 60}])
def test_older_answer_of_an_older_daemon_is_refreshed(reply: Callable[[float], Any], policy: dict[str, Any]) -> None:
    """An older daemon sends any stored answer: the caller rejects one beyond its bound, and begins again."""
    assert resolve(call(**policy), reply(1.9), WAITED).value == "v"
    assert resolve(call(**policy), reply(2.0), WAITED) is NextStep.REFRESH
    with pytest.raises(CallRejected, match="not_cached"):
        resolve(call(mode="only_if_cached", **policy), reply(2.0), WAITED)


def test_answer_that_arrived_meanwhile_is_young_enough() -> None:
    """An answer that is not older than its caller's begin is accepted, whatever the bound."""
    assert accepts_age(call(ttl=0), 0.2, WAITED)
    assert not accepts_age(call(ttl=0), 0.3, WAITED)


def test_stale_answer_is_accepted_by_an_explicit_stale() -> None:
    """A stale answer is accepted up to ``stale=`` seconds beyond the bound."""
    assert resolve(call(ttl=2, stale=60), hit(61.9, stale=True), WAITED).source == "stale"  # type: ignore[union-attr]  # an outcome
    assert resolve(call(ttl=2, stale=60), hit(62.0, stale=True), WAITED) is NextStep.REFRESH
    assert resolve(call(ttl=2), hit(3.0, stale=True), WAITED) is NextStep.REFRESH
    assert resolve(call(stale=60), hit(1000.0, stale=True), WAITED).source == "stale"  # type: ignore[union-attr]  # an outcome


@pytest.mark.parametrize("reply", [hit, shared])
def test_invalid_answer_of_others_is_not_returned(reply: Callable[..., Any]) -> None:
    """The caller begins again, a bounded number of times, and then makes a call of its own."""
    one = call(valid=lambda value: value != "bad")
    assert resolve(one, reply(1.0), WAITED).value == "v"
    assert resolve(one, reply(1.0, value="bad"), WAITED) is NextStep.NEWER
    one.refreshes = 1
    assert resolve(one, reply(1.0, value="bad"), WAITED) is NextStep.REFRESH
    one.refreshes = MAX_REFRESHES
    assert resolve(one, reply(1.0, value="bad"), WAITED) is NextStep.OWN_CALL
    with pytest.raises(CallRejected, match="not_cached"):
        resolve(call(valid=bool, mode="only_if_cached"), reply(1.0, value=""), WAITED)


def test_rejection_without_a_valid_stale_answer_is_raised() -> None:
    """The stale answer that a rejection carries must be valid and young enough."""
    rejected = wire.Rejected(1, "breaker_open", stale_value="v", stale_age_seconds=5.0)
    assert resolve(call(valid=bool), rejected, WAITED).value == "v"
    for policy in ({"valid": lambda value: value != "v"}, {"max_age": 5}, {"max_age": 3, "stale": 2}):
        with pytest.raises(CallRejected):
            resolve(call(**policy), rejected, WAITED)


def test_valid_that_fails_counts_as_invalid() -> None:
    """A warning names the function and the keyword."""
    with pytest.warns(SidecardWarning, match=r"valid= of ask failed \(ZeroDivisionError\)"):
        assert hit_outcome(call(valid=lambda _: 1 / 0), hit(1.0), WAITED) is None


def test_valid_is_asked_once_for_a_stored_answer() -> None:
    """A plain function is required: the result of a coroutine function would always be true."""
    judged: list[Any] = []
    assert hit_outcome(call(valid=judged.append), hit(1.0), WAITED) is None
    assert judged == ["v"]

    async def judge(_: Any) -> bool:
        return False

    with pytest.raises(TypeError, match="valid= must be a plain function: its result is not awaited"):
        call(valid=judge)


def test_valid_gets_the_value_as_its_caller() -> None:
    """A typed value is restored before it is judged."""
    judged: list[Any] = []

    def judge(value: Any) -> bool:
        judged.append(value)
        return True

    one = call(returns=tuple[int, ...], valid=judge)
    outcome = hit_outcome(one, hit(1.0, value=one.codec.to_plain((1, 2))), WAITED)
    assert outcome is not None
    assert judged == [outcome.value] == [(1, 2)]


@pytest.mark.parametrize(("call_seconds", "age"), [(0.5, 2.5), (1.0, None)])
def test_stale_answer_of_a_lease_ages_while_the_call_runs(
    monkeypatch: pytest.MonkeyPatch, call_seconds: float, age: float | None
) -> None:
    """When the call fails, the answer that its lease carried may have become too old."""
    clock = Clock()
    monkeypatch.setattr("sidecard_client.call.attempts.monotonic", clock)
    lease = wire.Lease(1, "l", "default", 15.0, 1, stale_value="v", stale_age_seconds=2.0)
    attempts = Attempts(call(max_age=3), lease)
    attempts.use(lease)
    clock.now += call_seconds
    outcome = attempts.stale_outcome(ConnectionError("down"), 0.0)
    assert (None if outcome is None else outcome.age_seconds) == age


# Samples ------------------------------------------------------------------------------------------------------------------


def test_samples_have_keys_of_their_own_also_beside_a_given_key() -> None:
    """The first sample has the plain key."""
    for policy in ({}, {"key": "k"}):
        keys = [call(sample=number, **policy).key for number in range(5)]
        assert len(set(keys)) == 5
        assert keys[0] == call(**policy).key

    assert call(key=None, sample=3).key is None
    with pytest.raises(ValueError, match="key= must have at most 1022 characters with sample=3, not 1023"):
        call(key="k" * 1023, sample=3)


# Calls of the same process ------------------------------------------------------------------------------------------------


def waiters_of(flights: LocalFlights, flight: LocalFlight, count: int) -> list[LocalWaiter]:
    """Let callers join a flight."""
    waiters = [flights.enter(flight.key) for _ in range(count)]
    assert all(isinstance(waiter, LocalWaiter) for waiter in waiters)
    return waiters  # type: ignore[return-value]


def test_rejected_answer_elects_the_next_waiter_of_the_process() -> None:
    """Two waiters are elected one after another; then every waiter makes its own call."""
    flights = LocalFlights(threading.Event)
    flight = flights.enter(("n", "k"))
    assert isinstance(flight, LocalFlight)
    one, two, three = waiters_of(flights, flight, 3)
    flights.reject(flight)
    assert (type(one.end), two.end) == (Elected, None)
    flights.reject(flight)
    assert (type(two.end), three.end) == (Elected, None)
    flights.reject(flight)
    assert isinstance(three.end, Released)
    assert len(flights) == 0


def test_rejected_answer_without_waiters_ends_the_flight() -> None:
    """The next caller makes its own call."""
    flights = LocalFlights(threading.Event)
    flight = flights.enter(("n", "k"))
    assert isinstance(flight, LocalFlight)
    flights.reject(flight)
    assert isinstance(flights.enter(("n", "k")), LocalFlight)


# Outcomes that ask again ----------------------------------------------------------------------------------------------------


def test_refresh_accepts_only_what_is_newer_than_the_outcome() -> None:
    """The age of the answer at the refresh is the bound; neither a stale nor a similar answer is accepted."""
    clock, asked = Clock(), list[Any]()
    one = call(stale=60, max_age=500, embed={"m": lambda _: [1.0]})
    outcome = renewable(Outcome("v", "cache", 3.0), one, asked.append, clock)
    clock.now += 4.0
    outcome.refresh()
    begin = asked[0].begin(1)
    assert (begin.key, begin.mode, begin.max_age_seconds, begin.embeds) == (one.key, "use", 7.0, False)
    assert not accepts_age(asked[0], 1.0, WAITED, stale=True)
    assert accepts_age(one, 1.0, WAITED, stale=True)


@pytest.mark.parametrize(
    ("mode", "expected"), [("use", "use"), ("refresh", "use"), ("only_if_cached", "only_if_cached")]
)
def test_refresh_keeps_the_policy(mode: wire.Mode, expected: str) -> None:
    """A lower bound of the caller stays, and ``only_if_cached`` still makes no call."""
    again = renewed(call(mode=mode, max_age=2, ttl=9, task="t"), 50.0)
    assert again.options == Options(mode=expected, max_age_seconds=2.0, ttl_seconds=9.0, task="t")  # type: ignore[arg-type]
    assert renewed(call(), 1e12).begin(1).max_age_seconds == 366 * 86400.0


def test_refresh_computes_the_key_of_changed_arguments() -> None:
    """A list that has grown since is another request: its answer must not be stored under the old key."""
    messages = ["one"]
    one = prepare(Options(), ask, (messages,), {})
    assert renewed(one, 1.0).key == one.key
    messages.append("two")
    assert renewed(one, 1.0).key == prepare(Options(), ask, (["one", "two"],), {}).key != one.key
    assert renewed(call(key="k"), 1.0).key == "k"
    assert renewed(call(key=None), 1.0).key is None


def test_outcome_without_a_client_cannot_be_refreshed() -> None:
    """A copied outcome cannot be refreshed. One that can is equal to one that cannot, and pickles."""
    plain: Outcome[str] = Outcome("v", "cache")
    bound = renewable(Outcome("v", "cache"), call(), list[Any]().append, Clock())
    assert bound == plain
    assert repr(bound) == repr(plain)
    assert pickle.loads(pickle.dumps(bound)) == plain  # noqa: S301 - its own bytes
    for one in (plain, copy.copy(bound), msgspec.structs.replace(bound, age_seconds=1.0)):
        with pytest.raises(RuntimeError, match="call outcome\\(\\) again"):
            one.refresh()


def test_failed_call_is_not_replaced_by_the_answer_that_is_refreshed() -> None:
    """The stale answer that a rejection carries is refused."""
    again = renewed(call(stale=60), 5.0)
    with pytest.raises(CallRejected):
        resolve(again, wire.Rejected(1, "breaker_open", stale_value="v", stale_age_seconds=5.0), WAITED)


def test_remembered_failure_is_raised_also_for_bounded_callers() -> None:
    """The bound applies to answers and not to remembered failures."""
    with pytest.raises(CallFailed):
        resolve(call(max_age=0), wire.Failed(1, "fatal", "bad prompt"), WAITED)
