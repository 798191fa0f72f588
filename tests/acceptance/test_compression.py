"""Compressed answers on real disks and a real Redis, between daemons that compress and daemons that do not."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecard_client import Client
from tests.acceptance.test_commands import run
from tests.daemons import Daemon, poll
from tests.many_hosts import Start, hosts, stat
from tests.servers import RedisServer, any_program, ending

pytestmark = pytest.mark.usefixtures("patient_clients")

ON = {"SIDECARD_CACHE_COMPRESS_MIN_BYTES": "1KiB", "SIDECARD_STORE_WRITE_WINDOW_SECONDS": "0.01"}
OFF = {"SIDECARD_STORE_WRITE_WINDOW_SECONDS": "0.01"}
TEXT = "The capital of France is Paris, and the capital of Spain is Madrid. " * 100


@pytest.fixture
def server(socket_directory: Path) -> Iterator[RedisServer]:
    """A server of the test's own."""
    one = RedisServer(socket_directory / "redis", any_program())
    with ending(one):
        yield one


def answer(question: str) -> str:
    """Answer at length."""
    return f"{question}: {TEXT}"


def asked(daemon: Daemon, *questions: str, stream: bool = False) -> list[str]:
    """Ask; return from where each answer came."""
    with Client(daemon.socket) as client:
        sources: list[str] = []
        for question in questions:
            outcome = client.outcome(answer, question)
            assert outcome.value == answer(question)
            sources.append(outcome.source)

        if stream:
            assert list(client.stream(lambda: iter(["never", "called"]), name="stream")) == [TEXT, "end"]

        return sources


def compressed(daemon: Daemon) -> object:
    """Count the entries in memory whose answers are compressed."""
    return stat(daemon, "cache_compressed_entries")


@pytest.mark.parametrize(("first", "second"), [(ON, OFF), (OFF, ON)])
def test_store_on_disk_is_read_with_either_setting(
    daemon: Start, tmp_path: Path, first: dict[str, str], second: dict[str, str]
) -> None:
    """A daemon reads answers and streams that another one wrote with or without compression."""
    one = daemon(STATE_DIRECTORY=str(tmp_path), **first)
    assert asked(one, "a", "b") == ["upstream", "upstream"]
    with Client(one.socket) as client:
        assert list(client.stream(lambda: iter([TEXT, "end"]), name="stream")) == [TEXT, "end"]

    assert compressed(one) == (3 if first is ON else 0)
    assert one.terminate() == 0
    with sqlite3.connect(tmp_path / "store.db") as connection:
        rows = connection.execute("SELECT length(value) FROM entries").fetchall()

    connection.close()
    assert {size < len(TEXT) / 10 for (size,) in rows} == {first is ON}
    other = daemon(STATE_DIRECTORY=str(tmp_path), **second)
    assert asked(other, "a", "b", stream=True) == ["cache", "cache"]
    assert asked(other, "a", "b", stream=True) == ["cache", "cache"]
    assert compressed(other) == (3 if second is ON else 0)
    assert stat(other, "store_hits") == 3


def test_damaged_record_on_disk_is_a_miss(daemon: Start, tmp_path: Path) -> None:
    """A record that is cut, emptied, longer, zeroed or of an impossible size is a miss, and the new answer replaces it."""
    one = daemon(STATE_DIRECTORY=str(tmp_path), **ON)
    asked(one, "a", "b", "c", "d", "e", "whole")
    assert one.terminate() == 0
    with sqlite3.connect(tmp_path / "store.db") as connection:
        (whole,) = connection.execute("SELECT value FROM entries WHERE id = 1").fetchone()
        damaged = [whole[:-1], b"", whole + b"x", b"\xff\xff\xff\xff" + whole[4:], bytes(len(whole))]
        for number, value in enumerate(damaged, 1):
            connection.execute("UPDATE entries SET value = ? WHERE id = ?", (value, number))

    connection.close()
    one.start_again()
    assert asked(one, "a", "b", "c", "d", "e", "whole") == ["upstream"] * 5 + ["cache"]
    assert stat(one, "store_hits") == 1
    assert one.terminate() == 0
    one.start_again()
    assert asked(one, "a", "b", "c", "d", "e", "whole") == ["cache"] * 6


def test_hosts_with_and_without_compression_share_a_redis(daemon: Start, server: RedisServer) -> None:
    """Each host reads what the other has written, in either form."""
    (small,) = hosts(daemon, 1, server.url, **ON)
    (plain,) = hosts(daemon, 1, server.url)
    assert asked(small, "a") == asked(plain, "b") == ["upstream"]
    poll(lambda: stat(small, "store_pending") == stat(plain, "store_pending") == 0, "the entries were not written")
    poll(lambda: asked(plain, "a") == asked(small, "b") == ["cache"], "not shared")
    assert (compressed(small), compressed(plain)) == (2, 0)
    with server.client() as client:
        sizes = sorted(len(client.hget(name, "value")) for name in client.scan_iter("sidecard:1:*"))

    assert sizes[0] < len(TEXT) / 10 < len(TEXT) < sizes[1]


def test_damaged_record_in_redis_is_a_miss(daemon: Start, server: RedisServer) -> None:
    """A host without the entry in memory makes the call."""
    (one,) = hosts(daemon, 1, server.url, **ON)
    asked(one, "a")
    with server.client() as client:
        # The claim alone makes the hash, before there is an answer in it.
        poll(lambda: any(client.hexists(name, "value") for name in client.scan_iter("sidecard:1:*")), "not written")
        (name,) = client.scan_iter("sidecard:1:*")
        envelope = client.hget(name, "value")
        assert envelope[:1] == b"\x02"
        client.hset(name, "value", envelope[:-20] + b"\xff" * 20)

    (other,) = hosts(daemon, 1, server.url, **ON)
    assert asked(other, "a") == ["upstream"]
    assert asked(other, "a") == ["cache"]


def test_reload_of_compression_keeps_entries(daemon: Start, tmp_path: Path) -> None:
    """Entries stay hits while reloads switch compression on and off."""
    file = tmp_path / "sidecard.toml"
    file.write_text("")
    one = daemon("--no-state", "--config", str(file))
    assert asked(one, "a") == ["upstream"]
    for settings, question, count in (("compress_min_bytes = '1 KiB'", "b", 1), ("compress_min_bytes = 0", "c", 1)):
        file.write_text(f"[cache]\n{settings}\n")
        done = run("reload", "--socket", one.socket)
        assert done.returncode == 0
        assert done.stdout.startswith("cache.compress_min_bytes = ")
        assert asked(one, "a", question) == ["cache", "upstream"]
        assert asked(one, "a", "b") == ["cache", "cache"]
        assert compressed(one) == count

    done = run("stats", "--socket", one.socket)
    assert "compressed" in done.stdout
    assert "1 entries" in done.stdout
