"""Answer the calls of a client from its views; used by both clients.

A call reads the view of its namespace before it asks the daemon. It skips the view if the daemon must do more than answer: a call
without a key, one that refreshes, or one whose trace the call log keeps.
"""

import atexit
import os
import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING
from weakref import WeakSet, finalize

from sidecard_client.call.call import Call
from sidecard_client.living import living
from sidecard_client.protocol import wire
from sidecard_client.protocol.values import bound_of
from sidecard_client.view.keeper import CLOSE_SECONDS, MAX_NAMESPACES, ViewKeeper

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecard_client.view.attachment import Attachment, ViewConnection
    from sidecard_client.view.reports import Booked


class ClientViews:
    """The views of one client. Thread-safe; ``connect`` opens a blocking connection to the daemon."""

    def __init__(self, connect: "Callable[[], ViewConnection]") -> None:
        self._connect = connect
        self._dropped: finalize[..., ClientViews] | None = None
        self._start()
        _all_views.add(self)

    def _start(self) -> None:
        self._keeper = keeper = ViewKeeper(self._connect)
        self.attached = keeper.attached
        self.ask_at = keeper.ask_at
        if self._dropped is not None:
            self._dropped.detach()

        self._dropped = finalize(self, keeper.stop)
        self._dropped.atexit = False

    @property
    def in_use(self) -> bool:
        """Whether `close` has something to do."""
        return self._keeper.is_running

    def hit(self, call: Call) -> wire.Hit | None:
        """Return the stored answer of a call, and count it; None if the daemon must be asked."""
        options = call.options
        view = self.attached.get(options.namespace)
        key = call.key
        if view is None or key is None or options.mode == "refresh" or (call.trace and view.logs_calls):
            return None

        has_bound = options.ttl_seconds is not None or options.max_age_seconds is not None
        bound = bound_of(options) if has_bound else None
        return self._read(view, key, options.task, bound, view.reports.streams if call.stream else view.reports.calls)

    def entry(self, request: wire.Get) -> wire.Hit | None:
        """Return the entry that a `wire.Get` asks for, and count it; None if the daemon must be asked."""
        view = self.attached.get(request.namespace)
        if view is None:
            return None

        return self._read(view, request.key, None, request.max_age_seconds, view.reports.gets)

    def _read(
        self, view: "Attachment", key: str, task: str | None, bound: float | None, booked: "Booked"
    ) -> wire.Hit | None:
        try:
            hit = view.reader.read(key, task, bound, booked.append)
        except ValueError:
            if not view.ended:
                raise

            hit = None  # a signal handler has forked meanwhile, and this is the child: it has closed the memory

        if hit is None:
            if not view.reader.usable and not view.ended:
                self._keeper.ring()

            return None

        if view.ended:
            return None if view.take_back(booked) else hit

        if len(booked) >= view.report_hits:
            self._keeper.report(view)
        elif not view.armed:
            view.arm()
            self._keeper.ring()

        return hit

    def saw_hit(self, namespace: str) -> None:
        """Note a hit over the socket: the second one in a namespace asks for its view.

        Does nothing before the monotonic instant ``ask_at[namespace]``; hot paths check it before they call.
        """
        keeper = self._keeper
        at = keeper.ask_at.get(namespace)
        if at is None:
            if len(keeper.ask_at) < MAX_NAMESPACES:
                keeper.ask_at[namespace] = 0.0

        elif monotonic() >= at:
            _report_at_end_of_child()
            keeper.want(namespace)

    def close(self) -> None:
        """Report all hits and detach all views, in about `CLOSE_SECONDS` at most. Later hits start again."""
        self.stop().join(2 * CLOSE_SECONDS)

    def stop(self) -> ViewKeeper:
        """Begin to close; return the keeper, to be joined."""
        keeper = self._keeper
        self._start()
        keeper.stop()
        return keeper

    def before_fork(self) -> "Callable[[], object] | None":
        """Report all hits, and stop attaching views; return the function that resumes it in the parent, or None."""
        keeper = self._keeper
        keeper.report_all()
        return keeper.quiet.release if keeper.quiet.acquire(timeout=CLOSE_SECONDS) else None

    def leave_to_parent(self) -> None:
        """Start without views in the child of a fork: the inherited ones belong to the parent."""
        self._keeper.leave_to_parent()
        self._start()


_all_views: WeakSet[ClientViews] = WeakSet()
_forking: "dict[int, list[Callable[[], object]]]" = {}
"""By the thread that forks: functions that release the locks that it holds."""

_ends_as_child_of = 0
"""Id of the process, a child of multiprocessing, that has registered its last report."""


@atexit.register
def _report_at_exit() -> None:
    stopped = [views.stop() for views in living(_all_views)]
    deadline = monotonic() + 2 * CLOSE_SECONDS  # for all clients together
    for keeper in stopped:
        keeper.join(max(0.0, deadline - monotonic()))


def _report_at_end_of_child() -> None:
    """Report at the end of a process that multiprocessing has forked: before Python 3.13 its ``atexit`` functions do not run."""
    global _ends_as_child_of  # noqa: PLW0603 - there is one exit of a process
    util = sys.modules.get("multiprocessing.util")
    if util is None or _ends_as_child_of == os.getpid():
        return

    _ends_as_child_of = os.getpid()
    if sys.modules["multiprocessing"].parent_process() is not None:
        util.Finalize(None, _report_at_exit, exitpriority=-1000)  # after those of the app


def _before_fork() -> None:
    held = [views.before_fork() for views in living(_all_views)]
    _forking[threading.get_ident()] = [release for release in held if release is not None]


def _after_fork_in_parent() -> None:
    for release in _forking.pop(threading.get_ident(), ()):
        release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_forking.clear)
