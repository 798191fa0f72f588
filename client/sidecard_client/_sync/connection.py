"""One blocking connection to the daemon, used by one call at a time.

Time limits are the kernel's (``SO_RCVTIMEO``, ``SO_SNDTIMEO``), so that a request costs one ``send``, one ``recv`` and
no ``poll``. Each receive may take ``timeout_seconds``, each send a quarter of that.

After a `ConnectionLost`, and after an interruption between send and receive, a connection must be closed.
The heartbeat thread sends its own requests (`renew`, `ping`) while the caller's thread does not send; they never block,
because the kernel takes a message of that size whole or not at all.
"""

import socket
import struct
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from sidecard_client.doorbell import has_inode, inode_of
from sidecard_client.protocol.connection import (
    Connection,
    ConnectionEnded,
    ConnectionLost,
    ConnectionRefused,
    DaemonUnresponsive,
    InvalidReply,
    NotConnected,
)
from sidecard_client.protocol.errors import ProtocolError
from sidecard_client.protocol.socket_path import impostor
from sidecard_client.protocol.wire import AnyReply, AnyRequest, Cancel, Error, Ok, Ping, Renew, StaleLease

BUFFER_BYTES = 64 * 1024
"""Most answers of language models fit, so that one ``recv`` takes the frame whole; larger ones take several."""

_timeval = struct.Struct("@ll")


class BlockingConnection:
    """A connection to ``path``. Raises `NotConnected` or `DaemonUnresponsive`."""

    __slots__ = (
        "__weakref__",
        "_buffer",
        "_inode",
        "_replies",
        "_sending",
        "_view",
        "abandoned",
        "last_beat_answered",
        "protocol",
        "socket",
        "usable",
    )

    def __init__(self, path: str, timeout_seconds: float) -> None:
        self.protocol = Connection()
        self.usable = True  # False: close it after the call
        self.abandoned = False  # True: the heartbeat found the daemon unreachable
        self.last_beat_answered = 0  # highest id of an answered heartbeat request
        self._replies: deque[AnyReply] = deque()  # received, and not yet returned
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._sending = threading.Lock()  # a stream's chunks are sent while the heartbeat may renew its lease
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._inode = inode_of(self.socket.fileno())
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval_of(timeout_seconds))
            # Connecting and sending have this limit. A quarter each, so that a daemon that hangs with a full accept queue
            # costs a new connection at most 1.5 times ``timeout_seconds``.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval_of(timeout_seconds / 4))
            self.socket.connect(path)
            stranger = impostor(self.socket, path)
            if stranger is not None:
                raise NotConnected(stranger)

        except BlockingIOError as error:  # the accept queue is full
            self.close()
            raise DaemonUnresponsive(f"{path} did not accept a connection") from error
        except OSError as error:
            self.close()
            raise NotConnected(f"{path}: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def exchange(self, request: AnyRequest) -> AnyReply:
        """Send ``request`` and return the first reply to it. Raises `ConnectionLost`."""
        request_id, data = self.protocol.send(request)
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise _send_failure(error) from error

        if not self._replies:
            replies = self._read()
            if len(replies) == 1 and replies[0].id == request_id:
                return replies[0]

            self._replies += replies

        return self.receive(request_id)

    def send(self, request: AnyRequest) -> None:
        """Send a request and ignore its reply; the heartbeat may send too. Raises `ConnectionLost`: then nothing can be sent."""
        try:
            with self._sending:
                request_id, data = self.protocol.send(request)
                self.protocol.forget(request_id)
                self.socket.sendall(data)
        except OSError as error:
            raise _send_failure(error) from error

    def submit(self, reports: Sequence[AnyRequest], requests: Sequence[AnyRequest]) -> list[int]:
        """Send all; return the ids of ``requests``. Replies to ``reports`` are dropped. Raises `ConnectionLost`."""
        sent, data = [], []
        for request in (*reports, *requests):
            request_id, framed = self.protocol.send(request)
            sent.append(request_id)
            data.append(framed)

        for request_id in sent[: len(reports)]:
            self.protocol.forget(request_id)

        try:
            self.socket.sendall(b"".join(data))
        except OSError as error:
            raise _send_failure(error) from error

        return sent[len(reports) :]

    def receive_all(self, *, block: bool = True) -> list[AnyReply]:
        """Return the replies to all requests that have arrived; with ``block``, wait for one. Raises `ConnectionLost`."""
        if not self._replies and (block or self.has_input()):
            self._replies += self._read()

        replies = list(self._replies)
        self._replies.clear()
        self.last_beat_answered = max((self.last_beat_answered, *(reply.id for reply in replies)))
        return replies

    def cancel(self, target: int) -> None:
        """Withdraw a request that has many replies, and drop those in transit. Raises `ConnectionLost`."""
        self.protocol.forget(target)
        self._replies.clear()
        self.exchange(Cancel(target=target))

    def receive(self, request_id: int) -> AnyReply:
        """Return the next reply to request ``request_id``. Raises `ConnectionLost`."""
        while True:
            reply = self.receive_or_beat(request_id)
            if reply is not None:
                return reply

    def receive_or_beat(self, request_id: int) -> AnyReply | None:
        """Return the next reply to request ``request_id``, or None after one ``recv`` without it.

        Raises `ConnectionLost`. After `DaemonUnresponsive` it may be called again.
        """
        reply = self.received(request_id)
        if reply is None:
            self._replies += self._read()
            reply = self.received(request_id)

        return reply

    def received(self, request_id: int) -> AnyReply | None:
        """Return the next reply to request ``request_id`` if it was received already."""
        while self._replies:
            reply = self._replies.popleft()
            if reply.id in (request_id, 0):
                return reply

            self.last_beat_answered = max(self.last_beat_answered, reply.id)

        return None

    def _read(self) -> list[AnyReply]:
        """Receive once, and return the complete replies."""
        try:
            size = self.socket.recv_into(self._buffer)
        except BlockingIOError:
            size = self._read_late()
        except OSError as error:
            raise ConnectionEnded(error.strerror) from error

        if not size:
            raise ConnectionEnded("the daemon closed the connection")

        try:
            return self.protocol.receive(self._view[:size])
        except ConnectionRefused as error:
            self.usable = False
            return [error.error]
        except ProtocolError as error:
            self.usable = False
            raise InvalidReply(str(error)) from error

    def _read_late(self) -> int:
        """Receive what has arrived since the time limit.

        1. ``recv`` gives up; 2. the reply arrives; 3. this thread gets the interpreter's lock back, which takes long if a
        hundred other threads want it. So the daemon did reply.
        """
        try:
            return self.socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError as error:
            raise DaemonUnresponsive("the daemon does not answer") from error
        except OSError as error:
            raise ConnectionEnded(error.strerror) from error

    # For the heartbeat thread -----------------------------------------------------------------------------------------

    def renew(self, lease: str) -> bool:
        """Renew ``lease`` without waiting, while the caller's thread does not receive.

        Returns False if renewing again is useless: the connection has ended, or an earlier reply refused it.
        """
        return self.drain(lease) and self._beat(Renew(lease=lease)) is not None

    def ping(self) -> int | None:
        """Send a ping without waiting. Return its id; 0 while another thread sends, None if the connection has ended.

        Its pong wakes the thread that waits in `receive_or_beat`, which sets `last_beat_answered`.
        """
        return self._beat(Ping())

    def abandon(self) -> None:
        """Wake the thread that waits for a reply: the daemon is unreachable."""
        self.abandoned = True
        self._shut_down()

    def has_input(self) -> bool:
        """Return whether unread bytes, or the connection's end, have arrived. Consumes nothing."""
        try:
            self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

        return True

    def end(self) -> None:
        """End the connection, whatever uses it now. The daemon voids its lease and its wait."""
        # Before the descriptor is closed: the kernel keeps a socket open while another thread waits for it.
        self._shut_down()
        self.close()

    def close(self) -> None:
        """Close this process's descriptor. The connection ends with its last descriptor, which may be another process's."""
        self.usable = False
        if self._is_own():
            self.socket.close()
        else:
            self.socket.detach()

    def _shut_down(self) -> None:
        with suppress(OSError):  # the connection has ended already
            if self._is_own():
                self.socket.shutdown(socket.SHUT_RDWR)

    def _is_own(self) -> bool:
        """Return whether the descriptor is this socket's: some apps close descriptors that they do not know, and open other files."""
        return has_inode(self.socket.fileno(), self._inode)

    def _beat(self, request: AnyRequest) -> int | None:
        if not self._sending.acquire(blocking=False):
            return 0  # a chunk is being sent: the next beat is soon enough

        request_id, data = self.protocol.send(request)
        try:
            self.socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return request_id  # the daemon does not read now, but may read again before the next beat
        except OSError:
            return None
        finally:
            self._sending.release()

        return request_id

    def drain(self, lease: str) -> bool:
        """Receive what has arrived, such as replies to renewals of ``lease``, without waiting. Returns False as `renew` does.

        Unread replies would fill the buffers of a call that runs for hours.
        """
        try:
            while size := self.socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT):
                replies = self.protocol.receive(self._view[:size])
                # A batch has other requests open.
                self._replies += [reply for reply in replies if type(reply) is not Ok]
                if any(type(reply) is Ok and reply.waiters for reply in replies):
                    self.protocol.wanted.add(lease)

                if any(isinstance(reply, StaleLease | Error) for reply in replies):
                    return False

        except BlockingIOError:
            return True
        except (OSError, ProtocolError):
            self.usable = False

        return False


def _timeval_of(seconds: float) -> bytes:
    whole = int(seconds)
    return _timeval.pack(whole, max(1, int((seconds - whole) * 1e6)))  # 0.0 would mean: no limit


def _send_failure(error: OSError) -> ConnectionLost:
    if isinstance(error, BlockingIOError):
        return DaemonUnresponsive("the daemon does not read")

    return ConnectionEnded(error.strerror)
