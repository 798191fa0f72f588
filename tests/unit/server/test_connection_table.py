"""The table of connections: who leaves, and when all have left."""

from sidecard.config.schema import LimitSettings
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
