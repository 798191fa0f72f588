"""The table of connections: who leaves, and when all have left."""

import pytest

from sidecard.config.schema import LimitSettings
from sidecard.server.connections import FEW_PEERS
from tests.unit.server.harness import ServerHarness


def test_the_end_of_an_empty_table_is_reported_immediately() -> None:
    """A daemon without connections need not wait for their end."""
    server, ended = ServerHarness(), list[str]()
    server.connections.close_all(lambda: ended.append("empty"))
    assert ended == ["empty"]


def test_the_end_of_a_full_table_is_reported_after_its_last_connection() -> None:
    """Not before, and once."""
    server, ended = ServerHarness(), list[str]()
    peers = [server.connect(), server.connect()]
    server.connections.close_all(lambda: ended.append("empty"))
    for peer in peers:
        assert ended == []
        peer.connection.connection_lost(None)

    assert ended == ["empty"]


def test_the_engine_learns_of_the_end_of_admitted_connections_only() -> None:
    """A denied connection was no peer."""
    server = ServerHarness(LimitSettings(max_peers=1))
    admitted = server.connect()
    denied = server.connect()
    assert server.connections.remove(denied.connection) is False
    assert len(server.connections) == 1
    assert server.connections.remove(admitted.connection) is True


def connected(server: ServerHarness, uid: int, count: int) -> int:
    """Connect a number of peers of a uid; return how many were admitted."""
    before = len(server.connections)
    for _ in range(count):
        server.connect(uid, gid=uid or 1)

    return len(server.connections) - before


def test_one_uid_leaves_room_for_others_and_for_operators() -> None:
    """By default: its own limit is lower than that of all. Whatever is configured: the last eighth is not for it."""
    default = LimitSettings()
    assert default.max_peers_per_uid < default.max_peers * 7 // 8
    server = ServerHarness(LimitSettings(max_peers=320, max_peers_per_uid=320))
    assert connected(server, 1000, 400) == 280
    assert connected(server, 1001, 400) == FEW_PEERS
    assert connected(server, 1002, 10) == 10
    assert connected(server, 0, 400) == 14


def test_uids_with_few_connections_leave_room_for_operators() -> None:
    """A user with many uids does not exclude root."""
    server = ServerHarness(LimitSettings(max_peers=320, max_peers_per_uid=100))
    assert sum(connected(server, uid, FEW_PEERS) for uid in range(1000, 1040)) == 310
    assert connected(server, 0, 400) == 10
    assert "reserved for operators" in server.refused[0][1]


@pytest.mark.parametrize("max_peers", [1, 2, 7])
def test_small_limits_reserve_nothing(max_peers: int) -> None:
    """A limit of a few connections is meant as it is."""
    server = ServerHarness(LimitSettings(max_peers=max_peers))
    assert connected(server, 1000, 10) == max_peers


def test_a_lowered_limit_keeps_open_connections() -> None:
    """A reload changes the limits of later connections only."""
    server = ServerHarness(LimitSettings(max_peers=5))
    assert connected(server, 1000, 5) == 5
    server.connections.limits = LimitSettings(max_peers=2)
    assert connected(server, 1001, 1) == 0
    assert len(server.connections) == 5
