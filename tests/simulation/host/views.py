"""Views on a simulated host: real memory files, passed over simulated sockets, for processes that have threads."""

import os
import select
from functools import partial
from types import SimpleNamespace
from typing import Any

from sidecard.core.effects import OpenView
from sidecard.server.views.memory import ViewMemory
from sidecard_client.protocol.view import header_for
from sidecard_client.protocol.wire import Hit
from sidecard_client.view import attachment, keeper
from sidecard_client.view.reader import ViewReader
from tests.simulation.host.processes import Process
from tests.simulation.host.sockets import FIRST_DESCRIPTOR, Pipe
from tests.simulation.host.threads import ThreadedProcess

SMALL_VIEW_BYTES = 8192
"""Room for a few entries."""

BOOT_SECONDS = 1000.0
"""The host's ``CLOCK_BOOTTIME`` at a world's beginning, which is also the daemon's clock."""

_start = keeper.ViewKeeper._start
_POLL_SECONDS = 0.02


def boot_clock() -> float:
    """Return the host's clock, which is one for all processes."""
    return BOOT_SECONDS + Process.current.world.now


def start_keeper(views: keeper.ViewKeeper) -> bool:
    """Start the thread that attaches views, in a world that has them and a process that has threads."""
    process = Process.current
    has_views = getattr(process.world, "has_views", False)
    return has_views and isinstance(process, ThreadedProcess) and _start(views)


def pass_descriptor(outgoing: Pipe, data: bytes, descriptor: int) -> int:
    """Send a frame with a descriptor, as `sidecard.server.views.passing` does."""
    if not outgoing.is_empty or outgoing.room < len(data):
        return 0

    sent = outgoing.send(data)
    outgoing.passed.append(os.dup(descriptor))
    return sent


class _Memory(ViewMemory):
    """A view's memory, which may be closed twice: when it is released, and when the daemon ends."""

    is_open = True

    def close(self) -> None:
        """Close it, once."""
        if self.is_open:
            self.is_open = False
            super().close()


class Memories:
    """The memory files of one run of the daemon."""

    def __init__(self, boot_id: str) -> None:
        self._boot_id = boot_id.ljust(16, "-")
        self._made: list[_Memory] = []

    def new(self, effect: OpenView) -> ViewMemory:
        """Make that of a view."""
        self._made.append(_Memory(header_for(effect.view, effect.size, effect.slot_count, self._boot_id)))
        return self._made[-1]

    def close(self) -> None:
        """Close all, as the daemon's end does. What clients have mapped stays."""
        for memory in self._made:
            memory.close()


class _Poll:
    """A ``select.poll`` of simulated sockets. The kernel has no lag: what was sent has arrived."""

    def __init__(self) -> None:
        self._watched: list[tuple[Any, int]] = []

    def register(self, descriptor: int, event: int) -> None:
        """Watch a socket."""
        own = {one.fileno(): one for one in Process.current.sockets}  # type: ignore[attr-defined]  # of clients
        self._watched.append((own.get(descriptor), event))

    def poll(self, milliseconds: float) -> list[int]:
        """Return something if there is an event."""
        if milliseconds and not self._events():
            process = Process.current
            assert isinstance(process, ThreadedProcess)
            process.sleep(min(milliseconds / 1000, _POLL_SECONDS))

        return self._events()

    def _events(self) -> list[int]:
        return [event for one, event in self._watched if one is None or one.has_event(event)]


class CheckedReader(ViewReader):
    """A reader that reads nothing once its daemon has ended."""

    __slots__ = ("_descriptor",)

    def __init__(self, data: Any, words: Any, new_poll: Any, identify: Any) -> None:
        super().__init__(data, words, new_poll, boot_clock, identify)
        (self._descriptor,) = new_poll.args

    def read(self, *what: Any) -> Hit | None:
        """Read, and check that the connection has not ended."""
        hit = super().read(*what)
        if hit is not None:
            poller = _Poll()
            poller.register(self._descriptor, select.POLLIN)
            assert not poller.poll(0), "a view was read whose daemon has ended"

        return hit


def inode_of(descriptor: int) -> tuple[int, int]:
    """Return what tells a simulated socket from others. Raises `OSError` if it is closed."""
    if descriptor < FIRST_DESCRIPTOR:
        raise OSError("the socket is closed")

    return 0, descriptor


def mark(_: int) -> Any:
    """Mark nothing: no app closes descriptors that it does not know."""
    return int


SELECT_MODULE: Any = SimpleNamespace(poll=_Poll, POLLIN=select.POLLIN, POLLOUT=select.POLLOUT)

attach = partial(attachment.attach, clock=boot_clock)
