"""Owns the engine: the only caller of `Engine.handle`, and the only performer of its effects.

Everything here runs in the event loop's thread without an ``await``, so the engine needs no lock and no state is ever torn.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Protocol

from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.effects import AskRoom, CallRecord, ChangeLog, Effect, LogCall, ReadSettings, Send, StoreEffect, Tell
from sidecard.core.engine import Engine
from sidecard.core.events import (
    DrainExpired,
    DrainRequested,
    Event,
    NoteMade,
    Peer,
    PeerJoined,
    PeerLost,
    RequestReceived,
    RoomForMore,
    SettingsRead,
    StoreAnswered,
    StoreEvent,
    Tick,
)
from sidecard.core.notes import Note
from sidecard.errors import SidecardBug
from sidecard.server.scheduler import TURN_SECONDS
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import BadMessage, Incoming

if TYPE_CHECKING:
    import asyncio

ITSELF = Peer(0, os.getuid(), os.getgid(), os.getpid(), operator=True)
"""As whom the daemon asks its own engine. Ids of connections begin at 1."""

TIMED_BEGINS = 64
"""Of so many begins one is timed, and of all else each: timing takes a microsecond, of a hit's twenty-five."""

TIMER_GRAIN_SECONDS = 0.001
"""uvloop's timers count whole milliseconds: a timer set for less would come early, again and again until its time."""


LOOK_AGAIN_SECONDS = 0.1
"""How often it is looked whether who watches has read all: nothing tells of it below the mark where a transport is full."""


class ReplyWriter(Protocol):
    """Sends a peer its replies. None of its methods waits, or fails where the peer is gone."""

    congested: bool
    """Whether the peer should first read what it was sent."""

    @property
    def has_unread(self) -> bool:
        """Whether some of the replies have not reached the kernel yet."""

    def queue(self, reply: wire.AnyReply) -> None:
        """Queue a reply."""

    def queue_shared(self, reply: wire.AnyReply) -> None:
        """Queue a reply whose value other peers may get at the same time."""

    def flush(self) -> None:
        """Pass the queued replies to the kernel."""


class Driver:
    """Turns what happens into events, and effects into what happens.

    ``clock`` is monotonic and of the loop's time base; ``on_note`` gets each note;
    ``on_bug`` gets the mistakes of our own that the one boundary below has caught; ``on_call`` what is for the call log;
    ``on_level`` what the log is to say from now on; ``on_reload`` who wants the settings read again; ``meters`` counts what is served, and how fast, where it is given;
    ``store`` does what a store is to do.
    """

    def __init__(
        self,
        engine: Engine,
        loop: "asyncio.AbstractEventLoop",
        clock: Callable[[], float],
        *,
        on_note: Callable[[Note], None],
        on_bug: Callable[[SidecardBug], None],
        on_call: Callable[[CallRecord], None] | None = None,
        on_level: Callable[[wire.LogLevel], None] | None = None,
        on_reload: Callable[[ReadSettings], None] | None = None,
        meters: DaemonMetrics | None = None,
        store: Callable[[StoreEffect], StoreAnswered | None] | None = None,
    ) -> None:
        self._engine = engine
        self._handle_event = engine.handle
        self._loop = loop
        self.clock = clock
        self._on_note = on_note
        self._on_bug = on_bug
        self._on_call = on_call
        self._on_level = on_level
        self._on_reload = on_reload
        self._meters = meters
        self._store = store
        self._turn = cycle(range(TIMED_BEGINS)).__next__
        """0 for each begin that is timed."""
        self._next: deque[StoreAnswered | NoteMade] = deque()
        """For when the event at hand is done with: what the store knew at once, and notes that somebody watches for."""
        self._writers: dict[int, ReplyWriter] = {}
        self._unflushed: list[ReplyWriter] = []
        self._wanting_room: dict[int, list[int]] = {}
        """By peer that has not read enough yet, the begins whose streams wait for it."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = float("inf")
        self._on_idle: Callable[[], None] | None = None

    def join(self, peer: Peer, writer: ReplyWriter) -> None:
        """A connection was accepted."""
        self._writers[peer.id] = writer
        self._happened(PeerJoined(peer))

    def take(self, peer: Peer, writer: ReplyWriter, messages: Sequence[Incoming]) -> int:
        """Serve messages of one peer, in order, until its writer is full or its turn is over. Returns how many were served."""
        now = self.clock()
        peer_id, meters = peer.id, self._meters
        served = 0
        for message in messages:
            served += 1
            kind = type(message)
            if type(message) is BadMessage:
                writer.queue(wire.Error(message.id, message.code, message.message))
            else:
                timed = meters is not None and (kind is not wire.Begin or not self._turn())
                handle = self._timed if timed else self._handle_event
                try:
                    for effect in handle(RequestReceived(peer, message), now):  # type: ignore[arg-type]  # no BadMessage
                        # Nearly always the one effect is the answer to who has asked.
                        if type(effect) is Send and effect.peer == peer_id and effect.reply.id == message.id:
                            writer.queue(effect.reply)
                            if meters is not None and (type(effect.reply) is not wire.Hit or kind is not wire.Begin):
                                meters.requests[kind, type(effect.reply)] += 1
                        else:
                            self._perform(effect)
                except Exception as fault:  # noqa: BLE001 - the one boundary: our own mistake costs one request, not all
                    writer.queue(wire.Error(message.id, "internal", str(self._bug(fault, type(message)))))

            if writer.congested:
                break

            # Hits are too many to look at the clock for, and too cheap.
            waits = served < len(messages)
            if waits and (type(message) is not wire.Begin or message.stream) and self.clock() - now > TURN_SECONDS:
                break

        writer.flush()
        self._settle(now)
        return served

    def _timed(self, event: Event, now: float) -> list[Effect]:
        began_at = self.clock()
        effects = self._handle_event(event, now)
        if self._meters is not None and isinstance(event, RequestReceived):
            self._meters.handled[type(event.request)].observe(self.clock() - began_at)

        return effects

    def ask(self, request: wire.AnyRequest) -> wire.AnyReply:
        """Return the answer to a request of the daemon's own, which waits for nothing; it has all rights of an operator."""
        answers = list[wire.AnyReply]()
        now = self.clock()
        for effect in self._handle_event(RequestReceived(ITSELF, request), now):
            if type(effect) is Send and effect.peer == ITSELF.id:
                answers.append(effect.reply)
            else:
                self._perform(effect)

        self._settle(now)
        return answers[0]

    def watch(self, watcher: Callable[[Event, Sequence[Effect]], None] | None) -> None:
        """Let ``watcher`` see what happens and what comes of it, from now on; with None nobody does, which costs nothing."""
        handle = self._engine.handle
        if watcher is None:
            self._handle_event = handle
            return

        def watched(event: Event, now: float) -> list[Effect]:
            effects = handle(event, now)
            watcher(event, effects)
            return effects

        self._handle_event = watched

    def refuse(self, writer: ReplyWriter, code: wire.ErrorCode, message: str) -> None:
        """Tell a peer that what it sent cannot be a request."""
        writer.queue(wire.Error(0, code, message))
        writer.flush()

    def lose(self, peer: Peer) -> None:
        """Nothing reaches the peer any more, and nothing comes from it."""
        self._wanting_room.pop(peer.id, None)
        if self._writers.pop(peer.id, None) is not None:
            self._happened(PeerLost(peer))

    def has_room(self, peer: Peer) -> None:
        """The peer has read most of what it was sent."""
        for request_id in self._wanting_room.pop(peer.id, ()):
            self._happened(RoomForMore(peer.id, request_id))

    def _look_for_room(self, ask: AskRoom) -> None:
        writer = self._writers.get(ask.peer)
        if writer is None:
            return

        if ask.all and writer.has_unread:
            self._loop.call_later(LOOK_AGAIN_SECONDS, self._look_for_room, ask)
        elif writer.congested:
            self._wanting_room.setdefault(ask.peer, []).append(ask.request_id)
        else:
            self._happened(RoomForMore(ask.peer, ask.request_id))

    def hear(self, event: StoreEvent | SettingsRead) -> None:
        """The store says something, or the settings were read again."""
        self._happened(event)

    def drain(self, on_idle: Callable[[], None]) -> None:
        """Grant no new leases from now on; call ``on_idle`` once nobody holds a lease or waits."""
        self._on_idle = on_idle
        self._happened(DrainRequested())

    def end_drain(self) -> None:
        """Give every waiter its end now."""
        self._on_idle = None
        self._happened(DrainExpired())

    def _happened(self, event: Event) -> None:
        now = self.clock()
        self._handle(event, now)
        self._settle(now)

    def _handle(self, event: Event, now: float) -> None:
        try:
            for effect in self._handle_event(event, now):
                self._perform(effect)
        except Exception as fault:  # noqa: BLE001 - the same boundary, for events that are nobody's request
            self._bug(fault, type(event))

    def _perform(self, effect: Effect) -> None:  # noqa: C901 - one branch for each kind of effect
        if type(effect) is Send:
            writer = self._writers.get(effect.peer)
            # A peer may be lost between two effects of one event: its socket broke while we wrote the first.
            if writer is not None:
                writer.queue_shared(effect.reply)
                self._unflushed.append(writer)
                if self._meters is not None:
                    self._meters.requests[effect.late_answer_of, type(effect.reply)] += 1
        elif type(effect) is Tell:
            self._on_note(effect.note)
            if self._engine.watched:
                self._next.append(NoteMade(effect.note))
        elif type(effect) is AskRoom:
            # After what was sent so far is handed over, and others have had their turn.
            self._loop.call_soon(self._look_for_room, effect)
        elif self._store is not None and isinstance(effect, StoreEffect):
            answer = self._store(effect)
            if answer is not None:
                self._next.append(answer)
        elif type(effect) is LogCall and self._on_call is not None:
            self._on_call(effect.record)
        elif type(effect) is ChangeLog and self._on_level is not None:
            self._on_level(effect.level)
        elif type(effect) is ReadSettings and self._on_reload is not None:
            self._on_reload(effect)
        else:
            raise TypeError(f"unexpected effect: {type(effect).__name__}")

    def _settle(self, now: float) -> None:
        """After each event: hand the replies over, and be there when the engine next wants to be woken."""
        while self._next:
            self._handle(self._next.popleft(), now)

        if self._unflushed:
            self._flush()

        due = self._engine.next_deadline()
        # A timer that is too early is left to fire: leases end long before their time, and moving the timer each time
        # costs more than one idle tick.
        if due is not None and due < self._timer_due:
            if self._timer is not None:
                self._timer.cancel()

            self._timer_due = due
            self._timer = self._loop.call_later(max(0.0, due - now) + TIMER_GRAIN_SECONDS, self._tick)

        if self._on_idle is not None and self._engine.idle:
            on_idle, self._on_idle = self._on_idle, None
            on_idle()

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        for writer in unflushed:
            writer.flush()

    def _tick(self) -> None:
        self._timer = None
        self._timer_due = float("inf")
        self._happened(Tick())

    def _bug(self, fault: Exception, kind: type) -> SidecardBug:
        bug = SidecardBug(os.urandom(4).hex(), kind.__name__)
        bug.__cause__ = fault
        self._on_bug(bug)
        return bug
