"""A process that gets half a processor: by a control group where the machine allows it, otherwise by stops."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from sidecard.cli.bench import limited as limits
from sidecard.cli.bench.hosts import cpu_seconds

MEASURED_SECONDS = 0.8


@pytest.fixture
def busy() -> Iterator[int]:
    """Start a process that computes without end, and return its id."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield process.pid
        process.kill()


def state_of(pid: int) -> str:
    """Return the letter of a process's state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("grouped", [True, False])
def test_a_limited_process_gets_half_a_processor(busy: int, grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped for half of each period, and runs without a limit afterwards."""
    if not grouped:
        monkeypatch.setattr(limits, "_group_of", lambda _: None)

    with limits.limited(busy) as means:
        if grouped and "group" not in means:
            pytest.skip("no control group can be made")

        sleep(limits.PERIOD_SECONDS)  # what it had before may have used this period
        used, began_at = cpu_seconds(busy), monotonic()
        sleep(MEASURED_SECONDS)
        share = (cpu_seconds(busy) - used) / (monotonic() - began_at)

    assert 0 < share < 0.65
    assert state_of(busy) in "RS"
    assert not any(list(Path("/sys/fs/cgroup").glob(f"{place}sidecard-bench-{busy}")) for place in ("", "*/"))
