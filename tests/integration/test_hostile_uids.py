"""Peers of other uids: what they cannot read, do, or take from others."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from sidecard_client.protocol import wire
from tests.daemons import Daemon, ask, poll
from tests.faults import descriptors
from tests.hostile import ALICE, BOB, MALLORY, Wire, ask_as, being, limited, needs_root
from tests.view_peers import ViewPeer, boot_seconds

pytestmark = needs_root

Start = Callable[..., Daemon]


@pytest.fixture
def open_to_all(socket_directory: Path, daemon: Start) -> Start:
    """Start daemons that every user of the host may connect to."""
    socket_directory.chmod(0o755)
    return lambda *flags, **environ: daemon("--set", "socket.mode=0666", *flags, **environ)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Allow this process ten thousand connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 12_000:
        pytest.skip(f"this host allows {hard} descriptors")

    resource.setrlimit(resource.RLIMIT_NOFILE, (12_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_user_without_write_permission_cannot_connect(socket_directory: Path, daemon: Start) -> None:
    """By default only the daemon's user and the socket's group have it."""
    socket_directory.chmod(0o755)
    path = daemon("--set", f"socket.group={BOB}").socket
    with being(MALLORY), pytest.raises(PermissionError):
        ask(path, {"op": "ping"})

    with being(MALLORY, BOB):
        assert ask(path, {"op": "ping"})["type"] == "pong"


def test_another_uids_namespace_can_be_neither_read_nor_written(open_to_all: Start) -> None:
    """Not by its full name either, which is for operators."""
    path = open_to_all().socket
    assert ask_as(ALICE, path, op="put", key="k", value="secret")["stored"]
    for request in (
        {"op": "get", "key": "k"},
        {"op": "begin", "key": "k"},
        {"op": "begin", "key": "k", "mode": "only_if_cached"},
        {"op": "put", "key": "k", "value": "poison"},
        {"op": "delete", "key": "k"},
    ):
        denied = ask_as(MALLORY, path, **request, namespace=f"{ALICE}:default")
        assert (denied["type"], denied["code"]) == ("error", "denied"), request
        assert ask_as(MALLORY, path, **request).get("value") is None, request

    assert ask_as(ALICE, path, op="get", key="k")["value"] == "secret"
    assert ask(path, {"op": "get", "key": "k", "namespace": f"{ALICE}:default"})["value"] == "secret"


def test_operator_requests_of_others_are_denied_without_effect(open_to_all: Start) -> None:
    """Configured operators may send them."""
    path = open_to_all("--set", f"operators.uids={BOB}").socket
    ask_as(ALICE, path, op="put", key="k", value="v", tags=["t"])
    requests: tuple[dict[str, Any], ...] = (
        {"op": "purge"},
        {"op": "purge", "namespace": "default"},
        {"op": "purge", "tag": "t"},
        {"op": "purge", "task": "general"},
        {"op": "breaker", "backend": "local", "action": "open"},
        {"op": "config"},
        {"op": "reload"},
        {"op": "log", "level": "debug"},
    )
    for request in (*requests, {"op": "watch"}):  # which, once granted, has no end
        denied = ask_as(MALLORY, path, **request)
        assert (denied["type"], denied["code"]) == ("error", "denied"), request

    assert ask_as(ALICE, path, op="get", key="k")["value"] == "v"
    states: Any = ask(path, {"op": "breakers"})["backends"]
    assert all(backend["state"] == "closed" for backend in states.values())
    for request in requests:
        assert ask_as(BOB, path, **request)["type"] != "error", request

    assert ask_as(ALICE, path, op="get", key="k")["type"] == "miss"


def test_leases_belong_to_the_connection_that_got_them(open_to_all: Start) -> None:
    """With a guessed or logged name, other peers can neither complete, renew nor fail a lease."""
    path = open_to_all().socket
    alice, mallory = Wire(path, ALICE), Wire(path, MALLORY)
    lease = alice.asks(wire.Begin("k", id=1)).lease
    for request in (
        wire.Complete(lease, Raw(b"\xa1x"), id=2),
        wire.Fail(lease, id=2),
        wire.Renew(lease, id=2),
        wire.Append(lease, Raw(b"\xa1x"), id=2),
    ):
        assert mallory.asks(request) == wire.StaleLease(2)

    assert isinstance(alice.asks(wire.Complete(lease, Raw(b"\xa1y"), id=2)), wire.Stored)


def test_one_uid_that_uses_all_connections_leaves_room_for_others(open_to_all: Start) -> None:
    """For other uids, and at last for operators, whatever `limits.max_peers_per_uid` allows."""
    path = open_to_all("--set", "limits.max_peers=64", "--set", "limits.max_peers_per_uid=64").socket
    crowd = [Wire(path, MALLORY) for _ in range(60)]
    assert ask_as(ALICE, path, op="ping")["type"] == "pong"
    others = [Wire(path, uid) for uid in (ALICE, BOB, ALICE + 10) for _ in range(2)]
    poll(lambda: ask(path, {"op": "stats"})["peers"] == 56 + 6 + 1, "not all have joined")
    denial = ask_as(BOB, path, op="ping")
    assert (denial["type"], denial["code"]) == ("error", "unavailable")
    assert "reserved for operators" in str(denial["message"])
    assert ask(path, {"op": "ping"})["type"] == "pong"
    for one in (*crowd, *others):
        one.close()

    poll(lambda: ask(path, {"op": "stats"})["peers"] == 1, "closed connections are still counted")
    assert ask_as(MALLORY, path, op="ping")["type"] == "pong"


@pytest.mark.slow
def test_ten_thousand_connections_of_one_uid_leave_room_for_others(open_to_all: Start, many_descriptors: None) -> None:
    """Connections above its limit are closed; when they end, its share is free again."""
    running = open_to_all("--set", "limits.max_peers_per_uid=500")
    path = running.socket
    mallory = [Wire(path, MALLORY) for _ in range(10_000)]
    poll(lambda: limited(path).get("max_peers_per_uid", 0) == 9_500, "not all were refused")
    assert ask(path, {"op": "stats"})["peers"] == 501
    assert ask_as(ALICE, path, op="ping")["type"] == "pong"
    poll(lambda: sum(one.is_closed() for one in mallory) == 9_500, "refused connections stay open")
    assert len(list(Path(f"/proc/{running.pid}/fd").iterdir())) < 600
    denial = ask_as(MALLORY, path, op="ping")
    assert (denial["type"], denial["code"]) == ("error", "unavailable")
    assert "limits.max_peers_per_uid (500)" in str(denial["message"])
    for one in mallory:
        one.close()

    poll(lambda: ask(path, {"op": "stats"})["peers"] == 1, "closed connections are still counted")
    assert ask_as(MALLORY, path, op="ping")["type"] == "pong"


def test_a_uid_that_floods_keys_waits_and_metrics_leaves_room_for_others(open_to_all: Start) -> None:
    """It uses all tables, and another uid still gets leases, waits, and is counted."""
    running = open_to_all("--set", "limits.max_flights=200", "--set", "flights.max_waiters=200")
    path = running.socket
    mallory, alice, other = Wire(path, MALLORY), Wire(path, ALICE), Wire(path, ALICE)
    mallory.sends(*(wire.Begin(f"key {number}", id=number) for number in range(1000)))
    replies = mallory.receives(1000)
    assert sum(isinstance(reply, wire.Lease) for reply in replies) == 200
    assert {reply.reason for reply in replies if isinstance(reply, wire.Rejected)} == {"busy"}
    mallory.sends(*(wire.Begin("key 0", id=number) for number in range(1000, 2000)))
    assert sum(isinstance(reply, wire.Pending) for reply in mallory.receives(1000)) == 200
    names = [wire.Measurement(name=f"m{number}", kind="counter") for number in range(1000)]
    assert mallory.asks(wire.RecordMetrics(metrics=tuple(names), acknowledge=True, id=1)).dropped == 1000 - 512

    lease = alice.asks(wire.Begin("key 0", id=1))
    assert isinstance(lease, wire.Lease)
    assert other.asks(wire.Begin("key 0", id=1)) == wire.Pending(1)
    assert isinstance(alice.asks(wire.Complete(lease.lease, Raw(b"\xa1x"), id=2)), wire.Stored)
    assert isinstance(other.receives()[0], wire.Shared)
    mine = (wire.Measurement(name="mine", kind="counter"),)
    assert other.asks(wire.RecordMetrics(metrics=mine, acknowledge=True, id=2)).dropped == 0

    assert limited(path) == {"max_flights": 800, "max_waiters": 800}
    mallory.close()
    poll(lambda: ask(path, {"op": "stats"})["flights"] == 0, "flights of one who has gone are left")


def test_reused_entries_of_a_uid_survive_a_flood_of_another_uids_keys(open_to_all: Start) -> None:
    """Entries without a second request are evicted first, however many there are."""
    path = open_to_all("--set", "cache.max_bytes=1MiB").socket
    alice, mallory = Wire(path, ALICE), Wire(path, MALLORY)
    for number in range(50):
        alice.asks(wire.Put(f"mine {number}", Raw(b"\xc4\xc8" + b"x" * 200), id=1))

    for number in range(8_000):
        mallory.sends(wire.Put(f"flood {number}", Raw(b"\xc4\xc8" + b"x" * 200), id=1))
        mallory.receives()
        if number % 400 == 0:
            for mine in range(50):
                assert isinstance(alice.asks(wire.Get(f"mine {mine}", id=2)), wire.Hit), (number, mine)


def test_a_private_view_is_given_to_no_other_uid(open_to_all: Start) -> None:
    """Not even to an operator: memory that is mapped shows all that is published later."""
    path = open_to_all("--set", f"namespaces.team.shared_with=[{ALICE},{BOB}]").socket
    alice = ViewPeer(path, ALICE)
    view = alice.maps()
    assert alice.asks(wire.Put("k", Raw(b"\xa6secret"), id=1)).stored
    for _ in range(2):
        assert isinstance(alice.asks(wire.Get("k", id=1)), wire.Hit)

    assert view.read("k", boot_seconds())["value"] == "secret"  # type: ignore[index]  # a record
    for uid in (MALLORY, BOB, None):
        for namespace in (f"{ALICE}:default", "*:team", f"{ALICE}:team"):
            denied = ViewPeer(path, uid).asks_for_view(namespace)
            assert (denied.type if hasattr(denied, "type") else denied.code) == "denied" or (uid, namespace) == (
                BOB,
                "*:team",
            )

    own = ViewPeer(path, MALLORY)
    assert own.maps().read("k", boot_seconds()) == "absent"
    assert own.mapped is not None
    assert b"secret" not in own.mapped[:]
    assert not any(one.maps().number == view.number for one in (ViewPeer(path, MALLORY), ViewPeer(path)))
    teams = [ViewPeer(path, uid).maps("team").number for uid in (ALICE, BOB, MALLORY)]
    assert teams[0] == teams[1] != teams[2]


def test_views_of_many_namespaces_are_bounded(open_to_all: Start) -> None:
    """One uid has a few, whose memory counts until it keeps none. Others still get theirs."""
    running = open_to_all()
    path = running.socket
    kept: list[ViewPeer] = []
    for number in range(20):
        one = ViewPeer(path, MALLORY)
        if isinstance(one.asks_for_view(f"n{number}"), wire.View):
            # It ends the connection, and keeps the memory.
            one.socket.close()
            kept.append(one)

    stats: Any = ask(path, {"op": "stats"})
    assert len(kept) == 4
    assert stats["view_bytes"] == sum(os.fstat(one.descriptors[0]).st_size for one in kept) <= 32 << 20
    assert isinstance(ViewPeer(path, ALICE).asks_for_view(), wire.View)
    for one in kept:
        one.unmap()

    def gets_another() -> bool:
        return isinstance(ViewPeer(path, MALLORY).asks_for_view("another"), wire.View)

    poll(gets_another, "there is still no room")


def test_a_flood_of_requests_for_views_leaves_others_alone(open_to_all: Start) -> None:
    """From a peer that reads no reply, one that reads all, and many connections."""
    running = open_to_all()
    path = running.socket
    polite = Wire(path, ALICE)
    assert isinstance(polite.asks(wire.Ping(id=1)), wire.Pong)
    before = descriptors(running.pid)
    silent = ViewPeer(path, MALLORY)
    silent.socket.settimeout(0.5)
    with suppress(TimeoutError):
        for _ in range(100):
            silent.sends(*(wire.GetView(id=1),) * 100)

    crowd = [ViewPeer(path, MALLORY) for _ in range(200)]
    for one in crowd:
        one.sends(wire.GetView(id=1), wire.GetView(id=2))

    assert isinstance(polite.asks(wire.Ping(id=1)), wire.Pong)
    assert isinstance(ViewPeer(path, ALICE).asks_for_view(), wire.View)
    reader = ViewPeer(path, MALLORY)
    assert isinstance(reader.asks_for_view(), wire.View)
    again = [reader.asks_for_view() for _ in range(1000)]
    assert all(isinstance(reply, wire.Error) for reply in again)
    stats = ask(path, {"op": "stats"})
    assert stats["views"] == 2
    for one in (silent, reader, *crowd):
        one.close()

    two_views = 4
    poll(lambda: descriptors(running.pid) <= before + two_views, "descriptors are left")
