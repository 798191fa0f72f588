"""The daemon's clocks, and the watch for a host that slept and for a wall clock that was set.

The engine's clock is ``CLOCK_BOOTTIME``, which counts the time that the host sleeps: entries, budgets and breakers age meanwhile.
The event loop's timers do not count it (``CLOCK_MONOTONIC``). So each timer of the engine first calls `ClockWatch.check`, and
`ClockWatch.run` checks every `CHECK_SECONDS`.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

from sidecard.core.events import ClocksStepped

CHECK_SECONDS: Final = 1.0

STEP_SECONDS: Final = 0.5
"""The smallest step that is reported. Smaller ones add up until they are."""

READ_SECONDS: Final = 0.05
"""If reading the three clocks takes longer, the process was stopped meanwhile, and what they differ by says nothing."""


def _boot_clock() -> Callable[[], float]:
    number = getattr(time, "CLOCK_BOOTTIME", None)
    if number is None:
        return time.monotonic

    clock = partial(time.clock_gettime, number)
    try:
        clock()
    except OSError:  # a sandbox that does not know it
        return time.monotonic

    return clock


clock = _boot_clock()
awake_clock = time.monotonic
wall_clock = time.time  # noqa: TID251 - whatever outlives a run, or is sent to another host, has no other clock


def boot_name(proc: Path = Path("/proc")) -> str:
    """Return a name of this boot: two runs with the same name read the same `clock`.

    Empty if there is none, or if `clock` does not count sleep.
    """
    if clock is awake_clock:
        return ""

    try:
        boot_id = (proc / "sys/kernel/random/boot_id").read_text("ascii").strip()
        # Another time namespace has another clock (time_namespaces(7)).
        namespace = (proc / "self/ns/time").stat().st_ino
    except (OSError, UnicodeDecodeError):
        return ""

    return sha256(f"{boot_id} {namespace}".encode()).hexdigest()[:16]


class ClockWatch:
    """Reports steps of the clocks to ``notify``."""

    def __init__(
        self,
        notify: Callable[[ClocksStepped], None],
        *,
        clock: Callable[[], float] = clock,
        awake_clock: Callable[[], float] = awake_clock,
        wall_clock: Callable[[], float] = wall_clock,
    ) -> None:
        self._notify = notify
        self._clock = clock
        self._awake_clock = awake_clock
        self._wall_clock = wall_clock
        self._slept_seconds = clock() - awake_clock()
        self._wall_offset_seconds = wall_clock() - clock()

    def check(self) -> None:
        """Report a step since the last report, if there was one."""
        awake, now, wall = self._awake_clock(), self._clock(), self._wall_clock()
        if self._awake_clock() - awake > READ_SECONDS:
            return

        slept_seconds, wall_offset_seconds = now - awake - self._slept_seconds, wall - now
        slept = slept_seconds >= STEP_SECONDS
        if not slept and abs(wall_offset_seconds - self._wall_offset_seconds) < STEP_SECONDS:
            return

        self._wall_offset_seconds = wall_offset_seconds
        if slept:
            self._slept_seconds += slept_seconds

        self._notify(ClocksStepped(slept_seconds if slept else 0.0, wall_offset_seconds))

    async def run(self) -> None:
        """Check again and again until canceled."""
        while True:
            self.check()
            await asyncio.sleep(CHECK_SECONDS)
