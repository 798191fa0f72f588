"""Ways to a Redis server: one address, whatever the sentinels say, or the nodes of a cluster.

A link belongs to one task of the daemon, which alone talks over it, with a time limit of its own; no request's task ever
does. So a caller that goes away can leave no half-read reply behind. After any failure a link is closed, never used again.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import redis.asyncio as aioredis
from msgspec import Struct
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from sidecard.store.redis_scripts import Script
from sidecard.store_url import RedisAddress

CLIENT_NAME = "sidecard"
SCAN_COUNT = 500
CLOSE_SECONDS = 2.0
"""How long it may take to let go of a connection, or at the daemon's stop to write what is left."""

_PUSHED_BACK = 8
"""Times that a cluster's command follows a slot that is on its way; at 8 the way takes some 50 ms."""


class Run(Struct, frozen=True):
    """A script that is to run on one key."""

    script: Script
    key: bytes
    arguments: tuple[str | bytes | int, ...] = ()


Command = Run | tuple[str | bytes | int, ...]
"""A script, or a plain command; of a cluster the latter goes to the node of its second part."""


class Access(Struct, frozen=True):
    """How to get in. ``admits`` says whether a host may be connected to, of those that sentinels and clusters name."""

    address: RedisAddress
    username: str
    password: str
    password_file: str
    ca_file: str
    cert_file: str
    key_file: str
    timeout_seconds: float
    admits: Callable[[str], bool]


class _Credentials(CredentialProvider):
    """Reads the password afresh for each connection, so that it may be changed while the daemon runs."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        access = self._access
        password = access.password or access.address.password
        if access.password_file:
            password = Path(access.password_file).read_text(encoding="utf-8").strip()

        username = access.username or access.address.username
        return (username, password) if username else (password,)


class NotAdmittedError(ConnectionError):
    """A sentinel or a cluster leads to where a sovereign daemon may not go."""


class Link(Protocol):
    """A way to the server."""

    async def open(self) -> None:
        """Connect. Raises `RedisError` or `OSError`."""

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands, in this order, and return their replies; a reply that is an error is one of the list.

        Raises `RedisError` or `OSError`, also where some have run; the link is closed then.
        """

    def names(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """Return the keys of that pattern, by pages, of all nodes. Raises as `exchange`."""

    def news(self) -> aioredis.client.PubSub:
        """Return a subscriber, on a connection of its own."""

    async def close(self) -> None:
        """Disconnect, whatever state it is in."""


def link_of(access: Access) -> Link:
    """Return a way to the server, not open yet."""
    return _ClusterLink(access) if access.address.kind == "cluster" else _SingleLink(access)


def _options(access: Access) -> dict[str, Any]:
    """Return what all connections have in common."""
    options: dict[str, Any] = {
        "protocol": 3,
        "client_name": CLIENT_NAME,
        "socket_timeout": access.timeout_seconds,
        "socket_connect_timeout": access.timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if access.username or access.password or access.password_file or access.address.password:
        options["credential_provider"] = _Credentials(access)

    return options


def _tls(access: Access) -> dict[str, Any]:
    if not access.address.tls:
        return {}

    options: dict[str, Any] = {
        "ssl": True,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
    }
    named = {"ssl_ca_certs": access.ca_file, "ssl_certfile": access.cert_file, "ssl_keyfile": access.key_file}
    return options | {name: file for name, file in named.items() if file}


class _SingleLink:
    """One connection to one server."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._client = _client(access)
        self._connection = self._client.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py's

    async def open(self) -> None:
        async with asyncio.timeout(2 * self._access.timeout_seconds):
            await self._connection.connect()

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        try:
            async with asyncio.timeout(self._access.timeout_seconds):
                replies = await self._round([_plain(command) for command in commands])
                unknown = [number for number, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
                if unknown:
                    # A server that was restarted, or took over, has yet to be told the scripts.
                    texts = [_plain(commands[number], whole=True) for number in unknown]
                    for number, reply in zip(unknown, await self._round(texts), strict=True):
                        replies[number] = reply

                return replies
        except BaseException:
            # Also where this was cancelled: what is still to come would be read as the answers to what is asked next.
            await self.close()
            raise

    async def _round(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        connection = self._connection
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        replies = []
        for _ in commands:
            try:
                replies.append(await connection.read_response(disconnect_on_error=False))
            except ResponseError as error:
                replies.append(error)

        return replies

    async def names(self, pattern: str) -> AsyncIterator[list[bytes]]:
        cursor: int | bytes = 0
        while True:
            ((cursor, names),) = await self.exchange([("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)])
            yield names
            if int(cursor) == 0:
                return

    def news(self) -> aioredis.client.PubSub:
        return self._client.pubsub()

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)
        await self._client.aclose()


class _ClusterLink:
    """A cluster, by redis-py's own client, which follows slots as they move."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._cluster = RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in access.address.hosts],
            address_remap=self._admitted,
            cluster_error_retry_attempts=_PUSHED_BACK,
            require_full_coverage=False,
            **_options(access),
            **_tls(access),
        )
        self._subscribers: list[aioredis.Redis] = []

    def _admitted(self, address: tuple[str, int]) -> tuple[str, int]:
        return _admitted(self._access, address)

    async def open(self) -> None:
        async with asyncio.timeout(4 * self._access.timeout_seconds):
            await self._cluster.initialize()

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        try:
            # A slot that moves makes a command go twice.
            async with asyncio.timeout(2 * self._access.timeout_seconds):
                return list(await asyncio.gather(*(self._run(command) for command in commands)))
        except BaseException:
            await self.close()
            raise

    async def _run(self, command: Command) -> Any:
        try:
            return await self._cluster.execute_command(*_plain(command))
        except NoScriptError:
            return await self._cluster.execute_command(*_plain(command, whole=True))
        except ResponseError as error:
            return error

    async def names(self, pattern: str) -> AsyncIterator[list[bytes]]:
        page: list[bytes] = []
        async for name in self._cluster.scan_iter(match=pattern, count=SCAN_COUNT):
            page.append(name)
            if len(page) >= SCAN_COUNT:
                yield page
                page = []

        yield page

    def news(self) -> aioredis.client.PubSub:
        # What one node publishes, all nodes hear.
        node = self._cluster.get_random_node()
        client = aioredis.Redis(host=node.host, port=int(node.port), **_options(self._access), **_tls(self._access))
        self._subscribers.append(client)
        return client.pubsub()

    async def close(self) -> None:
        for client in self._subscribers:
            await client.aclose()

        await self._cluster.aclose()


def _client(access: Access) -> aioredis.Redis:
    address, options = access.address, _options(access)
    if address.path:
        return aioredis.Redis(unix_socket_path=address.path, db=address.db, **options)

    if address.kind == "sentinel":
        # The sentinels have no password of ours: they are asked as anybody asks them.
        plain = {name: value for name, value in options.items() if name != "credential_provider"}
        sentinel = _Sentinel(access, list(address.hosts), sentinel_kwargs=plain | _tls(access))
        client: aioredis.Redis = sentinel.master_for(address.service, db=address.db, **options, **_tls(access))
        return client

    ((host, port),) = address.hosts
    return aioredis.Redis(host=host, port=port, db=address.db, **options, **_tls(access))


class _Sentinel(Sentinel):
    """Asks whether it may go where the sentinels say."""

    def __init__(self, access: Access, sentinels: list[tuple[str, int]], **options: Any) -> None:
        super().__init__(sentinels, **options)  # type: ignore[no-untyped-call]  # redis-py's
        self._access = access

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        return _admitted(self._access, await super().discover_master(service_name))


def _admitted(access: Access, address: tuple[str, int]) -> tuple[str, int]:
    if not access.admits(address[0]):
        raise NotAdmittedError(
            f"it leads to {address[0]}, which is neither this host nor a private network; add it to sovereign.allow"
        )

    return address


def _plain(command: Command, *, whole: bool = False) -> tuple[Any, ...]:
    if not isinstance(command, Run):
        return command

    script = command.script
    head = ("EVAL", script.text) if whole else ("EVALSHA", script.sha)
    return (*head, 1, command.key, *command.arguments)


FAULTS = (RedisError, OSError, TimeoutError)
"""What a link raises."""
