"""The attempts of one call: what it asks for after a failure, and what the daemon's word on that means."""

from typing import Any

import pytest

from sidecard_client.call import call as calls
from sidecard_client.call.attempts import Attempts, may_leave_lease
from sidecard_client.call.options import Options
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionEnded, ConnectionLost

DOWN = ConnectionError("down")
LOST = ConnectionEnded("gone")


def small(prompt: str) -> str:
    """Answer cheaply."""
    return prompt


def big(prompt: str) -> str:
    """Answer dearly."""
    return prompt


def lease(backend: str = "default", **fields: Any) -> wire.Lease:
    """Build a lease."""
    return wire.Lease(id=1, lease=f"l.{backend}", backend=backend, expires_in_seconds=15, attempt=1, **fields)


def attempts_at(*backends: str, **policy: Any) -> Attempts:
    """Prepare a call on ``backends``, or of a single function where there are none."""
    function: Any = {name: big if name == "cloud" else small for name in backends} or small
    return Attempts(calls.prepare(Options(), function, ("p",), policy))


def asks(attempts: Attempts, backend: str, kind: wire.FailureKind = "transient") -> tuple[bool, bool]:
    """Take a lease and fail under it; return whether another one is asked for, and whether a retry will do."""
    attempts.use(lease(backend))
    message = attempts.failure(lease(backend), DOWN, kind)
    assert (message.lease, message.kind) == (f"l.{backend}", kind)
    return message.next, message.retry


def test_use_returns_the_function_of_the_leases_backend() -> None:
    """A used lease counts as an attempt."""
    attempts = attempts_at("local", "cloud")
    assert attempts.use(lease("cloud", passed_over={"local": "saturated"})) is big
    outcome = attempts.outcome("v", "upstream", 0.5)
    assert (outcome.value, outcome.source, outcome.backend, outcome.waited_seconds) == ("v", "upstream", "cloud", 0.5)
    assert (outcome.passed_over, outcome.attempts) == ({"local": "saturated"}, 1)


def test_failure_asks_for_each_backend_once() -> None:
    """Without retries, a failure asks for another backend while one is left."""
    attempts = attempts_at("local", "cloud")
    assert asks(attempts, "local") == (True, False)
    assert asks(attempts, "cloud") == (False, False)


def test_failure_asks_for_as_many_retries_as_the_policy_has() -> None:
    """Each retry may use all backends again."""
    attempts = attempts_at("local", "cloud", retries=1)
    assert [asks(attempts, name) for name in ("local", "cloud", "local", "cloud")] == [
        (True, True),
        (True, True),
        (True, False),
        (False, False),
    ]
    assert attempts.count == 4


@pytest.mark.parametrize("names", [("default",) * 3, ("local", "cloud", "near")])
def test_each_further_lease_of_a_single_function_is_a_retry(names: tuple[str, ...]) -> None:
    """A single function is retried even if the daemon configures several backends for it."""
    attempts = attempts_at(retries=2)
    assert [asks(attempts, name) for name in names] == [(True, True), (True, True), (False, False)]


@pytest.mark.parametrize("kind", ["fatal", "ignored", "cancelled"])
def test_failure_asks_for_nothing_where_nothing_would_help(kind: wire.FailureKind) -> None:
    """Only transient failures are retried."""
    assert asks(attempts_at("local", "cloud", retries=3), "local", kind) == (False, False)


GIVE_UP = [
    wire.Ok(id=7),
    wire.Rejected(id=7, reason="breaker_open"),
    wire.Timeout(id=7, waited_seconds=1.0),
    wire.Failed(id=7, kind="transient", message=""),
    wire.Failed(id=7, kind="ignored", message=""),
    wire.Shared(id=7, value=1, age_seconds=0, stale=False, saved_seconds=0, saved_dollars=0, backend="local", meta={}),
    wire.Hit(id=7, value=1, age_seconds=0, stale=False, saved_seconds=0, saved_dollars=0, backend="local", meta={}),
]
VOID = [LOST, wire.StaleLease(id=7), wire.Error(id=7, code="internal", message="")]


def after_failure(attempts: Attempts, reply: wire.AnyReply | ConnectionLost, backend: str = "local") -> str:
    """Fail on ``backend`` and ask what ``reply`` means."""
    attempts.use(lease(backend))
    return attempts.after_failure(attempts.failure(lease(backend), DOWN, "transient"), reply)


@pytest.mark.parametrize("reply", GIVE_UP, ids=lambda reply: type(reply).__name__)
def test_the_daemons_no_is_final(reply: wire.AnyReply) -> None:
    """A refusal stands even if a backend is left: the daemon has a reason."""
    assert after_failure(attempts_at("local", "cloud"), reply) == "give_up"
    assert not may_leave_lease(reply)


@pytest.mark.parametrize("reply", VOID, ids=lambda reply: type(reply).__name__)
def test_a_lost_daemon_is_no_reason_to_give_up_a_backend(reply: wire.AnyReply | ConnectionLost) -> None:
    """An untried backend is called without a lease, unless it may be remote; a failed one is not called again."""
    assert after_failure(attempts_at("local", "cloud"), reply) == "without_lease"
    assert after_failure(attempts_at("local", retries=1), reply) == "give_up"
    assert after_failure(attempts_at(retries=1), reply) == "give_up"
    assert after_failure(attempts_at("local", "cloud", sovereign=True), reply) == "give_up"
    assert may_leave_lease(reply) == (not isinstance(reply, wire.StaleLease))


def test_a_lost_daemon_leaves_only_backends_that_were_never_asked() -> None:
    """1. Both backends fail; 2. a retry on the first fails; 3. the daemon is lost: no backend is left."""
    attempts = attempts_at("local", "cloud", retries=1)
    asks(attempts, "local")
    asks(attempts, "cloud")
    assert after_failure(attempts, LOST) == "give_up"


def test_a_lease_is_used_if_it_was_asked_for() -> None:
    """A lease on another backend is always used; on a failed one only as a retry."""
    assert after_failure(attempts_at("local", "cloud"), lease("cloud")) == "use_lease"
    assert after_failure(attempts_at("local", "cloud", retries=1), lease("local")) == "use_lease"
    assert after_failure(attempts_at("local", "cloud"), lease("local")) == "without_lease"
    assert after_failure(attempts_at(retries=1), lease("other")) == "use_lease"
    assert may_leave_lease(lease("local"))
