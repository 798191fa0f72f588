"""A connection to one Redis server: an `asyncio.Protocol` with hiredis' parser.

A command is written immediately, in the event loop's turn in which its request was received, and its reply calls back. A read
costs about 20 us of this process; redis-py's asynchronous client takes some 80 us.

Replies are matched by their order alone. No request's task waits for one, so a caller that leaves cannot leave a half-read
reply to the next caller (the fault that once showed ChatGPT users other users' chats).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, Never

import hiredis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, NoScriptError, ResponseError

from sidecard.persistence.worker import run_in_thread
from sidecard.store.redis.access import RedisAccess
from sidecard.store.redis.cluster import any_node
from sidecard.store.redis.connection import CLIENT_NAME, SCAN_COUNT, Command, ReplyHandler, ScriptCall
from sidecard.store.redis.scripts import ALL

TURN_SECONDS = 0.005
"""How long messages are passed on before the loop's other work is done."""

REPLIES_PER_CHECK = 64
"""Replies between two readings of the clock. A message may cost far more than a reply, so after each the clock is read."""

PING_SECONDS = 0.5
"""How long a connection may be idle before the server is pinged."""

_UNAVAILABLE_CODES = ("LOADING", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "BUSY ")
"""Error codes of a server that counts as down."""


class SingleConnection(asyncio.Protocol):
    """One connection, with RESP3. In a cluster it connects to any node, because each node forwards published messages."""

    def __init__(self, access: RedisAccess) -> None:
        self._access = access
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=_error)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[ReplyHandler, float]] = deque()
        """The receivers of the next replies, and when each command was sent."""
        self._runs: set[asyncio.Future[None]] = set()
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._on_message: Callable[[bytes], None] | None = None
        self._subscribed: asyncio.Future[None] = self._loop.create_future()
        self._received_at = self._loop.time()
        self._paused = False
        """The rest of what was received is passed on in a later turn."""

    async def open(self) -> None:
        """See `RedisConnection`."""
        async with asyncio.timeout(2 * self._access.timeout_seconds):
            await self._connect()
            await self._greet()

    async def subscribe(self, channel: str, on_message: Callable[[bytes], None]) -> None:
        """Receive all messages of a channel that are published after this returns. Raises `FAULTS`."""
        self._on_message = on_message
        async with asyncio.timeout(self._access.timeout_seconds):
            self._write(_packed(("SUBSCRIBE", channel)))
            await asyncio.wait((self._subscribed, self._lost), return_when=asyncio.FIRST_COMPLETED)
            if not self._subscribed.done():
                self._lost.result()

    def send(self, command: Command, on_reply: ReplyHandler) -> None:
        """See `RedisConnection`."""
        if isinstance(command, ScriptCall):
            packed = _packed(("EVALSHA", command.script.sha, 1, command.key, *command.arguments))
            self._waiting.append((partial(self._ran, command, on_reply), self._loop.time()))
        else:
            packed = _packed(command)
            self._waiting.append((on_reply, self._loop.time()))

        self._write(packed)

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """See `RedisConnection`."""
        if self._lost.done():
            self._lost.result()

        replies: list[Any] = [None] * len(commands)
        left = len(commands)
        done: asyncio.Future[None] = self._loop.create_future()

        def take(number: int, reply: Any) -> None:
            nonlocal left
            replies[number] = reply
            left -= 1
            if not left and not done.done():
                done.set_result(None)

        for number, command in enumerate(commands):
            self.send(command, partial(take, number))

        self._runs.add(done)
        try:
            await done
        finally:
            self._runs.discard(done)

        return replies

    async def scan(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """See `RedisConnection`."""
        cursor: int | bytes = 0
        while True:
            (reply,) = await self.run([("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)])
            if isinstance(reply, ResponseError):
                raise reply

            cursor, names = reply
            yield names
            if int(cursor) == 0:
                return

    async def monitor(self) -> Never:
        """See `RedisConnection`."""
        timeout_seconds = self._access.timeout_seconds
        while True:
            await asyncio.wait((self._lost,), timeout=min(PING_SECONDS, timeout_seconds) / 2)
            if self._lost.done():
                self._lost.result()

            now = self._loop.time()
            if self._waiting:
                # A long reply that is still arriving shows that the server lives.
                if now - max(self._waiting[0][1], self._received_at) >= timeout_seconds:
                    self._lose(TimeoutError())
            elif now - self._received_at >= PING_SECONDS:
                self.send(("PING",), lambda _: None)

    async def close(self) -> None:
        """See `RedisConnection`."""
        self._lose(ConnectionAbortedError("it was closed"))
        self._lost.exception()  # mark as retrieved

    # Called by the transport -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a stream has a transport of this type
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Pass replies and messages on."""
        self._reader.feed(data)
        if not self._paused:
            self._pass_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all commands that wait for a reply."""
        self._lose(exc or ConnectionResetError("the server has closed the connection"))

    # Internals -------------------------------------------------------------------------------------------------------

    def _pass_on(self) -> None:
        """Pass on what was received, for one turn: a flood of messages must not keep the loop from its peers."""
        self._received_at = self._loop.time()
        resumes, self._paused = self._paused, False
        ends_at, passed = monotonic() + TURN_SECONDS, 0
        try:
            while not self._lost.done():
                passed += 1
                if (self._on_message is not None or not passed % REPLIES_PER_CHECK) and monotonic() > ends_at:
                    self._pause()
                    return

                reply = self._reader.gets()
                if reply is False:
                    break

                self._take(reply)
        except hiredis.HiredisError as error:
            self._lose(ConnectionError(f"the server does not speak the protocol ({error})"))
        except Exception as fault:  # noqa: BLE001 - all waiting commands must fail with it, whatever it was
            self._lose(fault)

        if resumes and self._transport is not None and not self._lost.done():
            self._transport.resume_reading()

    def _take(self, reply: Any) -> None:
        if isinstance(reply, hiredis.PushNotification):
            self._pushed(reply)
        elif isinstance(reply, BusyLoadingError):
            raise reply
        elif self._waiting:
            self._waiting.popleft()[0](reply)
        else:
            raise ConnectionError("the server sent a reply without a request")

    def _pause(self) -> None:
        """Read no more until what was received is passed on, in the loop's next iterations."""
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

        self._loop.call_soon(self._pass_on)

    async def _connect(self) -> None:
        access = self._access
        if access.address.path:
            await self._loop.create_unix_connection(lambda: self, access.address.path)
            return

        match access.address.kind:
            case "single":
                host, port = access.address.hosts[0]
            case "sentinel":
                host, port = await _primary(access)
            case _:
                host, port = await any_node(access)

        # In a thread: certificates may be on a disk that hangs, and the loop serves all peers.
        tls = await run_in_thread("sidecard-store-files", access.tls, abandon=True) if access.address.tls else None
        await self._loop.create_connection(lambda: self, host, port, ssl=tls)

    async def _greet(self) -> None:
        credentials = await self._access.read_credentials()
        hello = ("HELLO", 3, *(("AUTH", *credentials) if credentials else ()), "SETNAME", CLIENT_NAME)
        commands: list[Command] = [hello]
        if self._access.address.db:
            commands.append(("SELECT", self._access.address.db))

        commands += [("SCRIPT", "LOAD", script.text) for script in ALL]
        greeted, *others = await self.run(commands)
        if isinstance(greeted, ResponseError):
            raise AuthenticationError(str(greeted)) if credentials or "NOAUTH" in str(greeted) else greeted

        # Loading scripts may be forbidden: they are then sent as text each time.
        if self._access.address.db and isinstance(others[0], ResponseError):
            raise others[0]

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._lost.done():
            self._transport.write(data)

    def _ran(self, call: ScriptCall, on_reply: ReplyHandler, reply: Any) -> None:
        if isinstance(reply, NoScriptError):
            # The server does not have the script: after SCRIPT FLUSH, or because loading is forbidden.
            self._waiting.append((on_reply, self._loop.time()))
            self._write(_packed(("EVAL", call.script.text, 1, call.key, *call.arguments)))
        else:
            on_reply(reply)

    def _pushed(self, message: Sequence[Any]) -> None:
        if message[0] == b"message" and self._on_message is not None:
            self._on_message(message[2])
        elif message[0] == b"subscribe" and not self._subscribed.done():
            self._subscribed.set_result(None)

    def _lose(self, fault: Exception) -> None:
        if self._lost.done():
            return

        self._lost.set_exception(fault)
        self._waiting.clear()
        for run in self._runs:
            if not run.done():
                run.set_exception(fault)

        if self._transport is not None:
            self._transport.abort()


async def _primary(access: RedisAccess) -> tuple[str, int]:
    """Ask the sentinels for the primary's address, without a password."""
    options: dict[str, Any] = {
        "socket_timeout": access.timeout_seconds,
        "socket_connect_timeout": access.timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
    }
    if access.address.tls:
        options |= {"ssl": True} | ({"ssl_ca_certs": access.ca_file} if access.ca_file else {})

    sentinel = Sentinel(list(access.address.hosts), sentinel_kwargs=options)  # type: ignore[no-untyped-call]  # redis-py's
    try:
        return access.admitted(await sentinel.discover_master(access.address.service))
    finally:
        for client in sentinel.sentinels:
            await client.aclose()


def _packed(command: tuple[Any, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)
    return packed


def _error(text: str) -> Exception:
    """Return the exception for a server's error."""
    if text.startswith("NOSCRIPT"):
        return NoScriptError(text)

    return BusyLoadingError(text) if text.startswith(_UNAVAILABLE_CODES) else ResponseError(text)
