"""Breakers and budgets of several hosts: real daemons on one Redis."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecard.store.redis.shared_counters import POLL_SECONDS
from tests.daemons import Daemon, ask, poll
from tests.many_hosts import Start, hosts, stat
from tests.servers import RedisServer, any_program, ending


@pytest.fixture
def server(socket_directory: Path) -> Iterator[RedisServer]:
    """A server of the test's own."""
    one = RedisServer(socket_directory / "redis", any_program())
    with ending(one):
        yield one


class Line:
    """A connection that stays."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rw")

    def asks(self, **request: object) -> dict[str, object]:
        """Send a request, return its reply."""
        self._file.write(json.dumps(request) + "\n")
        self._file.flush()
        reply: dict[str, object] = json.loads(self._file.readline())
        return reply


@contextmanager
def line(daemon: Daemon) -> Iterator[Line]:
    """Connect."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5.0)
        connection.connect(daemon.socket)
        yield Line(connection)


def break_it(daemon: Daemon, backend: str) -> None:
    """Let calls fail until the breaker opens."""
    with line(daemon) as one:
        for number in range(11):
            reply = one.asks(op="begin", id=number, backends=[backend])
            if reply["type"] == "rejected":
                assert reply["reason"] == "breaker_open"
                return

            one.asks(op="fail", id=number, lease=reply["lease"], kind="transient")

    pytest.fail("the breaker does not open")


def breaker(daemon: Daemon, backend: str) -> str:
    """Return a breaker's state."""
    states = ask(daemon.socket, {"op": "stats"})["breakers"]
    assert isinstance(states, dict)
    return str(states.get(backend, "unknown"))


def test_shared_breaker_opens_on_every_host(daemon: Start, server: RedisServer) -> None:
    """Within a second the breaker is open on all hosts, also on those that start later; local backends keep their own."""
    one, other = hosts(daemon, 2, server.url, SIDECARD_STORE_SHARE_BREAKERS="1")
    break_it(one, "cloud")
    break_it(one, "local")
    # One host writes the opening with its next poll, the other reads it with its own: a busy machine takes longer.
    assert 2 * POLL_SECONDS <= 1.0
    poll(lambda: breaker(other, "cloud") == "open", "the opening does not spread", 5.0)
    for host in (one, other):
        host.kill()
        host.start_again()
        poll(lambda host=host: breaker(host, "cloud") == "open", "a restart has closed the breaker", 5.0)  # type: ignore[misc]
        assert breaker(host, "local") != "open"


def test_unshared_breaker_opens_on_one_host(daemon: Start, server: RedisServer) -> None:
    """Without the setting each host has its own breaker, since its network may be the fault."""
    one, other = hosts(daemon, 2, server.url)
    break_it(one, "cloud")
    ask(one.socket, {"op": "put", "key": "k", "value": 1})
    poll(lambda: ask(other.socket, {"op": "get", "key": "k"})["type"] == "hit", "nothing is shared")
    assert breaker(other, "cloud") in {"unknown", "closed"}


def spent(daemon: Daemon) -> float:
    """Return what is spent of the budget."""
    budgets = ask(daemon.socket, {"op": "report"})["budgets"]
    assert isinstance(budgets, dict)
    dollars = budgets["all"]["spent_dollars"]
    assert isinstance(dollars, float)
    return dollars


def pay(daemon: Daemon, dollars: float) -> None:
    """Make a call that costs."""
    with line(daemon) as one:
        lease = one.asks(op="begin", backends=["cloud"])
        assert lease["type"] == "lease"
        one.asks(op="complete", lease=lease["lease"], value=1, usage={"cost_dollars": dollars})


@pytest.mark.slow
def test_shared_budget_counts_the_spending_of_all_hosts(daemon: Start, server: RedisServer, tmp_path: Path) -> None:
    """What one host spends is spent for all; a restart counts nothing twice and refills nothing."""
    states = [tmp_path / "one", tmp_path / "other"]
    budget = {"all": {"dollars": 1.0, "hard": True}}
    daemons = []
    for state in states:
        state.mkdir()
        daemons.append(
            daemon(
                STATE_DIRECTORY=str(state),
                SIDECARD_STORE_URL=server.url,
                SIDECARD_STORE_SHARE_BUDGETS="1",
                SIDECARD_BUDGETS=json.dumps(budget),
            )
        )

    one, other = daemons
    for host in daemons:
        poll(lambda host=host: stat(host, "store") == "up", "the store is not up")  # type: ignore[misc]

    pay(one, 0.25)
    pay(other, 0.5)
    for host in daemons:
        poll(lambda host=host: spent(host) == 0.75, f"{spent(host)} is spent", 3.0)  # type: ignore[misc]

    assert one.terminate() == 0
    one.start_again()
    poll(lambda: stat(one, "store") == "up" and spent(one) == 0.75, f"{spent(one)} is spent", 3.0)
    pay(one, 0.5)
    poll(lambda: spent(other) == 1.25, f"{spent(other)} is spent", 3.0)
    assert ask(other.socket, {"op": "begin", "backends": ["cloud"]})["reason"] == "budget"
