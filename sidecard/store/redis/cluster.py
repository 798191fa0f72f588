"""A connection to a Redis cluster: redis-py's own client, which follows slots as they move."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Never

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from sidecard.store.redis.access import Credentials, RedisAccess
from sidecard.store.redis.connection import CLIENT_NAME, SCAN_COUNT, Command, ReplyHandler, ScriptCall

MAX_BATCH = 64
"""Commands in progress at a time."""

_MAX_REDIRECTS = 8
"""How often a command follows a moving slot; redis-py takes some 50 ms for so many."""


class ClusterConnection:
    """See `sidecard.store.redis.connection.RedisConnection`."""

    def __init__(self, access: RedisAccess) -> None:
        self._access = access
        self._cluster = _cluster(access)
        self._queue: deque[tuple[Command, ReplyHandler]] = deque()
        self._queued = asyncio.Event()

    async def open(self) -> None:
        """See `RedisConnection`."""
        async with asyncio.timeout(4 * self._access.timeout_seconds):
            await self._cluster.initialize()

    def send(self, command: Command, on_reply: ReplyHandler) -> None:
        """See `RedisConnection`."""
        self._queue.append((command, on_reply))
        self._queued.set()

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """See `RedisConnection`."""
        # Twice the limit of one command: it is sent twice if a slot moves.
        async with asyncio.timeout(2 * self._access.timeout_seconds):
            return list(await asyncio.gather(*(self._run_one(command) for command in commands)))

    async def scan(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """See `RedisConnection`."""
        page: list[bytes] = []
        async for name in self._cluster.scan_iter(match=pattern, count=SCAN_COUNT):
            page.append(name)
            if len(page) >= SCAN_COUNT:
                yield page
                page = []

        yield page

    async def monitor(self) -> Never:
        """See `RedisConnection`. Also runs what `send` queued."""
        while True:
            await self._queued.wait()
            self._queued.clear()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]
                replies = await self.run([command for command, _ in batch])
                for (_, on_reply), reply in zip(batch, replies, strict=True):
                    on_reply(reply)

    async def close(self) -> None:
        """See `RedisConnection`."""
        await self._cluster.aclose()

    async def _run_one(self, command: Command) -> Any:
        try:
            if not isinstance(command, ScriptCall):
                return await self._cluster.execute_command(*command)

            rest = 1, command.key, *command.arguments
            try:
                return await self._cluster.execute_command("EVALSHA", command.script.sha, *rest)
            except NoScriptError:
                return await self._cluster.execute_command("EVAL", command.script.text, *rest)
        except ResponseError as error:
            return error


async def any_node(access: RedisAccess) -> tuple[str, int]:
    """Return the address of a node that answers."""
    cluster = _cluster(access)
    try:
        await cluster.initialize()
        node = cluster.get_random_node()
        return access.admitted((node.host, int(node.port)))
    finally:
        await cluster.aclose()


def _cluster(access: RedisAccess) -> RedisCluster:
    options: dict[str, Any] = {}
    if access.address.tls:
        files = {"ssl_ca_certs": access.ca_file, "ssl_certfile": access.cert_file, "ssl_keyfile": access.key_file}
        options = {"ssl": True} | {name: file for name, file in files.items() if file}

    if access.has_credentials:
        options["credential_provider"] = Credentials(access)

    return RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in access.address.hosts],
        address_remap=access.admitted,
        cluster_error_retry_attempts=_MAX_REDIRECTS,
        require_full_coverage=False,
        protocol=3,
        client_name=CLIENT_NAME,
        socket_timeout=access.timeout_seconds,
        socket_connect_timeout=access.timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **options,
    )
