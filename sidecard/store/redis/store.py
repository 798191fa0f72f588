"""The store of many hosts: Redis or Valkey.

A *session* has three connections, each with one task: reads and claims, writes, invalidations; and a fourth if breakers or
budgets are shared. After any fault all are closed, every open read is answered `Unavailable`, and a new session is tried.
The memory tier and the flights of this host never wait for a session.

What may be lost: a pending write, if the daemon is killed; a claim, if the server fails over before the claim was replicated;
then the call is made twice. In any case an answer belongs to its key, and only the holder of a claim stores one.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import anyio

from sidecard.core.effects import ShareSpending, StoreEffect, StoreRead, StoreRelease, StoreWrite
from sidecard.core.events import InvalidationsMissed, StoreAnswered
from sidecard.core.notes import Note
from sidecard.store.base import StoreListener, StoreReporter
from sidecard.store.redis.access import FAULTS, RedisAccess
from sidecard.store.redis.claims import Claims
from sidecard.store.redis.cluster import ClusterConnection
from sidecard.store.redis.connection import CLOSE_SECONDS, RedisConnection
from sidecard.store.redis.health import RedisHealth
from sidecard.store.redis.invalidations import Invalidations
from sidecard.store.redis.shared_counters import SharedCounters
from sidecard.store.redis.single import SingleConnection
from sidecard.store.redis.writes import MAX_PAUSE_SECONDS, MIN_PAUSE_SECONDS, RedisWrites
from sidecard_client.protocol.backoff import Backoff


class RedisStore:
    """See `sidecard.store.base.Store`. A claim that this host does not renew expires after ``claim_seconds``.

    ``host`` is unique to this run of the daemon. ``clock`` is the engine's. ``on_fault`` receives internal errors that ended a
    session, ``log(level, event, **fields)`` writes a log line. ``shared_counters`` creates the `SharedCounters`, if breakers or budgets are shared.
    """

    shared = True

    def __init__(
        self,
        access: RedisAccess,
        *,
        host: str,
        claim_seconds: float,
        clock: Callable[[], float],
        on_fault: Callable[[Exception], None],
        log: Callable[..., None],
        shared_counters: Callable[[StoreReporter], SharedCounters] | None = None,
    ) -> None:
        self._access = access
        self._clock = clock
        self._on_fault = on_fault
        self._reporter = reporter = StoreReporter(log)
        self._health = health = RedisHealth(access, reporter)
        self._invalidations = invalidations = Invalidations(host, reporter)
        self._writes = RedisWrites(health, reporter, invalidations, clock)
        self._claims = Claims(health, reporter, invalidations, self._writes, host, claim_seconds)
        self._counters = None if shared_counters is None else shared_counters(reporter)

    def perform(self, effect: StoreEffect) -> StoreAnswered | None:
        """See `Store`."""
        match effect:
            case StoreRead():
                answer = self._claims.read(effect)
                return None if answer is None else StoreAnswered(effect.ticket, answer)
            case StoreRelease():
                self._claims.release(effect)
            case ShareSpending():
                if self._counters is not None:
                    self._counters.spend(effect)
            case _:
                if isinstance(effect, StoreWrite) and effect.claim:
                    self._claims.used(effect.scope, effect.key)

                return self._writes.add(effect)

        return None

    def note(self, note: Note) -> None:
        """Receive the core's notes; see `SharedCounters.note`."""
        if self._counters is not None:
            self._counters.note(note)

    async def run(self, notify: StoreListener) -> None:
        """See `Store`."""
        self._reporter.notify = notify
        # Jitter: all hosts lost the server at the same moment.
        backoff = Backoff(MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS, jitter=random.random, jitter_share=0.4)
        while True:
            began_at = self._clock()
            fault = await self._session()
            self._health.session_ended(fault)
            self._claims.end_session()
            self._writes.give_up_removals()
            self._writes.measure()
            if self._clock() - began_at > MAX_PAUSE_SECONDS:
                backoff.reset()

            await anyio.sleep(backoff.failed(self._clock()))

    async def close(self) -> None:
        """See `Store`."""
        # A fault was reported already, or is too late to matter: see the module's docstring for what is lost.
        with anyio.move_on_after(CLOSE_SECONDS), suppress(*FAULTS):
            connection = self._new_connection()
            try:
                await connection.open()
                await self._writes.write_all(connection)
            finally:
                await _close([connection])

    def _new_connection(self) -> RedisConnection:
        is_cluster = self._access.address.kind == "cluster"
        return ClusterConnection(self._access) if is_cluster else SingleConnection(self._access)

    async def _session(self) -> Exception:
        """Serve over one set of connections until a fault; return it."""
        connections: list[RedisConnection] = []
        faults: list[Exception] = []
        counters = self._counters
        try:
            try:
                subscriber = SingleConnection(self._access)
                connections += [subscriber, *(self._new_connection() for _ in range(2 if counters is None else 3))]
                for connection in connections:
                    await connection.open()

                await self._invalidations.subscribe(subscriber)
                self._reporter.notify(InvalidationsMissed())
                self._health.session_began()
                self._claims.begin_session(connections[1])
                async with anyio.create_task_group() as tasks:
                    for connection in connections:
                        tasks.start_soon(connection.monitor)

                    tasks.start_soon(self._claims.renew)
                    tasks.start_soon(self._writes.serve, connections[2])
                    if counters is not None:
                        tasks.start_soon(counters.serve, connections[3])
            except* Exception as group:  # noqa: BLE001 - the boundary: a mistake of our own ends a session, not the daemon
                faults += _leaves(group)
        finally:
            await _close(connections)

        for fault in faults:
            if not isinstance(fault, FAULTS):
                self._on_fault(fault)

        return faults[0]


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for fault in group.exceptions:
        if isinstance(fault, BaseExceptionGroup):
            yield from _leaves(fault)
        else:
            yield fault


async def _close(connections: Sequence[RedisConnection]) -> None:
    """Disconnect all at the same time, within `CLOSE_SECONDS`. A cancellation takes effect after that."""
    # Not anyio's shield: the daemon cancels this task with asyncio's own `Task.cancel`, which that does not hold back.
    closing = asyncio.gather(*map(_close_one, connections))
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        while not closing.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([closing])

        raise


async def _close_one(connection: RedisConnection) -> None:
    # A fault means that the connection has ended, which is the aim.
    with suppress(*FAULTS):
        async with asyncio.timeout(CLOSE_SECONDS):
            await connection.close()
