"""Who wants to hear of notes while they are made, and how much of them a slow one gets.

A watch is sent `WINDOW_NOTES` ahead of what its peer is known to have read; further ones wait, `MAX_WAITING` of them. What
comes beyond that is counted, and the count is told in the stream, in its place: who watches is an onlooker, and is neither
waited for nor closed.

==================  =================  ===========================================================================
watch               what happens       what becomes of it
==================  =================  ===========================================================================
none                watch              open
open                note               open; stuck where the window is full now, and room is asked for
stuck               note               stuck: the note waits, or is left out
stuck               room               open, and what waits is sent; stuck again where that fills the window
open, stuck         cancel, peer lost  none
==================  =================  ===========================================================================
"""

import re
from collections import deque
from typing import Any, Final, get_args

from msgspec import structs

from sidecard.core.accounts.call_records import exception_of
from sidecard.core.effects import AwaitRead, Effect, Send
from sidecard.core.events import BacklogRead, NoteEmitted, Peer
from sidecard.core.notes import Note
from sidecard.core.replies import error, for_operators
from sidecard_client.protocol import wire

WINDOW_NOTES: Final = 256
"""Some 80 KiB: below what the kernel buffers for a peer that does not read."""

MAX_WAITING: Final = 1024
"""Some 300 KiB. A process that dies with a thousand leases makes as many notes at once."""

MAX_WATCHES: Final = 64
"""Each makes every note dearer."""

SHOWN_KEY_CHARACTERS: Final = 12
"""Enough to tell keys apart; not enough to ask for the entry."""

LEFT_OUT: Final = "left_out"
"""The note that says how many were not sent."""

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


def name_of(kind: type[Note]) -> str:
    """Return a note's name: ``breaker_opened``."""
    return _CAPITAL.sub("_", kind.__name__).lower()


NAMES: Final = frozenset(map(name_of, get_args(Note)))


def fields_of(note: Note) -> dict[str, Any]:
    """Return what may be told of a note: no whole key, and of a failure the type alone, since its message may quote a prompt."""
    fields = structs.asdict(note)
    if fields.get("key") is not None:
        fields["key"] = fields["key"][:SHOWN_KEY_CHARACTERS]

    if "message" in fields:
        fields["error"] = exception_of(fields.pop("message"))

    return fields


class _Watch:
    """What one request wants to hear, and how far its peer is behind."""

    def __init__(self, peer: Peer, request: wire.Watch) -> None:
        self.peer = peer
        self.request_id = request.id
        self.names = frozenset(request.notes) or NAMES
        self.waiting: deque[wire.Note] = deque()
        self.ahead = 0
        """Notes sent since the peer was last known to have read all."""
        self.left_out = 0
        """Since the last one that waits."""

    @property
    def stuck(self) -> bool:
        return self.ahead >= WINDOW_NOTES

    def offer(self, note: wire.Note) -> list[Effect]:
        if self.stuck:
            if self.left_out or len(self.waiting) >= MAX_WAITING:
                self.left_out += 1
            else:
                self.waiting.append(note)

            return []

        return self._send(note)

    def has_room(self, at_seconds: float) -> list[Effect]:
        self.ahead = 0
        effects: list[Effect] = []
        while self.waiting and not self.stuck:
            effects += self._send(self.waiting.popleft())

        if self.left_out and not self.stuck:
            count, self.left_out = self.left_out, 0
            effects += self._send(wire.Note(self.request_id, LEFT_OUT, at_seconds, {"count": count}))

        return effects

    def _send(self, note: wire.Note) -> list[Effect]:
        self.ahead += 1
        send = Send(self.peer.id, note, answer_to=wire.Watch)
        return [send, AwaitRead(self.peer.id, self.request_id, all=True)] if self.stuck else [send]


class Watches:
    """All watches. ``wall_offset_seconds`` is as `sidecard.core.engine.Engine` has it."""

    def __init__(self, wall_offset_seconds: float) -> None:
        self._wall_offset_seconds = wall_offset_seconds
        self._watches: dict[tuple[int, int], _Watch] = {}

    def __bool__(self) -> bool:
        """Tell whether anybody wants to hear of notes."""
        return bool(self._watches)

    def watch(self, peer: Peer, request: wire.Watch, now: float) -> list[Effect]:  # noqa: ARG002 - as its siblings
        """Begin to tell, for operators."""
        if not peer.operator:
            return [for_operators(peer, request, "watch")]

        unknown = sorted(set(request.notes) - NAMES)
        if unknown:
            text = f"there is no note {unknown[0]!r}; there are: {', '.join(sorted(NAMES))}"
            return [error(peer, request, "bad_request", text)]

        if (peer.id, request.id) in self._watches:
            text = f"id {request.id} is watching already on this connection: cancel it first, or use another id"
            return [error(peer, request, "bad_request", text)]

        if len(self._watches) >= MAX_WATCHES:
            text = f"{MAX_WATCHES} watches are open, which is the most: end one of them"
            return [error(peer, request, "unavailable", text)]

        self._watches[peer.id, request.id] = _Watch(peer, request)
        return [Send(peer.id, wire.Pending(request.id))]

    def made(self, event: NoteEmitted, now: float) -> list[Effect]:
        """Tell a note to all who want it."""
        name = name_of(type(event.note))
        wanting = [watch for watch in self._watches.values() if name in watch.names]
        if not wanting:
            return []

        fields = fields_of(event.note)
        at_seconds = now + self._wall_offset_seconds
        return [
            effect for watch in wanting for effect in watch.offer(wire.Note(watch.request_id, name, at_seconds, fields))
        ]

    def has_room(self, event: BacklogRead, now: float) -> list[Effect]:
        """A peer has read all that it was sent."""
        watch = self._watches.get((event.peer, event.request_id))
        return [] if watch is None else watch.has_room(now + self._wall_offset_seconds)

    def cancel(self, peer: Peer, target: int) -> None:
        """End the peer's watch of that id, if there is one."""
        self._watches.pop((peer.id, target), None)

    def lose(self, peer: Peer) -> None:
        """Forget a peer's watches."""
        for name in [name for name in self._watches if name[0] == peer.id]:
            del self._watches[name]
