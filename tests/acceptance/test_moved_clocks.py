"""A wall clock that is set, and a host that sleeps: no entry becomes younger, no budget lasts longer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from sidecard_client import Client
from sidecard_client.protocol import wire
from tests.daemons import Daemon, ask, poll
from tests.hostile import Wire
from tests.many_hosts import stat
from tests.moved_clocks import MovedClocks

Start = Callable[..., Daemon]

DAY = 86_400.0
BUDGET = '{"daily": {"dollars": 10.0, "period_seconds": 86400}}'


@pytest.fixture
def clocks(tmp_path: Path) -> MovedClocks:
    """Clocks that are right at first."""
    return MovedClocks(tmp_path)


@pytest.fixture
def one(daemon: Start, clocks: MovedClocks, tmp_path: Path) -> Daemon:
    """A daemon with a store on disk and a budget."""
    (tmp_path / "state").mkdir()
    started = daemon(STATE_DIRECTORY=str(tmp_path / "state"), SIDECARD_BUDGETS=BUDGET, **clocks.environ)
    poll(lambda: stat(started, "store") == "up", "the store does not come up")
    return started


def stepped(one: Daemon, times: int) -> None:
    """Wait until the daemon has noticed a step."""
    poll(lambda: len(one.said("clocks stepped")) == times, "the step is not noticed")


def found(one: Daemon, key: str) -> str:
    """Return the type of the reply to a get."""
    return str(ask(one.socket, {"op": "get", "key": key})["type"])


def spent(one: Daemon) -> Any:
    """Return what is spent of the budget."""
    report: Any = ask(one.socket, {"op": "report"})
    return report["budgets"]["daily"]["spent_dollars"]


def spend(one: Daemon, key: str, dollars: float) -> None:
    """Make a call at a price."""
    caller = Wire(one.socket)
    reply = caller.asks(wire.Begin(key, id=1))
    while isinstance(reply, wire.Pending):
        (reply,) = caller.receives()

    assert isinstance(reply, wire.Lease)
    done = caller.asks(wire.Complete(reply.lease, Raw(b"v"), wire.Usage(cost_dollars=dollars), store=False, id=2))
    assert isinstance(done, wire.Stored), done


def test_an_entry_that_was_stored_by_a_clock_ahead_ages_as_any_other(one: Daemon, clocks: MovedClocks) -> None:
    """It is read after a restart with its true age, and not after its time."""
    clocks.set(wall=DAY)
    stepped(one, 1)
    with Client(one.socket) as sidecard:
        sidecard.put("k", "answer", ttl=300)

    poll(lambda: stat(one, "store_pending") == 0, "the entry is not written")
    one.terminate()
    clocks.set()
    one.start_again()
    poll(lambda: stat(one, "store") == "up", "the store does not come up")
    reply = ask(one.socket, {"op": "get", "key": "k"})
    assert reply["type"] == "hit"
    assert float(str(reply["age_seconds"])) < 60.0
    one.terminate()
    clocks.set(slept=301.0, wall=-DAY)
    one.start_again()
    poll(lambda: stat(one, "store") == "up", "the store does not come up")
    assert found(one, "k") == "miss"


def test_entries_age_while_the_host_sleeps_and_leases_do_not(one: Daemon, clocks: MovedClocks) -> None:
    """The holder slept as well."""
    with Client(one.socket) as sidecard:
        sidecard.put("k", "answer", ttl=300)

    caller = Wire(one.socket)
    reply = caller.asks(wire.Begin("other", id=1))
    while isinstance(reply, wire.Pending):
        (reply,) = caller.receives()

    assert isinstance(reply, wire.Lease)
    clocks.set(slept=3600.0)
    stepped(one, 1)
    assert found(one, "k") == "miss"
    assert stat(one, "leases") == 1
    assert isinstance(caller.asks(wire.Renew(reply.lease, id=3)), wire.Ok)


def test_a_budget_begins_anew_once_a_day_whatever_the_clock_does(one: Daemon, clocks: MovedClocks) -> None:
    """A sleep and a step forward end a day; a step back does not."""
    spend(one, "a", 4.0)
    assert spent(one) == 4.0
    for times, days in enumerate([-3, 0], 1):
        clocks.set(wall=days * DAY)
        stepped(one, times)
        assert spent(one) == 4.0

    clocks.set(slept=DAY)
    stepped(one, 3)
    assert spent(one) == 0.0
    spend(one, "b", 1.0)
    clocks.set(slept=DAY, wall=DAY)
    stepped(one, 4)
    assert spent(one) == 0.0
