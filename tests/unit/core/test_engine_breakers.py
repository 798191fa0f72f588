"""Breakers, and operators' actions on them."""

from typing import Any

import pytest
from msgspec import structs

from sidecard.core import notes
from sidecard.core.settings import BackendSettings, BreakerSettings, BudgetSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Cancel, Lease, Ok, Rejected, Timeout, Usage
from tests.backends import ONE, TOUCHY, held, limited, opened, touchy
from tests.host import Host


def test_breaker_opens_for_all_callers() -> None:
    """Five failures of ten processes open the breaker for every caller, and the rejection names the time."""
    host = Host()
    callers = [host.peer(pid=number + 1) for number in range(10)]
    leases = [caller.calls("cloud").lease for caller in callers]
    for number, (caller, lease) in enumerate(zip(callers, leases, strict=True)):
        if number % 2:
            caller.fails(lease)
        else:
            caller.completes(lease, "answer")

    assert host.peer().refused("cloud") == Rejected(1, "breaker_open", 10.0, {"cloud": "breaker_open"})
    assert [note for note in host.notes if isinstance(note, notes.BreakerOpened)] == [
        notes.BreakerOpened("cloud", "failures", 10.0, 10, 5, 0, 1)
    ]
    assert (host.stats().breakers_opened, host.stats().rejected_breaker_open) == (1, 1)
    assert host.stats().breakers == host.report().breakers == {"cloud": "open"}


def test_opening_breaker_empties_its_queue() -> None:
    """An opening breaker moves queued callers to another backend or rejects them, each once, with their waiters."""
    host = Host(backends={"a": BackendSettings(max_concurrent=1, breaker=BreakerSettings(min_calls=1)), "b": ONE})
    holder, lease = held(host, "a")
    other, other_lease = held(host, "b")
    bob, carol, dave, eve = (host.peer() for _ in range(4))
    bob.waits("key", backends=("a",))
    carol.waits("key", backends=("a",))
    dave.waits("other", backends=("a", "b"))
    eve.waits("key", 9, backends=("b",))
    holder.fails(lease)

    refused = Rejected(1, "breaker_open", 10.0, {"a": "breaker_open"})
    assert bob.receives() == carol.receives() == [refused]
    assert (dave.receives(), eve.receives()) == ([], [])
    assert (host.breakers()["a"].queued, host.breakers()["b"].queued) == (0, 2)
    other.completes(other_lease, "answer")
    assert dave.gets(Lease).backend == "b"
    dave.dies()
    assert eve.gets(Lease).backend == "b"


def test_expired_applicant_times_out_when_breaker_opens() -> None:
    """A queued caller past its deadline times out: 1. the deadline passes; 2. the breaker opens; 3. the tick follows."""
    host = Host(backends={"a": BackendSettings(max_concurrent=1, breaker=BreakerSettings(min_calls=1)), "b": ONE})
    (holder, lease), (other, other_lease) = held(host, "a"), held(host, "b")
    bob = host.peer()
    bob.waits("key", backends=("a", "b"), wait_seconds=5.0)
    host.now += 5.0
    holder.fails(lease)
    other.completes(other_lease, "answer")

    assert bob.receives() == [Timeout(1, 5.0)]
    assert host.stats().leases == 0


def test_first_caller_after_cool_down_is_the_only_probe() -> None:
    """The first caller after the cool-down is the only probe; its success closes the breaker for all."""
    host = touchy()
    opened(host, "a")
    host.passes(10.0)
    probe = host.peer()
    lease = probe.calls("a").lease
    assert [host.peer().refused("a").retry_after_seconds for _ in range(20)] == [1.0] * 20
    assert host.breakers()["a"].state == "half_open"
    probe.completes(lease, "answer")

    host.peer().calls("a")
    assert [type(note) for note in host.notes if isinstance(note, notes.BreakerNote)] == [
        notes.BreakerOpened,
        notes.BreakerProbing,
        notes.BreakerClosed,
    ]


@pytest.mark.parametrize("way", ["dies", "cancels", "hangs"])
def test_next_caller_probes_if_last_probe_had_no_outcome(way: str) -> None:
    """A probe without an outcome makes the next caller the probe within one round trip."""
    host = touchy()
    opened(host, "a")
    host.passes(10.0)
    probe = host.peer()
    probe.calls("a", request_id=5)
    match way:
        case "dies":
            probe.dies()
        case "cancels":
            probe.asks(Cancel(5, id=6))
        case _:
            host.passes(15.0)

    host.peer().calls("a")
    host.peer().refused("a")
    assert host.breakers()["a"].generation == 2


@pytest.mark.parametrize("fields", [{"kind": "ignored"}, {"kind": "transient", "timeout": True}])
def test_a_probe_that_cannot_be_classified_closes(fields: dict[str, Any]) -> None:
    """It counts neither for nor against the backend, and half-open never lasts: the window judges again."""
    host = Host(backends={"a": structs.replace(TOUCHY, timeouts="nothing")})
    opened(host, "a")
    host.passes(10.0)
    probe = host.peer()
    probe.fails(probe.calls("a").lease, **fields)

    state = host.breakers()["a"]
    assert (state.state, state.calls, state.failures) == ("closed", 0, 0)
    host.peer().calls("a")
    host.peer().calls("a")


@pytest.mark.parametrize("way", ["fail", "cancel", "die"])
def test_a_probe_whose_reader_leaves_a_stream_closes(way: str) -> None:
    """The backend has begun to answer; readers that need only a beginning must not keep the others waiting."""
    host = touchy()
    opened(host, "a")
    host.passes(10.0)
    probe = host.peer()
    probe.asks(wire.Begin("key", id=5, backends=("a",), stream=True))
    lease = probe.gets(Lease).lease
    probe.appends(lease, "piece")
    if way == "die":
        probe.dies()
    elif way == "cancel":
        probe.asks(Cancel(5, id=6))
    else:
        probe.fails(lease, "cancelled")

    assert host.breakers()["a"].state == "closed"


def test_backends_that_are_never_called_again_close() -> None:
    """A pause that a backend requested, over a restart too: nothing is left to keep, and `health` has no reason."""
    host = Host()
    for number in range(3):
        peer = host.peer()
        peer.fails(peer.calls(f"gone{number}").lease, retry_after_seconds=5.0)

    later = Host(wall_offset_seconds=3600.0)
    later.engine.restore_ledger(host.engine.ledger_snapshot())
    assert set(later.engine.ledger_snapshot().breakers) == {"gone0", "gone1", "gone2"}
    later.passes(10.0)
    operator = later.peer()
    operator.asks(wire.GetHealth())
    assert operator.gets(wire.Health).reasons == []
    assert later.engine.ledger_snapshot().breakers == {}


def test_waiter_of_dead_probe_is_next_probe() -> None:
    """The waiter of a dead probe makes the next probe in the same event."""
    host = touchy()
    opened(host, "a")
    host.passes(10.0)
    probe, bob = host.peer(), host.peer()
    probe.leads("key", backends=("a",))
    bob.waits("key", backends=("a",))
    probe.dies()

    assert bob.gets(Lease).attempt == 2


def test_dying_process_returns_both_permits_before_election() -> None:
    """A dying process returns both of its permits before any election, so its probe is free for its other flight."""
    host = Host(backends={"a": TOUCHY})
    dying, bob = host.peer(), host.peer()
    dying.leads("key", backends=("a",))
    bob.waits("key", 4, backends=("a",))
    opened(host, "a")
    host.passes(10.0)
    dying.calls("a", request_id=2)
    dying.dies()

    assert bob.gets(Lease).id == 4


def test_dying_applicant_and_probe_frees_probe_for_its_waiter() -> None:
    """A process that dies as applicant and probe frees the probe for the next caller of its flight."""
    host = Host(backends={"a": TOUCHY, "b": ONE})
    held(host, "b")
    opened(host, "a")
    host.passes(10.0)
    dying, bob = host.peer(), host.peer()
    dying.calls("a", request_id=2)
    dying.waits("key", backends=("b",))
    bob.waits("key", backends=("a",))
    dying.dies()

    assert bob.gets(Lease).backend == "a"


def test_success_from_before_opening_does_not_close_half_open_breaker() -> None:
    """A success of a call that began before the opening does not close a half-open breaker."""
    host = touchy()
    early, lease = held(host, "a")
    opened(host, "a")
    host.passes(10.0)
    held(host, "a")
    early.completes(lease, "answer")

    assert host.breakers()["a"].state == "half_open"


def test_overdue_probe_reopens_breaker() -> None:
    """A probe whose holder renews without answering reopens the breaker."""
    host = touchy(lease_seconds=600.0)
    opened(host, "a")
    host.passes(10.0)
    held(host, "a")
    host.passes(60.0)

    assert host.peer().refused("a").retry_after_seconds == 20.0


@pytest.mark.parametrize(
    ("timeouts", "state", "slow"), [("failure", "open", 0), ("slow", "closed", 1), ("nothing", "closed", 0)]
)
def test_callers_own_timeout_is_scored_as_configured(timeouts: Any, state: str, slow: int) -> None:
    """A caller's own timeout is scored as the backend's setting says."""
    breaker = BreakerSettings(min_calls=1, slow_rate=0.75)
    host = Host(backends={"a": BackendSettings(timeouts=timeouts, breaker=breaker)})
    host.sets("a", "close")
    caller, lease = held(host, "a")
    if timeouts == "slow":
        succeeding, other = held(host, "a")
        succeeding.completes(other, "answer")

    caller.fails(lease, timeout=True)
    assert (host.breakers()["a"].state, host.breakers()["a"].slow) == (state, slow)


def test_fatal_failures_do_not_open_breaker() -> None:
    """Fatal failures show that the backend answers, so they do not open the breaker."""
    host = touchy()
    for _ in range(50):
        caller, lease = held(host, "a")
        caller.fails(lease, "fatal")

    state = host.breakers()["a"]
    assert (state.state, state.calls, state.failures) == ("closed", 50, 0)


def test_slow_answers_open_breaker() -> None:
    """Slow answers open the breaker, by total time or by the time to the first chunk."""
    breaker = BreakerSettings(min_calls=1, slow_seconds=5.0, slow_first_chunk_seconds=1.0)
    for seconds, first_chunk, state in ((6.0, 0.5, "open"), (3.0, 2.0, "open"), (5.0, 1.0, "closed")):
        host = Host(backends={"a": BackendSettings(breaker=breaker)})
        caller, lease = held(host, "a")
        host.passes(seconds)
        caller.completes(lease, "answer", usage=Usage(first_chunk_seconds=first_chunk))
        assert host.breakers()["a"].state == state


def test_retry_after_opens_breaker_without_counting_as_failure() -> None:
    """One caller's retry-after opens the breaker for all and is no failure."""
    host = Host()
    caller, lease = held(host, "cloud")
    caller.fails(lease, retry_after_seconds=33.0)
    assert caller.receives() == [Ok(98)]

    assert host.peer().refused("cloud").retry_after_seconds == 33.0
    assert host.breakers()["cloud"].failures == 0
    host.passes(33.0)
    host.peer().calls("cloud")


def test_ignored_call_with_answer_counts_as_success_and_is_billed() -> None:
    """An ignored call whose backend answered is a success and is billed."""
    host = touchy(budgets={"all": BudgetSettings(10.0)})
    opened(host, "a")
    host.passes(10.0)
    probe, lease = held(host, "a")
    host.passes(2.0)
    probe.fails(lease, "ignored", answered=True, usage=Usage(cost_dollars=0.5))
    report = host.report()

    assert host.breakers()["a"].state == "closed"
    assert (report.backends["a"].calls, report.backends["a"].seconds) == (1, 2.0)
    assert report.budgets["all"].spent_dollars == report.total.billed_dollars == 0.5
    assert host.breakers()["a"].latency_seconds == 2.0


def test_ignored_call_without_answer_has_no_result() -> None:
    """An ignored call whose backend did not answer is neither success nor failure, and is not billed."""
    host = touchy()
    caller, lease = held(host, "a")
    caller.fails(lease, "ignored", usage=Usage(cost_dollars=0.5))

    assert host.breakers()["a"].calls == 0
    assert host.report().total.billed_dollars == 0.0


def test_operator_opens_probes_and_closes_breaker() -> None:
    """``open`` holds until an operator acts, ``auto`` probes first, ``close`` acts immediately."""
    host = Host()
    host.sets("cloud", "open")
    host.passes(1e6)
    assert host.peer().refused("cloud") == Rejected(1, "breaker_open", None, {"cloud": "breaker_open"})
    assert host.breakers()["cloud"].state == "forced_open"
    host.sets("cloud", "auto")
    held(host, "cloud")
    host.peer().refused("cloud")
    host.sets("cloud", "close")

    host.peer().calls("cloud")
    assert host.breakers()["cloud"].state == "closed"


def test_disabled_breaker_measures_and_stays_closed() -> None:
    """A disabled breaker measures but does not open until an operator sets ``auto``."""
    host = touchy()
    host.sets("a", "disable")
    opened(host, "a")
    assert (host.breakers()["a"].state, host.breakers()["a"].failures) == ("disabled", 1)
    host.sets("a", "auto")
    opened(host, "a")

    assert host.breakers()["a"].state == "open"


def test_operator_open_empties_queue_and_close_serves_it() -> None:
    """An operator's actions affect the queue immediately, not at the next call."""
    host = limited()
    held(host, "a")
    bob = host.peer()
    bob.waits("key", backends=("a",))
    host.sets("a", "open")

    assert bob.gets(Rejected).reason == "breaker_open"
    host.sets("a", "close")
    bob.waits("key", 2, backends=("a",))


def test_only_operators_set_breakers() -> None:
    """Only operators set breakers; other peers may read them."""
    host = Host()
    alice = host.peer()
    alice.asks(wire.SetBreaker("cloud", "open", id=3))
    denied = alice.gets(wire.Error)

    assert (denied.id, denied.code) == (3, "denied")
    assert "operator" in denied.message
    alice.asks(wire.GetBreakers(id=4))
    assert alice.gets(wire.Breakers).backends == {}


def test_setting_the_breaker_of_an_unknown_backend_is_an_error() -> None:
    """The error has the nearest known name, and no row appears. Configured backends and the built-in ones are known."""
    host = Host(backends={"cloud": ONE})
    operator = host.peer(0, 0, operator=True)
    operator.asks(wire.SetBreaker("clouud", "open", id=3))
    refused = operator.gets(wire.Error)
    assert refused.code == "bad_request"
    assert "there is no backend 'clouud'; did you mean 'cloud'? Known: 'cloud'." in refused.message
    assert "[backends.clouud]" in refused.message
    assert list(host.breakers()) == ["cloud"]
    for name in ("cloud", "local", "default"):
        operator.asks(wire.SetBreaker(name, "open", id=3))
        assert operator.gets(wire.Ok).id == 3


def test_breakers_reply_describes_each_backend() -> None:
    """The reply describes limits, permits, queues, latency, cost, and why a breaker is not closed."""
    host = Host(backends={"a": ONE, "b": TOUCHY})
    caller, lease = held(host, "a")
    host.passes(3.0)
    caller.completes(lease, "answer", usage=Usage(cost_dollars=0.25))
    held(host, "a")
    host.peer().waits("key", backends=("a",))
    opened(host, "b")
    a, b = host.breakers()["a"], host.breakers()["b"]

    assert (a.state, a.permits, a.limit, a.queued, a.max_queue) == ("closed", 1, 1, 1, 512)
    assert (a.latency_seconds, a.dollars_per_call, a.cause) == (3.0, 0.25, "")
    assert (b.state, b.retry_after_seconds, b.opened, b.limit) == ("open", 10.0, 1, None)
    assert b.cause.startswith("Too many calls failed")
