"""Steps of the clocks: a host that slept, a wall clock that was set."""

import time
from pathlib import Path

import pytest

from sidecard.core.events import ClocksStepped
from sidecard.daemon import clocks
from sidecard.daemon.clocks import READ_SECONDS, STEP_SECONDS, ClockWatch, boot_name


class Clocks:
    """Three clocks and a watch of them."""

    def __init__(self) -> None:
        self.awake = 100.0
        self.slept = 50.0
        self.wall_offset = 1000.0
        self.awake_steps = [0.0]
        """What passes at each reading of the clock that does not count sleep, the last one again and again."""
        self.seen: list[ClocksStepped] = []
        self.watch = ClockWatch(
            self.seen.append,
            clock=lambda: self.awake + self.slept,
            awake_clock=self._awake,
            wall_clock=lambda: self.awake + self.slept + self.wall_offset,
        )

    def _awake(self) -> float:
        before = self.awake
        self.awake += self.awake_steps.pop(0) if len(self.awake_steps) > 1 else self.awake_steps[0]
        return before

    def steps(self) -> list[tuple[float, float]]:
        """Check, and return what was reported."""
        self.watch.check()
        seen, self.seen[:] = [(step.slept_seconds, step.wall_offset_seconds) for step in self.seen], []
        return seen


def test_time_that_passes_is_no_step() -> None:
    """However much of it."""
    those = Clocks()
    those.awake += 1e6
    assert those.steps() == []


def test_a_host_that_slept_is_reported_once() -> None:
    """With the seconds that the loop's timers do not count."""
    those = Clocks()
    those.slept += 3600.0
    assert those.steps() == [(3600.0, 1000.0)]
    assert those.steps() == []


@pytest.mark.parametrize("seconds", [86400.0, -86400.0, STEP_SECONDS, -2 * STEP_SECONDS])
def test_a_wall_clock_that_was_set_is_reported_once(seconds: float) -> None:
    """Forward and back; nobody slept."""
    those = Clocks()
    those.wall_offset += seconds
    assert those.steps() == [(0.0, 1000.0 + seconds)]
    assert those.steps() == []


def test_small_steps_add_up() -> None:
    """A clock that is set by a little each minute drifts away for good."""
    those = Clocks()
    seen = []
    for _ in range(4):
        those.wall_offset += STEP_SECONDS / 4
        those.slept += STEP_SECONDS / 8
        seen.append(those.steps())

    assert seen == [[], [], [], [(0.0, 1000.0 + STEP_SECONDS)]]
    seen.clear()
    for _ in range(4):
        those.slept += STEP_SECONDS / 8
        seen.append(those.steps())

    assert seen == [[], [], [], [(STEP_SECONDS, 1000.0 + STEP_SECONDS)]]


def test_a_process_that_was_stopped_between_two_readings_reports_nothing() -> None:
    """1. The first clock is read. 2. SIGSTOP, for an hour. 3. SIGCONT; the others are read."""
    those = Clocks()
    those.awake_steps = [3600.0, 0.0]
    assert READ_SECONDS < 3600.0
    assert those.steps() == []
    assert those.steps() == []


def test_the_engines_clock_counts_sleep() -> None:
    """It is the kernel's time since the boot, of which uptime is the text."""
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert clocks.clock() == pytest.approx(uptime, abs=1.0)


def test_a_clock_that_the_sandbox_lacks_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the one that does not count sleep."""
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 12345)
    assert clocks._boot_clock() is time.monotonic
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert clocks._boot_clock() is time.monotonic


def test_a_boot_has_one_name(tmp_path: Path) -> None:
    """The same for each run of it; without proc there is none."""
    assert boot_name() == boot_name() != ""
    assert boot_name(tmp_path) == ""
