"""One HTTP connection: uvicorn's, with its bytes parsed in turns, and limits on number and time.

Received bytes wait, and no more are read, until the connection has a turn of the daemon's scheduler; so does the next of several
pipelined requests. Times are bounded: `HEAD_SECONDS` until a request's head is complete, then `RESPONSE_SECONDS` until its response
has been sent.

Beyond `MAX_CONNECTIONS`, a new connection ends another one: of the client (a remote address, or a uid) that has most of them, the
oldest that has no request in progress. So connections that send nothing, or halves of requests, lock nobody out.
"""

import asyncio
import socket
import struct
from collections import Counter
from typing import Any, Final

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from sidecard.observe.http.turns import CLIENT, TURN_SECONDS, HttpClient, Scheduler

MAX_CONNECTIONS = 128
"""A browser opens six, a scraper one. More than the listen backlog, which may be accepted in one go."""

HEAD_SECONDS = 10.0
"""A connection without a complete request for this time is aborted. Longer than keep-alive."""

RESPONSE_SECONDS = 20.0
"""A request that is not completely received and answered after this time is aborted. Longer than any scrape."""

MAX_HEAD_LINES: Final = 128
"""Limit of a request's header lines, and those of one more piece: 3,000 short ones take 30 ms and 1.5 MB. Precedents: Apache 100, nginx's HTTP/2 1000."""

PARSED_BYTES: Final = 1024
"""Bytes that are parsed in a row: up to 170 chunks of a body, which take 3 ms."""

_PEER_CREDENTIALS: Final = struct.Struct("3i")


class HttpConnections:
    """All connections, the oldest first."""

    def __init__(self) -> None:
        self._connections: dict[TurnProtocol, None] = {}
        self._by_client = Counter[str]()

    def add(self, connection: "TurnProtocol") -> None:
        """Add a connection; if there are too many, end one."""
        self._connections[connection] = None
        self._by_client[connection.remote.address] += 1
        if len(self._connections) > MAX_CONNECTIONS:
            most = max(self._by_client, key=self._by_client.__getitem__)
            candidates = [other for other in self._connections if other.remote.address == most]
            idle = (other for other in candidates if other.is_idle and other is not connection)
            next(idle, candidates[0]).abort()

    def remove(self, connection: "TurnProtocol") -> None:
        """Remove a connection, unless it has been removed."""
        if connection in self._connections:
            del self._connections[connection]
            address = connection.remote.address
            self._by_client[address] -= 1
            if not self._by_client[address]:
                del self._by_client[address]


class TurnProtocol(H11Protocol):
    """One connection. ``tcp_uid`` is the uid of all TCP connections to ``scheduler``."""

    def __init__(self, *, scheduler: Scheduler, table: HttpConnections, tcp_uid: int, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._scheduler = scheduler
        self._table = table
        self._tcp_uid = tcp_uid
        self._received = bytearray()
        """Bytes that wait for a turn."""
        self._ended = False
        """The client sends no more."""
        self._in_turn = False
        self._head_lines = 0
        """Lines that have been parsed of a request's head."""
        self._in_progress = False
        """A request has not been answered completely."""
        self._timer: asyncio.TimerHandle | None = None
        self.remote: HttpClient

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Identify the client."""
        super().connection_made(transport)
        self.flow = _TurnFlow(transport, self)
        self.remote = self._identify(transport)
        self.app_state = {CLIENT: self.remote}
        self._restart_timer(HEAD_SECONDS)
        self._table.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._received.clear()
        self._scheduler.remove(self)
        self._table.remove(self)
        if self._timer is not None:
            self._timer.cancel()

        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Keep bytes for a turn."""
        self._received += data
        self.transport.pause_reading()
        self.request_turn()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's closes at once
        """Serve what was received, then close."""
        self._ended = True
        self.request_turn()
        return True

    def serve_turn(self) -> bool:
        """Parse received bytes. Return whether more could be parsed now."""
        until = self._scheduler.clock() + TURN_SECONDS
        self._in_turn = True
        try:
            self.handle_events()
            while self._received and self._may_parse:
                data = bytes(self._received[:PARSED_BYTES])
                del self._received[:PARSED_BYTES]
                self._parse(data)
                if self._scheduler.clock() > until:
                    break
        finally:
            self._in_turn = False

        if not self._may_parse:
            return False

        if self._received:
            return True

        if not self._ended:
            self.transport.resume_reading()
        elif self.is_idle or self.cycle.more_body:
            # Nothing is in progress, or nothing that could still be completed.
            self.transport.close()

        return False

    def _parse(self, data: bytes) -> None:
        """Parse bytes. Reject a request whose head is too long and not complete yet."""
        super().data_received(data)
        self._head_lines += data.count(b"\n")
        if self.conn.their_state is not h11.IDLE:
            self._head_lines = 0
        elif self._head_lines > MAX_HEAD_LINES and not self.transport.is_closing():
            self.send_400_response(f"The request has more than {MAX_HEAD_LINES} header lines.")

    def handle_events(self) -> None:
        """Parse the next event in a turn: after a response, a pipelined request may follow."""
        if not self._in_turn:
            self.request_turn()
            return

        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._in_progress = True
            self._restart_timer(RESPONSE_SECONDS)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._in_progress = False
        super().on_response_complete()
        if not self.transport.is_closing():
            self._restart_timer(HEAD_SECONDS)

    @property
    def is_idle(self) -> bool:
        """Whether no request is in progress, and no bytes wait to be parsed."""
        return not self._received and not self._in_progress

    def request_turn(self) -> None:
        """Wait for a turn, if anything can be parsed."""
        if not self.transport.is_closing():
            self._scheduler.enqueue(self, self.remote.uid)

    def abort(self) -> None:
        """End the connection now, unlike `close`, which would wait until the client has read everything."""
        self._table.remove(self)
        self.transport.abort()

    @property
    def _may_parse(self) -> bool:
        return not self.flow.read_paused and not self.transport.is_closing()

    def _unsupported_upgrade_warning(self) -> None:
        # An optional upgrade (as by curl --http2) may be ignored; uvicorn would log installation advice.
        pass

    def _restart_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()

        self._timer = self.loop.call_later(seconds, self.abort)

    def _identify(self, transport: asyncio.Transport) -> HttpClient:
        if self.client is not None:
            return HttpClient(self._tcp_uid, self.client[0], transport)

        connected = transport.get_extra_info("socket")
        credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        _, uid, _ = _PEER_CREDENTIALS.unpack(credentials)
        return HttpClient(uid, f"uid {uid}", transport)


class _TurnFlow(FlowControl):
    """uvicorn's flow control: what is read again is first what waits for a turn."""

    def __init__(self, transport: asyncio.Transport, connection: TurnProtocol) -> None:
        super().__init__(transport)
        self._connection = connection

    def pause_reading(self) -> None:
        self.read_paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self._connection.request_turn()
