"""The connection that writes: entries, removals and purges, in the order in which they were wanted."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import anyio
from msgspec import structs
from redis.exceptions import ResponseError

from sidecard.core.effects import StorePurge, StoreRemove, StoreWrite
from sidecard.core.events import Removed, StoreAnswered, StoreGauges, StoreMeasured, Unavailable
from sidecard.core.records import index_tags_of_purge
from sidecard.core.scopes import covers
from sidecard.store.base import UNANSWERED
from sidecard.store.base import StoreChange as Wish
from sidecard.store.pending_writes import PendingWrites as Pending
from sidecard.store.redis.connections import Link, Run
from sidecard.store.redis.health import Health
from sidecard.store.redis.invalidations import News
from sidecard.store.redis.scripts import (
    CHANNEL,
    LAYOUT,
    PURGE,
    REMOVE,
    WRITE,
    entry_name,
    marked,
    pattern,
    scope_and_key,
    sealed,
)

PENDING_MAX_BYTES = 64 * 1024 * 1024
"""What may wait to be written while the server is away."""

MAX_BATCH = 64
"""Writes in one go, and `MAX_BATCH_BYTES` of values."""

MAX_BATCH_BYTES = 4 * 1024 * 1024

MAX_WRITE_FAILURES = 3
"""Sessions that one write may end before it is given up: it may be too large for the time limit."""

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 2.0
"""Between two tries of what a server refuses or does not answer."""


class Writing:
    """What is to be written. ``clock`` is the engine's, by which entries age while they wait."""

    def __init__(self, health: Health, news: News, clock: Callable[[], float]) -> None:
        self._health = health
        self._news = news
        self._clock = clock
        self._pending = Pending(PENDING_MAX_BYTES)
        self._wished = asyncio.Event()
        self._removing: dict[int, None] = {}
        """Tickets that are to be answered yet."""
        self._written = self._refused = self._given_up = 0
        self._failures = 0
        self._measured: StoreGauges | None = None

    def add(self, wish: Wish) -> StoreAnswered | None:
        """Let something be written soon; return an answer that this makes known."""
        older = self._pending.add(self._heir(wish))
        self._wished.set()
        if isinstance(older, StoreRemove) and older.ticket in self._removing:
            # Overtaken: it is not done by itself any more, but by what takes its place.
            del self._removing[older.ticket]
            overtaken = StoreAnswered(older.ticket, Unavailable())
        else:
            overtaken = None

        if not isinstance(wish, StoreWrite) and wish.ticket != UNANSWERED:
            if self._health.connected is False:
                return StoreAnswered(wish.ticket, Unavailable())

            self._removing[wish.ticket] = None

        return overtaken

    def _heir(self, wish: Wish) -> Wish:
        """Let a write without a claim take over that of the write whose place it takes: nobody else would give it back."""
        if not isinstance(wish, StoreWrite) or wish.claim or wish.replace:
            return wish

        older = self._pending.find(wish.scope, wish.key)
        return structs.replace(wish, claim=older.claim) if isinstance(older, StoreWrite) and older.claim else wish

    def wake(self) -> None:
        """The server is found to take no writes: find out when it does again."""
        self._wished.set()

    def find(self, scope: str, key: str) -> StoreWrite | StoreRemove | None:
        """Return what is to become of a key, as old as it is by now; None where nothing is to be written."""
        wish = self._pending.find(scope, key)
        return self._aged(wish) if isinstance(wish, StoreWrite) else wish

    def purging(self, scope: str) -> bool:
        """Tell whether a purge is to come that may concern a scope."""
        return self._pending.purging(scope)

    def give_up(self) -> None:
        """The server does not write now: whoever waits for a removal is told so. It is done later."""
        for ticket in list(self._removing):
            self._removed(ticket, Unavailable())

    def measure(self) -> None:
        """Tell how much was done and is to be done."""
        pending = self._pending
        gauges = StoreGauges(
            store_pending=len(pending),
            store_pending_bytes=pending.bytes,
            store_written=self._written,
            store_dropped=pending.dropped + self._given_up,
            store_refused=self._refused,
            store_faults=self._health.faults,
        )
        if gauges != self._measured:
            self._measured = gauges
            self._health.tell(StoreMeasured(gauges))

    async def serve(self, link: Link) -> None:
        """Write what is wanted, until cancelled. Raises as `Link.exchange`."""
        pause_seconds = MIN_PAUSE_SECONDS
        while True:
            if not self._health.takes_writes:
                self.give_up()
                self.measure()
                await anyio.sleep(pause_seconds)
                pause_seconds = min(MAX_PAUSE_SECONDS, 2 * pause_seconds)
                (reply,) = await link.exchange([("SET", f"sidecard:{LAYOUT}", "", "PX", 1000)])
                if self._refused_now(reply):
                    continue

                self._health.writes_again()

            if not len(self._pending):
                await self._wished.wait()

            self._wished.clear()
            if not self._health.takes_writes:
                continue

            if not await self._write_some(link):
                pause_seconds = MIN_PAUSE_SECONDS

    async def write_all(self, link: Link) -> None:
        """Write what is wanted, as far as the server takes it. Raises as `Link.exchange`."""
        while len(self._pending) and not await self._write_some(link):
            pass

    async def _write_some(self, link: Link) -> list[Wish]:
        """Write the oldest of what is wanted; return what the server would not take now."""
        wishes = self._pending.take(1 if self._failures else MAX_BATCH)
        left: list[Wish] = []
        try:
            for batch in _batches(wishes):
                left += await self._write_batch(link, batch)
        except BaseException:
            self._failures += 1
            if self._failures > MAX_WRITE_FAILURES:
                self._failures = 0
                self._given_up += 1
                self._pending.done()
            else:
                self._pending.give_back()

            raise

        self._failures = 0
        self._pending.give_back(left)
        self.measure()
        return left

    async def _write_batch(self, link: Link, batch: list[Wish]) -> list[Wish]:
        if isinstance(batch[0], StorePurge):
            return await self._purge(link, batch[0])

        left: list[Wish] = []
        commands = [self._command(wish) for wish in batch if not isinstance(wish, StorePurge)]
        for wish, reply in zip(batch, await link.exchange(commands), strict=True):
            if self._refused_now(reply):
                left.append(wish)
            elif isinstance(wish, StoreRemove):
                self._removed(wish.ticket, Removed(int(reply == 1)))
            elif reply == 1:
                self._written += 1
            else:
                self._refused += 1

        return left

    def _command(self, wish: StoreWrite | StoreRemove) -> Run:
        name = entry_name(wish.scope, wish.key)
        if isinstance(wish, StoreRemove):
            return Run(REMOVE, name, (CHANNEL, self._news.of_key("removed", wish.scope, wish.key)))

        how = "claimed" if wish.claim else "always" if wish.replace else "absent"
        record = self._aged(wish).record
        milliseconds = max(1, int(record.remaining_seconds * 1000))
        notice = self._news.of_key("stored", wish.scope, wish.key)
        return Run(
            WRITE, name, (how, wish.claim, sealed(record), milliseconds, marked(record.index_tags), CHANNEL, notice)
        )

    def _aged(self, write: StoreWrite) -> StoreWrite:
        age_seconds = max(0.0, self._clock() - write.made_at)
        return structs.replace(write, record=structs.replace(write.record, age_seconds=age_seconds))

    async def _purge(self, link: Link, purge: StorePurge) -> list[Wish]:
        # Told before, so that flights in progress anywhere store nothing; and after, for what was read in between.
        news = ("PUBLISH", CHANNEL, self._news.of_purge(purge.namespace, purge.tag, purge.task))
        await link.exchange([news])
        marks = tuple(marked((mark,)) for mark in index_tags_of_purge(purge.tag, purge.task))
        count = 0
        async for page in link.names(pattern(purge.namespace)):
            places = [(name, scope_and_key(name)) for name in page]
            runs = [
                Run(PURGE, name, marks)
                for name, place in places
                if place is not None and covers(purge.namespace, place[0])
            ]
            for reply in await link.exchange(runs) if runs else ():
                if self._refused_now(reply):
                    return [purge]

                count += reply

        await link.exchange([news])
        self._removed(purge.ticket, Removed(count))
        return []

    def _refused_now(self, reply: Any) -> bool:
        """Tell whether a reply says that the server takes no writes now. Raises what says anything else that is wrong."""
        if not isinstance(reply, ResponseError):
            return False

        if not self._health.refuses_writes(reply):
            raise reply

        return True

    def _removed(self, ticket: int, answer: Removed | Unavailable) -> None:
        if ticket in self._removing:
            del self._removing[ticket]
            self._health.tell(StoreAnswered(ticket, answer))


def _batches(wishes: list[Wish]) -> Iterator[list[Wish]]:
    """Cut what is to be written into what may go in one breath; a purge goes by itself."""
    batch: list[Wish] = []
    size = 0
    for wish in wishes:
        length = len(wish.record.value) if isinstance(wish, StoreWrite) else 0
        if batch and (isinstance(wish, StorePurge) or size + length > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0

        batch.append(wish)
        size += length
        if isinstance(wish, StorePurge):
            yield batch
            batch, size = [], 0

    if batch:
        yield batch
