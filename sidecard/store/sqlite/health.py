"""Which operations of a store's file work, and how that is reported."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

from sidecard.core.events import StoreStateChanged
from sidecard.persistence.sqlite_file import is_damage
from sidecard.store.base import StoreReporter

ANSWER_SECONDS = 0.5
"""How long the disk may take to read an entry before it counts as hanging. Below the clients' own ``daemon_timeout``."""


class DiskHealth:
    """The state of one file. ``on_broken`` is called when the file must be reopened."""

    def __init__(self, path: Path, reporter: StoreReporter, on_broken: Callable[[], None]) -> None:
        self.usable: bool | None = None
        """None until the first try to open the file has ended."""
        self.hanging = False
        self.takes_writes = True
        self.must_reopen = asyncio.Event()
        self.damage: sqlite3.Error | None = None
        """The problem of a file that can be opened."""
        self.answer_seconds = ANSWER_SECONDS
        self._path = path
        self._reporter = reporter
        self._on_broken = on_broken

    def opened(self) -> None:
        """The file is open for reading and writing."""
        self.usable = True
        self.takes_writes = True
        self.must_reopen.clear()
        self.report()

    def unusable(self, reason: str) -> None:
        """The file could not be opened."""
        self.usable = False
        self._reporter.faults += 1
        self._reporter.state(StoreStateChanged("down", reason))

    def broken(self, fault: sqlite3.Error) -> None:
        """The file could not be read, or is damaged: it is to be reopened."""
        self.usable = False
        # Damage would still be there after reopening; any other fault may have passed.
        self.damage = fault if is_damage(fault) else None
        self.must_reopen.set()
        self._reporter.state(StoreStateChanged("down", f"{self._path} cannot be read ({fault})."))
        self._on_broken()

    def refuses_writes(self, fault: sqlite3.Error) -> None:
        """A commit failed."""
        self._reporter.faults += 1
        if is_damage(fault):
            self.broken(fault)
        else:
            self.takes_writes = False
            self.report(f"{self._path} cannot be written ({fault}).")

    def report(self, reason: str = "") -> None:
        """Report the state of an open file, if it changed; ``reason`` says why it takes no writes."""
        if self.usable is False:
            return

        if self.hanging:
            state = StoreStateChanged("down", f"{self._path} did not answer within {self.answer_seconds:g} s.")
        elif not self.takes_writes:
            state = StoreStateChanged("read_only", reason or f"{self._path} cannot be written.")
        else:
            state = StoreStateChanged("up")

        self._reporter.state(state)
