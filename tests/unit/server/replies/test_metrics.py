"""Large replies to `metrics`: built in turns, for all that wait, in both encodings."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from sidecard.core.accounts.app_metrics import FamilySource, merged
from sidecard.core.operations.metrics import INLINE_BYTES
from sidecard.server.replies.metrics import MetricsReplies
from sidecard_client.protocol import wire
from tests.unit.server.harness import FakePeer, ServerHarness


def record_many(peer: FakePeer, series: int = 2000) -> None:
    """Record so much that a reply is large."""
    for start in range(0, series, 500):
        metrics = tuple(
            wire.Measurement(name=f"docs{number % 3}", kind="counter", labels={"n": f'{number} "\u2603'})
            for number in range(start, min(series, start + 500))
        )
        peer.send(wire.RecordMetrics(metrics=(*metrics, wire.Measurement(name="took", kind="histogram"))))


def run(server: ServerHarness) -> None:
    """Give turns until nothing waits."""
    while server.loop.turn():
        pass


def of_apps(families: list[Any]) -> list[Any]:
    """Return the families of apps: those of the daemon's own differ between two replies."""
    return [family for family in msgspec.to_builtins(families) if not family["name"].startswith("sidecard_")]


def test_a_large_reply_equals_one_built_at_once() -> None:
    """In frames; it counts as answered."""
    server = ServerHarness()
    peer = server.connect()
    record_many(peer)
    run(server)
    assert server.engine._apps.exposed_bytes > INLINE_BYTES
    peer.send(wire.GetMetrics(id=7))
    assert peer.received() == []
    run(server)
    (reply,) = peer.received()
    assert isinstance(reply, wire.Metrics)
    assert reply.id == 7
    assert len(reply.families) > 20
    assert of_apps(reply.families) == of_apps(list(merged(server.engine._apps.sources())))


def test_a_large_reply_in_json_equals_one_built_at_once() -> None:
    """A peer that has closed its sending side still gets it."""
    server = ServerHarness()
    record_many(server.connect())
    run(server)
    person = server.connect()
    person.send_text('{"op":"metrics","id":7}\n')
    person.connection.eof_received()
    run(server)
    (line,) = person.transport.sent.splitlines()
    reply = json.loads(line)
    assert (reply["type"], reply["id"]) == ("metrics", 7)
    expected = json.loads(msgspec.json.encode(list(merged(server.engine._apps.sources()))))
    assert of_apps(reply["families"]) == expected
    assert person.transport.closed


def test_a_number_that_json_lacks_is_an_error() -> None:
    """It names msgpack, which has it."""
    server = ServerHarness()
    peer, person = server.connect(), server.connect()
    record_many(peer)
    run(server)
    peer.send(wire.RecordMetrics(metrics=(wire.Measurement(name="load", kind="gauge", value=float("inf")),)))
    person.send_text('{"op":"metrics","id":7}\n')
    run(server)
    reply = json.loads(person.transport.sent)
    assert (reply["type"], reply["id"], "msgpack" in reply["message"]) == ("error", 7, True)


class Recipient:
    """A writer that keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, list[bytes]]] = []

    def queue_metrics(self, request_id: int, families: list[bytes]) -> None:
        """Keep one reply."""
        self.sent.append((request_id, families))


class Building:
    """Replies under construction, where each piece uses up a turn."""

    def __init__(self) -> None:
        self.value = 0.0
        self.seconds = 0.0
        self.builds = 0
        self.writers = {peer_id: Recipient() for peer_id in (1, 2, 3)}
        self.replies = MetricsReplies(self.sources, self.writers.get, self.clock)

    def clock(self) -> float:
        """Return a later time with each call."""
        self.seconds += 1.0
        return self.seconds

    def sources(self) -> Iterator[FamilySource]:
        """Yield one family in three pieces."""
        self.builds += 1
        pieces = [
            wire.Family("docs", "gauge", "Docs.", [wire.Sample("docs", self.value)] * count) for count in (1, 20, 2)
        ]
        yield FamilySource("docs", 1, iter(pieces))

    def finish(self) -> int:
        """Give turns until nothing waits; return how many."""
        turns = 1
        while self.replies.serve_turn():
            turns += 1

        return turns

    def values(self, peer_id: int) -> list[list[float]]:
        """Return the values that a peer was sent, by reply."""
        replies = [msgspec.msgpack.decode(families[0], type=wire.Family) for _, families in self.writers[peer_id].sent]
        return [[sample.value for sample in family.samples] for family in replies]


def test_requests_that_wait_share_one_build() -> None:
    """Each piece may use up a turn."""
    building = Building()
    for peer_id in (1, 2, 3):
        building.replies.add(peer_id, 10 + peer_id)

    assert building.finish() > 6
    assert building.builds == 1
    assert [building.values(peer_id) for peer_id in (1, 2, 3)] == [[[0.0] * 23]] * 3
    assert [building.writers[peer_id].sent[0][0] for peer_id in (1, 2, 3)] == [11, 12, 13]


def test_a_request_during_a_build_gets_what_was_recorded_before_it() -> None:
    """1. a build begins; 2. something is recorded; 3. another peer asks: it must see that."""
    building = Building()
    building.replies.add(1, 1)
    assert building.replies.serve_turn()
    building.value = 5.0
    building.replies.add(3, 1)
    building.finish()
    assert (building.values(1), building.values(3)) == ([[0.0] * 23], [[5.0] * 23])


@pytest.mark.parametrize("lost", [1, 3])
def test_a_lost_peer_costs_the_others_nothing(lost: int) -> None:
    """If it is lost before the build; afterward its writer ignores the reply."""
    building = Building()
    building.replies.add(1, 1)
    building.replies.add(3, 1)
    del building.writers[lost]
    building.finish()
    assert building.values(4 - lost) == [[0.0] * 23]
    building.replies.add(lost, 1)
    assert building.finish() == 1
