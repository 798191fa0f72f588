"""One key, many hosts: real daemons, real Redis, real processes. Each daemon represents a host."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.host_worker import Account, Plan
from tests.daemons import Daemon, ask, poll
from tests.many_hosts import Callers, Start, calls_in, hosts, stat
from tests.servers import RedisServer, any_program, ending

HOSTS, CALLERS = 4, 50


@pytest.fixture
def server(socket_directory: Path) -> Iterator[RedisServer]:
    """A server of the test's own."""
    one = RedisServer(socket_directory / "redis", any_program())
    with ending(one):
        yield one


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Where calls that reach the upstream are written down."""
    return tmp_path / "ledger"


def crowd(daemons: list[Daemon], ledger: Path, **plan: float) -> list[Callers]:
    """Start the callers of each host."""
    return [Callers(Plan(one.socket, str(ledger), CALLERS, **plan)) for one in daemons]  # type: ignore[arg-type]


def ended(callers: list[Callers]) -> list[Account]:
    """Wait for all."""
    try:
        return [one.account() for one in callers]
    finally:
        for one in callers:
            one.kill()


def holder(daemons: list[Daemon]) -> int:
    """Return which host computes the key."""
    poll(lambda: any(stat(one, "claims") for one in daemons), "nobody has claimed the key")
    return next(number for number, one in enumerate(daemons) if stat(one, "claims"))


def test_four_hosts_make_one_call(daemon: Start, server: RedisServer, ledger: Path) -> None:
    """Two hundred callers on four hosts share one call."""
    daemons = hosts(daemon, HOSTS, server.url)
    callers = crowd(daemons, ledger, work_seconds=0.5)
    for one in callers:
        one.go()

    accounts = ended(callers)
    assert calls_in(ledger) == ["0"]
    assert [account.wrong for account in accounts] == [[]] * HOSTS
    assert sum(account.ends.get("upstream", 0) for account in accounts) == 1
    assert sum(account.ends.get("shared", 0) + account.ends.get("cache", 0) for account in accounts) == 199
    assert [stat(one, "claims") for one in daemons] == [0] * HOSTS


def test_claim_of_a_dead_host_passes_on(daemon: Start, server: RedisServer, ledger: Path) -> None:
    """When a holder's daemon and callers are killed, one other call answers all others within the lease time."""
    lease_seconds = 2.0
    # Renewed often, because 150 callers that start keep two cores busy, and no lease may expire meanwhile.
    lease = {"SIDECARD_FLIGHTS_LEASE_SECONDS": str(lease_seconds), "SIDECARD_FLIGHTS_RENEW_SECONDS": "0.2"}
    daemons = hosts(daemon, HOSTS, server.url, **lease)
    callers = crowd(daemons, ledger, work_seconds=0.3)
    # The first starts alone, so that the process to kill is known, and takes long enough for the others to join.
    first = Callers(Plan(daemons[0].socket, str(ledger), CALLERS, work_seconds=60.0))
    first.go()
    assert holder(daemons) == 0
    for others in callers[1:]:
        others.go()

    poll(lambda: sum(int(str(stat(one, "waiters"))) for one in daemons[1:]) == 3 * CALLERS, "not all wait")
    died_at = time.monotonic()
    daemons[0].kill()
    first.kill()
    callers[0].kill()
    accounts = ended(callers[1:])
    ended_at = max(account.ended_at for account in accounts)
    assert ended_at - died_at < lease_seconds + 1.0 + 0.3 + 2.0, "beside the call, and two seconds of a busy machine"
    assert calls_in(ledger) == ["0", "0"]
    assert sum(sum(account.ends.values()) for account in accounts) == 3 * CALLERS
    assert {end for account in accounts for end in account.ends} <= {"upstream", "shared", "cache"}


@pytest.mark.slow
def test_callers_of_a_dead_daemon_share_their_own_call(daemon: Start, server: RedisServer, ledger: Path) -> None:
    """When only the daemon is killed, its callers share their own call, and the other hosts make one more."""
    daemons = hosts(daemon, HOSTS, server.url, SIDECARD_FLIGHTS_LEASE_SECONDS="1")
    callers = crowd(daemons, ledger, work_seconds=1.0)
    for one in callers:
        one.go()

    daemons[holder(daemons)].kill()
    accounts = ended(callers)
    assert len(calls_in(ledger)) <= 2
    assert sum(sum(account.ends.values()) for account in accounts) == HOSTS * CALLERS
    assert not any("Call" in end for account in accounts for end in account.ends)


@pytest.mark.slow
def test_server_that_hangs_during_a_flight_delays_no_host(daemon: Start, server: RedisServer, ledger: Path) -> None:
    """Each host makes its own call when the server hangs, and uses it again by itself afterwards."""
    daemons = hosts(daemon, HOSTS, server.url)
    callers = crowd(daemons, ledger, work_seconds=1.0, wait_seconds=8.0)
    for one in callers:
        one.go()

    holder(daemons)
    server.pause()
    accounts = ended(callers)
    assert max(account.longest_seconds for account in accounts) < 8.0
    assert not any("Call" in end for account in accounts for end in account.ends)
    assert len(calls_in(ledger)) <= HOSTS
    server.resume()
    for host in daemons:
        poll(lambda host=host: stat(host, "store") == "up", "the store does not come back")  # type: ignore[misc]  # bound now


def test_released_claim_is_taken_immediately(daemon: Start, server: RedisServer) -> None:
    """After a failed call, the next host takes the claim long before it would have expired."""
    one, other = hosts(daemon, 2, server.url)
    lease = ask(one.socket, {"op": "begin", "key": "k"})  # the connection ends, and with it the lease
    assert lease["type"] == "lease"
    began_at = time.monotonic()
    assert ask(other.socket, {"op": "begin", "key": "k"})["type"] == "lease"
    assert time.monotonic() - began_at < 5.0


@pytest.mark.parametrize(
    "change", ["put", "delete", "purge by tag", "purge by namespace", "purge by task", "purge by tag and task"]
)
def test_changed_entry_is_served_by_no_host(daemon: Start, server: RedisServer, change: str) -> None:
    """A change on one host is visible on all hosts within the time of an invalidation."""
    one, other = hosts(daemon, 2, server.url)
    ask(one.socket, {"op": "put", "key": "k", "value": "old", "tags": ["t"]})
    poll(lambda: ask(other.socket, {"op": "get", "key": "k"}).get("value") == "old", "the entry does not arrive")
    request = {
        "put": {"op": "put", "key": "k", "value": "new"},
        "delete": {"op": "delete", "key": "k"},
        "purge by tag": {"op": "purge", "tag": "t"},
        "purge by namespace": {"op": "purge", "namespace": "default"},
        "purge by task": {"op": "purge", "task": "general"},
        "purge by tag and task": {"op": "purge", "tag": "t", "task": "general"},
    }[change]
    ask(one.socket, request)
    expected = "new" if change == "put" else None
    poll(lambda: ask(other.socket, {"op": "get", "key": "k"}).get("value") == expected, "the old entry is served", 2.0)


def test_missed_invalidation_makes_the_host_ask_again(daemon: Start, server: RedisServer) -> None:
    """After its subscription was cut, a host asks the server before it serves what it has in memory."""
    one, other = hosts(daemon, 2, server.url)
    ask(one.socket, {"op": "put", "key": "k", "value": "old"})
    poll(lambda: ask(other.socket, {"op": "get", "key": "k"}).get("value") == "old", "the entry does not arrive")
    with server.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        ask(one.socket, {"op": "put", "key": "k", "value": "new"})

    poll(lambda: ask(other.socket, {"op": "get", "key": "k"}).get("value") == "new", "the old entry is served", 3.0)
    for _ in range(20):
        assert ask(other.socket, {"op": "get", "key": "k"})["value"] == "new"


def test_delete_voids_the_flight_of_another_host(daemon: Start, server: RedisServer, ledger: Path) -> None:
    """The waiters of a deleted key's flight get its answer, and no later caller does."""
    one, other = hosts(daemon, 2, server.url)
    callers = crowd([one], ledger, work_seconds=2.0)
    callers[0].go()
    holder([one])
    poll(lambda: int(str(stat(one, "waiters"))) == CALLERS - 1, "not all wait")  # a later caller makes its own call
    with server.client() as client:
        (name,) = (found for found in client.scan_iter("sidecard:1:*") if client.hexists(found, "claim"))

    _, _, uid, namespace, key = name.decode().split(":", 4)
    ask(other.socket, {"op": "delete", "key": key, "namespace": f"{uid}:{namespace}"})
    (account,) = ended(callers)
    assert account.ends == {"upstream": 1, "shared": CALLERS - 1}
    for host in (one, other):
        assert ask(host.socket, {"op": "get", "key": key})["type"] == "miss"
