"""The store of many hosts: Redis or Valkey.

Three connections, each of one task: one asks (and keeps claims), one writes, one hears the news. They live and die together,
as a *session*: whatever fails, all three are closed, every open question is answered `Unavailable`, and a new session is
tried. The memory tier and the flights of this host never wait for any of it.

What may be lost, and what it costs: an entry that waits to be written when the daemon is killed; a claim when the server
fails over before it has replicated it, which makes a second call. Never an answer to the wrong key, and never an entry of a
host that no longer has the claim.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskStatus
from msgspec import structs
from redis.asyncio.client import PubSub
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, ResponseError

from sidecard.core.effects import StoreAsk, StoreEffect, StorePurge, StoreRelease, StoreRemove, StoreWrite
from sidecard.core.events import (
    Absent,
    Elsewhere,
    EntriesPurged,
    Found,
    KeyChanged,
    NewsMissed,
    Removed,
    StoreAnswered,
    StoreGauges,
    StoreMeasured,
    StoreTurned,
    Unavailable,
)
from sidecard.core.records import Record
from sidecard.core.scopes import covers
from sidecard.store.base import Tell
from sidecard.store.pending import UNANSWERED, Pending, Wish
from sidecard.store.redis_links import FAULTS, Access, Link, Run, link_of
from sidecard.store.redis_scripts import (
    ASK,
    CHANNEL,
    LAYOUT,
    PURGE,
    RELEASE,
    REMOVE,
    RENEW,
    WRITE,
    entry_name,
    marked,
    opened,
    scope_and_key,
    sealed,
)

PENDING_MAX_BYTES = 64 * 1024 * 1024
"""What may wait to be written while the server is away."""

MAX_BATCH = 64
"""Commands in one go."""

MAX_BATCH_BYTES = 4 * 1024 * 1024

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 2.0
"""Between two tries to reach the server, doubling and jittered."""

PING_SECONDS = 0.5
"""How long the server may say nothing on the connection of the news before it is asked whether it lives."""

MAX_WRITE_FAILURES = 3
"""Sessions that one write may end before it is given up: it may be too large for the time limit."""

CLOSE_SECONDS = 2.0

_READ_ONLY = ("OOM", "READONLY", "MISCONF", "NOREPLICAS", "NOPERM")
"""Codes of errors by which a server takes no writes but answers questions. Those of scripts have them in their midst."""

_GLOB = str.maketrans({letter: f"\\{letter}" for letter in "*?[]\\"})
_pack = msgspec.msgpack.encode
_News = tuple[str, str, str | None, str | None]
"""The host, what has happened, and to which scope and key, or namespace and tag."""
_unpack = msgspec.msgpack.Decoder(_News).decode


class RedisStore:
    """See `sidecard.store.base.Store`. ``claim_seconds`` is how long a claim lives that its host does not renew.

    ``host`` is this run of the daemon, which no other has the name of; ``clock`` is the engine's; ``on_fault`` gets the mistakes of our own that ended a session.
    """

    shared = True

    def __init__(
        self,
        access: Access,
        *,
        host: str,
        claim_seconds: float,
        clock: Callable[[], float],
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self._access = access
        self._host = host
        self._claim_milliseconds = max(1, int(claim_seconds * 1000))
        self._clock = clock
        self._on_fault = on_fault
        self._pending = Pending(PENDING_MAX_BYTES)
        self._wished = asyncio.Event()
        self._to_say: deque[tuple[Run, Callable[[Any], None]]] = deque()
        self._has_to_say = asyncio.Event()
        self._asking: dict[int, StoreAsk] = {}
        self._removing: dict[int, None] = {}
        """Tickets that are to be answered yet."""
        self._claims: dict[tuple[str, str], str] = {}
        """Claims that are to be renewed, by scope and key."""
        self._claimed = 0
        self._connected: bool | None = None
        """None until the first try to connect has ended."""
        self._troubled = False
        """The server takes no writes."""
        self._turned: StoreTurned | None = None
        self._written = self._refused = self._faults = self._given_up = 0
        self._write_failures = 0
        self._measured: StoreGauges | None = None

    # What the engine wants -------------------------------------------------------------------------------------------

    def perform(self, effect: StoreEffect) -> None:
        """See `Store`."""
        match effect:
            case StoreAsk():
                self._ask(effect)
            case StoreRelease(scope, key, claim, unshared):
                self._claims.pop((scope, key), None)
                notice = self._notice("unshared" if unshared else "released", scope, key)
                self._say(Run(RELEASE, entry_name(scope, key), (claim, CHANNEL, notice)))
            case StoreWrite():
                self._claims.pop((effect.scope, effect.key), None)
                self._wish(effect)
            case StoreRemove(ticket) | StorePurge(ticket):
                if ticket != UNANSWERED:
                    self._removing[ticket] = None

                self._wish(effect)
                if self._connected is False:
                    self._soon(self._unanswer_removals)

    def _ask(self, ask: StoreAsk) -> None:
        self._asking[ask.ticket] = ask
        pending = self._pending.find(ask.scope, ask.key) if ask.look else None
        if isinstance(pending, StoreWrite):
            self._soon(partial(self._answer, ask, Found(self._aged(pending))))
        elif isinstance(pending, StoreRemove) or (ask.look and self._pending.purging(ask.scope)):
            self._soon(partial(self._answer, ask, Absent()))
        elif self._connected is False:
            self._soon(partial(self._answer, ask, Unavailable()))
        else:
            token = ""
            if ask.claim:
                self._claimed += 1
                token = f"{self._host}-{self._claimed}"

            arguments = (token, self._claim_milliseconds, int(ask.look))
            self._say(Run(ASK, entry_name(ask.scope, ask.key), arguments), partial(self._asked, ask, token))

    def _wish(self, wish: Wish) -> None:
        self._pending.add(wish)
        self._wished.set()

    def _say(self, run: Run, then: Callable[[Any], None] | None = None) -> None:
        if self._connected is not False:
            self._to_say.append((run, then or _ignore))
            self._has_to_say.set()

    def _soon(self, action: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(action)

    # A session -------------------------------------------------------------------------------------------------------

    async def run(self, tell: Tell) -> None:
        """See `Store`."""
        self._tell = tell
        pause_seconds = MIN_PAUSE_SECONDS
        while True:
            began_at = asyncio.get_running_loop().time()
            reason = await self._session()
            self._went_down(reason)
            if asyncio.get_running_loop().time() - began_at > MAX_PAUSE_SECONDS:
                pause_seconds = MIN_PAUSE_SECONDS

            await anyio.sleep(pause_seconds * random.uniform(0.75, 1.25))  # noqa: S311 - jitter
            pause_seconds = min(MAX_PAUSE_SECONDS, 2 * pause_seconds)

    async def close(self) -> None:
        """See `Store`."""
        with anyio.move_on_after(CLOSE_SECONDS):
            link = link_of(self._access)
            try:
                await link.open()
                while self._to_say:
                    await self._say_some(link)

                while len(self._pending):
                    if await self._write_some(link):
                        break
            except FAULTS:
                pass  # told already, or too late to matter: what is lost is what this module's text says
            finally:
                await _closed(link)

    async def _session(self) -> str:
        """Serve over one set of connections until something fails; return what, as a sentence."""
        asking, writing = link_of(self._access), link_of(self._access)
        faults: list[Exception] = []
        try:
            try:
                await asking.open()
                await writing.open()
                async with anyio.create_task_group() as tasks:
                    await tasks.start(self._hear_news, asking)
                    self._came_up()
                    tasks.start_soon(self._say_all, asking)
                    tasks.start_soon(self._write_all, writing)
                    tasks.start_soon(self._keep_claims)
            except* Exception as group:  # noqa: BLE001 - the boundary: what is no fault of the server is ours, and ends only a session
                faults += _leaves(group)
        finally:
            await _closed(asking)
            await _closed(writing)

        for fault in faults:
            if not isinstance(fault, FAULTS):
                self._on_fault(fault)

        return _sentence(faults[0], self._access)

    def _came_up(self) -> None:
        self._connected = True
        self._troubled = False
        self._tell(NewsMissed())
        self._turn(StoreTurned("up"))
        self._wished.set()

    def _went_down(self, reason: str) -> None:
        self._connected = False
        self._faults += 1
        self._to_say.clear()
        self._turn(StoreTurned("down", reason))
        for ask in list(self._asking.values()):
            self._answer(ask, Unavailable())

        self._unanswer_removals()
        self._measure()

    def _turn(self, turned: StoreTurned) -> None:
        if turned != self._turned:
            self._turned = turned
            self._tell(turned)

    def _measure(self) -> None:
        pending = self._pending
        gauges = StoreGauges(
            store_pending=len(pending),
            store_pending_bytes=pending.bytes,
            store_written=self._written,
            store_dropped=pending.dropped + self._given_up,
            store_refused=self._refused,
            store_faults=self._faults,
        )
        if gauges != self._measured:
            self._measured = gauges
            self._tell(StoreMeasured(gauges))

    # The connection that asks ----------------------------------------------------------------------------------------

    async def _say_all(self, link: Link) -> None:
        while True:
            await self._has_to_say.wait()
            self._has_to_say.clear()
            while self._to_say:
                await self._say_some(link)

    async def _say_some(self, link: Link) -> None:
        batch = [self._to_say.popleft() for _ in range(min(len(self._to_say), MAX_BATCH))]
        replies = await link.exchange([run for run, _ in batch])
        for (_, then), reply in zip(batch, replies, strict=True):
            then(reply)

    def _asked(self, ask: StoreAsk, token: str, reply: Any) -> None:
        if isinstance(reply, ResponseError):
            # An entry would have been returned before anything was to be written.
            self._answer(ask, Absent() if self._takes_no_writes(reply) else Unavailable())
            return

        match reply:
            case [b"found", bytes(envelope), int(milliseconds)]:
                record = opened(envelope, milliseconds / 1000)
                if record is None:
                    self._answer(ask, Absent())
                elif self._pending.find(ask.scope, ask.key) is not None:
                    # 1. the server reads the old entry; 2. we are told to replace or remove it; 3. its reply arrives.
                    self._ask(ask)
                else:
                    self._answer(ask, Found(record))
            case [b"elsewhere", int(milliseconds)]:
                self._answer(ask, Elsewhere(milliseconds / 1000))
            case [b"claimed"]:
                self._claims[ask.scope, ask.key] = token
                self._answer(ask, Absent(token))
            case _:
                self._answer(ask, Absent())

    def _answer(self, ask: StoreAsk, answer: Found | Absent | Elsewhere | Unavailable) -> None:
        if self._asking.pop(ask.ticket, None) is not None:
            self._tell(StoreAnswered(ask.ticket, answer))

    async def _keep_claims(self) -> None:
        while True:
            for (scope, key), token in self._claims.items():
                run = Run(RENEW, entry_name(scope, key), (token, self._claim_milliseconds))
                self._say(run, partial(self._renewed, (scope, key), token))

            await anyio.sleep(self._claim_milliseconds / 3000)

    def _renewed(self, place: tuple[str, str], token: str, reply: Any) -> None:
        if reply == 0 and self._claims.get(place) == token:
            # Expired and passed on, or removed. The flight goes on, for its callers; its entry will be refused.
            del self._claims[place]

    # The connection that writes --------------------------------------------------------------------------------------

    async def _write_all(self, link: Link) -> None:
        pause_seconds = MIN_PAUSE_SECONDS
        while True:
            if not self._troubled:
                if not len(self._pending):
                    await self._wished.wait()

                self._wished.clear()

            if self._troubled:
                await anyio.sleep(pause_seconds)
                pause_seconds = min(MAX_PAUSE_SECONDS, 2 * pause_seconds)
                (reply,) = await link.exchange([("SET", f"sidecard:{LAYOUT}", "", "PX", 1000)])
                if self._refuses(reply):
                    continue

                self._troubled = False
                self._turn(StoreTurned("up"))

            if not await self._write_some(link):
                pause_seconds = MIN_PAUSE_SECONDS

    async def _write_some(self, link: Link) -> list[Wish]:
        """Write the oldest of what is pending; return what the server would not take now."""
        wishes = self._pending.take(1 if self._write_failures else MAX_BATCH)
        left: list[Wish] = []
        try:
            for batch in _batches(wishes):
                left += await self._write_batch(link, batch)
        except BaseException:
            self._write_failures += 1
            if self._write_failures > MAX_WRITE_FAILURES:
                self._write_failures = 0
                self._given_up += 1
                self._pending.done()
            else:
                self._pending.give_back()

            raise

        self._write_failures = 0
        self._pending.give_back(left)
        self._measure()
        return left

    async def _write_batch(self, link: Link, batch: list[Wish]) -> list[Wish]:
        if isinstance(batch[0], StorePurge):
            return await self._purge(link, batch[0])

        commands = [self._command(wish) for wish in batch]
        left: list[Wish] = []
        for wish, reply in zip(batch, await link.exchange(commands), strict=True):
            if isinstance(reply, ResponseError) and self._refuses(reply):
                left.append(wish)
            elif isinstance(wish, StoreRemove):
                self._removed(wish.ticket, Removed(int(reply == 1)))
            elif reply == 1:
                self._written += 1
            else:
                self._refused += 1

        return left

    def _command(self, wish: Wish) -> Run:
        assert not isinstance(wish, StorePurge)  # noqa: S101 - for the type checker: a purge is a batch by itself
        name = entry_name(wish.scope, wish.key)
        if isinstance(wish, StoreRemove):
            return Run(REMOVE, name, (CHANNEL, self._notice("removed", wish.scope, wish.key)))

        how = "claimed" if wish.claim else "always" if wish.replace else "absent"
        record = self._aged(wish)
        milliseconds = max(1, int(record.remaining_seconds * 1000))
        notice = self._notice("stored", wish.scope, wish.key)
        return Run(WRITE, name, (how, wish.claim, sealed(record), milliseconds, marked(record.tags), CHANNEL, notice))

    def _aged(self, write: StoreWrite) -> Record:
        age_seconds = write.record.age_seconds + max(0.0, self._clock() - write.made_at)
        return structs.replace(write.record, age_seconds=age_seconds)

    async def _purge(self, link: Link, purge: StorePurge) -> list[Wish]:
        # Before: so that flights in progress anywhere store nothing. After: for what was read in between.
        news = ("PUBLISH", CHANNEL, self._notice("purged", purge.namespace, purge.tag))
        await link.exchange([news])
        mark = b"" if purge.tag is None else marked((purge.tag,))
        count = 0
        async for page in link.names(_pattern(purge.namespace)):
            places = [(name, scope_and_key(name)) for name in page]
            runs = [
                Run(PURGE, name, (mark,))
                for name, place in places
                if place is not None and covers(purge.namespace, place[0])
            ]
            for reply in await link.exchange(runs) if runs else ():
                if self._refuses(reply):
                    return [purge]

                count += reply

        await link.exchange([news])
        self._removed(purge.ticket, Removed(count))
        return []

    def _refuses(self, reply: Any) -> bool:
        """Tell whether a reply says that the server takes no writes now."""
        if not isinstance(reply, ResponseError):
            return False

        if not self._takes_no_writes(reply):
            raise reply

        return True

    def _takes_no_writes(self, error: ResponseError) -> bool:
        text = str(error)
        if not isinstance(error, NoPermissionError) and not any(code in text for code in _READ_ONLY):
            self._faults += 1
            return False

        if self._access.address.kind != "single" and "READONLY" in text:
            # It was the primary and is no longer: find out who is.
            raise ConnectionError("the server has become a replica")

        if not self._troubled:
            self._troubled = True
            self._faults += 1
            self._turn(StoreTurned("read_only", f"{_place(self._access)} answers: {_shown(text)}."))
            self._wished.set()

        self._unanswer_removals()
        return True

    def _removed(self, ticket: int, answer: Removed | Unavailable) -> None:
        if ticket in self._removing:
            del self._removing[ticket]
            self._tell(StoreAnswered(ticket, answer))

    def _unanswer_removals(self) -> None:
        for ticket in list(self._removing):
            self._removed(ticket, Unavailable())

    # The connection that hears the news ------------------------------------------------------------------------------

    async def _hear_news(self, link: Link, *, task_status: TaskStatus[None]) -> None:
        subscriber = link.news()
        try:
            with anyio.fail_after(4 * self._access.timeout_seconds):
                await subscriber.subscribe(CHANNEL)
                while (message := await subscriber.get_message(timeout=1.0)) is None or message["type"] != "subscribe":
                    pass

            task_status.started()
            await self._hear(subscriber)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_SECONDS):
                await subscriber.aclose()  # type: ignore[no-untyped-call]  # redis-py's

    async def _hear(self, subscriber: PubSub) -> None:
        asked = False
        while True:
            message = await subscriber.get_message(timeout=PING_SECONDS)
            if message is None:
                if asked:
                    raise TimeoutError(f"it did not answer a ping within {PING_SECONDS:g} s")

                asked = True
                await subscriber.ping()
                continue

            asked = False
            if message["type"] == "message":
                self._heard(message["data"])

    def _heard(self, data: bytes) -> None:
        try:
            host, what, first, second = _unpack(data)
        except msgspec.MsgspecError:
            return  # of another version, or of somebody else

        if what == "purged":
            if host != self._host:
                self._tell(EntriesPurged(first, second))
        elif first is not None and second is not None:
            if host == self._host:
                # Somebody here may have asked just before it was done, and have been told that the key is being computed.
                self._tell(KeyChanged(first, second, "released"))
            elif what in {"stored", "removed", "released", "unshared"}:
                self._tell(KeyChanged(first, second, what))

    def _notice(self, what: str, first: str | None, second: str | None) -> bytes:
        return _pack((self._host, what, first, second))


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


def _pattern(namespace: str | None) -> str:
    scope = (
        "*"
        if namespace is None
        else namespace.translate(_GLOB)
        if ":" in namespace
        else f"*:{namespace.translate(_GLOB)}"
    )
    return f"sidecard:{LAYOUT}:{scope}:*"


def _ignore(reply: Any) -> None:
    """Where nobody wants to know."""


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for fault in group.exceptions:
        if isinstance(fault, BaseExceptionGroup):
            yield from _leaves(fault)
        else:
            yield fault


async def _closed(link: Link) -> None:
    # A fault is that it is gone, which is what was wanted.
    with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_SECONDS), suppress(*FAULTS):
        await link.close()


def _place(access: Access) -> str:
    """Name the server without its credentials."""
    address = access.address
    return address.path or ",".join(f"{host}:{port}" for host, port in address.hosts)


def _sentence(fault: Exception, access: Access) -> str:
    place = _place(access)
    if isinstance(fault, AuthenticationError | AuthorizationError | NoPermissionError):
        return f"{place} does not let us in ({_shown(str(fault))}); see store.username and store.password_file."

    if isinstance(fault, TimeoutError):
        return f"{place} did not answer within {access.timeout_seconds:g} s."

    return f"{place} cannot be reached ({_shown(str(fault) or type(fault).__name__)})."


def _shown(text: str) -> str:
    """Return a fault's text as it may be told: one line, not long, and without what it may quote of a command."""
    line = " ".join(text.split())
    return line[:200].rstrip(". ")
