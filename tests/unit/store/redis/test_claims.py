"""Replies of a server to reads and claims, as any program may have written what they say."""

from collections.abc import Sequence
from typing import Any

import pytest

from sidecard.config.store_url import RedisAddress
from sidecard.core.effects import StoreRead
from sidecard.core.events import Absent, ClaimedRemotely, Found, StoreAnswered, StoreEvent
from sidecard.core.records import Record
from sidecard.store.base import StoreReporter
from sidecard.store.redis.access import RedisAccess
from sidecard.store.redis.claims import MIN_ASK_SECONDS, Claims
from sidecard.store.redis.connection import Command, ReplyHandler, ScriptCall
from sidecard.store.redis.health import RedisHealth
from sidecard.store.redis.invalidations import Invalidations
from sidecard.store.redis.scripts import MAX_CLAIM_SECONDS, READ, encode_entry
from sidecard.store.redis.writes import RedisWrites

ENTRY = encode_entry(Record(b"v", 1.0, 300.0, 60.0, "cloud"))


class FakeConnection:
    """Keeps what is sent; the test replies."""

    def __init__(self) -> None:
        self.sent: list[tuple[ScriptCall, ReplyHandler]] = []

    def send(self, command: Command, on_reply: ReplyHandler) -> None:
        """Take a call."""
        assert isinstance(command, ScriptCall)
        self.sent.append((command, on_reply))


class Bench:
    """Claims of one host, on a scripted server."""

    def __init__(self, claim_seconds: float = 15.0) -> None:
        self.answers: list[StoreEvent] = []
        self.logged: list[dict[str, object]] = []
        reporter = StoreReporter(lambda _level, event, **fields: self.logged.append({"event": event, **fields}))
        reporter.notify = self.answers.append
        address = RedisAddress("single", (), "/nowhere")
        access = RedisAccess(address, "", "", "", "", "", "", 1.0, lambda _: True)
        health = RedisHealth(access, reporter)
        invalidations = Invalidations("here", reporter)
        writes = RedisWrites(health, reporter, invalidations, float)
        self.claims = Claims(health, reporter, invalidations, writes, "here", claim_seconds)
        health.session_began()
        self.connection = FakeConnection()
        self.claims.begin_session(self.connection)  # type: ignore[arg-type]  # the part of a connection that is used

    def read(self, *, claim: bool = True) -> None:
        """Read a key."""
        self.claims.read(StoreRead(1, "1:default", "k", claim))

    def replies(self, *reply: Any) -> list[object]:
        """Let the server reply to the oldest call; return the answers to that."""
        self.answers.clear()
        _, on_reply = self.connection.sent.pop(0)
        on_reply(list(reply))
        return [event.answer for event in self.answers if isinstance(event, StoreAnswered)]

    @property
    def asked(self) -> list[Sequence[object]]:
        """The arguments of the calls without a reply."""
        assert all(call.script is READ for call, _ in self.connection.sent)
        return [call.arguments for call, _ in self.connection.sent]


@pytest.mark.parametrize(
    ("milliseconds", "seconds"),
    [(5000, 5.0), (1, MIN_ASK_SECONDS), (0, MIN_ASK_SECONDS), (-(2**63), MIN_ASK_SECONDS), (10**15, MAX_CLAIM_SECONDS)],
)
def test_a_claimed_key_is_read_again_neither_at_once_nor_never(milliseconds: int, seconds: float) -> None:
    """Whatever the server says of the claim's end."""
    bench = Bench()
    bench.read()
    assert bench.replies(b"elsewhere", milliseconds) == [ClaimedRemotely(seconds)]


@pytest.mark.parametrize("reply", [(b"\x01hello", 1000), (ENTRY, -5), (ENTRY, 0), (ENTRY, 302_000)], ids=repr)
def test_a_useless_entry_is_claimed_without_being_read(reply: tuple[bytes, int]) -> None:
    """Damaged, over, or from the future: one host computes the key, and its answer replaces the entry."""
    bench = Bench()
    bench.read()
    assert bench.replies(b"found", *reply) == []
    assert bench.asked == [("here-1", 15000, 0)]
    assert bench.replies(b"claimed") == [Absent("here-1")]
    assert [line["event"] for line in bench.logged] == ["store data rejected"]


def test_a_useless_entry_is_a_miss_for_who_only_reads() -> None:
    """No claim is requested."""
    bench = Bench()
    bench.read(claim=False)
    assert bench.replies(b"found", b"\x01hello", 1000) == [Absent()]


def test_an_entry_of_a_later_version_is_left_alone() -> None:
    """It is a miss, and no fault."""
    bench = Bench()
    bench.read()
    assert bench.replies(b"found", b"\x09" + ENTRY[1:], 1000) == [Absent()]
    assert bench.logged == []


def test_an_entry_has_the_age_that_its_remaining_time_shows() -> None:
    """Up to the error of clocks."""
    for milliseconds, age_seconds in ((290_000, 10.0), (300_900, 0.0)):
        bench = Bench()
        bench.read()
        (found,) = bench.replies(b"found", ENTRY, milliseconds)
        assert isinstance(found, Found)
        assert found.record.age_seconds == age_seconds


def test_rejected_data_is_logged_ever_more_rarely() -> None:
    """Each doubling of its number is."""
    bench = Bench()
    for _ in range(1000):
        bench.read(claim=False)
        bench.replies(b"found", b"\x01hello", 1000)

    assert [line["times"] for line in bench.logged] == [2**power for power in range(10)]


def test_a_claim_is_no_longer_than_all_hosts_believe() -> None:
    """It is renewed in time, however long leases are."""
    bench = Bench(claim_seconds=7200.0)
    bench.read()
    assert bench.asked == [("here-1", 1000 * MAX_CLAIM_SECONDS, 1)]
