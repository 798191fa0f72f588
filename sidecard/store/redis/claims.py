"""The connection that asks: entries that are looked for, and the claims of this host."""

from functools import partial
from typing import Any

import anyio
from redis.exceptions import ResponseError

from sidecard.core.effects import StoreRead, StoreRelease, StoreRemove, StoreWrite
from sidecard.core.events import Absent, Answer, ClaimedRemotely, Found, StoreAnswered, Unavailable
from sidecard.store.redis.connections import Link, Run, Then
from sidecard.store.redis.health import Health
from sidecard.store.redis.invalidations import News
from sidecard.store.redis.scripts import ASK, CHANNEL, RELEASE, RENEW, entry_name, opened
from sidecard.store.redis.writes import Writing

_MAX_UNSURE = 10_000

_Place = tuple[str, str]
"""A scope and a key."""


class Asking:
    """Questions and claims. ``host`` is in every claim; ``claim_seconds`` is how long one lives that is not renewed."""

    def __init__(self, health: Health, news: News, writing: Writing, host: str, claim_seconds: float) -> None:
        self._health = health
        self._news = news
        self._writing = writing
        self._host = host
        self._claim_milliseconds = max(1, int(claim_seconds * 1000))
        self._link: Link | None = None
        self._early: list[tuple[Run, Then]] = []
        """What was to be said before the first session; there is one soon, or none for a while."""
        self._open: dict[int, tuple[StoreRead, str]] = {}
        """Questions that are to be answered, each with the claim that it asks for, by ticket."""
        self._claims: dict[_Place, str] = {}
        """Claims that are to be renewed."""
        self._unsure: dict[_Place, str] = {}
        """Claims that were asked for, or given back, without an answer: asked for again, they are had if they were had then.
        An entry that is found says nothing of them: they outlive it."""
        self._releasing: dict[_Place, str] = {}
        """Claims that are being given back."""
        self._sequence = 0

    def ask(self, ask: StoreRead) -> Answer | None:
        """Put a question; return its answer where it is known at once."""
        token = self._token(ask) if ask.claim else ""
        pending = self._writing.find(ask.scope, ask.key) if ask.read_entry else None
        removing = isinstance(pending, StoreRemove) or (ask.read_entry and self._writing.purging(ask.scope))
        if isinstance(pending, StoreWrite):
            return Found(pending.record)

        if self._health.connected is False:
            return Absent() if removing else Unavailable()

        if removing and not token:
            return Absent()

        # What is to be removed is not looked for; but who computes it is the server's to say.
        arguments = (token, self._claim_milliseconds, int(ask.read_entry and not removing))
        self._open[ask.ticket] = ask, token
        self._say(Run(ASK, entry_name(ask.scope, ask.key), arguments), partial(self._asked, ask, token))
        return None

    def release(self, release: StoreRelease) -> None:
        """Give a claim back. Where it cannot be said, the claim expires, unless the key is asked for here before that.

        Otherwise 1. a server hangs; 2. a call fails, and its claim cannot be given back; 3. the server is there again;
        4. the next callers wait for whom the claim belongs to, which is nobody.
        """
        self.used(release.scope, release.key)
        place = release.scope, release.key
        if self._link is None:
            self._doubt(place, release.claim)
            return

        self._releasing[place] = release.claim
        notice = self._news.of_key("unshared" if release.unshared else "released", release.scope, release.key)
        self._say(
            Run(RELEASE, entry_name(release.scope, release.key), (release.claim, CHANNEL, notice)),
            partial(self._released, place),
        )

    def used(self, scope: str, key: str) -> None:
        """A key's claim need not be renewed any more: its entry is on its way."""
        self._claims.pop((scope, key), None)

    def begin(self, link: Link) -> None:
        """A session has begun."""
        self._link = link
        for run, then in self._early:
            link.send(run, then)

        self._early.clear()

    def give_up(self) -> None:
        """The session has ended: answer every question by `Unavailable`."""
        self._link = None
        self._early.clear()
        for ask, token in list(self._open.values()):
            if token:
                self._doubt((ask.scope, ask.key), token)

            self._answer(ask, Unavailable())

        for place, token in self._releasing.items():
            self._doubt(place, token)

        self._releasing.clear()

    def _doubt(self, place: _Place, token: str) -> None:
        self._unsure[place] = token
        if len(self._unsure) > _MAX_UNSURE:
            del self._unsure[next(iter(self._unsure))]

    async def keep_claims(self) -> None:
        """Renew the claims, until cancelled."""
        while True:
            for place, token in self._claims.items():
                run = Run(RENEW, entry_name(*place), (token, self._claim_milliseconds))
                self._say(run, partial(self._renewed, place, token))

            await anyio.sleep(self._claim_milliseconds / 3000)

    def _token(self, ask: StoreRead) -> str:
        token = self._unsure.get((ask.scope, ask.key))
        if token is None:
            self._sequence += 1
            token = f"{self._host}-{self._sequence}"

        return token

    def _say(self, run: Run, then: Then) -> None:
        if self._link is not None:
            self._link.send(run, then)
        elif self._health.connected is None:
            self._early.append((run, then))

    def _asked(self, ask: StoreRead, token: str, reply: Any) -> None:
        if isinstance(reply, ResponseError):
            # An entry would have been returned before anything was to be written.
            refused = self._health.refuses_writes(reply)
            if refused:
                self._writing.wake()

            self._answer(ask, Absent() if refused else Unavailable())
            return

        match reply:
            case [b"found", bytes(envelope), int(milliseconds)]:
                record = opened(envelope, milliseconds / 1000)
                if ask.read_entry and self._writing.find(ask.scope, ask.key) is not None:
                    # 1. the server reads the old entry; 2. we are told to replace or remove it; 3. its reply arrives.
                    answer = self.ask(ask)
                    if answer is not None:
                        self._answer(ask, answer)
                else:
                    self._answer(ask, Absent() if record is None else Found(record))
            case [b"elsewhere", int(milliseconds)]:
                if token:
                    self._unsure.pop((ask.scope, ask.key), None)

                self._answer(ask, ClaimedRemotely(milliseconds / 1000))
            case [b"claimed"]:
                self._unsure.pop((ask.scope, ask.key), None)
                self._claims[ask.scope, ask.key] = token
                self._answer(ask, Absent(token))
            case _:
                self._answer(ask, Absent())

    def _answer(self, ask: StoreRead, answer: Answer) -> None:
        if self._open.pop(ask.ticket, None) is not None:
            self._health.tell(StoreAnswered(ask.ticket, answer))

    def _released(self, place: _Place, reply: Any) -> None:  # noqa: ARG002 - one that was not ours any more needed no giving back
        self._releasing.pop(place, None)

    def _renewed(self, place: _Place, token: str, reply: Any) -> None:
        if reply == 0 and self._claims.get(place) == token:
            # Expired and passed on, or removed. The flight goes on, for its callers; its entry will be refused.
            del self._claims[place]
