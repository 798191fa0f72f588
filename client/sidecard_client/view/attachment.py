"""One view that this process has mapped: its own connection, its memory, and the hits to report.

The descriptor accompanies the reply (``SCM_RIGHTS``). The view is used only if all of this holds: there is one descriptor, of a
file whose size cannot change and that no client can write; the layout is known; and the daemon has the same clock (a container
may have a time namespace of its own).
"""

import fcntl
import mmap
import os
import select
import signal
import socket
import threading
from array import array
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import cycle
from time import monotonic
from typing import Final, Protocol

from sidecard_client.doorbell import has_inode, inode_of
from sidecard_client.protocol.connection import Connection
from sidecard_client.protocol.errors import ProtocolError
from sidecard_client.protocol.view import GET_SEALS, HEADER_BYTES, LAYOUT, SEALS, ViewLayoutError, decode_header
from sidecard_client.protocol.wire import GetView, Ping, View
from sidecard_client.view.reader import ViewReader, boot_clock
from sidecard_client.view.reports import Booked, HitReports

RECEIVE_BYTES: Final = 64 * 1024
MAX_DESCRIPTORS: Final = 4
"""Room for more than the one that is expected: the kernel drops those for which there is none, without a trace."""

_AT_ONCE: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL

_marks: Final = cycle(range(signal.SIGRTMIN, signal.SIGRTMAX + 1))
"""Two views have different ones, in case that one gets the descriptor of another."""

_lost: Final = list[ViewReader]()
"""Readers whose descriptors the app has closed. Before Python 3.13 a mapping has one, too; freeing it would close another file."""

EARLY: Final = 0.8
"""Share of `View.report_seconds` after which hits are reported: the thread may be scheduled late."""


class ViewConnection(Protocol):
    """A blocking connection to the daemon. The caller provides it: this package may not import the clients."""

    @property
    def socket(self) -> socket.socket:
        """Its socket, with a time limit for each send and receive."""

    @property
    def protocol(self) -> Connection:
        """Its messages."""

    def end(self) -> None:
        """End the connection."""

    def close(self) -> None:
        """Close this process's descriptor."""


class Attachment:
    """The view of a namespace. Threads read and book hits; one of them, or the keeper's thread, reports the hits.

    ``armed``: the keeper's thread knows that there are hits to report. ``ended``: no more hits are reported.
    """

    __slots__ = (
        "_connection",
        "_has_reported",
        "_in_doubt",
        "_inode",
        "_lock",
        "_memory",
        "_report_seconds",
        "_unsent",
        "armed",
        "due",
        "ended",
        "logs_calls",
        "namespace",
        "reader",
        "report_hits",
        "reports",
    )

    def __init__(self, connection: ViewConnection, namespace: str, view: View, memory: mmap.mmap) -> None:
        self.namespace = namespace
        self.logs_calls = view.logs_calls
        self.report_hits = view.report_hits
        self.reports = HitReports()
        self.armed = False
        self.ended = False
        self.due = 0.0
        self._report_seconds = EARLY * view.report_seconds
        self._connection = connection
        self._inode = inode_of(self.descriptor)
        self._lock = threading.Lock()  # guards all below, and the collected part of `reports`
        self._unsent = b""
        self._in_doubt = False  # a frame may have been sent in part: nothing may follow it
        self._has_reported = False
        # By number, so that the reader does not refer to this object: without a cycle, the last reference unmaps the memory.
        words, new_poll = memoryview(memory).cast("Q"), partial(_new_poll, self.descriptor)
        self._memory = words, memory
        self.reader = ViewReader(memory, words, new_poll, identify=_mark(self.descriptor))

    def __repr__(self) -> str:
        """Show the namespace and the state."""
        return f"<Attachment {self.namespace}{'' if self.reader.usable else ', not usable'}>"

    @property
    def descriptor(self) -> int:
        """Of the connection; -1 if it is closed."""
        return self._connection.socket.fileno()

    @property
    def _is_own(self) -> bool:
        """Whether the descriptor is the connection's: some apps close descriptors that they do not know, and open other files."""
        return has_inode(self.descriptor, self._inode)

    def arm(self) -> None:
        """Set the instant at which the hits so far must be reported."""
        self.due = monotonic() + self._report_seconds
        self.armed = True

    def arm_now(self) -> None:
        """Let the keeper's thread report the hits so far at once."""
        self.due = monotonic()
        self.armed = True

    def take_back(self, booked: Booked) -> bool:
        """Forget a hit that was booked after the end; return False if it was reported."""
        try:
            booked.pop()  # this thread's, or that of another thread that takes its own back, too
        except IndexError:
            return False

        return True

    def report_due(self) -> bool:
        """Report in the keeper's thread, after any other thread that reports. The next hit arms again."""
        # Before they are collected: 1. a hit is appended; 2. its thread sees ``armed``, and relies on this report.
        self.armed = False
        return self._report()

    def report(self) -> bool:
        """Send the hits so far; return whether all were sent. Waits for no daemon, and does nothing while another thread reports."""
        return not self._lock.locked() and self._report()

    def _report(self) -> bool:
        with self._lock:  # a signal handler that raised between `acquire` and a ``try`` would leave it locked for ever
            self.reports.collect()
            return self._send()

    def _send(self) -> bool:
        if self._in_doubt or not self._is_own:
            self.reader.usable = False
            return True

        try:
            while True:
                if not self._unsent:
                    request = self.reports.take(self.namespace)
                    if request is None:
                        return True

                    request_id, self._unsent = self._connection.protocol.send(request)
                    self._connection.protocol.forget(request_id)

                self._has_reported = True
                self._in_doubt = True  # a signal handler may raise once this was sent: it must not be sent again
                sent = self._connection.socket.send(self._unsent, _AT_ONCE)
                self._unsent = self._unsent[sent:]
                self._in_doubt = False
        except BlockingIOError:
            self._in_doubt = False
            return False
        except OSError:
            self.reader.usable = False
            return True

    def has_input(self) -> bool:
        """Return whether the daemon has refused a report: it sends nothing else on this connection."""
        return bool(self._peek())

    def _peek(self) -> bytes | None:
        """Return a byte that the daemon has sent; nothing if it will send no more, None if it may."""
        try:
            return self._connection.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) if self._is_own else b""
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def end(self, seconds: float) -> None:
        """Report the last hits within ``seconds``, and end the connection. Later reads find nothing.

        A daemon that stops has ended its side and still reads: it gets the hits, and is not waited for.

        No hit is lost: 1. a thread has read an answer; 2. the view ends, and all hits are reported; 3. the thread books its hit,
        finds ``ended``, takes the hit back (`take_back`), and asks over the socket.
        """
        deadline = monotonic() + seconds
        self.reader.usable = False
        self.ended = True
        while not self._report() and monotonic() < deadline:
            self._wait(select.POLLOUT, deadline)

        self._leave_others_descriptor()
        # When a connection ends, the daemon may drop what it has not booked. Its pong shows that it has booked all.
        if self._peek() is None and monotonic() < deadline and self._ping():
            self._wait(select.POLLIN, deadline)

        self._connection.end()

    def _ping(self) -> bool:
        """Send a ping after the reports, without waiting; return whether it was sent."""
        with self._lock:
            if self._has_reported and not (self._unsent or self._in_doubt):
                with suppress(OSError):
                    data = self._connection.protocol.send(Ping())[1]
                    return self._connection.socket.send(data, _AT_ONCE) == len(data)

        return False

    def _wait(self, event: int, deadline: float) -> None:
        poller = select.poll()
        poller.register(self.descriptor, event)
        poller.poll(1000 * max(0.0, deadline - monotonic()))

    def leave_to_parent(self) -> None:
        """Close the child's copy of the connection and of the memory after a fork; the parent keeps using its own.

        A `ViewReader.read` that a signal handler has interrupted to fork raises `ValueError` in the child.
        """
        self.reader.usable = False
        self.ended = True
        self._leave_others_descriptor()
        self._connection.close()
        if self.reader not in _lost:
            # The frames of the parent's other threads, which may be reading, refer to it for ever.
            words, memory = self._memory
            with suppress(BufferError):
                words.release()
                memory.close()

    def _leave_others_descriptor(self) -> None:
        if self.descriptor >= 0 and not self._is_own:
            self._connection.socket.detach()
            _lost.append(self.reader)


def _new_poll(descriptor: int) -> Callable[[int], object]:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return poller.poll


def _mark(descriptor: int) -> Callable[[], object]:
    """Mark an open file, and return what reads the mark of the file that has the descriptor.

    The mark is a field of the open file that nothing else uses: the signal for its events. Reading it takes 0.25 us; the inode
    would take 0.7 us.
    """
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, next(_marks))
    return partial(fcntl.fcntl, descriptor, fcntl.F_GETSIG)


def attach(
    connect: Callable[[], ViewConnection], namespace: str, clock: Callable[[], float] = boot_clock
) -> Attachment | None:
    """Ask for the view of a namespace on a connection of its own, and map it; return None if that fails.

    Raises what ``connect`` raises.
    """
    connection = connect()
    attachment = None
    try:
        attachment = _attached(connection, namespace, clock)
    except (OSError, ValueError, ProtocolError):  # ValueError: `mmap.mmap`, and `ViewLayoutError`
        return None
    finally:
        if attachment is None:
            connection.end()

    return attachment


def _attached(connection: ViewConnection, namespace: str, clock: Callable[[], float]) -> Attachment | None:
    started = clock()
    view, descriptors = _ask(connection, namespace)
    ended = clock()
    try:
        if view is None or len(descriptors) != 1 or view.layout != LAYOUT or not started <= view.now_seconds <= ended:
            return None

        (descriptor,) = descriptors
        if os.fstat(descriptor).st_size != view.size or fcntl.fcntl(descriptor, GET_SEALS) & SEALS != SEALS:
            return None

        memory = mmap.mmap(descriptor, view.size, mmap.MAP_SHARED, mmap.PROT_READ)
        memory.madvise(mmap.MADV_DONTDUMP)  # the daemon's answers are not this process's
    finally:
        for descriptor in descriptors:
            os.close(descriptor)

    header = decode_header(memory[:HEADER_BYTES])
    if (header.size, header.view) != (view.size, view.view):
        raise ViewLayoutError("another view than the one that was announced")

    return Attachment(connection, namespace, view, memory)


def _ask(connection: ViewConnection, namespace: str) -> tuple[View | None, list[int]]:
    """Ask for a view; return the reply, or None if it is no `View`, and the descriptors that accompanied it."""
    _, data = connection.protocol.send(GetView(namespace=namespace))
    connection.socket.sendall(data)
    descriptors = array("i")
    try:
        while True:
            received, ancillary, flags, _ = connection.socket.recvmsg(
                RECEIVE_BYTES, socket.CMSG_SPACE(MAX_DESCRIPTORS * descriptors.itemsize), socket.MSG_CMSG_CLOEXEC
            )
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])

            replies = connection.protocol.receive(received)
            if replies or not received or flags & socket.MSG_CTRUNC:
                reply = replies[0] if len(replies) == 1 and not flags & socket.MSG_CTRUNC else None
                return (reply if isinstance(reply, View) else None), list(descriptors)

    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)

        raise
