"""A disk whose reads hang: the callers of entries on it make their own calls, and no other caller notices."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecard_client import Client
from tests.daemons import Daemon, poll
from tests.many_hosts import reasons, stat
from tests.stalled_disk import CAN_STALL, environ

Start = Callable[..., Daemon]

pytestmark = pytest.mark.skipif(
    not CAN_STALL, reason="SQLite is part of the interpreter: its system calls cannot be replaced"
)

STALL_SECONDS = 2.0

BYSTANDER_SECONDS = 0.3
"""Most that a hit in memory may take meanwhile, on a busy machine; a loop that waits for the disk takes all of the stall."""


def test_stalled_reads_delay_no_hit_in_memory(daemon: Start, tmp_path: Path) -> None:
    """Reads hang for seconds: hits in memory take as long as ever, `health` says why, and the store recovers."""
    state, stalled = tmp_path / "state", tmp_path / "stalled"
    state.mkdir()
    one = daemon(STATE_DIRECTORY=str(state), **environ(tmp_path, stalled))
    with Client(one.socket) as sidecard:
        for number in range(50):
            sidecard.put(f"disk {number}", "x" * 20_000)

        poll(lambda: stat(one, "store_pending") == 0, "the entries are not written")

    one.terminate()
    one.start_again()
    poll(lambda: stat(one, "store") == "up", "the store does not come up")
    with Client(one.socket) as reader, Client(one.socket) as bystander:
        bystander.put("memory", "here")
        assert reader.get("disk 0") == "x" * 20_000
        stalled.touch()
        outcomes: list[tuple[str, float]] = []

        def read() -> None:
            for number in range(1, 6):
                began_at = time.monotonic()
                outcomes.append(
                    (reader.outcome(lambda: "own", key=f"disk {number}").source, time.monotonic() - began_at)
                )

        reading = threading.Thread(target=read)
        reading.start()
        poll(stalled.with_suffix(".seen").exists, "no read stalls")
        slowest, ends_at = 0.0, time.monotonic() + STALL_SECONDS
        while time.monotonic() < ends_at:
            began_at = time.monotonic()
            assert bystander.get("memory") == "here"
            slowest = max(slowest, time.monotonic() - began_at)
            time.sleep(0.001)

        assert slowest < BYSTANDER_SECONDS
        reading.join(10)
        # The first caller waits until the disk counts as hanging, those after it not at all.
        assert [source for source, _ in outcomes] == ["upstream"] * 5
        assert all(seconds < 1.5 for _, seconds in outcomes[:1])
        assert all(seconds < 0.3 for _, seconds in outcomes[1:])
        assert "did not answer within 0.5 s" in reasons(one)
        stalled.unlink()
        poll(lambda: stat(one, "store") == "up", "the store does not recover")
        assert reader.get("disk 40") == "x" * 20_000
