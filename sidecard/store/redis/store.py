"""The store of many hosts: Redis or Valkey.

Three connections, each of one task: one asks (and keeps claims), one writes, one hears the news; a fourth where breakers or
budgets are shared. They live and die together,
as a *session*: whatever fails, all are closed, every open question is answered `Unavailable`, and a new session is
tried. The memory tier and the flights of this host never wait for any of it, and no request's task ever touches it.

What may be lost, and what it costs: an entry that waits to be written when the daemon is killed; a claim when the server
fails over before it has replicated it, which makes a second call. Never an answer to the wrong key, and never the place of an
entry to a host that no longer has the claim.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import suppress

import anyio

from sidecard.core.effects import ShareSpending, StoreEffect, StoreRead, StoreRelease, StoreWrite
from sidecard.core.events import InvalidationsMissed, StoreAnswered, StoreEvent
from sidecard.core.notes import Note
from sidecard.store.base import StoreListener as Tell
from sidecard.store.redis.access import FAULTS, Access
from sidecard.store.redis.claims import Asking
from sidecard.store.redis.connections import CLOSE_SECONDS, Link, Wire, link_of
from sidecard.store.redis.health import Health
from sidecard.store.redis.invalidations import News
from sidecard.store.redis.shared_counters import Sharing
from sidecard.store.redis.writes import MAX_PAUSE_SECONDS, MIN_PAUSE_SECONDS, Writing


class RedisStore:
    """See `sidecard.store.base.Store`. ``claim_seconds`` is how long a claim lives that its host does not renew.

    ``host`` is this run of the daemon, whose name no other has; ``clock`` is the engine's; ``on_fault`` gets the mistakes of
    our own that ended a session; ``sharing`` makes what shares breakers and budgets.
    """

    shared = True

    def __init__(
        self,
        access: Access,
        *,
        host: str,
        claim_seconds: float,
        clock: Callable[[], float],
        on_fault: Callable[[Exception], None],
        sharing: Callable[[Tell], Sharing] | None = None,
    ) -> None:
        self._access = access
        self._clock = clock
        self._on_fault = on_fault
        self._tell: Tell = _unheard
        self._health = Health(access, self._told)
        self._news = News(host, self._told)
        self._writing = Writing(self._health, self._news, clock)
        self._sharing = None if sharing is None else sharing(self._told)
        self._asking = Asking(self._health, self._news, self._writing, host, claim_seconds)

    def perform(self, effect: StoreEffect) -> StoreAnswered | None:
        """See `Store`."""
        match effect:
            case StoreRead():
                answer = self._asking.ask(effect)
                return None if answer is None else StoreAnswered(effect.ticket, answer)
            case StoreRelease():
                self._asking.release(effect)
            case ShareSpending():
                if self._sharing is not None:
                    self._sharing.spend(effect)
            case _:
                if isinstance(effect, StoreWrite) and effect.claim:
                    self._asking.used(effect.scope, effect.key)

                return self._writing.add(effect)

        return None

    def note(self, note: Note) -> None:
        """Hear what the core tells; see `Sharing.note`."""
        if self._sharing is not None:
            self._sharing.note(note)

    async def run(self, tell: Tell) -> None:
        """See `Store`."""
        self._tell = tell
        pause_seconds = MIN_PAUSE_SECONDS
        while True:
            began_at = self._clock()
            fault = await self._session()
            self._health.went_down(fault)
            self._asking.give_up()
            self._writing.give_up()
            self._writing.measure()
            if self._clock() - began_at > MAX_PAUSE_SECONDS:
                pause_seconds = MIN_PAUSE_SECONDS

            # Jittered: all hosts lost the server in the same moment.
            await anyio.sleep(pause_seconds * random.uniform(0.75, 1.25))  # noqa: S311 - as above
            pause_seconds = min(MAX_PAUSE_SECONDS, 2 * pause_seconds)

    async def close(self) -> None:
        """See `Store`."""
        # A fault was told already, or comes too late to matter: what is lost is what this module's text says.
        with anyio.move_on_after(CLOSE_SECONDS), suppress(*FAULTS):
            link = link_of(self._access)
            try:
                await link.open()
                await self._writing.write_all(link)
            finally:
                await _closed(link)

    async def _session(self) -> Exception:
        """Serve over one set of connections until something fails; return what."""
        links: list[Link] = []
        faults: list[Exception] = []
        try:
            try:
                hearing = Wire(self._access)
                links += [hearing, *(link_of(self._access) for _ in range(2 if self._sharing is None else 3))]
                for link in links:
                    await link.open()

                _, asking, writing, *further = links
                await self._news.subscribe(hearing)
                self._tell(InvalidationsMissed())
                self._health.came_up()
                self._asking.begin(asking)
                async with anyio.create_task_group() as tasks:
                    for link in links:
                        tasks.start_soon(link.watch)

                    tasks.start_soon(self._asking.keep_claims)
                    tasks.start_soon(self._writing.serve, writing)
                    for link in further:
                        tasks.start_soon(self._share, link)
            except* Exception as group:  # noqa: BLE001 - the boundary: a mistake of our own ends a session, not the daemon
                faults += _leaves(group)
        finally:
            for link in links:
                await _closed(link)

        for fault in faults:
            if not isinstance(fault, FAULTS):
                self._on_fault(fault)

        return faults[0]

    async def _share(self, link: Link) -> None:
        if self._sharing is not None:
            await self._sharing.serve(link)

    def _told(self, event: StoreEvent) -> None:
        self._tell(event)


def _unheard(event: StoreEvent) -> None:
    """Where events go before `RedisStore.run`: nothing has happened by then."""


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
