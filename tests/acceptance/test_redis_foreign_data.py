"""Data in Redis that no daemon has written: a miss at most. No caller, no other key and no account is affected."""

import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecard.core.records import Record
from sidecard.store.redis.scripts import CHANNEL, ENVELOPE, encode_entry, entry_name
from sidecard_client import Client
from sidecard_client.protocol.wire import Usage
from tests.daemons import Daemon, ask, poll
from tests.many_hosts import Start, stat
from tests.servers import RedisServer, any_program, ending
from tests.worker_process import PATIENCE_SECONDS

SCOPE = f"{os.getuid()}:default"
GOOD = encode_entry(Record(msgspec.msgpack.encode("theirs"), 1.0, 300.0, 60.0, "cloud", Usage("m", 1, 2, 0.25)))

ATTEMPTS = 3
"""A busy machine delays a hit as a loop does that takes no turns, but rarely three times."""

clock = time.time  # noqa: TID251 - the server's clock, which is this host's


@pytest.fixture
def server(socket_directory: Path) -> Iterator[RedisServer]:
    """A server of the test's own."""
    one = RedisServer(socket_directory / "redis", any_program())
    with ending(one):
        yield one


def serving(start: Start, server: RedisServer, *flags: str, **environ: str) -> Daemon:
    """Start a daemon on the server."""
    one = start(*(flags or ("--no-state",)), SIDECARD_STORE_URL=server.url, **environ)
    poll(lambda: stat(one, "store") == "up", "the store does not come up")
    return one


def store(server: RedisServer, key: str, **fields: Any) -> None:
    """Write a hash as a daemon writes an entry or a claim."""
    given = {name: value for name, value in fields.items() if value is not None}
    with server.client() as client:
        client.hset(entry_name(SCOPE, key), mapping=given)


def in_seconds(seconds: float) -> int:
    """Return an instant of the server's clock, in milliseconds."""
    return round(1000 * (clock() + seconds))


def envelope(**changed: Any) -> bytes:
    """Return an entry's envelope with some fields changed."""
    names = ["seconds", "ttl_seconds", "window_seconds", "backend", "usage", "tags", "value", "task"]
    fields = dict(zip(names, msgspec.msgpack.decode(GOOD[1:]), strict=True))
    return bytes((ENVELOPE,)) + msgspec.msgpack.encode([*(fields | changed).values()])


FOREIGN = {
    "empty value": envelope(value=b""),
    "no msgpack": envelope(value=b"\xc1"),
    "two values": envelope(value=b"\x01\x02"),
    "cut off": envelope(value=b"\xdb\xff\xff\xff\xff"),
    "no UTF-8": envelope(value=b"\xa1\xff"),
    "nested": envelope(value=b"\x91" * 100_000 + b"\xc0"),
    "nested a little too deep": envelope(value=b"\x91" * 100 + b"\xc0"),
    "NaN seconds": envelope(seconds=math.nan),
    "endless": envelope(ttl_seconds=math.inf, window_seconds=math.inf),
    "negative lifetime": envelope(ttl_seconds=-1.0),
    "NaN dollars": envelope(usage={"model": "m", "cost_dollars": math.nan}),
    "negative tokens": envelope(usage={"model": "m", "prompt_tokens": -5}),
    "many tokens": envelope(usage={"model": "m", "prompt_tokens": 2**60}),
    "many tags": envelope(tags=["t"] * 1000),
    "long backend": envelope(backend="x" * 100_000),
    "compressed": b"\x02" + envelope(value=b"\xff\xff\xff\xffbomb")[1:],
    "another program's": b"\x01hello",
}


def test_foreign_entry_is_a_miss_and_is_replaced(daemon: Start, server: RedisServer, tmp_path: Path) -> None:
    """The caller makes its call, its client stays connected, and the answer is stored for all hosts."""
    state = tmp_path / "state"
    state.mkdir()
    one = serving(daemon, server, "--set=calls.enabled=false", STATE_DIRECTORY=str(state))
    for name, data in FOREIGN.items():
        store(server, name, value=data, until=in_seconds(300))

    with Client(one.socket) as sidecard:
        for name in FOREIGN:
            outcome = sidecard.outcome(lambda name=name: f"ours {name}", key=name)
            assert (outcome.source, outcome.value) == ("upstream", f"ours {name}"), name

    poll(lambda: stat(one, "store_pending") == 0, "the answers are not written")
    assert stat(one, "store_faults") == len(FOREIGN)
    another = serving(daemon, server)
    with Client(another.socket) as sidecard:
        for name in FOREIGN:
            assert sidecard.outcome(lambda: "again", key=name).value == f"ours {name}", name

    one.terminate()
    assert len(one.said("store data rejected")) == 1 + len(FOREIGN).bit_length() - 1
    assert "null" not in (state / "ledger.json").read_text()


def test_entry_from_the_future_is_a_miss(daemon: Start, server: RedisServer) -> None:
    """The server's clock was a day ahead while it was stored: it would be fresh for a day and more."""
    store(server, "future", value=GOOD, until=in_seconds(86_400))
    store(server, "present", value=GOOD, until=in_seconds(299))
    stored_at = time.monotonic()
    with Client(serving(daemon, server).socket) as sidecard:
        assert sidecard.outcome(lambda: "ours", key="future").source == "upstream"
        outcome = sidecard.outcome(lambda: "ours", key="present")
        assert (outcome.source, outcome.value) == ("cache", "theirs")
        assert 0.1 < outcome.age_seconds < 1.9 + time.monotonic() - stored_at


@pytest.mark.parametrize(
    "until", [pytest.param(in_seconds(864_000), id="in ten days"), "inf", "nan", "1e300", "-1", "soon"]
)
def test_claim_without_end_delays_no_caller(daemon: Start, server: RedisServer, until: object) -> None:
    """No host renews it, and none would be waited for in vain."""
    store(server, "k", claim="nobody-1", claimed_until=until)
    with Client(serving(daemon, server).socket) as sidecard:
        began_at = time.monotonic()
        assert sidecard.outcome(lambda: "ours", key="k", wait=20).source == "upstream"
        assert time.monotonic() - began_at < 5.0


def test_foreign_counters_are_skipped(daemon: Start, server: RedisServer, tmp_path: Path) -> None:
    """Other hosts' real numbers count beside them; nothing of them reaches the ledger."""
    state = tmp_path / "state"
    state.mkdir()
    period = int(clock() // 86_400)
    with server.client() as client:
        spent = {"a": "nan", "b": "inf", "c": "-5", "d": "lots", "e": "1e300", "f": "2.5"}
        client.hset(f"sidecard-budget:1:daily:{period}", mapping=spent)
        opened: dict[Any, Any] = {
            "cloud": in_seconds(20),
            "nan": "nan",
            "inf": "inf",
            "far": "1e300",
            "text": "x",
            b"\xff": 1e14,
        }
        client.hset("sidecard-breakers:1", mapping=opened)

    one = serving(
        daemon,
        server,
        "--set=calls.enabled=false",
        STATE_DIRECTORY=str(state),
        SIDECARD_STORE_SHARE_BREAKERS="true",
        SIDECARD_STORE_SHARE_BUDGETS="true",
        SIDECARD_BUDGETS='{"daily": {"dollars": 10.0, "period_seconds": 86400}}',
    )

    def report() -> Any:
        return ask(one.socket, {"op": "report"})

    poll(lambda: report()["budgets"]["daily"]["spent_dollars"] == 2.5, "the other host's spending does not arrive")
    poll(lambda: "cloud" in report()["breakers"], "the other host's breaker does not arrive")
    assert report()["breakers"].keys() == {"cloud"}
    with server.client() as client:
        client.delete(f"sidecard-budget:1:daily:{period}", "sidecard-breakers:1")
        client.set(f"sidecard-budget:1:daily:{period}", "no hash")
        client.set("sidecard-breakers:1", "no hash")

    poll(lambda: int(str(stat(one, "store_faults"))) >= 4, "keys of a wrong type are not counted")
    assert stat(one, "store") == "up"
    one.terminate()
    assert 1 <= len(one.said("store data rejected")) <= 8
    assert "null" not in (state / "ledger.json").read_text()


def test_flood_of_messages_delays_no_hit(daemon: Start, server: RedisServer) -> None:
    """Garbage and purges, tens of thousands in one go: hits in memory go on, and the daemon hears of what follows."""
    one = serving(daemon, server)
    with Client(one.socket, daemon_timeout=PATIENCE_SECONDS) as sidecard, server.client() as client:
        for number in range(1000):
            sidecard.put(f"entry {number}", number)

        poll(lambda: stat(one, "store_pending") == 0, "the entries are not written")
        purge = msgspec.msgpack.encode(("there", "purged", None, "no tag of ours"))

        def slowest_hit() -> float:
            pipe = client.pipeline(transaction=False)
            for number in range(20_000):
                pipe.publish(CHANNEL, b"\xc1" if number % 2 else purge)

            slowest = 0.0
            flood = threading.Thread(target=pipe.execute)
            flood.start()
            while flood.is_alive():
                began_at = time.monotonic()
                assert sidecard.get("entry 7") == 7
                slowest = max(slowest, time.monotonic() - began_at)

            flood.join()
            return slowest

        slowest = [slowest_hit()]
        while slowest[-1] >= 0.25 and len(slowest) < ATTEMPTS:
            slowest.append(slowest_hit())

        assert min(slowest) < 0.25, slowest  # of the loop's turns; without them a chunk of messages takes far longer
        client.publish(CHANNEL, msgspec.msgpack.encode(("there", "removed", SCOPE, "entry 8")))
        client.delete(entry_name(SCOPE, "entry 8"))
        poll(lambda: sidecard.get("entry 8") is None, "the removal after the flood does not arrive")
