"""The driver: the only caller of `Engine.handle`, and the only executor of its effects.

Everything runs in the event loop's thread without an ``await``, so the engine needs no lock, and each event sees a consistent state.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING

from sidecard.core.accounts.app_metrics import FamilySource
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.effects import (
    AwaitRead,
    CallRecord,
    Effect,
    EmitNote,
    LogCall,
    ReadSettings,
    SendMetrics,
    SendReply,
    ServeAgain,
    SetLogLevel,
    StoreEffect,
    ViewEffect,
)
from sidecard.core.engine import Engine
from sidecard.core.events import (
    ClocksStepped,
    DrainExpired,
    DrainRequested,
    Event,
    NoteEmitted,
    Peer,
    PeerJoined,
    PeerLost,
    PeersHungUp,
    RequestReceived,
    StoreAnswered,
    Tick,
    WorkContinued,
)
from sidecard.core.notes import Note
from sidecard.errors import SidecardBug
from sidecard.server.deliveries import MAX_DELIVERIES, Deliveries, ReplyWriter
from sidecard.server.hang_ups import HangUps
from sidecard.server.reader import BadMessage, Incoming
from sidecard.server.replies.metrics import MetricsReplies
from sidecard.server.scheduler import DAEMON_UID, TURN_SECONDS, FairScheduler, Schedulable
from sidecard.server.views.files import NewViewMemory, ViewFiles, no_memory
from sidecard_client.protocol import wire

if TYPE_CHECKING:
    import asyncio

DAEMON_PEER = Peer(0, os.getuid(), os.getgid(), os.getpid(), operator=True)
"""The sender of the daemon's own requests. Ids of connections start at 1."""

TIMED_BEGINS = 64
"""One of so many begins is timed, and every other request: timing takes 1 us, a hit 25 us."""

TIMER_GRAIN_SECONDS = 0.001
"""uvloop's timers count whole milliseconds: without this a timer fires early, again and again until its time."""


class Driver:
    """Passes events to the engine and executes the effects.

    ``clock`` is the engine's; unlike the loop's, it counts the time that the host sleeps. ``before_tick`` is called before each
    `Tick` and may report that. ``on_note`` receives each note, ``on_bug`` each internal error,
    ``on_call`` the rows of the call log, ``on_level`` the new log level, ``on_reload`` requests to reread the settings.
    ``metrics``, if given, counts and times requests. ``store`` executes store effects; it may return an answer immediately.
    ``new_view`` makes the memory of a view.
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
        metrics: DaemonMetrics | None = None,
        store: Callable[[StoreEffect], StoreAnswered | None] | None = None,
        new_view: NewViewMemory = no_memory,
        before_tick: Callable[[], None] = lambda: None,
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
        self._metrics = metrics
        self._store = store
        self._before_tick = before_tick
        self._begin_number = cycle(range(TIMED_BEGINS)).__next__
        """0 for each begin that is timed."""
        self._next: deque[StoreAnswered | NoteEmitted] = deque()
        """Events that the current one has caused: immediate answers of the store, and notes for watchers."""
        self._deliveries = Deliveries(loop, clock, self.handle)
        self._writers = self._deliveries.writers
        self._deferred = self._deliveries.deferred
        self._hang_ups = HangUps()
        self._sent = 0
        """Replies of the current event to peers that did not send it."""
        self._unflushed: list[ReplyWriter] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = float("inf")
        self._on_idle: Callable[[], None] | None = None
        self._metrics_replies = MetricsReplies(self.metrics_sources, self._writers.get, clock)
        self._enqueue: Callable[[Schedulable, int], None] = _work_at_once
        self._views = ViewFiles(
            loop,
            clock,
            new_memory=new_view,
            writers=self._writers.get,
            enqueue=lambda work: self._enqueue(work, DAEMON_UID),
            handle=self.handle,
            count=self._count_view,
        )
        self._request_turns: Callable[[], None] = lambda: None

    def peer_joined(self, peer: Peer, writer: ReplyWriter, descriptor: int | None = None) -> None:
        """Register an accepted connection. Its descriptor, if given, is watched for the peer's end."""
        self._deliveries.join(peer.id, peer.uid, writer)
        if descriptor is not None:
            self._hang_ups.watch(peer, descriptor)

        self.handle(PeerJoined(peer))

    def serve(  # noqa: C901, PLR0912 - inlined, because every hit passes here
        self, peer: Peer, writer: ReplyWriter, messages: Iterable[Incoming], count: int, now: float
    ) -> int:
        """Serve ``count`` messages of one peer, in order, until its writer is full or its turn is over; return how many."""
        peer_id, metrics = peer.id, self._metrics
        served, settled, unfinished = 0, True, False
        if self._deferred:
            # Its earlier replies come first.
            writer = self._deferred.get(peer_id, writer)

        for message in messages:
            served += 1
            kind = type(message)
            if type(message) is BadMessage:
                writer.queue(wire.Error(message.id, message.code, message.message))
            else:
                timed = metrics is not None and (kind is not wire.Begin or not self._begin_number())
                began_at = self.clock() if timed else 0.0
                try:
                    effects = self._handle_event(RequestReceived(peer, message), now)  # type: ignore[arg-type]  # no BadMessage
                    if timed and metrics is not None:
                        metrics.handled[kind].observe(self.clock() - began_at)

                    for effect in effects:
                        # Nearly always the one effect is the reply to the sender.
                        if type(effect) is SendReply and effect.peer_id == peer_id and effect.reply.id == message.id:
                            reply = effect.reply
                            writer.queue(reply)
                            if type(reply) is not wire.Hit or kind is not wire.Begin:
                                settled = False
                                if metrics is not None:
                                    metrics.requests[kind, type(reply)] += 1
                        elif type(effect) is ServeAgain:
                            unfinished = True
                            served -= 1
                            writer.serve_again(message)
                        else:
                            settled = False
                            self._execute(effect)
                except Exception as fault:  # noqa: BLE001 - the one boundary: an internal error costs one request, not all
                    settled = False
                    writer.queue(wire.Error(message.id, "internal", str(self._bug(fault, type(message)))))

            if writer.congested or unfinished:
                break

            # Reading the clock costs too much per hit, and hits are cheap.
            waits = served < count
            if waits and (type(message) is not wire.Begin or message.stream) and self.clock() - now > TURN_SECONDS:
                break

        writer.flush()
        # Hits cause no event, move no deadline forward, and leave a drain as it is.
        if not settled:
            self._settle(now)

        return served

    def query(self, request: wire.AnyRequest) -> wire.AnyReply:
        """Return the reply to a request of the daemon's own, with an operator's rights. It must not have to wait."""
        replies = list[wire.AnyReply]()
        now = self.clock()
        for effect in self._handle_event(RequestReceived(DAEMON_PEER, request), now):
            if type(effect) is SendReply and effect.peer_id == DAEMON_PEER.id:
                replies.append(effect.reply)
            else:
                self._execute(effect)

        self._settle(now)
        return replies[0]

    def metrics_sources(self) -> Iterator[FamilySource]:
        """Return all metrics as of now or later. Events may be handled while they are made."""
        now = self.clock()
        effects, sources = self._engine.metrics_sources(now)
        for effect in effects:
            self._execute(effect)

        self._settle(now)
        return sources

    def trace(self, tracer: Callable[[Event, Sequence[Effect]], None] | None) -> None:
        """Show every event and its effects to ``tracer`` from now on; None ends that, and costs nothing."""
        handle = self._engine.handle
        if tracer is None:
            self._handle_event = handle
            return

        def traced(event: Event, now: float) -> list[Effect]:
            effects = handle(event, now)
            tracer(event, effects)
            return effects

        self._handle_event = traced

    def reject(self, writer: ReplyWriter, code: wire.ErrorCode, message: str) -> None:
        """Reply to bytes that cannot be a request."""
        writer.queue(wire.Error(0, code, message))
        writer.flush()

    def peer_lost(self, peer: Peer, descriptor: int | None = None) -> None:
        """Forget a connection that has ended. Its descriptor is still open."""
        if self._deliveries.leave(peer.id):
            if descriptor is not None:
                self._hang_ups.forget(descriptor)

            self._note_hang_ups()
            self.handle(PeerLost(peer))

    def _note_hang_ups(self) -> None:
        """Before leases end: exclude peers from elections whose own end has not been read yet."""
        hung_up = self._hang_ups.take()
        if hung_up:
            self._handle(PeersHungUp(hung_up), self.clock())

    def peer_read_backlog(self, peer: Peer) -> None:
        """Continue the streams that waited until the peer had read most of its backlog."""
        self._deliveries.backlog_read(peer.id)

    def drain(self, on_idle: Callable[[], None]) -> None:
        """Grant no new leases from now on; call ``on_idle`` once no lease and no waiter is left."""
        self._on_idle = on_idle
        self.handle(DrainRequested())

    def end_drain(self) -> None:
        """Answer every waiter now."""
        self._on_idle = None
        self.handle(DrainExpired())
        self._deliveries.send_all()

    def handle(self, event: Event) -> None:
        """Handle an event that is no peer's request: of the store, of the settings, of a connection, of time."""
        now = self.clock()
        self._handle(event, now)
        self._settle(now)

    def _handle(self, event: Event, now: float) -> None:
        try:
            for effect in self._handle_event(event, now):
                self._execute(effect)
        except Exception as fault:  # noqa: BLE001 - the same boundary, for events that are no requests
            self._bug(fault, type(event))

    def _execute(self, effect: Effect) -> None:  # noqa: C901, PLR0912 - one branch for each kind of effect
        if type(effect) is SendReply:
            writer = self._writers.get(effect.peer_id)
            # A peer may be lost between two effects of one event: its socket broke while the first was written.
            if writer is not None:
                self._sent += 1
                if self._sent > MAX_DELIVERIES:
                    writer = self._deliveries.defer(effect.peer_id)

                writer.queue_shared(effect.reply)
                self._unflushed.append(writer)
                if self._metrics is not None:
                    self._metrics.requests[effect.answer_to, type(effect.reply)] += 1
        elif type(effect) is EmitNote:
            self._on_note(effect.note)
            if self._engine.watched:
                self._next.append(NoteEmitted(effect.note))
        elif type(effect) is AwaitRead:
            self._deliveries.await_read(effect)
        elif self._store is not None and isinstance(effect, StoreEffect):
            answer = self._store(effect)
            if answer is not None:
                self._next.append(answer)
        elif type(effect) is LogCall and self._on_call is not None:
            self._on_call(effect.record)
        elif type(effect) is SendMetrics:
            self._metrics_replies.add(effect.peer_id, effect.request_id)
            self._enqueue(self._metrics_replies, effect.uid)
            if self._metrics is not None:
                self._metrics.requests[wire.GetMetrics, wire.Metrics] += 1
        elif isinstance(effect, ViewEffect):
            self._views.perform(effect)
        elif type(effect) is SetLogLevel and self._on_level is not None:
            self._on_level(effect.level)
        elif type(effect) is ReadSettings and self._on_reload is not None:
            self._on_reload(effect)
        else:
            raise TypeError(f"unexpected effect: {type(effect).__name__}")

    def _count_view(self, reply: type[wire.AnyReply]) -> None:
        if self._metrics is not None:
            self._metrics.requests[wire.GetView, reply] += 1

    def _settle(self, now: float) -> None:
        """After an event: handle what it caused, flush the replies, and set the timer."""
        while self._next:
            self._handle(self._next.popleft(), now)

        if self._unflushed:
            unflushed, self._unflushed = self._unflushed, []
            self._sent = 0
            for writer in unflushed:
                writer.flush()

        # A timer that is too early is left to fire: most leases end long before their deadline, and moving the timer each
        # time costs more than one idle tick.
        if self._engine.may_be_due_before(self._timer_due):
            due = self._engine.next_deadline()
            if due is not None and due < self._timer_due:
                if self._timer is not None:
                    self._timer.cancel()

                self._timer_due = due
                self._timer = self._loop.call_later(max(0.0, due - now) + TIMER_GRAIN_SECONDS, self._tick)

        if self._engine.has_work:
            self._request_turns()

        if self._on_idle is not None and self._engine.idle:
            on_idle, self._on_idle = self._on_idle, None
            on_idle()

    def take_turns(self, scheduler: FairScheduler) -> None:
        """Have the engine's jobs done in turns of the daemon's own, and long deliveries in those of their receivers."""
        self._enqueue = scheduler.enqueue
        self._deliveries.take_turns(scheduler)
        self._request_turns = partial(scheduler.enqueue, self, DAEMON_UID)

    def serve_turn(self) -> bool:
        """Do one turn of the engine's jobs; return whether more remains."""
        ends_at = self.clock() + TURN_SECONDS
        while self._engine.has_work and self.clock() < ends_at:
            self.handle(WorkContinued())

        return self._engine.has_work

    def clocks_stepped(self, event: ClocksStepped) -> None:
        """Handle a step of the clocks: what became due while the host slept is due now, though the loop's timer is not."""
        self.handle(event)
        self._handle_due()

    def _tick(self) -> None:
        self._before_tick()
        self._handle_due()

    def _handle_due(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

        self._timer_due = float("inf")
        self._note_hang_ups()
        self.handle(Tick())

    def _bug(self, fault: Exception, kind: type) -> SidecardBug:
        bug = SidecardBug(os.urandom(4).hex(), kind.__name__)
        bug.__cause__ = fault
        self._on_bug(bug)
        return bug


def _work_at_once(work: Schedulable, _: int) -> None:
    """Stand in for a scheduler before there is one."""
    while work.serve_turn():
        pass
