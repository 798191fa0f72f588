"""Clocks of a daemon that a test moves: the wall's, and the one that counts a sleep of the host."""

import os
import time
from collections.abc import Callable
from pathlib import Path

_wall: Callable[[], float] = time.time  # noqa: TID251 - the clock that is moved


class MovedClocks:
    """Seconds by which clocks are moved, in a file that `install` reads at each reading of a clock."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = directory / "moved"
        self.set()

    def set(self, *, wall: float = 0.0, slept: float = 0.0) -> None:
        """Move the wall clock by ``wall``; a sleep moves both."""
        new = self._directory / "moved.new"
        new.write_text(f"{wall + slept} {slept}")
        new.replace(self._file)

    @property
    def environ(self) -> dict[str, str]:
        """The environment of a daemon whose clocks are moved."""
        repository = Path(__file__).parents[1]
        text = f"from pathlib import Path\nfrom tests.moved_clocks import install\ninstall(Path({str(self._file)!r}))\n"
        (self._directory / "sitecustomize.py").write_text(text)
        return {"PYTHONPATH": f"{self._directory}:{repository}:{os.environ.get('PYTHONPATH', '')}"}


def install(file: Path) -> None:
    """Move the clocks of this process by what ``file`` says."""
    read = time.clock_gettime

    def moved(which: int) -> float:
        return float(file.read_text().split()[which])

    def clock_gettime(number: int) -> float:
        return read(number) + (moved(1) if number == time.CLOCK_BOOTTIME else 0.0)

    time.clock_gettime = clock_gettime
    time.time = lambda: _wall() + moved(0)  # noqa: TID251 - as above
