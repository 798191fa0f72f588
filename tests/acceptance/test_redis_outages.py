"""A Redis server that is slow, down, hung, full, not ours to write to: no call fails, the outage is reported, and the daemon recovers by itself."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from sidecard.store.redis.scripts import entry_name
from sidecard_client import Client
from sidecard_client.call.base_client import DAEMON_TIMEOUT_SECONDS
from tests.acceptance.host_worker import Plan
from tests.daemons import Daemon, ask, poll
from tests.many_hosts import Callers, Start, hosts, reasons, stat
from tests.servers import RedisServer, any_program, ending
from tests.worker_process import PATIENCE_SECONDS

HIT_SECONDS = 0.25
"""Most that a hit in memory may take while the server hangs; a loop that waits for the server takes all of half a second."""

ATTEMPTS = 3
"""A busy machine delays a hit as a waiting loop does, but rarely three times."""


@pytest.fixture
def server(socket_directory: Path) -> Iterator[RedisServer]:
    """A server of the test's own."""
    one = RedisServer(socket_directory / "redis", any_program())
    with ending(one):
        yield one


def turns(daemon: Daemon, state: str) -> None:
    """Wait until a daemon says so of its store."""
    poll(lambda: stat(daemon, "store") == state, f"the store is not {state}", 10.0)


def entries(server: RedisServer) -> int:
    """Count what the server has of ours."""
    with server.client() as client:
        return len(list(client.scan_iter("sidecard:1:*")))


def put(daemon: Daemon, key: str, value: object = 1) -> None:
    """Write an entry."""
    assert ask(daemon.socket, {"op": "put", "key": key, "value": value})["stored"] is True


def arrives(key: str, value: object, host: Daemon) -> None:
    """Wait until a host serves an entry that another host has written."""
    read = {"op": "get", "key": key}
    poll(lambda: ask(host.socket, read).get("value") == value, f"{key} = {value} does not arrive")


def copy_to_memory(key: str, writer: Daemon, reader: Daemon) -> None:
    """Write an entry by one host, and have it in the memory of another, to stay.

    A host that reads an entry before it is notified of its write drops its copy when it is. Notifications are ordered: once
    the second value of another key has replaced the first in memory, no earlier one is on its way.
    """
    put(writer, key)
    arrives(key, 1, reader)
    for value in ("first", "second"):
        put(writer, "order", value)
        arrives("order", value, reader)

    arrives(key, 1, reader)


def test_redis_that_starts_later_receives_pending_entries(daemon: Start, server: RedisServer) -> None:
    """The daemon starts without the server, reports it, serves from memory, and writes as soon as it can."""
    server.kill()
    one = daemon("--no-state", SIDECARD_STORE_URL=server.url)
    turns(one, "down")
    assert "cannot be reached" in reasons(one)
    put(one, "k", "v")
    assert ask(one.socket, {"op": "get", "key": "k"})["value"] == "v"
    assert stat(one, "store_pending") in {0, 1}  # reported with the next attempt
    server.start()
    turns(one, "up")
    assert reasons(one) == ""
    poll(lambda: entries(server) == 1, "the entry was not written")


def test_redis_restarted_empty_loses_only_its_entries(daemon: Start, server: RedisServer) -> None:
    """Entries in memory are checked against the server and dropped; calls go on."""
    one, other = hosts(daemon, 2, server.url)
    copy_to_memory("k", one, other)
    server.kill()
    for host in (one, other):
        turns(host, "down")

    # Doubted, but no server can be asked.
    assert ask(other.socket, {"op": "get", "key": "k"})["type"] == "hit"
    server.start()
    for host in (one, other):
        turns(host, "up")

    put(one, "later")
    arrives("later", 1, other)
    assert ask(other.socket, {"op": "get", "key": "k"})["type"] == "miss"


def test_unresponsive_redis_slows_no_hit(daemon: Start, server: RedisServer) -> None:
    """Hits from memory take their usual time; misses wait half a second, once."""
    (one,) = hosts(daemon, 1, server.url)
    patient = partial(Client, one.socket, daemon_timeout=PATIENCE_SECONDS)
    with patient() as sidecard, patient() as bystander:
        bystander.put("k", "v")
        late: list[str] = []
        for attempt in range(ATTEMPTS):
            with hitting(bystander) as hits:
                late = late_during_a_hang(one, sidecard, server, hits, f"meanwhile {attempt}")

            if not late:
                break

        assert late == []


@contextmanager
def hitting(bystander: Client) -> Iterator[list[float]]:
    """Read an entry in memory again and again during the block; give the list of how long each hit took."""
    hits: list[float] = []
    ended = threading.Event()

    def hit() -> None:
        while not ended.wait(0.001):
            began_at = time.perf_counter()
            if bystander.get("k") == "v":
                hits.append(time.perf_counter() - began_at)
            else:
                hits.append(math.inf)

    thread = threading.Thread(target=hit)
    thread.start()
    try:
        yield hits
    finally:
        ended.set()
        thread.join()


def late_during_a_hang(one: Daemon, sidecard: Client, server: RedisServer, hits: list[float], name: str) -> list[str]:
    """Let the server hang, with misses and a write of ``name``; return what took too long."""
    taken: list[tuple[str, float, float]] = []

    def timed(what: str, function: Callable[[], object], most_seconds: float) -> object:
        began_at = time.monotonic()
        result = function()
        taken.append((what, time.monotonic() - began_at, most_seconds))
        return result

    server.pause()
    assert timed("call", lambda: sidecard.call(lambda: "made", name=f"call {name}"), 2.0) == "made"
    # Until the hang is detected, no client takes the daemon for dead.
    assert timed("removal", lambda: sidecard.delete("nothing"), DAEMON_TIMEOUT_SECONDS) == 0
    assert timed("miss", lambda: sidecard.get("nothing"), DAEMON_TIMEOUT_SECONDS) is None
    turns(one, "down")
    assert "did not answer" in reasons(one)
    sidecard.put(name, 1)
    server.resume()
    turns(one, "up")
    with server.client() as client:
        written = entry_name(f"{os.getuid()}:default", name)
        poll(lambda: client.exists(written) == 1, "what was written meanwhile does not arrive")

    taken.append(("hit", max(hits), HIT_SECONDS))
    return [f"{what}: {seconds:.2f} s" for what, seconds, most_seconds in taken if seconds >= most_seconds]


def test_full_redis_is_read_and_reported(daemon: Start, server: RedisServer) -> None:
    """A server out of memory serves what it has; pending entries arrive once there is room."""
    one, other = hosts(daemon, 2, server.url)
    put(one, "early", "v")
    with server.client() as client:
        poll(lambda: entries(server) == 1, "the entry was not written")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        put(one, "late", "v")
        turns(one, "read_only")
        assert "OOM" in reasons(one)
        assert ask(other.socket, {"op": "get", "key": "early"})["value"] == "v"
        assert ask(other.socket, {"op": "begin", "key": "new"})["type"] == "lease"
        turns(other, "read_only")
        client.config_set("maxmemory", 0)

    for host in (one, other):
        turns(host, "up")

    arrives("late", "v", other)


def test_read_only_replica_is_read_and_reported(daemon: Start, server: RedisServer, socket_directory: Path) -> None:
    """A read-only store serves what it has."""
    replica = RedisServer(socket_directory / "replica", any_program())
    with ending(replica):
        one, other = hosts(daemon, 2, replica.url)
        put(one, "k", "v")
        poll(lambda: entries(replica) == 1, "the entry was not written")
        with replica.client() as client:
            # No server answers: it keeps its entries.
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            assert ask(other.socket, {"op": "get", "key": "k"})["value"] == "v"
            put(one, "k2")
            turns(one, "read_only")
            assert "READONLY" in reasons(one)
            assert ask(one.socket, {"op": "begin", "key": "new"})["type"] == "lease"
            client.execute_command("REPLICAOF", "NO", "ONE")

        turns(one, "up")
        poll(lambda: entries(replica) == 2, "what was written meanwhile does not arrive")


def test_foreign_data_under_our_keys_is_a_miss(daemon: Start, server: RedisServer) -> None:
    """Strings, lists, other fields, later versions and garbage are misses, among fifty thousand foreign keys."""
    (one,) = hosts(daemon, 1, server.url)
    scope = f"sidecard:1:{os.getuid()}:default"
    far = 10**15
    with server.client() as client, client.pipeline(transaction=False) as pipe:
        pipe.set(f"{scope}:string", "x")
        pipe.rpush(f"{scope}:list", "x")
        pipe.hset(f"{scope}:other", mapping={"a": "b"})
        pipe.hset(f"{scope}:later", mapping={"value": b"\x02\x90", "until": far})
        pipe.hset(f"{scope}:garbage", mapping={"value": b"\x01\xc1\xff", "until": far})
        pipe.hset(f"{scope}:no number", mapping={"value": b"\x01", "until": "soon"})
        for number in range(50_000):
            pipe.set(f"other:{number}", number)

        pipe.execute()

    for key in ("string", "list", "other", "later", "garbage", "no number"):
        assert ask(one.socket, {"op": "get", "key": key})["type"] == "miss", key
        assert ask(one.socket, {"op": "begin", "key": key})["type"] == "lease", key
        put(one, key, "ours")

    put(one, "k")
    poll(lambda: stat(one, "store_written") == 7, "what is ours was not written")
    assert ask(one.socket, {"op": "purge"}, seconds=30.0)["count"] == 7
    with server.client() as client:
        assert client.dbsize() == 50_000
        assert stat(one, "store") == "up"


def test_redis_connections_cut_every_50_ms_fail_no_call(daemon: Start, server: RedisServer) -> None:
    """While all connections are killed and the server is emptied again and again, answers are right and calls go on."""
    daemons = hosts(daemon, 2, server.url)
    over = threading.Event()

    def cut() -> None:
        with server.client() as client:
            while not over.wait(0.05):
                client.client_kill_filter(skipme=True)
                client.flushall()

    cutter = threading.Thread(target=cut)
    cutter.start()
    wrong = []
    try:
        with Client(daemons[0].socket) as first, Client(daemons[1].socket) as second:
            for number in range(400):
                key = number % 50
                for sidecard in (first, second):
                    answer = sidecard.call(lambda key=key: f"answer {key}", name=f"upstream {key}")
                    if answer != f"answer {key}":
                        wrong.append((key, answer))
    finally:
        over.set()
        cutter.join()

    assert wrong == []
    for one in daemons:
        turns(one, "up")


def resident_bytes(daemon: Daemon) -> int:
    """Return what a daemon has in memory."""
    pages = int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cancelled_calls(daemon: Start, server: RedisServer, tmp_path: Path, calls: int) -> None:
    """Let callers of two hosts give up at random instants, again and again."""
    daemons = hosts(daemon, 2, server.url)
    plans = [
        Plan(
            one.socket,
            str(tmp_path / "ledger"),
            callers=50,
            work_seconds=0.005,
            calls=calls // 100,
            keys=400,
            cancel_within_seconds=0.02,
            seed=number,
        )
        for number, one in enumerate(daemons)
    ]
    with server.client() as client:
        callers = [Callers(plan) for plan in plans]
        before = len(client.client_list())
        resident = [resident_bytes(one) for one in daemons]
        for crowd in callers:
            crowd.go()

        accounts = [crowd.account() for crowd in callers]
        for crowd in callers:
            crowd.kill()

        # A daemon replaces its connection after a slow ping: for a moment there are two.
        poll(lambda: len(client.client_list()) == before, "connections are left")

    # Some hundred entries, and what Python keeps for the next.
    grown = [resident_bytes(one) - was for one, was in zip(daemons, resident, strict=True)]
    assert max(grown) < 20 * 2**20, grown
    assert [account.wrong for account in accounts] == [[], []]
    assert sum(sum(account.ends.values()) for account in accounts) == calls
    assert all(account.ends["cancelled"] > calls / 100 for account in accounts)
    for one in daemons:
        poll(lambda one=one: stat(one, "claims") == stat(one, "flights") == 0, "claims are left")  # type: ignore[misc]
        assert stat(one, "store") == "up"


def test_thousand_canceled_callers_leave_no_claim(daemon: Start, server: RedisServer, tmp_path: Path) -> None:
    """A thousand canceled calls cause no wrong answer, no further connection and no claim."""
    cancelled_calls(daemon, server, tmp_path, 1000)


@pytest.mark.slow
def test_ten_thousand_canceled_callers_leave_no_claim(daemon: Start, server: RedisServer, tmp_path: Path) -> None:
    """Ten thousand canceled calls cause no wrong answer, no further connection and no claim."""
    cancelled_calls(daemon, server, tmp_path, 10_000)
