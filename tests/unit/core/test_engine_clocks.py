"""A host that sleeps: what is in progress waits for it, everything else ages."""

from sidecard.core.events import ClocksStepped
from sidecard.core.settings import BackendSettings, BudgetSettings
from sidecard_client.protocol import wire
from tests.host import Host

HOUR = 3600.0


def slept(host: Host, seconds: float) -> None:
    """Let the host sleep: its clock moves, and no timer fires before it is known."""
    host.now += seconds
    host.happens(ClocksStepped(seconds, 0.0))


def test_a_lease_outlives_the_hosts_sleep() -> None:
    """The holder slept as well: it renews once awake, and its answer is taken. If it does not renew, the lease expires."""
    host = Host(lease_seconds=15.0)
    holder, waiter = host.peer(), host.peer()
    lease = holder.leads("k")
    waiter.asks(wire.Begin("k", id=5, wait_seconds=20.0))
    waiter.receives()
    slept(host, HOUR)
    host.passes(10.0)
    assert waiter.receives() == []
    holder.asks(wire.Renew(lease, id=6))
    assert isinstance(holder.receives()[-1], wire.Ok)
    host.passes(16.0)
    assert waiter.receives() != []


def test_a_waiter_waits_as_long_as_it_is_awake() -> None:
    """Its own clock does not count the sleep either."""
    host = Host(lease_seconds=900.0)
    holder, waiter = host.peer(), host.peer()
    holder.leads("k")
    waiter.asks(wire.Begin("k", id=5, wait_seconds=20.0))
    waiter.receives()
    host.passes(10.0)
    slept(host, HOUR)
    host.passes(9.0)
    assert waiter.receives() == []
    host.passes(2.0)
    assert isinstance(waiter.receives()[-1], wire.Timeout)


def test_a_waiter_of_a_replaced_flight_waits_as_long_as_it_is_awake() -> None:
    """1. A call starts, another caller waits for it; 2. its key is deleted; 3. a later call of the key starts."""
    host = Host(lease_seconds=900.0)
    holder, waiter = host.peer(), host.peer()
    holder.leads("k")
    waiter.asks(wire.Begin("k", id=5, wait_seconds=20.0))
    waiter.asks(wire.Delete("k", id=6))
    host.peer().leads("k")
    waiter.receives()
    slept(host, HOUR)
    host.passes(19.0)
    assert waiter.receives() == []
    host.passes(2.0)
    assert isinstance(waiter.receives()[-1], wire.Timeout)


def test_a_queued_caller_waits_as_long_as_it_is_awake() -> None:
    """For a permit of a backend that is full."""
    host = Host(lease_seconds=900.0, backends={"local": BackendSettings(max_concurrent=1)})
    host.peer().leads("one", backends=("local",))
    queued = host.peer()
    queued.asks(wire.Begin("two", id=5, wait_seconds=20.0, backends=("local",)))
    queued.receives()
    slept(host, HOUR)
    host.passes(19.0)
    assert queued.receives() == []
    host.passes(2.0)
    assert queued.receives() != []


def test_entries_age_while_the_host_sleeps() -> None:
    """None is served after its time."""
    host = Host()
    holder = host.peer()
    holder.completes(holder.leads("k"), "answer")
    slept(host, HOUR)
    holder.asks(wire.Get("k", id=7))
    assert isinstance(holder.receives()[-1], wire.Miss)


def test_a_wall_clock_that_was_set_moves_the_periods_of_budgets() -> None:
    """And nothing else: leases and entries have another clock."""
    host = Host(budgets={"daily": BudgetSettings(10.0, period_seconds=86400.0)})
    holder = host.peer()
    lease = holder.leads("k")
    host.happens(ClocksStepped(0.0, 43200.0))
    holder.asks(wire.GetReport(id=8))
    report = holder.receives()[-1]
    assert isinstance(report, wire.Report)
    assert report.budgets["daily"].resets_in_seconds == 43200.0 - host.now
    holder.completes(lease, "answer")


def test_a_lease_outlives_a_sleep_of_parts_of_a_second() -> None:
    """A short sleep counts as any other."""
    host = Host(lease_seconds=15.0)
    holder = host.peer()
    lease = holder.leads("k")
    host.passes(14.8)
    slept(host, 0.5)
    host.passes(1.0)
    holder.asks(wire.Renew(lease, id=6))
    assert isinstance(holder.receives()[-1], wire.Ok)
