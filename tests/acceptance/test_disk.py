"""A cache that survives: the real daemon with a file on a real disk, killed, filled, made read-only."""

import os
import random
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import pytest

from sidecard.core.effects import StoreWrite
from sidecard.core.records import NO_USAGE, Record
from sidecard.store.sqlite.writer import StoreWriter
from sidecard_client import Client
from tests.daemons import Daemon, ask, poll
from tests.many_hosts import reasons, stat
from tests.worker_process import PATIENCE_SECONDS

Start = Callable[..., Daemon]

WINDOW_SECONDS = 1.0
"""The daemon collects for a quarter of it; the rest is for the disk of a busy machine."""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Make a state directory."""
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


def kill_again_and_again(daemon: Start, state: Path, lives: Iterable[float]) -> None:
    """Kill under load; each entry that was acknowledged before the window is there after the start, and the file is whole.

    ``lives`` are the daemons' times under load, in windows.
    """
    chance = random.Random(7)
    file = state / "store.db"
    one = daemon(STATE_DIRECTORY=str(state), SIDECARD_STORE_WRITE_WINDOW_SECONDS=str(WINDOW_SECONDS))
    for life, windows in enumerate(lives):
        # The window begins when the file is open, which takes longer on a busy machine.
        poll(lambda: stat(one, "store") == "up", "the store is not opened", 30.0)
        acknowledged: list[tuple[float, str, str]] = []
        dies_at = time.monotonic() + windows * WINDOW_SECONDS
        with Client(one.socket, daemon_timeout=PATIENCE_SECONDS) as sidecard:
            while time.monotonic() < dies_at:
                key = f"{life}-{len(acknowledged)}"
                assert sidecard.put(key, f"answer {key}" * chance.randrange(1, 200))
                acknowledged.append((time.monotonic(), key, f"answer {key}"))
                time.sleep(0.001)  # a thousand answers a second: far above what models give, within what a disk takes

            died_at = time.monotonic()
            one.kill()

        with sqlite3.connect(file) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",), life

        connection.close()
        one.start_again()
        with Client(one.socket) as sidecard:
            for at, key, answer in acknowledged:
                if at < died_at - WINDOW_SECONDS:
                    # A look that takes longer than a reader may wait is answered by a miss, and is no loss.
                    lost = f"{key} was lost, {died_at - at:.3f} s before the end of life {life}"
                    poll(lambda key=key: sidecard.get(key) is not None, lost, 5.0)  # type: ignore[misc]  # of the loop

                found = sidecard.get(key)
                assert found is None or found.startswith(answer)


def test_entry_older_than_the_write_window_survives_a_kill(daemon: Start, state: Path) -> None:
    """A daemon is killed in its first write, and another one soon after the window of its first entries."""
    kill_again_and_again(daemon, state, (0.3, 1.1))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_store_after_two_hundred_kills_is_whole(daemon: Start, state: Path) -> None:
    """The file of a daemon that was killed two hundred times is whole."""
    chance = random.Random(7)
    kill_again_and_again(daemon, state, (chance.uniform(0.1, 1.5) for _ in range(200)))


def test_acknowledged_purge_of_many_entries_outlasts_a_kill(daemon: Start, state: Path) -> None:
    """1. a purge whose removal from disk takes far longer than its requester waits; 2. its reply; 3. a kill; 4. a start."""
    entries = 60_000
    record = Record(b"\x01", 1.0, 5000.0, 0.0, "cloud", NO_USAGE, ("tag",))
    writer = StoreWriter(state / "store.db", 1 << 30, time.time)  # noqa: TID251 - what is kept on disk has no other clock
    changes = [StoreWrite(f"{os.getuid()}:default", f"key{number}", record, "", True, 0.0) for number in range(entries)]
    writer.apply([(change, time.time()) for change in changes])  # noqa: TID251 - as above
    writer.close()
    one = daemon(STATE_DIRECTORY=str(state))
    with Client(one.socket) as sidecard:
        poll(lambda: sidecard.get("key7") is not None, "the store is not read", 10.0)
        deleted = ask(one.socket, {"op": "purge", "tag": "tag"})
        one.kill()

    one.start_again()
    assert "count" in deleted, deleted
    with Client(one.socket) as sidecard:
        poll(lambda: stat(one, "store") == "up", "the store is not opened again", 30.0)
        assert [key for key in (f"key{number}" for number in range(0, entries, 1000)) if sidecard.get(key)] == []


def test_stopped_daemon_has_written_all_entries(daemon: Start, state: Path) -> None:
    """A stopping daemon writes every entry; afterwards a hundred callers cost one read of the store."""
    one = daemon(STATE_DIRECTORY=str(state), SIDECARD_STORE_WRITE_WINDOW_SECONDS="60")
    for number in range(300):
        assert ask(one.socket, {"op": "put", "key": str(number), "value": number})["stored"] is True

    assert one.terminate() == 0
    one.start_again()
    for number in range(300):
        assert ask(one.socket, {"op": "begin", "key": str(number)})["value"] == number

    assert (stat(one, "store_reads"), stat(one, "store_hits"), stat(one, "hits")) == (300, 300, 300)


def test_daemon_without_a_store_keeps_nothing(daemon: Start, state: Path) -> None:
    """A daemon without a state directory, with `--no-state` or with an empty store setting keeps nothing."""
    for flags, environ in ((("--no-state",), {}), ((), {"SIDECARD_STORE_URL": "none"})):
        one = daemon(*flags, STATE_DIRECTORY=str(state), **environ)
        assert stat(one, "store") == "none"
        one.terminate()

    assert not (state / "store.db").exists()


def calls(one: Daemon, first: int, count: int) -> None:
    """Make calls whose answers are to be kept; none fails."""
    with Client(one.socket) as sidecard:
        for number in range(first, first + count):
            outcome = sidecard.outcome(lambda number=number: f"{number}" * 200, name=f"call {number}")
            assert outcome.value == f"{number}" * 200
            assert outcome.source == "upstream"


def test_full_disk_fails_no_call(daemon: Start, small_disk: Path) -> None:
    """With a full disk, the daemon reports it, serves what it has, and writes the pending entries once there is room."""
    ballast = small_disk / "ballast"
    one = daemon(
        "--no-state", SIDECARD_STORE_URL=f"sqlite:{small_disk}/store.db", SIDECARD_STORE_WRITE_WINDOW_SECONDS="0.1"
    )
    calls(one, 0, 20)
    poll(lambda: stat(one, "store_written") == 20, "nothing is written")
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass

    calls(one, 20, 300)
    poll(lambda: stat(one, "store") == "read_only", "the disk is not full")
    assert "cannot be written" in reasons(one)
    assert ask(one.socket, {"op": "health"})["status"] == "ok"
    calls(one, 320, 50)
    ballast.unlink()
    poll(lambda: stat(one, "store") == "up" and stat(one, "store_pending") == 0, "it does not recover")
    assert stat(one, "store_written") == 370
    assert reasons(one) == ""


@pytest.mark.slow
def test_read_only_disk_fails_no_call(daemon: Start, small_disk: Path) -> None:
    """With a read-only disk, the daemon reports it, serves what it has, and writes the pending entries later."""
    one = daemon(
        "--no-state", SIDECARD_STORE_URL=f"sqlite:{small_disk}/store.db", SIDECARD_STORE_WRITE_WINDOW_SECONDS="0.1"
    )
    calls(one, 0, 20)
    poll(lambda: stat(one, "store_written") == 20, "nothing is written")
    one.kill()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    one.start_again()
    poll(lambda: stat(one, "store") == "down", "the store is not down")
    assert reasons(one)
    calls(one, 20, 20)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    poll(lambda: stat(one, "store") == "up" and stat(one, "store_pending") == 0, "it does not recover", 30.0)
    assert stat(one, "store_written") == 20
    assert stat(one, "store_entries") == 40
