"""Writes to Redis, over one connection: entries, removals and purges, in the order in which they were requested."""

from collections.abc import Callable
from typing import Any

import anyio
from msgspec import structs
from redis.exceptions import ResponseError

from sidecard.core.effects import NO_TICKET, StorePurge, StoreRemove, StoreWrite
from sidecard.core.events import Removed, StoreAnswered, Unavailable
from sidecard.core.records import index_tags_of_purge
from sidecard.core.scopes import covers
from sidecard.persistence.batches import batches
from sidecard.store.background_writes import BackgroundWrites
from sidecard.store.base import StoreChange, StoreReporter
from sidecard.store.redis import scripts
from sidecard.store.redis.connection import RedisConnection, ScriptCall
from sidecard.store.redis.health import RedisHealth
from sidecard.store.redis.invalidations import Invalidations
from sidecard.store.redis.scripts import CHANNEL, encode_tags
from sidecard_client.protocol.backoff import Backoff

MAX_BATCH = 64
"""Changes in one round trip, with at most `MAX_BATCH_BYTES` of values."""

MAX_BATCH_BYTES = 4 * 1024 * 1024

MAX_WRITE_FAILURES = 3
"""Sessions that one write may end before it is dropped: it may be too large for the time limit."""

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 2.0
"""Pause between two attempts while the server refuses writes or does not reply."""


class RedisWrites(BackgroundWrites):
    """Pending changes. ``clock`` is the engine's: entries age by it while they wait."""

    def __init__(
        self, health: RedisHealth, reporter: StoreReporter, invalidations: Invalidations, clock: Callable[[], float]
    ) -> None:
        super().__init__(reporter)
        self._health = health
        self._invalidations = invalidations
        self._clock = clock
        self._failures = 0

    def add(self, change: StoreChange) -> StoreAnswered | None:
        """Write a change soon; return an answer that is known already."""
        replaced = self._add(self._with_claim(change))
        self.changed.set()
        if not isinstance(change, StoreWrite) and change.ticket != NO_TICKET:
            if self._health.connected is False:
                return StoreAnswered(change.ticket, Unavailable())

            self.expect_removal(change.ticket)

        return replaced

    def _with_claim(self, change: StoreChange) -> StoreChange:
        """Let a write without a claim take over that of the write it replaces: otherwise that claim would not be released."""
        if not isinstance(change, StoreWrite) or change.claim or change.replace:
            return change

        older = self.pending.find(change.scope, change.key)
        return structs.replace(change, claim=older.claim) if isinstance(older, StoreWrite) and older.claim else change

    def find(self, scope: str, key: str) -> StoreWrite | StoreRemove | None:
        """Return a key's pending change, with its present age; None if there is none."""
        change = self.pending.find(scope, key)
        return self._aged(change) if isinstance(change, StoreWrite) else change

    async def serve(self, connection: RedisConnection) -> None:
        """Write until canceled. Raises as `RedisConnection.run`."""
        backoff = Backoff(MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        while True:
            if not self._health.takes_writes:
                self.give_up_removals()
                self.measure()
                await anyio.sleep(backoff.failed(self._clock()))
                (reply,) = await connection.run([("SET", f"sidecard:{scripts.LAYOUT}", "", "PX", 1000)])
                if self._is_refusal(reply):
                    continue

                self._health.writes_again()

            if not len(self.pending):
                await self.changed.wait()

            self.changed.clear()
            if self._health.takes_writes and not await self._write_some(connection):
                backoff.reset()

    async def write_all(self, connection: RedisConnection) -> None:
        """Write all pending changes, as far as the server takes them. Raises as `RedisConnection.run`."""
        while len(self.pending) and not await self._write_some(connection):
            pass

    async def _write_some(self, connection: RedisConnection) -> list[StoreChange]:
        """Write the oldest pending changes; return those that the server does not take now."""
        changes = self.pending.take(1 if self._failures else MAX_BATCH)
        left: list[StoreChange] = []
        try:
            for batch in batches(changes, _value_bytes, MAX_BATCH_BYTES):
                left += await self._write_batch(connection, batch)
        except BaseException:
            self._failures += 1
            if self._failures > MAX_WRITE_FAILURES:
                self._failures = 0
                self.given_up += 1
                self.pending.done()
            else:
                self.pending.give_back()

            raise

        self._failures = 0
        self.pending.give_back(left)
        self.measure()
        return left

    async def _write_batch(self, connection: RedisConnection, batch: list[StoreChange]) -> list[StoreChange]:
        if isinstance(batch[0], StorePurge):
            return await self._purge(connection, batch[0])

        left: list[StoreChange] = []
        calls = [self._call(change) for change in batch if not isinstance(change, StorePurge)]
        for change, reply in zip(batch, await connection.run(calls), strict=True):
            if self._is_refusal(reply):
                left.append(change)
            elif isinstance(change, StoreRemove):
                self.answer_removal(change.ticket, Removed(int(reply == 1)))
            elif reply == 1:
                self.written += 1
            else:
                self.refused += 1

        return left

    def _call(self, change: StoreWrite | StoreRemove) -> ScriptCall:
        name = scripts.entry_name(change.scope, change.key)
        if isinstance(change, StoreRemove):
            message = self._invalidations.of_key("removed", change.scope, change.key)
            return ScriptCall(scripts.REMOVE, name, (CHANNEL, message))

        how = "claimed" if change.claim else "always" if change.replace else "absent"
        record = self._aged(change).record
        milliseconds = max(1, int(record.remaining_seconds * 1000))
        message = self._invalidations.of_key("stored", change.scope, change.key)
        entry, tags = scripts.encode_entry(record), encode_tags(record.index_tags)
        return ScriptCall(scripts.WRITE, name, (how, change.claim, entry, milliseconds, tags, CHANNEL, message))

    def _aged(self, write: StoreWrite) -> StoreWrite:
        age_seconds = max(0.0, self._clock() - write.made_at)
        return structs.replace(write, record=structs.replace(write.record, age_seconds=age_seconds))

    async def _purge(self, connection: RedisConnection, purge: StorePurge) -> list[StoreChange]:
        # Published before the purge, so that flights in progress on any host store nothing, and after it, for reads meanwhile.
        publish = ("PUBLISH", CHANNEL, self._invalidations.of_purge(purge.namespace, purge.tag, purge.task))
        await connection.run([publish])
        tags = tuple(encode_tags((tag,)) for tag in index_tags_of_purge(purge.tag, purge.task))
        count = 0
        async for page in connection.scan(scripts.scan_pattern(purge.namespace)):
            names = [(name, scripts.scope_and_key(name)) for name in page]
            calls = [
                ScriptCall(scripts.PURGE, name, tags)
                for name, parts in names
                if parts is not None and covers(purge.namespace, parts[0])
            ]
            for reply in await connection.run(calls) if calls else ():
                if self._is_refusal(reply):
                    return [purge]

                count += reply

        await connection.run([publish])
        self.answer_removal(purge.ticket, Removed(count))
        return []

    def _is_refusal(self, reply: Any) -> bool:
        """Return whether a reply means that the server takes no writes now. Raises any other error reply."""
        if not isinstance(reply, ResponseError):
            return False

        if not self._health.refuses_writes(reply):
            raise reply

        return True


def _value_bytes(change: StoreChange) -> float:
    """Return the size of a change in a batch. A purge has a batch of its own."""
    if isinstance(change, StorePurge):
        return float("inf")

    return len(change.record.value) if isinstance(change, StoreWrite) else 0
