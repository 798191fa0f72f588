"""Reads and claims, over one connection: entries that are looked up, and the claims that this host holds.

A claim makes one host compute a key while the others wait. Its life:

1. *Requested* by a read that may lead to a call. The server grants it if there is no entry and no current claim.
2. *Held*: renewed every third of ``claim_seconds``, until the flight ends. If this host dies, it expires.
3. *Used* by the write of the entry, which ends it; or *released* if the flight has no entry to store.

If the reply to a request or a release is lost, the claim is *unsure*: the host may hold it. The next read of the key requests
the same claim again; otherwise it expires.
"""

from functools import partial
from typing import Any

import anyio
from redis.exceptions import ResponseError

from sidecard.core.effects import StoreRead, StoreRelease, StoreRemove, StoreWrite
from sidecard.core.events import Absent, Answer, ClaimedRemotely, Found, StoreAnswered, Unavailable
from sidecard.store.base import StoreReporter
from sidecard.store.redis.connection import RedisConnection, ReplyHandler, ScriptCall
from sidecard.store.redis.health import RedisHealth
from sidecard.store.redis.invalidations import Invalidations
from sidecard.store.redis.scripts import (
    CHANNEL,
    MAX_CLAIM_SECONDS,
    READ,
    RELEASE,
    RENEW,
    decode_entry,
    entry_name,
    is_of_another_version,
)
from sidecard.store.redis.writes import RedisWrites

MIN_ASK_SECONDS = 0.1
"""The least pause before a key that another host has claimed is read again, however soon the claim ends."""

_MAX_UNSURE = 10_000

_Name = tuple[str, str]
"""A scope and a key."""


class Claims:
    """Reads and claims. ``host`` is part of every claim; a claim that is not renewed expires after ``claim_seconds``."""

    def __init__(
        self,
        health: RedisHealth,
        reporter: StoreReporter,
        invalidations: Invalidations,
        writes: RedisWrites,
        host: str,
        claim_seconds: float,
    ) -> None:
        self._health = health
        self._reporter = reporter
        self._invalidations = invalidations
        self._writes = writes
        self._host = host
        self._claim_milliseconds = max(1, int(min(claim_seconds, MAX_CLAIM_SECONDS) * 1000))
        self._connection: RedisConnection | None = None
        self._early: list[tuple[ScriptCall, ReplyHandler]] = []
        """Calls made before the first session: it begins soon, or not for a while."""
        self._open: dict[int, tuple[StoreRead, str]] = {}
        """Reads without an answer, each with the claim that it requests, by ticket."""
        self._held: dict[_Name, str] = {}
        """Claims to renew."""
        self._unsure: dict[_Name, str] = {}
        """Claims whose request or release got no reply: this host may hold them. Asking again with the same claim is safe, also
        after an entry was found."""
        self._releasing: dict[_Name, str] = {}
        """Claims that are being released."""
        self._sequence = 0

    def read(self, read: StoreRead) -> Answer | None:
        """Read an entry; return the answer if it is known immediately."""
        claim = self._new_claim(read) if read.claim else ""
        pending = self._writes.find(read.scope, read.key) if read.read_entry else None
        removing = isinstance(pending, StoreRemove) or (read.read_entry and self._writes.pending.purging(read.scope))
        if isinstance(pending, StoreWrite):
            return Found(pending.record)

        if self._health.connected is False:
            return Absent() if removing else Unavailable()

        if removing and not claim:
            return Absent()

        # An entry that is to be removed is not read, but the server still decides which host computes the key.
        self._open[read.ticket] = read, claim
        self._send(read, claim, read_entry=read.read_entry and not removing)
        return None

    def release(self, release: StoreRelease) -> None:
        """Release a claim. If the server is unreachable, the claim expires, unless this host requests it again before.

        Otherwise: 1. The server hangs. 2. A call fails, and its claim cannot be released. 3. The server is back.
        4. The next callers wait for a holder that does not exist.
        """
        self.used(release.scope, release.key)
        name = release.scope, release.key
        if self._connection is None:
            self._doubt(name, release.claim)
            return

        self._releasing[name] = release.claim
        message = self._invalidations.of_key("unshared" if release.unshared else "released", *name)
        self._call(
            ScriptCall(RELEASE, entry_name(*name), (release.claim, CHANNEL, message)), partial(self._released, name)
        )

    def used(self, scope: str, key: str) -> None:
        """Stop renewing a key's claim: its entry is being written."""
        self._held.pop((scope, key), None)

    def begin_session(self, connection: RedisConnection) -> None:
        """Use a new connection."""
        self._connection = connection
        for call, on_reply in self._early:
            connection.send(call, on_reply)

        self._early.clear()

    def end_session(self) -> None:
        """Answer `Unavailable` to every open read: the session has ended."""
        self._connection = None
        self._early.clear()
        for read, claim in list(self._open.values()):
            if claim:
                self._doubt((read.scope, read.key), claim)

            self._answer(read, Unavailable())

        for name, claim in self._releasing.items():
            self._doubt(name, claim)

        self._releasing.clear()

    async def renew(self) -> None:
        """Renew the claims until canceled."""
        while True:
            for name, claim in self._held.items():
                call = ScriptCall(RENEW, entry_name(*name), (claim, self._claim_milliseconds))
                self._call(call, partial(self._renewed, name, claim))

            await anyio.sleep(self._claim_milliseconds / 3000)

    def _doubt(self, name: _Name, claim: str) -> None:
        self._unsure[name] = claim
        if len(self._unsure) > _MAX_UNSURE:
            del self._unsure[next(iter(self._unsure))]

    def _send(self, read: StoreRead, claim: str, *, read_entry: bool) -> None:
        arguments = (claim, self._claim_milliseconds, int(read_entry))
        call = ScriptCall(READ, entry_name(read.scope, read.key), arguments)
        self._call(call, partial(self._replied, read, claim))

    def _new_claim(self, read: StoreRead) -> str:
        claim = self._unsure.get((read.scope, read.key))
        if claim is None:
            self._sequence += 1
            claim = f"{self._host}-{self._sequence}"

        return claim

    def _call(self, call: ScriptCall, on_reply: ReplyHandler) -> None:
        if self._connection is not None:
            self._connection.send(call, on_reply)
        elif self._health.connected is None:
            self._early.append((call, on_reply))

    def _replied(self, read: StoreRead, claim: str, reply: Any) -> None:
        if isinstance(reply, ResponseError):
            # The script failed while writing, which it does only if there is no entry.
            refused = self._health.refuses_writes(reply)
            if refused:
                self._writes.changed.set()  # its task checks when the server takes writes again

            self._answer(read, Absent() if refused else Unavailable())
            return

        match reply:
            case [b"found", bytes(envelope), int(milliseconds)]:
                record = decode_entry(envelope, milliseconds / 1000)
                if record is None and not is_of_another_version(envelope):
                    self._reporter.invalid("an entry is damaged, or from the future", scope=read.scope, key=read.key)
                    self._found_nothing(read, claim)
                elif read.read_entry and self._writes.find(read.scope, read.key) is not None:
                    # 1. The server reads the old entry. 2. Its removal or replacement is requested. 3. The reply arrives.
                    answer = self.read(read)
                    if answer is not None:
                        self._answer(read, answer)
                else:
                    self._answer(read, Absent() if record is None else Found(record))
            case [b"elsewhere", int(milliseconds)]:
                if claim:
                    self._unsure.pop((read.scope, read.key), None)

                seconds = min(max(milliseconds / 1000, MIN_ASK_SECONDS), MAX_CLAIM_SECONDS)
                self._answer(read, ClaimedRemotely(seconds))
            case [b"claimed"]:
                self._unsure.pop((read.scope, read.key), None)
                self._held[read.scope, read.key] = claim
                self._answer(read, Absent(claim))
            case _:
                self._answer(read, Absent())

    def _found_nothing(self, read: StoreRead, claim: str) -> None:
        """Answer a read whose entry is useless. If it requests a claim, request that alone: the holder replaces the entry."""
        if claim:
            self._send(read, claim, read_entry=False)
        else:
            self._answer(read, Absent())

    def _answer(self, read: StoreRead, answer: Answer) -> None:
        if self._open.pop(read.ticket, None) is not None:
            self._reporter.notify(StoreAnswered(read.ticket, answer))

    def _released(self, name: _Name, reply: Any) -> None:  # noqa: ARG002 - a claim that had expired needed no release
        self._releasing.pop(name, None)

    def _renewed(self, name: _Name, claim: str, reply: Any) -> None:
        if reply == 0 and self._held.get(name) == claim:
            # The claim has expired and passed to another host, or was removed. The flight goes on for its callers; the store
            # will refuse its entry.
            del self._held[name]
