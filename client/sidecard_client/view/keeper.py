"""The thread of one client that attaches views, reports hits in time, and detaches views whose daemon has ended.

It starts when a view is first wanted, and waits without a time limit while there is nothing to report::

    calls' threads                              keeper's thread
    --------------                              ---------------
    second hit over the socket   -- want -->    attach: connect, ask, map     --> ``attached``
    first hit since a report     -- arm --->    report at the latest after `View.report_seconds`
    `View.report_hits` hits: report             -
    the connection has an event  -- ring -->    report what can be, close     --> out of ``attached``

Only this thread changes ``attached``, so none of this needs a lock. It refers to no client, so the end of an
unclosed client ends the thread.
"""

import math
import select
import sys
import threading
from collections import deque
from contextlib import suppress
from time import monotonic
from types import BuiltinFunctionType
from typing import TYPE_CHECKING, Final

from sidecard_client.doorbell import Doorbell
from sidecard_client.protocol.connection import ConnectionLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecard_client.view.attachment import Attachment, ViewConnection

RETRY_SECONDS: Final = 30.0
"""How long a client waits after it did not get a view, before it asks again."""

LOOK_SECONDS: Final = 60.0
"""Interval between checks of unread views for retirement: until a retired view is unmapped, the daemon is charged for its memory."""

CLOSE_SECONDS: Final = 0.5
"""How long the last reports of views that end together may take, if the daemon does not read, and how long a fork waits for a view
to be attached."""

MAX_NAMESPACES: Final = 64
"""Limit of the namespaces for which a client asks for views. The daemon has fewer views."""


class ViewKeeper:
    """The views of one client, until it is closed or forked; ``connect`` opens a blocking connection to the daemon."""

    def __init__(self, connect: "Callable[[], ViewConnection]") -> None:
        self.attached: dict[str, Attachment] = {}
        """Views by namespace."""
        self.ask_at: dict[str, float] = {}
        """By namespace, the monotonic instant from which a hit over the socket asks for a view. Infinite while one is attached
        or asked for; none before the first hit."""
        self.quiet = threading.Lock()
        """Held while a view is attached: a fork waits for it, so that no child inherits a half-open connection."""
        self._connect = connect
        self._wanted: deque[str] = deque()
        self._bell: Doorbell | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()  # guards the start and the end of the thread
        self._stopped = False

    def want(self, namespace: str) -> None:
        """Ask for a view. Does nothing if no thread can be started, or another thread is just about to start it."""
        if self._starting.locked():
            return

        with self._starting:
            if not self._start():
                self.ask_at[namespace] = monotonic() + RETRY_SECONDS
            elif self.ask_at[namespace] < math.inf:
                self.ask_at[namespace] = math.inf
                self._wanted.append(namespace)
                self.ring()

    @property
    def is_running(self) -> bool:
        """Whether there is a thread."""
        return self._thread is not None

    def _start(self) -> bool:
        if self._thread is not None:
            return True

        # Patched by gevent or the like, poll() would switch greenlets, and a hit would take as long as a round trip.
        if sys.byteorder != "little" or not isinstance(getattr(select, "poll", None), BuiltinFunctionType):
            return False

        try:
            self._bell = Doorbell()
            thread = threading.Thread(target=_run, args=(self, self._bell), name="sidecard-view", daemon=True)
            thread.start()
        except (RuntimeError, OSError):
            # The interpreter is shutting down, or the process may start no more threads or open no more files.
            return False

        self._thread = thread
        return True

    def ring(self) -> None:
        """Wake the thread for a turn. Takes no lock: the garbage collector calls this."""
        if self._bell is not None:
            self._bell.ring()

    def stop(self) -> None:
        """Let the thread report all hits and end. The garbage collector calls this."""
        self._stopped = True
        self.ring()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended after `stop`."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def report(self, view: "Attachment") -> None:
        """Report all hits of a view so far, without waiting. The thread reports them at once if this one cannot.

        The view stays armed: waking the thread for the next hit would cost more than the report.
        """
        if not view.report():
            view.arm_now()
            self.ring()

    def report_all(self) -> None:
        """Report all hits of all views, as `report` does."""
        for view in list(self.attached.values()):
            self.report(view)

    def leave_to_parent(self) -> None:
        """Drop the child's copy of all views after a fork."""
        attached = list(self.attached.values())
        self.attached.clear()  # the frame of the parent's thread refers to it for ever
        for view in attached:
            view.leave_to_parent()

    # In the thread ----------------------------------------------------------------------------------------------------

    def turn(self, readable: set[int]) -> float | None:
        """Do what is due; return after how many seconds to do it again, or None at the end."""
        stopped = self._stopped
        now, earliest = monotonic(), math.inf
        for view in list(self.attached.values()):
            if stopped or view.descriptor in readable or not view.reader.is_current():
                self._detach(view, now + CLOSE_SECONDS)
                continue

            if view.armed and view.due <= now and not view.report_due():
                view.arm()  # the daemon is not reading

            if view.armed:
                earliest = min(earliest, view.due)

        if stopped:
            return None

        while self._wanted:
            self._attach(self._wanted.popleft())

        if self.attached:
            earliest = min(earliest, now + LOOK_SECONDS)

        return max(0.0, earliest - monotonic())

    def descriptors(self) -> list[int]:
        """Return the descriptors of all connections: the daemon sends nothing on them, so any event ends a view."""
        return [view.descriptor for view in list(self.attached.values()) if view.descriptor >= 0]

    def _attach(self, namespace: str) -> None:
        view = None
        # ValueError: the socket's path is invalid. ImportError: a process that has changed its uid may not read its own modules.
        with self.quiet, suppress(ConnectionLost, OSError, ValueError, ImportError):
            from sidecard_client.view.attachment import attach  # noqa: PLC0415 - for clients that have hits

            view = attach(self._connect, namespace)
            if view is not None:
                self.attached[namespace] = view

        if view is None:
            self.ask_at[namespace] = monotonic() + RETRY_SECONDS

    def _detach(self, view: "Attachment", deadline: float) -> None:
        refused = view.has_input()
        view.end(max(0.0, deadline - monotonic()))
        del self.attached[view.namespace]  # not before: a fork meanwhile would leave the view to its child
        # After a daemon's end and a retired view, the next hit over the socket asks for another one.
        self.ask_at[view.namespace] = monotonic() + RETRY_SECONDS if refused else 0.0

    def end(self) -> None:
        """Drop the views that are left if the thread fails. They may be asked for again later, as those that were wanted."""
        for view in list(self.attached.values()):
            view.end(0.0)

        self.attached.clear()
        # Not within `want`: 1. It starts the thread. 2. The thread fails at once, and ends here. 3. `want` keeps the ended thread,
        # and lets it attach a view.
        with self._starting:
            self._thread = None
            self._wanted.clear()
            for namespace, ask_at in list(self.ask_at.items()):
                if ask_at == math.inf:
                    self.ask_at[namespace] = monotonic() + RETRY_SECONDS


def _run(keeper: ViewKeeper, bell: Doorbell) -> None:
    readable: set[int] = set()
    try:
        while (seconds := keeper.turn(readable)) is not None:
            try:
                readable = bell.wait(seconds, keeper.descriptors())
            except OSError:  # the app has closed descriptors that it does not know, perhaps those of the views, too
                break

    finally:
        keeper.end()
