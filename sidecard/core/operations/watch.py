"""The `watch` operation: notes as they are made, and how many of them a slow watcher gets.

At most `WINDOW_NOTES` are sent before the peer is known to have read them. Further ones wait, up to `MAX_WAITING`; any beyond
that are counted, and the count is sent in their place. The daemon neither waits for a watcher nor closes it.

==================  =================  ===========================================================================
watch               event              result
==================  =================  ===========================================================================
none                watch              open
open                note               open; stuck if the window is now full, and the daemon awaits a read
stuck               note               stuck: the note waits, or is left out
stuck               read               open, and waiting notes are sent; stuck again if that fills the window
open, stuck         cancel, peer lost  none
==================  =================  ===========================================================================
"""

import re
from collections import deque
from typing import Any, Final, get_args

from msgspec import structs

from sidecard.core.accounts.call_records import exception_of
from sidecard.core.effects import AwaitRead, Effect, SendReply
from sidecard.core.events import BacklogRead, NoteEmitted, Peer
from sidecard.core.notes import Note, TableFull
from sidecard.core.replies import error, for_operators
from sidecard.core.wall_clock import WallClock
from sidecard_client.protocol import wire

WINDOW_NOTES: Final = 256
"""Some 80 KiB: below what the kernel buffers for a peer that does not read."""

MAX_WAITING: Final = 1024
"""Some 300 KiB. A process that dies with a thousand leases makes as many notes in one event."""

MAX_WATCHES: Final = 64
"""Each makes every note more expensive."""

SHOWN_KEY_CHARACTERS: Final = 12
"""Enough to distinguish keys; not enough to request the entry."""

LEFT_OUT: Final = "left_out"
"""The note that counts those that were not sent."""

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


_OLDER_NAMES: dict[type[Note], str] = {TableFull: "saturated"}
"""Names on the wire and in the log that are older than their classes."""


def name_of(kind: type[Note]) -> str:
    """Return a note's name: ``breaker_opened``."""
    return _OLDER_NAMES.get(kind) or _CAPITAL.sub("_", kind.__name__).lower()


NAMES: Final = frozenset(map(name_of, get_args(Note)))


def fields_of(note: Note) -> dict[str, Any]:
    """Return the fields of a note that may be shown: no whole key, and only the type of an error, whose text may quote a prompt."""
    fields = structs.asdict(note)
    if fields.get("key") is not None:
        fields["key"] = fields["key"][:SHOWN_KEY_CHARACTERS]

    if "message" in fields:
        fields["error"] = exception_of(fields.pop("message"))

    return fields


class _Watch:
    """One watch request, and how far its peer is behind."""

    def __init__(self, peer: Peer, request: wire.Watch) -> None:
        self.peer = peer
        self.request_id = request.id
        self.names = frozenset(request.notes) or NAMES
        self.waiting: deque[wire.Note] = deque()
        self.unread = 0
        """Notes sent since the peer was last known to have read all."""
        self.left_out = 0
        """Notes left out since the last one in ``waiting``."""

    @property
    def stuck(self) -> bool:
        return self.unread >= WINDOW_NOTES

    def offer(self, note: wire.Note) -> list[Effect]:
        if not self.stuck:
            return self._send(note)

        if self.left_out or len(self.waiting) >= MAX_WAITING:
            self.left_out += 1
        else:
            self.waiting.append(note)

        return []

    def resume(self, at_seconds: float) -> list[Effect]:
        self.unread = 0
        effects: list[Effect] = []
        while self.waiting and not self.stuck:
            effects += self._send(self.waiting.popleft())

        if self.left_out and not self.stuck:
            count, self.left_out = self.left_out, 0
            effects += self._send(wire.Note(self.request_id, LEFT_OUT, at_seconds, {"count": count}))

        return effects

    def _send(self, note: wire.Note) -> list[Effect]:
        self.unread += 1
        send = SendReply(self.peer.id, note, answer_to=wire.Watch)
        return [send, AwaitRead(self.peer.id, self.request_id, all=True)] if self.stuck else [send]


class Watches:
    """All watches. ``wall`` is the wall clock, which notes carry."""

    def __init__(self, wall: WallClock) -> None:
        self._wall = wall
        self._watches: dict[tuple[int, int], _Watch] = {}

    def __bool__(self) -> bool:
        """Return whether there is any watch."""
        return bool(self._watches)

    def watch(self, peer: Peer, request: wire.Watch) -> list[Effect]:
        """Open a watch, for operators."""
        if not peer.operator:
            return [for_operators(peer, request, "watch")]

        unknown = sorted(set(request.notes) - NAMES)
        if unknown:
            text = f"there is no note {unknown[0]!r}; there are: {', '.join(sorted(NAMES))}"
            return [error(peer, request, "bad_request", text)]

        if (peer.id, request.id) in self._watches:
            text = f"id {request.id} is already watching on this connection: cancel it first, or use another id"
            return [error(peer, request, "bad_request", text)]

        if len(self._watches) >= MAX_WATCHES:
            text = f"{MAX_WATCHES} watches are open, which is the limit: end one of them"
            return [error(peer, request, "unavailable", text)]

        self._watches[peer.id, request.id] = _Watch(peer, request)
        return [SendReply(peer.id, wire.Pending(request.id))]

    def note_emitted(self, event: NoteEmitted, now: float) -> list[Effect]:
        """Send a note to all watches that include it."""
        name = name_of(type(event.note))
        watches = [watch for watch in self._watches.values() if name in watch.names]
        if not watches:
            return []

        fields = fields_of(event.note)
        at_seconds = self._wall.at(now)
        return [
            effect for watch in watches for effect in watch.offer(wire.Note(watch.request_id, name, at_seconds, fields))
        ]

    def backlog_read(self, event: BacklogRead, now: float) -> list[Effect]:
        """Continue a watch whose peer has read all that it was sent."""
        watch = self._watches.get((event.peer_id, event.request_id))
        return [] if watch is None else watch.resume(self._wall.at(now))

    def cancel(self, peer: Peer, target: int) -> None:
        """End the peer's watch with that id, if any."""
        self._watches.pop((peer.id, target), None)

    def peer_lost(self, peer: Peer) -> None:
        """End the watches of a peer that has disconnected."""
        for name in [name for name in self._watches if name[0] == peer.id]:
            del self._watches[name]
