"""A disk whose reads hang: the callers of entries on it make their own calls, and no other caller notices."""

import threading
import time
from collections.abc import Callable, Sequence
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
"""Most that a hit in memory may take meanwhile; a loop that waits for the disk takes all of the stall."""

ATTEMPTS = 3
"""A busy machine delays a caller as a waiting loop does, but rarely three times."""


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
        late: list[str] = []
        for attempt in range(ATTEMPTS):
            late = _late_during_a_stall(one, reader, bystander, stalled, range(5 * attempt + 1, 5 * attempt + 6))
            poll(lambda: stat(one, "store") == "up", "the store does not recover")
            if not late:
                break

        assert late == []
        assert reader.get("disk 40") == "x" * 20_000


def _late_during_a_stall(
    one: Daemon, reader: Client, bystander: Client, stalled: Path, numbers: Sequence[int]
) -> list[str]:
    """Let the disk stall while ``reader`` calls for the entries ``numbers``; return who had to wait for it, and how long."""
    stalled.with_suffix(".seen").unlink(missing_ok=True)
    stalled.touch()
    outcomes: list[tuple[str, float]] = []

    def read() -> None:
        for number in numbers:
            began_at = time.monotonic()
            outcomes.append((reader.outcome(lambda: "own", key=f"disk {number}").source, time.monotonic() - began_at))

    reading = threading.Thread(target=read)
    reading.start()
    poll(stalled.with_suffix(".seen").exists, "no read stalls")
    slowest, ends_at = 0.0, time.monotonic() + STALL_SECONDS
    while time.monotonic() < ends_at:
        began_at = time.monotonic()
        assert bystander.get("memory") == "here"
        slowest = max(slowest, time.monotonic() - began_at)
        time.sleep(0.001)

    reading.join(10)
    assert "did not answer within 0.5 s" in reasons(one)
    stalled.unlink()
    # The first caller waits until the disk counts as hanging, those after it not at all.
    assert [source for source, _ in outcomes] == ["upstream"] * len(numbers)
    taken = {
        "bystander": (slowest, BYSTANDER_SECONDS),
        "first caller": (outcomes[0][1], 1.5),
        "later caller": (max(seconds for _, seconds in outcomes[1:]), 0.3),
    }
    return [f"{who}: {seconds:.2f} s" for who, (seconds, most) in taken.items() if seconds >= most]
