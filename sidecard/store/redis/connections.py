"""Ways to a Redis server: one connection, or a cluster's.

A connection is an `asyncio.Protocol` with hiredis' parser: what is asked is written at once, in the very turn of the event
loop in which a request came in, and its reply calls back. So a look into Redis costs about 20 us of this process, where
redis-py's asynchronous client takes some 80 us. The cluster's way is redis-py's own client, which follows slots as they move.

Replies are matched by their order and by nothing else, and no request's task waits for one: whoever goes away leaves no
half-read reply behind for the next (the fault that once showed people other people's chats).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, Never, Protocol

import hiredis
from msgspec import Struct
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, NoScriptError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from sidecard.store.redis.access import Access, Credentials
from sidecard.store.redis.scripts import ALL, Script

CLIENT_NAME = "sidecard"

PING_SECONDS = 0.5
"""How long a server may be asked nothing before it is asked whether it lives."""

CLOSE_SECONDS = 2.0
"""How long it may take to let go of a connection, or at the daemon's stop to write what is left."""

MAX_BATCH = 64
"""Commands that are under way in a cluster at a time."""

_SCAN_COUNT = 500
_FOLLOWED = 8
"""Times that a cluster's command follows a slot that is on its way; its client takes some 50 ms for so many."""

_NOT_NOW = ("LOADING", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "BUSY ")
"""Codes of errors by which a server is as good as down."""


class Run(Struct, frozen=True):
    """A script that is to run on one key."""

    script: Script
    key: bytes
    arguments: tuple[str | bytes | int, ...] = ()


Command = Run | tuple[str | bytes | int, ...]
"""A script, or a plain command; of a cluster the latter goes to the node of its second part."""

Then = Callable[[Any], None]
"""Gets a reply, which may be a `ResponseError`."""


class Link(Protocol):
    """A way to the server. Whatever fails, it is of no use from then on."""

    async def open(self) -> None:
        """Connect. Raises `FAULTS`."""

    def send(self, command: Command, then: Then) -> None:
        """Run a command; ``then`` gets the reply, later, unless the link is lost."""

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands and return their replies. Raises `FAULTS`, also where some have run."""

    def names(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """Return the keys of that pattern, by pages, of all nodes. Raises `FAULTS`."""

    async def watch(self) -> Never:
        """See to it that the server answers; to run as long as the link is used. Raises, in the end, what ended it."""

    async def close(self) -> None:
        """Disconnect, whatever state it is in."""


def link_of(access: Access) -> Link:
    """Return a way to the server, not open yet."""
    return _ClusterLink(access) if access.address.kind == "cluster" else Wire(access)


class Wire(asyncio.Protocol):
    """One connection, which speaks RESP3; to some node, of a cluster: what is published to one of them, all hear."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=_error)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[Then, float]] = deque()
        """Who gets the next replies, and when each was asked for."""
        self._exchanges: set[asyncio.Future[None]] = set()
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._hear: Callable[[bytes], None] | None = None
        self._subscribed: asyncio.Future[None] = self._loop.create_future()
        self._heard_at = self._loop.time()

    async def open(self) -> None:
        """See `Link`."""
        async with asyncio.timeout(2 * self._access.timeout_seconds):
            await self._connect()
            await self._greet()

    async def subscribe(self, channel: str, hear: Callable[[bytes], None]) -> None:
        """Hear a channel, from when this returns. Raises `FAULTS`."""
        self._hear = hear
        async with asyncio.timeout(self._access.timeout_seconds):
            self._write(_packed(("SUBSCRIBE", channel)))
            await asyncio.wait((self._subscribed, self._lost), return_when=asyncio.FIRST_COMPLETED)
            if not self._subscribed.done():
                self._lost.result()

    def send(self, command: Command, then: Then) -> None:
        """See `Link`."""
        if isinstance(command, Run):
            packed = _packed(("EVALSHA", command.script.sha, 1, command.key, *command.arguments))
            self._waiting.append((partial(self._ran, command, then), self._loop.time()))
        else:
            packed = _packed(command)
            self._waiting.append((then, self._loop.time()))

        self._write(packed)

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """See `Link`."""
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

        self._exchanges.add(done)
        try:
            await done
        finally:
            self._exchanges.discard(done)

        return replies

    async def names(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """See `Link`."""
        cursor: int | bytes = 0
        while True:
            (reply,) = await self.exchange([("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)])
            if isinstance(reply, ResponseError):
                raise reply

            cursor, names = reply
            yield names
            if int(cursor) == 0:
                return

    async def watch(self) -> Never:
        """See `Link`."""
        timeout_seconds = self._access.timeout_seconds
        while True:
            await asyncio.wait((self._lost,), timeout=min(PING_SECONDS, timeout_seconds) / 2)
            if self._lost.done():
                self._lost.result()

            now = self._loop.time()
            if self._waiting:
                # A long answer that is on its way is an answer.
                if now - max(self._waiting[0][1], self._heard_at) >= timeout_seconds:
                    self._lose(TimeoutError())
            elif now - self._heard_at >= PING_SECONDS:
                self.send(("PING",), _ignore)

    async def close(self) -> None:
        """See `Link`."""
        self._lose(ConnectionAbortedError("it was closed"))
        self._lost.exception()  # known

    # -- what the transport says ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a stream's is no less
        """Keep what is written to."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand replies to those who have asked."""
        self._heard_at = self._loop.time()
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                if isinstance(reply, hiredis.PushNotification):
                    self._pushed(reply)
                elif isinstance(reply, BusyLoadingError):
                    raise reply
                elif self._waiting:
                    self._waiting.popleft()[0](reply)
                elif not self._lost.done():
                    raise ConnectionError("the server has answered what nobody has asked")
        except hiredis.HiredisError as error:
            self._lose(ConnectionError(f"the server does not speak the protocol ({error})"))
        except Exception as fault:  # noqa: BLE001 - whoever waits is to be told, whatever it was
            self._lose(fault)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._lose(exc or ConnectionResetError("the server has closed the connection"))

    # -- inside --------------------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        address = self._access.address
        if address.path:
            await self._loop.create_unix_connection(lambda: self, address.path)
            return

        host, port = await self._place()
        context = self._access.tls()
        await self._loop.create_connection(lambda: self, host, port, ssl=context)

    async def _place(self) -> tuple[str, int]:
        access = self._access
        match access.address.kind:
            case "single":
                return access.address.hosts[0]
            case "sentinel":
                return await _primary(access)
            case _:
                return await _some_node(access)

    async def _greet(self) -> None:
        credentials = self._access.credentials()
        hello = ("HELLO", 3, *(("AUTH", *credentials) if credentials else ()), "SETNAME", CLIENT_NAME)
        commands: list[Command] = [hello]
        if self._access.address.db:
            commands.append(("SELECT", self._access.address.db))

        commands += [("SCRIPT", "LOAD", script.text) for script in ALL]
        greeted, *others = await self.exchange(commands)
        if isinstance(greeted, ResponseError):
            raise AuthenticationError(str(greeted)) if credentials or "NOAUTH" in str(greeted) else greeted

        # Scripts may not be ours to load: they are then sent whole.
        if self._access.address.db and isinstance(others[0], ResponseError):
            raise others[0]

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._lost.done():
            self._transport.write(data)

    def _ran(self, run: Run, then: Then, reply: Any) -> None:
        if isinstance(reply, NoScriptError):
            # The server has been told to forget the scripts.
            self._waiting.append((then, self._loop.time()))
            self._write(_packed(("EVAL", run.script.text, 1, run.key, *run.arguments)))
        else:
            then(reply)

    def _pushed(self, message: Sequence[Any]) -> None:
        if message[0] == b"message" and self._hear is not None:
            self._hear(message[2])
        elif message[0] == b"subscribe" and not self._subscribed.done():
            self._subscribed.set_result(None)

    def _lose(self, fault: Exception) -> None:
        if self._lost.done():
            return

        self._lost.set_exception(fault)
        self._waiting.clear()
        for exchange in self._exchanges:
            if not exchange.done():
                exchange.set_exception(fault)

        if self._transport is not None:
            self._transport.abort()


class _ClusterLink:
    """A cluster."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._cluster = _cluster(access)
        self._queue: deque[tuple[Command, Then]] = deque()
        self._queued = asyncio.Event()

    async def open(self) -> None:
        async with asyncio.timeout(4 * self._access.timeout_seconds):
            await self._cluster.initialize()

    def send(self, command: Command, then: Then) -> None:
        self._queue.append((command, then))
        self._queued.set()

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        # A slot that moves makes a command go twice.
        async with asyncio.timeout(2 * self._access.timeout_seconds):
            return list(await asyncio.gather(*(self._run(command) for command in commands)))

    async def names(self, pattern: str) -> AsyncIterator[list[bytes]]:
        page: list[bytes] = []
        async for name in self._cluster.scan_iter(match=pattern, count=_SCAN_COUNT):
            page.append(name)
            if len(page) >= _SCAN_COUNT:
                yield page
                page = []

        yield page

    async def watch(self) -> Never:
        while True:
            await self._queued.wait()
            self._queued.clear()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]
                replies = await self.exchange([command for command, _ in batch])
                for (_, then), reply in zip(batch, replies, strict=True):
                    then(reply)

    async def close(self) -> None:
        await self._cluster.aclose()

    async def _run(self, command: Command) -> Any:
        try:
            if not isinstance(command, Run):
                return await self._cluster.execute_command(*command)

            head = 1, command.key, *command.arguments
            try:
                return await self._cluster.execute_command("EVALSHA", command.script.sha, *head)
            except NoScriptError:
                return await self._cluster.execute_command("EVAL", command.script.text, *head)
        except ResponseError as error:
            return error


def _cluster(access: Access) -> RedisCluster:
    tls: dict[str, Any] = {}
    if access.address.tls:
        files = {"ssl_ca_certs": access.ca_file, "ssl_certfile": access.cert_file, "ssl_keyfile": access.key_file}
        tls = {"ssl": True} | {name: file for name, file in files.items() if file}

    return RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in access.address.hosts],
        address_remap=access.admitted,
        cluster_error_retry_attempts=_FOLLOWED,
        require_full_coverage=False,
        **_options(access),
        **tls,
    )


def _options(access: Access) -> dict[str, Any]:
    """Return what redis-py's connections have in common."""
    options: dict[str, Any] = {
        "protocol": 3,
        "client_name": CLIENT_NAME,
        "socket_timeout": access.timeout_seconds,
        "socket_connect_timeout": access.timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    return options | ({"credential_provider": Credentials(access)} if access.credentials() else {})


async def _primary(access: Access) -> tuple[str, int]:
    """Ask the sentinels, which have no password of ours and are asked as anybody asks them."""
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


async def _some_node(access: Access) -> tuple[str, int]:
    """Return a node of the cluster that answers."""
    cluster = _cluster(access)
    try:
        await cluster.initialize()
        node = cluster.get_random_node()
        return access.admitted((node.host, int(node.port)))
    finally:
        await cluster.aclose()


def _packed(command: tuple[Any, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)
    return packed


def _error(text: str) -> Exception:
    """Return what an error of the server is."""
    if text.startswith("NOSCRIPT"):
        return NoScriptError(text)

    return BusyLoadingError(text) if text.startswith(_NOT_NOW) else ResponseError(text)


def _ignore(reply: Any) -> None:
    """Where it is enough that there was one."""
