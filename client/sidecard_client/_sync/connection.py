"""One blocking connection to the daemon, used by one call at a time.

Time limits are the kernel's (``SO_RCVTIMEO``, ``SO_SNDTIMEO``), so that a request costs one ``send`` and one ``recv``
and no ``poll``; each receiving may take ``timeout_seconds``, each sending a quarter of that.

Whatever goes wrong is one of three things:

`ConnectionEnded`      the connection has ended, or could not be made: nothing of it is left at the daemon
`DaemonUnresponsive`    no answer in time: the daemon hangs, or the host is overloaded
`InvalidReply`   what came is not an answer to what was asked

After any of them, and after an interruption (`KeyboardInterrupt` between send and receive), a connection must be closed:
an answer that arrives late would be taken for the next call's.
Ids guard against that as well: a reply with an id that was not asked for is `InvalidReply`, never somebody's value.

Requests of the heartbeat thread (`renew`, `ping`) have negative ids and their replies are skipped.
They never block: a message of that size is taken by the kernel whole or not at all.
"""

import socket
import struct
import threading
from typing import Any

from sidecard_client.protocol.connection import ConnectionEnded, DaemonUnresponsive, InvalidReply
from sidecard_client.protocol.socket_path import impostor
from sidecard_client.protocol.undecodable import UNREADABLE, VALUES, instead_of
from sidecard_client.protocol.wire import (
    FRAME_HEADER_BYTES,
    MAX_FRAME_BYTES,
    Cancel,
    Error,
    Ping,
    Renew,
    StaleLease,
    pack,
    unpack_reply,
)

BUFFER_BYTES = 64 * 1024
"""Most answers of language models fit, so that one ``recv`` takes the frame whole; larger ones take several."""

MAX_REPLY_BYTES = 2 * MAX_FRAME_BYTES - 1
"""The first byte of a frame is 0 or 1, whatever limit a daemon is configured to."""

_timeval = struct.Struct("@ll")
_unpack_length = struct.Struct(">I").unpack_from


APPEND_ID = -(2**62)
"""Of pieces, which have a reply only where they are refused: then `complete` is as well, and that one is heard."""


class BlockingConnection:
    """A connection to ``path``. Raises `ConnectionEnded` or `DaemonUnresponsive` where it cannot be made."""

    __slots__ = (
        "__weakref__",
        "_buffer",
        "_last_beat_id",
        "_last_id",
        "_rest",
        "_view",
        "abandoned",
        "last_beat_answered",
        "leading",
        "sending",
        "socket",
        "usable",
    )

    def __init__(self, path: str, timeout_seconds: float) -> None:
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._rest = bytearray()  # received and not yet decoded: the start of a large frame, or a second frame
        self._last_id = 0
        self._last_beat_id = 0
        self.last_beat_answered = 0  # ids of beats fall: -3 is later than -2
        self.usable = True  # False: close it after the call
        self.leading = False  # True: a lease was granted here and its end not yet told
        self.abandoned = False  # True: the heartbeat found the daemon unreachable
        self.sending = threading.Lock()  # pieces of a stream are sent while the heartbeat may renew its lease
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval_of(timeout_seconds))
            # Connecting and sending wait by this one. A quarter each, so that a daemon that hangs, with its queue of
            # connections full, costs a new connection 1.5 times the limit at most.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval_of(timeout_seconds / 4))
            self.socket.connect(path)
        except BlockingIOError as error:  # the queue of connections to be accepted is full
            self.close()
            raise DaemonUnresponsive(f"{path} did not accept a connection") from error
        except OSError as error:
            self.close()
            raise ConnectionEnded(f"{path}: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

        stranger = impostor(self.socket, path)
        if stranger is not None:
            self.close()
            raise ConnectionEnded(stranger)

    def next_id(self) -> int:
        """Return an id that no request of this connection has had."""
        self._last_id += 1
        return self._last_id

    def exchange(self, request: Any) -> Any:
        """Send ``request`` and return the first reply to it. Raises `ConnectionLost`."""
        body = pack(request)
        try:
            self.socket.sendall(len(body).to_bytes(4, "big") + body)
        except BlockingIOError as error:
            raise DaemonUnresponsive("the daemon does not read") from error
        except OSError as error:
            raise ConnectionEnded(error.strerror) from error

        return self.receive(request.id)

    def send(self, request: Any) -> None:
        """Send a request that has no reply, beside the heartbeat. Raises `ConnectionLost`, after which nothing can be sent."""
        body = pack(request)
        try:
            with self.sending:
                self.socket.sendall(len(body).to_bytes(4, "big") + body)
        except BlockingIOError as error:
            raise DaemonUnresponsive("the daemon does not read") from error
        except OSError as error:
            raise ConnectionEnded(error.strerror) from error

    def cancel(self, target: int) -> None:
        """Take back a request that has many replies, and skip those that are on their way. Raises `ConnectionLost`."""
        request = Cancel(id=self.next_id(), target=target)
        self.send(request)
        while (reply := self._read_slowly() if self._rest else self._read()).id != request.id:
            if reply.id not in {target, APPEND_ID} and reply.id >= 0:
                raise InvalidReply(f"a {type(reply).__name__} of request {reply.id} came for request {target}")

    def receive(self, request_id: int) -> Any:
        """Return the next reply to request ``request_id``. Raises `ConnectionLost`."""
        while True:
            reply = self.receive_or_beat(request_id)
            if reply is not None:
                return reply

    def receive_or_beat(self, request_id: int) -> Any | None:
        """Return the next reply to request ``request_id``, or None for an answer to a beat.

        Raises `ConnectionLost`; after `DaemonUnresponsive` it may be called again.
        """
        reply = self._read_slowly() if self._rest else self._read()
        if reply.id == request_id:
            return reply

        if reply.id < 0:
            if reply.id != APPEND_ID:
                self.last_beat_answered = reply.id

            return None

        self.usable = False
        if reply.id == 0 and type(reply) is Error:  # of the connection as a whole, before the daemon closes it
            return reply

        raise InvalidReply(f"a {type(reply).__name__} of request {reply.id} came for request {request_id}")

    def received(self, request_id: int) -> Any | None:
        """Return the next reply to request ``request_id`` if it is here already, without asking the kernel."""
        while self._holds_a_frame():
            reply = self.receive_or_beat(request_id)
            if reply is not None:
                return reply

        return None

    def _holds_a_frame(self) -> bool:
        rest = self._rest
        return len(rest) >= FRAME_HEADER_BYTES and len(rest) >= FRAME_HEADER_BYTES + _unpack_length(rest)[0]

    def _read(self) -> Any:
        size = self._receive_into_buffer()
        if size > FRAME_HEADER_BYTES and _unpack_length(self._buffer)[0] == size - FRAME_HEADER_BYTES:
            return _decode(self._view[FRAME_HEADER_BYTES:size])

        self._rest += self._view[:size]
        return self._read_slowly()

    def _read_slowly(self) -> Any:
        """Read a frame that came in pieces, or with another one. What has come stays in ``_rest`` if no more does."""
        rest = self._rest
        while len(rest) < FRAME_HEADER_BYTES:
            rest += self._view[: self._receive_into_buffer()]

        end = FRAME_HEADER_BYTES + _unpack_length(rest)[0]
        if end > MAX_REPLY_BYTES:
            raise InvalidReply(f"a frame of {end} bytes was announced")

        while len(rest) < end:
            rest += self._view[: self._receive_into_buffer()]

        body = rest[FRAME_HEADER_BYTES:end]
        del rest[:end]  # which moves nothing, where slicing would copy all the pieces that follow
        return _decode(body)

    def _receive_into_buffer(self) -> int:
        try:
            size = self.socket.recv_into(self._buffer)
        except BlockingIOError:
            size = self._look_once_more()
        except OSError as error:
            raise ConnectionEnded(error.strerror) from error

        if not size:
            raise ConnectionEnded("the daemon closed the connection")

        return size

    def _look_once_more(self) -> int:
        """Read what may have come since time ran out.

        1. ``recv`` gives up; 2. the answer arrives; 3. this thread gets the interpreter back,
        which takes long where a hundred others want it. The daemon was not silent then, we were slow.
        """
        try:
            return self.socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError as error:
            raise DaemonUnresponsive("the daemon does not answer") from error
        except OSError as error:
            raise ConnectionEnded(error.strerror) from error

    def renew(self, lease: str) -> bool:
        """Renew ``lease`` without waiting. Heartbeat thread only, while the call's own thread does not use the connection.

        Returns False where renewing it again is useless: the connection has ended, or an earlier answer said so.
        """
        return self._drain() and self._beat(Renew(id=self._next_beat_id(), lease=lease))

    def ping(self) -> int | None:
        """Send a ping without waiting and return its id, or None where the connection has ended.

        Its pong wakes the thread that waits here, which sets `last_beat_answered`.
        """
        request_id = self._next_beat_id()
        return request_id if self._beat(Ping(id=request_id)) else None

    def abandon(self) -> None:
        """Wake the thread that waits here: the daemon is unreachable."""
        self.abandoned = True
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has ended already, which wakes as well

    def has_something(self) -> bool:
        """Tell whether anything, an end included, has come and was not read yet. Takes nothing away."""
        try:
            self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

        return True

    def close(self) -> None:
        """End the connection; the daemon takes its lease and its wait back."""
        self.usable = False
        self.socket.close()

    def _next_beat_id(self) -> int:
        self._last_beat_id -= 1
        return self._last_beat_id

    def _beat(self, request: Any) -> bool:
        if not self.sending.acquire(blocking=False):
            return True  # a piece is being sent: the next beat is soon enough

        body = pack(request)
        try:
            self.socket.send(len(body).to_bytes(4, "big") + body, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True  # the daemon does not read just now: it may again by the next beat
        except OSError:
            return False
        finally:
            self.sending.release()

        return True

    def _drain(self) -> bool:
        """Take the answers to earlier renewals, or they would fill the buffers of a call that runs for hours."""
        rest = self._rest
        try:
            while size := self.socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT):
                rest += self._view[:size]
        except BlockingIOError:
            pass
        except OSError:
            return False
        else:
            return False

        while len(rest) >= FRAME_HEADER_BYTES:
            end = FRAME_HEADER_BYTES + _unpack_length(rest)[0]
            if len(rest) < end:
                break

            try:
                reply = _decode(rest[FRAME_HEADER_BYTES:end])
            except InvalidReply:
                return False

            del rest[:end]
            if isinstance(reply, StaleLease | Error):
                return False

        return True


def _timeval_of(seconds: float) -> bytes:
    whole = int(seconds)
    return _timeval.pack(whole, max(1, int((seconds - whole) * 1e6)))  # 0.0 would mean: no limit


def _decode(body: bytearray | memoryview) -> Any:
    try:
        return unpack_reply(body)  # type: ignore[arg-type]  # its stub names bytes; it takes any buffer
    except UNREADABLE as error:
        # Not in place of a piece: what follows it on this connection would be taken for the next call's.
        reply = instead_of(body, VALUES, error)
        if reply is None:
            raise InvalidReply("the daemon sent something that is no reply") from error

        return reply
